// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of BARs and of DMABUFs: many of them, MAP_FIXED over one, MADV_DONTNEED, and
 * the close of a device while other processes look at its mappings in /proc.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <linux/limits.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define RW (PROT_READ | PROT_WRITE)

/* Some ranges of the BAR that are neither in order nor next to each other */
#define NR_PAGES 9

FIXTURE(mappings) {
	struct bar_test t;
	struct bar_fd fd;
};

FIXTURE_VARIANT(mappings) {
	bool dmabuf;
};

FIXTURE_VARIANT_ADD(mappings, device_fd) {
	.dmabuf = false,
};

FIXTURE_VARIANT_ADD(mappings, dmabuf) {
	.dmabuf = true,
};

FIXTURE_SETUP(mappings)
{
	struct bar_test *t = &self->t;
	struct vfio_region_dma_range ranges[3];
	const char *missing;

	missing = bar_test_init(t, device_bdf, MODE_IOMMUFD, SZ_64K);
	if (!missing && !t->ram)
		missing = NO_RAM_BAR;
	if (!missing && variant->dmabuf)
		missing = vfio_pci_dmabuf_mmap_missing(t->device, t->bar);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	if (!variant->dmabuf) {
		self->fd = bar_fd_device(t->device, t->bar);
		return;
	}

	for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
		ranges[i].offset = (11 - 5 * i) * t->page;
		ranges[i].length = 3 * t->page;
	}
	self->fd = bar_fd_export(t->device, t->bar, O_RDWR, ARRAY_SIZE(ranges), ranges);
}

FIXTURE_TEARDOWN(mappings)
{
	bar_fd_close(&self->fd);
	bar_test_close(&self->t);
}

/* Far more mappings than a process usually has. Each can be unmapped by itself. */
TEST_F(mappings, many)
{
	struct bar_test *t = &self->t;
	void *vaddr[512];

	for (int i = 0; i < ARRAY_SIZE(vaddr); i++) {
		vaddr[i] = bar_fd_mmap(&self->fd, i % NR_PAGES * t->page, t->page, RW);
		if (i % 64 == 0)
			ASSERT_EQ(0, bar_fd_check_page(&self->fd, vaddr[i],
						       i % NR_PAGES * t->page, true));
	}

	for (int i = 0; i < ARRAY_SIZE(vaddr); i += 2)
		ASSERT_EQ(0, munmap(vaddr[i], t->page));

	for (int i = 1; i < ARRAY_SIZE(vaddr); i += 2) {
		ASSERT_EQ(0, bar_fd_check_page(&self->fd, vaddr[i],
					       i % NR_PAGES * t->page, true));
		ASSERT_EQ(0, munmap(vaddr[i], t->page));
	}
}

/* MAP_FIXED over a page of a mapping, which succeeds and which does not */
TEST_F(mappings, overlay)
{
	struct bar_test *t = &self->t;
	void *vaddr = bar_fd_mmap(&self->fd, 0, 5 * t->page, RW);
	u64 offset = 7 * t->page;

	ASSERT_EQ(0, bar_fd_check_pages(&self->fd, vaddr, 0, 5 * t->page));
	ASSERT_EQ(vaddr + 2 * t->page,
		  mmap(vaddr + 2 * t->page, t->page, RW, MAP_SHARED | MAP_FIXED,
		       self->fd.fd, self->fd.base + offset));
	ASSERT_EQ(0, bar_fd_check_page(&self->fd, vaddr + 2 * t->page, offset, true));
	ASSERT_EQ(0, bar_fd_check_pages(&self->fd, vaddr, 0, 2 * t->page));
	ASSERT_EQ(0, bar_fd_check_pages(&self->fd, vaddr + 3 * t->page, 3 * t->page,
					2 * t->page));

	/* It may leave a hole. The other pages are not affected. */
	ASSERT_EQ(MAP_FAILED, mmap(vaddr + t->page, t->page, PROT_READ,
				   MAP_SHARED | MAP_FIXED, t->device->fd,
				   t->device->config_space.offset));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(0, bar_fd_check_page(&self->fd, vaddr, 0, true));
	ASSERT_EQ(0, bar_fd_check_page(&self->fd, vaddr + 2 * t->page, offset, true));
	ASSERT_EQ(0, munmap(vaddr, 5 * t->page));
}

/* A mapping through a file descriptor that is closed before the other one */
TEST_F(mappings, dup)
{
	struct bar_test *t = &self->t;
	struct bar_fd copy = self->fd;
	void *vaddr, *other;

	copy.fd = dup(self->fd.fd);
	ASSERT_GE(copy.fd, 0);
	vaddr = bar_fd_mmap(&copy, 0, 3 * t->page, RW);
	ASSERT_EQ(0, close(copy.fd));
	ASSERT_EQ(0, bar_fd_check_pages(&self->fd, vaddr, 0, 3 * t->page));

	other = bar_fd_mmap(&self->fd, t->page, 2 * t->page, RW);
	ASSERT_EQ(0, munmap(vaddr, 3 * t->page));
	ASSERT_EQ(0, bar_fd_check_pages(&self->fd, other, t->page, 2 * t->page));
	ASSERT_EQ(0, munmap(other, 2 * t->page));
}

