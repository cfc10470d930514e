// SPDX-License-Identifier: GPL-2.0-only
/*
 * After a revocation: a DMABUF of which only a path is left, and fences that are added
 * later. Neither matters to calls that revoke the BARs, to the close of the device, or
 * to another revocation.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/limits.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define CALL_TIMEOUT_MS 10000

FIXTURE(revoke) {
	struct bar_test t;

	/* One that is revoked, with a mapping, and one that is not */
	int fd;
	void *vaddr;
	int other_fd;
	void *other_vaddr;

	enum vfio_pci_bar_revocation how;
};

typedef FIXTURE_DATA(revoke) revoke_test;

static void *map(revoke_test *self, int fd)
{
	void *vaddr = mmap(NULL, self->t.page, PROT_READ, MAP_SHARED, fd, 0);

	VFIO_ASSERT_NE(vaddr, MAP_FAILED);

	return vaddr;
}

FIXTURE_SETUP(revoke)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = bar_test_init(t, device_bdf, MODE_IOMMUFD, SZ_64K);
	if (!missing)
		missing = vfio_pci_dmabuf_revoke_missing(t->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, t->page);
	self->vaddr = map(self, self->fd);
	self->other_fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, 2 * t->page);
	self->other_vaddr = map(self, self->other_fd);
}

FIXTURE_TEARDOWN(revoke)
{
	VFIO_ASSERT_EQ(munmap(self->other_vaddr, self->t.page), 0);
	VFIO_ASSERT_EQ(close(self->other_fd), 0);
	bar_test_close(&self->t);
}

static void assert_works(struct __test_metadata *_metadata, revoke_test *self)
{
	u32 value;

	ASSERT_EQ(0, mmio_read32(self->other_vaddr, &value));
	ASSERT_EQ(0, __bar_test_import_try(&self->t, self->other_fd, 2 * self->t.page));
}

static void assert_dead(struct __test_metadata *_metadata, revoke_test *self, int fd,
			void *vaddr)
{
	u32 value;

	ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value));
	ASSERT_EQ(-ENODEV, __mmap_try(self->t.page, PROT_READ, MAP_SHARED, fd, 0));
	ASSERT_EQ(-ENODEV, __bar_test_import_try(&self->t, fd, self->t.page));
}

/* The file of a revoked DMABUF has gone, and a path to it is left. */
TEST_F(revoke, opath)
{
	struct bar_test *t = &self->t;
	char name[PATH_MAX];
	int path;

	snprintf_assert(name, sizeof(name), "/proc/self/fd/%d", self->fd);
	path = open(name, O_PATH | O_CLOEXEC);
	ASSERT_GE(path, 0);

	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(t->device, self->fd));
	assert_dead(_metadata, self, self->fd, self->vaddr);
	ASSERT_EQ(0, munmap(self->vaddr, t->page));
	ASSERT_EQ(0, close(self->fd));
	wait_rcu();

	vfio_pci_cmd_clear(t->device, PCI_COMMAND_MEMORY);
	vfio_pci_cmd_set(t->device, PCI_COMMAND_MEMORY);
	assert_works(_metadata, self);

	bar_test_close(t);
	bar_test_open(t);
	assert_dead(_metadata, self, self->other_fd, self->other_vaddr);
	ASSERT_EQ(0, close(path));
}

static int do_revoke(void *arg)
{
	revoke_test *self = arg;

	return __vfio_pci_dmabuf_revoke(self->t.device, self->fd);
}

/* The device may not support it. */
static int do_bars_revoke(void *arg)
{
	revoke_test *self = arg;

	if (!vfio_pci_bars_revoke(self->t.device, self->how))
		vfio_pci_bars_restore(self->t.device, self->how);

	return 0;
}

static int do_close(void *arg)
{
	revoke_test *self = arg;

	bar_test_close(&self->t);

	return 0;
}

/* A call that waits for the fence would hang, so signal the fence after a while. */
static void assert_returns(struct __test_metadata *_metadata, revoke_test *self,
			   int timeline, int (*fn)(void *arg), int expected)
{
	struct waiter waiter = { .fn = fn, .arg = self };
	bool done;

	waiter_start(&waiter);
	for (int ms = 0; ms < CALL_TIMEOUT_MS && !waiter.done; ms += 10)
		usleep(10000);
	done = waiter.done;
	if (!done)
		sw_sync_advance(timeline);

	ASSERT_EQ(expected, waiter_join(&waiter));
	ASSERT_TRUE(done)
		TH_LOG("A call waits for a fence of a DMABUF that was revoked before");
}

TEST_F(revoke, late_fence)
{
	struct bar_test *t = &self->t;
	int timeline = sw_sync_open();

	if (timeline == -ENOENT)
		SKIP(return, "no " SW_SYNC " (CONFIG_SW_SYNC)");
	ASSERT_GE(timeline, 0);

	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(t->device, self->fd));
	sw_sync_add_fence(timeline, 1, self->fd);

	assert_returns(_metadata, self, timeline, do_revoke, -EBADFD);
	for_each_vfio_pci_bar_revocation(self->how)
		assert_returns(_metadata, self, timeline, do_bars_revoke, 0);
	assert_dead(_metadata, self, self->fd, self->vaddr);
	assert_works(_metadata, self);

	assert_returns(_metadata, self, timeline, do_close, 0);
	bar_test_open(t);
	ASSERT_EQ(0, munmap(self->vaddr, t->page));
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, close(timeline));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
