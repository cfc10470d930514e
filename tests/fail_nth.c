// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls for BAR mappings and DMABUFs under fault injection: each allocation of a call
 * fails once, and so does each copy from and to userspace
 * (Documentation/fault-injection/).
 *
 * The call must return ENOMEM or EFAULT, or succeed nevertheless. It must not leave a
 * DMABUF behind, and the same call must succeed afterwards. In the end the driver can
 * be unbound.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/limits.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define FAIL_NTH "/proc/thread-self/fail-nth"
#define FAILSLAB "/sys/kernel/debug/failslab/"
#define FAIL_USERCOPY "/sys/kernel/debug/fail_usercopy/"

/* More allocations than any of the calls makes */
#define MAX_NTH 500

/* The time from one signal to the next, and before the first one */
#define SIGNAL_DELAY_US 100000

/*
 * The sizes of the buffers of this test, in pages. Other users of vfio-pci are not
 * likely to have buffers of these sizes.
 */
#define DMABUF_PAGES 4
#define EXPORT_PAGES 3
#define RANGES_PAGES 5
#define BAR_MMAP_PAGES 7

/* Settings of the whole system, which are restored in the end */
static const struct setting {
	const char *path;
	const char *value;
} settings[] = {
	/* By default only allocations that must not wait fail. */
	{ FAILSLAB "ignore-gfp-wait", "N" },
	{ FAILSLAB "verbose", "0" },
	{ FAIL_USERCOPY "verbose", "0" },
};

FIXTURE(fail_nth) {
	struct vfio_pci_device *device;
	u64 page;
	int bar;
	int fd;
	/* A mapping of it, unless it was revoked */
	void *vaddr;
	int fail_nth;

	/* Whether copies from and to userspace fail as well */
	bool fail_usercopy;
	char settings[ARRAY_SIZE(settings)][16];
};

typedef FIXTURE_DATA(fail_nth) fail_nth_test;

/* How many DMABUFs look like those of this test? */
static int nr_dmabufs(fail_nth_test *self)
{
	static const int pages[] = {
		DMABUF_PAGES, EXPORT_PAGES, RANGES_PAGES, BAR_MMAP_PAGES,
	};
	int nr = 0;

	for (int i = 0; i < ARRAY_SIZE(pages); i++)
		nr += nr_vfio_dmabufs(pages[i] * self->page);

	return nr;
}

static void dmabuf_export(fail_nth_test *self)
{
	u32 value;

	self->fd = vfio_pci_dmabuf_export(self->device, self->bar, 0,
					  DMABUF_PAGES * self->page);
	self->vaddr = mmap(NULL, DMABUF_PAGES * self->page, PROT_READ, MAP_SHARED,
			   self->fd, 0);
	VFIO_ASSERT_NE(self->vaddr, MAP_FAILED);
	VFIO_ASSERT_EQ(mmio_read32(self->vaddr, &value), 0);
}

static void dmabuf_close(fail_nth_test *self)
{
	VFIO_ASSERT_EQ(munmap(self->vaddr, DMABUF_PAGES * self->page), 0);
	VFIO_ASSERT_EQ(close(self->fd), 0);
}

static void settings_change(fail_nth_test *self)
{
	for (int i = 0; i < ARRAY_SIZE(settings); i++) {
		if (read_file(settings[i].path, self->settings[i],
			      sizeof(self->settings[i])))
			self->settings[i][0] = 0;
		else
			VFIO_ASSERT_EQ(write_file(settings[i].path, settings[i].value), 0);
	}
}

static void settings_restore(fail_nth_test *self)
{
	for (int i = 0; i < ARRAY_SIZE(settings); i++) {
		if (self->settings[i][0])
			VFIO_ASSERT_EQ(write_file(settings[i].path, self->settings[i]), 0);
	}
}