/* MADV_DONTNEED is refused, and the mapping can still be used. */
TEST_F(mappings, madvise_dontneed)
{
	struct bar_test *t = &self->t;
	void *vaddr = bar_fd_mmap(&self->fd, t->page, 2 * t->page, RW);

	ASSERT_EQ(-1, madvise(vaddr, 2 * t->page, MADV_DONTNEED));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(0, bar_fd_check_pages(&self->fd, vaddr, t->page, 2 * t->page));
	ASSERT_EQ(0, munmap(vaddr, 2 * t->page));
}

/* Enough processes to preempt one in the middle, and enough mappings to look at */
#define NR_OBSERVERS 8
#define NR_OBSERVED 64
#define OBSERVED_SECONDS 5
#define EXIT_TIMEOUT_MS 15000

/* Where the device is open decides which file is busy. */
FIXTURE(observed) {
	struct bar_test t;
};

FIXTURE_VARIANT(observed) {
	const char *iommu_mode;
};

#define FIXTURE_VARIANT_ADD_IOMMU_MODE(_iommu_mode)			       \
FIXTURE_VARIANT_ADD(observed, _iommu_mode) {				       \
	.iommu_mode = #_iommu_mode,					       \
}

FIXTURE_VARIANT_ADD_ALL_IOMMU_MODES();

#undef FIXTURE_VARIANT_ADD_IOMMU_MODE

FIXTURE_SETUP(observed)
{
	const char *missing;

	missing = bar_test_init(&self->t, device_bdf, variant->iommu_mode, getpagesize());
	if (!missing && sysconf(_SC_NPROCESSORS_ONLN) < 2)
		missing = "with one processor nobody looks while a mapping goes";
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);
}

FIXTURE_TEARDOWN(observed)
{
	bar_test_close(&self->t);
}

/* Look at all mappings of a process again and again, as monitors do. */
static void observe(pid_t pid, atomic_int *nr_looks)
{
	char path[PATH_MAX], target[PATH_MAX];
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf_assert(path, sizeof(path), "/proc/%d/map_files", pid);

	for (;;) {
		dir = opendir(path);
		if (!dir)
			_exit(1);

		while ((entry = readdir(dir))) {
			/* It may be gone already. */
			if (readlinkat(dirfd(dir), entry->d_name, target,
				       sizeof(target)) > 0 &&
			    strstr(target, "vfio"))
				(*nr_looks)++;
			fstatat(dirfd(dir), entry->d_name, &st, 0);
		}
		closedir(dir);
	}
}

/*
 * After munmap() of its last mapping the device is not busy. Processes that look at
 * /proc/PID/map_files hold paths to mappings for a moment, which does not matter.
 */
TEST_F_TIMEOUT(observed, close, 60)
{
	struct bar_test *t = &self->t;
	size_t size = NR_OBSERVED * t->page;
	pid_t pids[NR_OBSERVERS];
	atomic_int *nr_looks;
	int ret = 0, rounds;
	time_t end;

	nr_looks = mmap(NULL, t->page, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, nr_looks);

	/* The observers must not inherit the device. */
	bar_test_close(t);
	for (int i = 0; i < NR_OBSERVERS; i++) {
		pid_t parent = getpid();

		pids[i] = fork();
		ASSERT_GE(pids[i], 0);
		if (!pids[i])
			observe(parent, nr_looks);
	}

	end = time(NULL) + OBSERVED_SECONDS;
	for (rounds = 0; !ret && (!rounds || time(NULL) < end); rounds++) {
		void *vaddr;

		bar_test_open(t);
		vaddr = mmap_reserve(size, t->page, 0);
		for (int i = 0; i < NR_OBSERVED; i++)
			ASSERT_EQ(vaddr + i * t->page,
				  mmap(vaddr + i * t->page, t->page, PROT_READ,
				       MAP_SHARED | MAP_FIXED, t->device->fd,
				       t->device->bars[t->bar].info.offset));
		bar_test_close(t);
		ASSERT_EQ(0, munmap(vaddr, size));
		ret = __vfio_pci_device_try_open(device_bdf, variant->iommu_mode);
	}

	for (int i = 0; i < NR_OBSERVERS; i++) {
		ASSERT_EQ(0, kill(pids[i], SIGKILL));
		ASSERT_EQ(128 + SIGKILL, wait_child(pids[i], EXIT_TIMEOUT_MS));
	}

	ASSERT_EQ(0, ret)
		TH_LOG("Round %d: the device is busy after the last munmap(): %s",
		       rounds, strerror(-ret));
	ASSERT_GT(atomic_load(nr_looks), 0)
		TH_LOG("The observers have not seen a mapping of the device");
	TH_LOG("%d rounds, %d looks at mappings of the device", rounds,
	       atomic_load(nr_looks));
	ASSERT_EQ(0, munmap(nr_looks, t->page));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
