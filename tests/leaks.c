// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exports and mappings that fail must not leave a DMABUF behind. (fail_nth does the same
 * with allocations that fail, which takes a kernel with fault injection.)
 *
 * A DMABUF that has leaked keeps neither the device open nor the driver bound, so that
 * only the list of DMABUFs in debugfs shows it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/limits.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define NR_FAILURES 100

/* A size that other users of vfio-pci are not likely to export */
#define NR_PAGES 11

FIXTURE(leaks) {
	struct bar_test t;
	u64 size;
	int before;
};

FIXTURE_SETUP(leaks)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = bar_test_init(t, device_bdf, MODE_IOMMUFD, SZ_64K);
	if (!missing)
		missing = vfio_pci_dmabuf_export_missing(t->device);
	if (!missing && t->bar_size < NR_PAGES * t->page)
		missing = "no BAR that is large enough";
	if (!missing && nr_vfio_dmabufs(0) < 0)
		missing = "no list of DMABUFs in debugfs";
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->size = NR_PAGES * t->page;
	self->before = nr_vfio_dmabufs(self->size);
}

FIXTURE_TEARDOWN(leaks)
{
	bar_test_close(&self->t);
}

/* Positive control: a DMABUF that is there is counted. */
TEST_F(leaks, counted)
{
	struct bar_test *t = &self->t;
	int fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, self->size);

	ASSERT_EQ(self->before + 1, nr_vfio_dmabufs(self->size));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(self->before, nr_vfio_dmabufs(self->size));
}

/* The DMABUF has been created when there is no file descriptor for it. */
TEST_F(leaks, export_without_fd)
{
	struct vfio_region_dma_range range = { .length = self->size };
	struct bar_test *t = &self->t;
	struct rlimit limit, none;
	int rets[NR_FAILURES];

	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	none = limit;
	none.rlim_cur = 0;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
	for (int i = 0; i < NR_FAILURES; i++)
		rets[i] = __vfio_pci_dmabuf_export(t->device, t->bar, O_RDWR | O_CLOEXEC,
						   1, &range);
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));

	for (int i = 0; i < NR_FAILURES; i++)
		ASSERT_EQ(-EMFILE, rets[i]);
	ASSERT_EQ(self->before, nr_vfio_dmabufs(self->size))
		TH_LOG("DMABUFs have leaked");
}

TEST_F(leaks, export_errors)
{
	struct bar_test *t = &self->t;
	struct vfio_region_dma_range ranges[] = {
		{ .length = self->size },
		{ .offset = t->bar_size, .length = self->size },
		{ .offset = 1, .length = self->size },
		{ },
	};

	/* Each of them alone, and after one that is right */
	for (int i = 0; i < NR_FAILURES; i++) {
		for (int j = 1; j < ARRAY_SIZE(ranges); j++) {
			struct vfio_region_dma_range pair[] = { ranges[0], ranges[j] };

			ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_export(t->device, t->bar, O_RDWR,
								    2, pair));
			ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_export(t->device, t->bar, O_RDWR,
								    1, &ranges[j]));
		}
	}
	ASSERT_EQ(self->before, nr_vfio_dmabufs(self->size))
		TH_LOG("DMABUFs have leaked");
}

/* Each mmap() of the device file creates a DMABUF, also if it fails later. */
TEST_F(leaks, bar_mmap)
{
	struct bar_test *t = &self->t;
	struct bar_fd device_fd = bar_fd_device(t->device, t->bar);
	void *vaddr;

	for (int i = 0; i < NR_FAILURES; i++) {
		vaddr = bar_fd_mmap(&device_fd, 0, self->size, PROT_READ);
		ASSERT_EQ(0, munmap(vaddr, self->size));
		ASSERT_EQ(-EINVAL, __mmap_try(self->size, PROT_READ, MAP_PRIVATE,
					      device_fd.fd, device_fd.base));
		ASSERT_EQ(-EINVAL, __bar_fd_mmap_try(&device_fd, device_fd.size - t->page,
						     self->size, PROT_READ));
	}
	ASSERT_EQ(self->before, nr_vfio_dmabufs(self->size))
		TH_LOG("DMABUFs have leaked");
}

/* mmap() of an exported DMABUF, which fails and which does not */
TEST_F(leaks, dmabuf_mmap)
{
	struct bar_test *t = &self->t;
	struct bar_fd dmabuf;

	if (vfio_pci_dmabuf_mmap_missing(t->device, t->bar))
		SKIP(return, "%s: %s", device_bdf,
		     vfio_pci_dmabuf_mmap_missing(t->device, t->bar));

	for (int i = 0; i < NR_FAILURES; i++) {
		dmabuf = bar_fd_export_range(t->device, t->bar, 0, self->size, O_RDONLY);
		ASSERT_EQ(0, __bar_fd_mmap_try(&dmabuf, 0, self->size, PROT_READ));
		ASSERT_EQ(-EACCES, __bar_fd_mmap_try(&dmabuf, 0, self->size,
						     PROT_READ | PROT_WRITE));
		ASSERT_EQ(-EINVAL, __bar_fd_mmap_try(&dmabuf, t->page, self->size,
						     PROT_READ));
		bar_fd_close(&dmabuf);
	}
	ASSERT_EQ(self->before, nr_vfio_dmabufs(self->size))
		TH_LOG("DMABUFs have leaked");
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