FIXTURE_SETUP(fail_nth)
{
	const char *missing;

	self->fail_nth = open(FAIL_NTH, O_RDWR | O_CLOEXEC);
	if (self->fail_nth < 0 && errno == ENOENT)
		SKIP(return, "no fault injection in this kernel");
	ASSERT_GE(self->fail_nth, 0);

	if (!debugfs_mount() || access(FAILSLAB "ignore-gfp-wait", W_OK))
		SKIP(return, "no " FAILSLAB " (CONFIG_FAILSLAB)");
	if (nr_vfio_dmabufs(0) < 0)
		SKIP(return, "no list of DMABUFs in debugfs");

	self->page = getpagesize();
	self->device = device_open(device_bdf);

	self->bar = vfio_pci_largest_bar(self->device, 8 * self->page);
	if (self->bar < 0)
		SKIP(return, "%s: no BAR that is large enough and can be mapped",
		     device_bdf);

	missing = vfio_pci_dmabuf_revoke_missing(self->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->fail_usercopy = !access(FAIL_USERCOPY, F_OK);
	dmabuf_export(self);
	settings_change(self);
}

FIXTURE_TEARDOWN(fail_nth)
{
	settings_restore(self);
	dmabuf_close(self);
	VFIO_ASSERT_EQ(close(self->fail_nth), 0);
	device_close(self->device);

	/* The device has no user any more, unless something has leaked. */
	VFIO_ASSERT_TRUE(driver_rebind(device_bdf), "%s cannot be unbound\n", device_bdf);
}

static void fail_nth_set(fail_nth_test *self, int n)
{
	char buf[16];

	snprintf_assert(buf, sizeof(buf), "%d", n);

	/* It may hit this call, which is then the last one. */
	while (pwrite(self->fail_nth, buf, strlen(buf), 0) < 0)
		VFIO_ASSERT_EQ(errno, EFAULT);
}

/* Switch it off. Returns whether an allocation has failed. */
static bool fail_nth_clear(fail_nth_test *self)
{
	char buf[16] = {};
	bool failed = false;

	/* This call, too, copies to userspace. */
	if (pread(self->fail_nth, buf, sizeof(buf) - 1, 0) > 0)
		failed = !atoi(buf);
	else
		VFIO_ASSERT_EQ(errno, EFAULT);
	fail_nth_set(self, 0);

	return failed;
}

/* A call, which returns 0 or -errno, and the function that undoes it */
struct call {
	int (*call)(fail_nth_test *self);
	void (*undo)(fail_nth_test *self);
	/* The call revokes, and must not fail for lack of memory. */
	bool revokes;
	/* It allocates nothing, so that only its copies can fail. */
	bool only_copies;
};

static void assert_outcome(struct __test_metadata *_metadata, fail_nth_test *self,
			   const struct call *call, int n, int ret, bool failed)
{
	u32 value;

	ASSERT_TRUE(!ret || ret == -EFAULT || (ret == -ENOMEM && !call->revokes))
		TH_LOG("Failure %d: errno %d", n, -ret);
	ASSERT_TRUE(!ret || failed)
		TH_LOG("Failure %d: errno %d, and nothing has failed", n, -ret);

	/* If a revocation succeeded, the mapping must be inaccessible. */
	ASSERT_EQ(!ret && call->revokes ? SIGBUS : 0, mmio_read32(self->vaddr, &value))
		TH_LOG("Failure %d", n);
}

/* Fail each allocation and each copy of the call in turn. */
static void sweep(struct __test_metadata *_metadata, fail_nth_test *self,
		  const struct call *call)
{
	int nr_failed = 0, nr_errors = 0;
	int n, ret, before;
	bool failed;

	if (call->only_copies && !self->fail_usercopy)
		SKIP(return, "no " FAIL_USERCOPY " (CONFIG_FAULT_INJECTION_USERCOPY)");

	/* Userspace has all the memory that it needs from now on. */
	ASSERT_EQ(0, call->call(self));
	call->undo(self);
	before = nr_dmabufs(self);

	for (n = 1; n < MAX_NTH; n++) {
		fail_nth_set(self, n);
		ret = call->call(self);
		failed = fail_nth_clear(self);
		assert_outcome(_metadata, self, call, n, ret, failed);
		if (!ret)
			call->undo(self);
		nr_failed += failed;
		nr_errors += !!ret;
		ASSERT_EQ(before, nr_dmabufs(self))
			TH_LOG("Failure %d: a DMABUF has leaked", n);

		/* The call works as before. */
		ASSERT_EQ(0, call->call(self))
			TH_LOG("After failure %d", n);
		call->undo(self);
		ASSERT_EQ(before, nr_dmabufs(self));

		if (!failed)
			break;
	}

	TH_LOG("%d failures, %d of them errors", nr_failed, nr_errors);
	ASSERT_LT(n, MAX_NTH);
	ASSERT_GT(nr_failed, 0);
	if (!call->revokes)
		ASSERT_GT(nr_errors, 0);
}

static void *call_vaddr;
static int call_fd;
static struct dma_region call_region;

static u64 call_size;

static int call_mmap(fail_nth_test *self, int fd, u64 offset, int pages)
{
	call_size = pages * self->page;
	call_vaddr = mmap(NULL, call_size, PROT_READ, MAP_SHARED, fd, offset);

	return call_vaddr == MAP_FAILED ? -errno : 0;
}

static int call_bar_mmap(fail_nth_test *self)
{
	return call_mmap(self, self->device->fd, self->device->bars[self->bar].info.offset,
			 BAR_MMAP_PAGES);
}

static int call_dmabuf_mmap(fail_nth_test *self)
{
	return call_mmap(self, self->fd, 0, DMABUF_PAGES);
}

static void undo_mmap(fail_nth_test *self)
{
	u32 value;

	VFIO_ASSERT_EQ(mmio_read32(call_vaddr + self->page, &value), 0);
	VFIO_ASSERT_EQ(munmap(call_vaddr, call_size), 0);
}

TEST_F(fail_nth, bar_mmap)
{
	sweep(_metadata, self, &(struct call){ call_bar_mmap, undo_mmap });
}

TEST_F(fail_nth, dmabuf_mmap)
{
	sweep(_metadata, self, &(struct call){ call_dmabuf_mmap, undo_mmap });
}

static int call_export(fail_nth_test *self)
{
	struct vfio_region_dma_range range = {
		.length = EXPORT_PAGES * self->page,
	};

	call_fd = __vfio_pci_dmabuf_export(self->device, self->bar, O_RDWR | O_CLOEXEC,
					   1, &range);

	return call_fd < 0 ? call_fd : 0;
}

/* Several ranges that are not neighbours take more memory. */
static int call_export_ranges(fail_nth_test *self)
{
	struct vfio_region_dma_range ranges[] = {
		{ .offset = 6 * self->page, .length = self->page },
		{ .offset = 2 * self->page, .length = self->page },
		{ .offset = 4 * self->page, .length = (RANGES_PAGES - 2) * self->page },
	};

	call_fd = __vfio_pci_dmabuf_export(self->device, self->bar, O_RDWR | O_CLOEXEC,
					   ARRAY_SIZE(ranges), ranges);

	return call_fd < 0 ? call_fd : 0;
}

static void undo_export(fail_nth_test *self)
{
	VFIO_ASSERT_EQ(close(call_fd), 0);
}

TEST_F(fail_nth, export)
{
	sweep(_metadata, self, &(struct call){ call_export, undo_export });
}

TEST_F(fail_nth, export_ranges)
{
	sweep(_metadata, self, &(struct call){ call_export_ranges, undo_export });
}

static int call_import(fail_nth_test *self)
{
	call_region = (struct dma_region) {
		.size = DMABUF_PAGES * self->page,
	};

	return __iommu_map_dmabuf(self->device->iommu, self->fd, &call_region);
}

static void undo_import(fail_nth_test *self)
{
	iommu_unmap(self->device->iommu, &call_region);
}

TEST_F(fail_nth, import)
{
	sweep(_metadata, self, &(struct call){ call_import, undo_import });
}

static int call_memattr(fail_nth_test *self)
{
	return __vfio_pci_dmabuf_set_memattr(self->device, self->fd,
				       VFIO_DEVICE_DMA_BUF_MEMATTR_UC);
}

static void undo_nothing(fail_nth_test *self)
{
}

TEST_F(fail_nth, memattr)
{
	sweep(_metadata, self, &(struct call){ call_memattr, undo_nothing, .only_copies = true });
}

/* A revocation must not depend on memory. */
static int call_revoke(fail_nth_test *self)
{
	return __vfio_pci_dmabuf_revoke(self->device, self->fd);
}

static void undo_revoke(fail_nth_test *self)
{
	dmabuf_close(self);
	dmabuf_export(self);
}

TEST_F(fail_nth, revoke)
{
	sweep(_metadata, self, &(struct call){ call_revoke, undo_revoke, .revokes = true,
				.only_copies = true });
}

static int call_memory_off(fail_nth_test *self)
{
	u16 cmd = PCI_COMMAND_INTX_DISABLE;
	u64 offset = self->device->config_space.offset + PCI_COMMAND;

	return pwrite(self->device->fd, &cmd, sizeof(cmd), offset) == sizeof(cmd) ? 0 : -errno;
}

static void undo_memory_off(fail_nth_test *self)
{
	u32 value;

	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	VFIO_ASSERT_EQ(mmio_read32(self->vaddr, &value), 0);
}

TEST_F(fail_nth, memory_off)
{
	sweep(_metadata, self, &(struct call){ call_memory_off, undo_memory_off, .revokes = true,
				.only_copies = true });
}

#define NR_FENCES 3

static atomic_int nr_signaled;

/* Each fence is on a timeline of its own, and is signaled when that is closed. */
static void *signal_later(void *arg)
{
	int *timelines = arg;

	for (int i = 0; i < NR_FENCES; i++) {
		usleep(SIGNAL_DELAY_US);
		atomic_fetch_add(&nr_signaled, 1);
		VFIO_ASSERT_EQ(close(timelines[i]), 0);
	}

	return NULL;
}

/*
 * The same with fences, for a list of which the kernel allocates memory. Without the
 * list it must wait for them nevertheless.
 */
static void sweep_with_fences(struct __test_metadata *_metadata,
			      fail_nth_test *self, const struct call *call)
{
	int timelines[NR_FENCES];
	int nr_done_without = 0;
	int n = 0, ret, signaled;
	pthread_t thread;
	bool failed;

	timelines[0] = sw_sync_open();
	if (timelines[0] == -ENOENT)
		SKIP(return, "no " SW_SYNC " (CONFIG_SW_SYNC)");
	ASSERT_GE(timelines[0], 0);
	ASSERT_EQ(0, close(timelines[0]));

	do {
		for (int i = 0; i < NR_FENCES; i++) {
			timelines[i] = sw_sync_open();
			ASSERT_GE(timelines[i], 0);
			sw_sync_add_fence(timelines[i], 1, self->fd);
		}
		atomic_store(&nr_signaled, 0);
		ASSERT_EQ(0, pthread_create(&thread, NULL, signal_later, timelines));

		fail_nth_set(self, ++n);
		ret = call->call(self);
		signaled = atomic_load(&nr_signaled);
		failed = fail_nth_clear(self);
		assert_outcome(_metadata, self, call, n, ret, failed);
		if (!ret)
			ASSERT_EQ(NR_FENCES, signaled)
				TH_LOG("Failure %d: it did not wait", n);
		nr_done_without += failed && !ret;

		ASSERT_EQ(0, pthread_join(thread, NULL));
		call->undo(self);
	} while (failed && n < MAX_NTH);

	TH_LOG("%d failures, %d of them without an error", n - 1, nr_done_without);
	ASSERT_FALSE(failed);
	/* One of the failures was that of the list. */
	ASSERT_GT(nr_done_without, 0);
}

TEST_F(fail_nth, revoke_with_fences)
{
	sweep_with_fences(_metadata, self,
			  &(struct call){ call_revoke, undo_revoke, .revokes = true });
}

TEST_F(fail_nth, memory_off_with_fences)
{
	sweep_with_fences(_metadata, self,
			  &(struct call){ call_memory_off, undo_memory_off, .revokes = true });
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
