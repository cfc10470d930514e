// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO_DEVICE_PCI_DMABUF_REVOKE, what the selftests of the tree leave out: other file
 * descriptors, several revocations at once, races with all that revokes the BARs, and
 * fences, with signals, in a process that is killed, and after the revocation.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>

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
	if (self->fd >= 0) {
		VFIO_ASSERT_EQ(munmap(self->vaddr, self->t.page), 0);
		VFIO_ASSERT_EQ(close(self->fd), 0);
	}
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
	self->fd = -1;
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

TEST_F_TIMEOUT(revoke, late_fence, 120)
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
	ASSERT_EQ(0, close(timeline));
}

/* A DMABUF can be revoked through any of its file descriptors, by any process. */
TEST_F(revoke, other_fds)
{
	static const u32 open_flags[] = { O_RDONLY, O_WRONLY };
	struct vfio_pci_device *device = self->t.device;
	struct vfio_region_dma_range range = { .length = self->t.page };
	pid_t pid;
	int fd;

	fd = dup(self->fd);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(device, fd));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(device, self->fd));
	assert_dead(_metadata, self, self->fd, self->vaddr);

	for (int i = 0; i < ARRAY_SIZE(open_flags); i++) {
		fd = __vfio_pci_dmabuf_export(device, self->t.bar, open_flags[i], 1, &range);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(device, fd));
		ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(device, fd));
		ASSERT_EQ(0, close(fd));
	}
	assert_works(_metadata, self);

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(-__vfio_pci_dmabuf_revoke(device, self->other_fd));
	ASSERT_EQ(0, wait_child(pid, CALL_TIMEOUT_MS));
	assert_dead(_metadata, self, self->other_fd, self->other_vaddr);
}

struct revoker {
	revoke_test *self;
	pthread_barrier_t *barrier;
	int fd;
};

static int do_revoke_together(void *arg)
{
	struct revoker *revoker = arg;

	pthread_barrier_wait(revoker->barrier);
	return __vfio_pci_dmabuf_revoke(revoker->self->t.device, revoker->fd);
}

/* One of several revocations of a DMABUF succeeds. */
TEST_F(revoke, concurrent)
{
	struct revoker revoker = { .self = self };
	struct waiter waiters[4];
	pthread_barrier_t barrier;

	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, ARRAY_SIZE(waiters)));
	revoker.barrier = &barrier;
	for (int n = 0; n < 10; n++) {
		struct dma_region region = { .size = self->t.page };
		int revoked = 0;
		void *vaddr;

		revoker.fd = vfio_pci_dmabuf_export(self->t.device, self->t.bar, 0,
						    self->t.page);
		vaddr = map(self, revoker.fd);
		iommu_map_dmabuf(self->t.importer, revoker.fd, &region);
		for (int i = 0; i < ARRAY_SIZE(waiters); i++) {
			waiters[i] = (struct waiter) {
				.fn = do_revoke_together,
				.arg = &revoker,
			};
			waiter_start(&waiters[i]);
		}

		for (int i = 0; i < ARRAY_SIZE(waiters); i++) {
			int ret = waiter_join(&waiters[i]);

			ASSERT_TRUE(!ret || ret == -EBADFD);
			revoked += !ret;
		}
		ASSERT_EQ(1, revoked);
		assert_dead(_metadata, self, revoker.fd, vaddr);
		iommu_unmap(self->t.importer, &region);
		ASSERT_EQ(0, munmap(vaddr, self->t.page));
		ASSERT_EQ(0, close(revoker.fd));
	}
	ASSERT_EQ(0, pthread_barrier_destroy(&barrier));
}

/* Wait until a revocation has zapped the mapping, and waits for the fence. */
static void wait_dead(struct __test_metadata *_metadata, revoke_test *self)
{
	u32 value;

	while (!__mmap_try(self->t.page, PROT_READ, MAP_SHARED, self->fd, 0) ||
	       !mmio_read32(self->vaddr, &value))
		sched_yield();

	assert_dead(_metadata, self, self->fd, self->vaddr);
}

static atomic_int nr_signals;

static void count_signal(int sig)
{
	nr_signals++;
}

/* A signal that does not kill is handled after the call. */
TEST_F(revoke, signal)
{
	struct waiter waiter = { .fn = do_revoke, .arg = self };
	struct sigaction sa = { .sa_handler = count_signal };
	int timeline = sw_sync_open();

	if (timeline == -ENOENT)
		SKIP(return, "no " SW_SYNC " (CONFIG_SW_SYNC)");
	ASSERT_GE(timeline, 0);

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	sw_sync_add_fence(timeline, 1, self->fd);
	waiter_start(&waiter);
	wait_dead(_metadata, self);

	ASSERT_EQ(0, pthread_kill(waiter.thread, SIGUSR1));
	ASSERT_TRUE(waiter_blocks(&waiter));
	ASSERT_EQ(0, atomic_load(&nr_signals));

	sw_sync_advance(timeline);
	ASSERT_EQ(0, waiter_join(&waiter));
	ASSERT_EQ(1, atomic_load(&nr_signals));
	ASSERT_EQ(0, close(timeline));
}

/* After a revocation was killed, the close of the device waits for the fence. */
TEST_F_TIMEOUT(revoke, kill_and_close, 60)
{
	struct waiter waiter = { .fn = do_close, .arg = self };
	int timeline = sw_sync_open();
	pid_t pid;

	if (timeline == -ENOENT)
		SKIP(return, "no " SW_SYNC " (CONFIG_SW_SYNC)");
	ASSERT_GE(timeline, 0);

	sw_sync_add_fence(timeline, 1, self->fd);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		do_revoke(self);
		_exit(0);
	}
	wait_dead(_metadata, self);
	ASSERT_EQ(-ETIMEDOUT, wait_child(pid, WAITER_US / 1000));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(128 + SIGKILL, wait_child(pid, CALL_TIMEOUT_MS));

	waiter_start(&waiter);
	ASSERT_TRUE(waiter_blocks(&waiter));
	sw_sync_advance(timeline);
	ASSERT_EQ(0, waiter_join(&waiter));

	bar_test_open(&self->t);
	assert_dead(_metadata, self, self->fd, self->vaddr);
	assert_dead(_metadata, self, self->other_fd, self->other_vaddr);
	ASSERT_EQ(0, close(timeline));
}

static int do_memory_off(void *arg)
{
	revoke_test *self = arg;

	vfio_pci_cmd_clear(self->t.device, PCI_COMMAND_MEMORY);
	return 0;
}

/*
 * While memory decode is being switched off and waits for a fence, mmap() and the list of
 * DMABUFs in debugfs do not wait. If one of them does, it cannot be killed, so this is left
 * to a child, and the parent can signal the fence.
 */
TEST_F_TIMEOUT(revoke, memory_off, 60)
{
	struct bar_fd device_fd = bar_fd_device(self->t.device, self->t.bar);
	struct waiter waiter = { .fn = do_memory_off, .arg = self };
	int timeline = sw_sync_open();
	pid_t pid;
	u32 value;
	int ret;

	if (timeline == -ENOENT)
		SKIP(return, "no " SW_SYNC " (CONFIG_SW_SYNC)");
	ASSERT_GE(timeline, 0);
	if (vfio_pci_bars_revoke(self->t.device, VFIO_PCI_BAR_MEMORY_DECODE))
		SKIP(return, "%s: a VF has no memory decode of its own", device_bdf);
	vfio_pci_bars_restore(self->t.device, VFIO_PCI_BAR_MEMORY_DECODE);

	sw_sync_add_fence(timeline, 1, self->fd);
	waiter_start(&waiter);
	ASSERT_TRUE(waiter_blocks(&waiter));

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(timeline);
		if (__bar_fd_mmap_try(&device_fd, 0, self->t.page, PROT_READ))
			_exit(1);
		if (__mmap_try(self->t.page, PROT_READ, MAP_SHARED, self->fd, 0))
			_exit(2);
		if (nr_vfio_dmabufs(self->t.page) < 0)
			_exit(3);
		_exit(0);
	}
	ret = wait_child(pid, CALL_TIMEOUT_MS);

	/* Fences that are added later do not count. */
	sw_sync_add_fence(timeline, 2, self->fd);
	EXPECT_TRUE(waiter_blocks(&waiter));
	sw_sync_advance(timeline);
	ASSERT_EQ(0, waiter_join(&waiter));
	ASSERT_EQ(0, ret);

	ASSERT_EQ(SIGBUS, mmio_read32(self->vaddr, &value));
	vfio_pci_cmd_set(self->t.device, PCI_COMMAND_MEMORY);
	ASSERT_EQ(0, mmio_read32(self->vaddr, &value));
	sw_sync_advance(timeline);
	assert_works(_metadata, self);
	ASSERT_EQ(0, close(timeline));
}

/* The close of the device after a revocation, with importers */
FIXTURE(revoke_and_close) {
	struct bar_test t;
	int fds[2];
};

FIXTURE_VARIANT(revoke_and_close) {
	const char *iommu_mode;
};

#define FIXTURE_VARIANT_ADD_IOMMU_MODE(_iommu_mode)			       \
FIXTURE_VARIANT_ADD(revoke_and_close, _iommu_mode) {			       \
	.iommu_mode = #_iommu_mode,					       \
}

FIXTURE_VARIANT_ADD_ALL_IOMMU_MODES();

#undef FIXTURE_VARIANT_ADD_IOMMU_MODE

FIXTURE_SETUP(revoke_and_close)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = bar_test_init(t, device_bdf, variant->iommu_mode, SZ_64K);
	if (!missing)
		missing = vfio_pci_dmabuf_revoke_missing(t->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	for (int i = 0; i < ARRAY_SIZE(self->fds); i++)
		self->fds[i] = vfio_pci_dmabuf_export(t->device, t->bar, 0, t->page);
}

FIXTURE_TEARDOWN(revoke_and_close)
{
	for (int i = 0; i < ARRAY_SIZE(self->fds); i++)
		VFIO_ASSERT_EQ(close(self->fds[i]), 0);
	bar_test_close(&self->t);
}

TEST_F(revoke_and_close, imported)
{
	struct bar_test *t = &self->t;
	struct dma_region regions[ARRAY_SIZE(self->fds)];

	for (int i = 0; i < ARRAY_SIZE(self->fds); i++) {
		regions[i] = (struct dma_region) { .size = t->page };
		iommu_map_dmabuf(t->importer, self->fds[i], &regions[i]);
	}
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(t->device, self->fds[0]));

	bar_test_close(t);
	bar_test_open(t);
	for (int i = 0; i < ARRAY_SIZE(self->fds); i++) {
		ASSERT_EQ(-ENODEV, __mmap_try(t->page, PROT_READ, MAP_SHARED,
					      self->fds[i], 0));
		ASSERT_EQ(-ENODEV, __bar_test_import_try(t, self->fds[i], t->page));
		ASSERT_EQ(-ENODEV, __vfio_pci_dmabuf_revoke(t->device, self->fds[i]));
	}
}

/* Revocations while another thread revokes and restores access to the BARs */
FIXTURE(revoke_race) {
	struct bar_test t;
	int other_fd;
};

FIXTURE_VARIANT(revoke_race) {
	enum vfio_pci_bar_revocation how;
};

#define FIXTURE_VARIANT_ADD_BAR_REVOCATION(_name, _how)			       \
FIXTURE_VARIANT_ADD(revoke_race, _name) {				       \
	.how = (_how),							       \
}

FIXTURE_VARIANT_ADD_ALL_BAR_REVOCATIONS();

#undef FIXTURE_VARIANT_ADD_BAR_REVOCATION

FIXTURE_SETUP(revoke_race)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = bar_test_init(t, device_bdf, MODE_IOMMUFD, SZ_64K);
	if (!missing)
		missing = vfio_pci_dmabuf_revoke_missing(t->device);
	if (!missing)
		missing = vfio_pci_bars_revoke(t->device, variant->how);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);
	vfio_pci_bars_restore(t->device, variant->how);

	self->other_fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, t->page);
}

FIXTURE_TEARDOWN(revoke_race)
{
	VFIO_ASSERT_EQ(close(self->other_fd), 0);
	bar_test_close(&self->t);
}

struct repeater {
	struct vfio_pci_device *device;
	enum vfio_pci_bar_revocation how;
	atomic_bool stop;
	atomic_int times;
};

static int do_repeat(void *arg)
{
	struct repeater *repeater = arg;
	struct vfio_pci_device *device = repeater->device;
	int wakeup = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	VFIO_ASSERT_GE(wakeup, 0);
	for (; !repeater->stop; repeater->times++) {
		switch (repeater->how) {
		case VFIO_PCI_BAR_LOW_POWER:
		case VFIO_PCI_BAR_LOW_POWER_WAKEUP:
			/* The other thread may keep the device from being suspended. */
			vfio_pci_low_power_entry(device, repeater->how == VFIO_PCI_BAR_LOW_POWER ?
						 -1 : wakeup);
			vfio_pci_low_power_exit(device);
			break;
		default:
			VFIO_ASSERT_NULL(vfio_pci_bars_revoke(device, repeater->how));
			vfio_pci_bars_restore(device, repeater->how);
		}
	}
	VFIO_ASSERT_EQ(close(wakeup), 0);

	return 0;
}

TEST_F_TIMEOUT(revoke_race, race, 120)
{
	struct bar_test *t = &self->t;
	struct repeater repeater = {
		.device = t->device,
		.how = variant->how,
	};
	struct waiter waiter = { .fn = do_repeat, .arg = &repeater };
	int revoked;

	waiter_start(&waiter);
	for (revoked = 0; revoked < 50 || repeater.times < 5; revoked++) {
		int fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, 2 * t->page);
		struct dma_region region = { .size = 2 * t->page };
		bool imported = false;
		void *vaddr;
		u32 value;

		/* The read and the import may fail, because the device may be inaccessible. */
		vaddr = mmap(NULL, t->page, PROT_READ, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, vaddr);
		mmio_read32(vaddr, &value);
		if (revoked % 2)
			imported = !__iommu_map_dmabuf(t->importer, fd, &region);

		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(t->device, fd));
		ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(t->device, fd));
		ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value));
		ASSERT_EQ(-ENODEV, __mmap_try(t->page, PROT_READ, MAP_SHARED, fd, 0));
		ASSERT_EQ(-ENODEV, __bar_test_import_try(t, fd, 2 * t->page));

		if (imported)
			iommu_unmap(t->importer, &region);
		ASSERT_EQ(0, munmap(vaddr, t->page));
		ASSERT_EQ(0, close(fd));
		sched_yield();
	}

	repeater.stop = true;
	ASSERT_EQ(0, waiter_join(&waiter));
	TH_LOG("%d DMABUFs revoked, BARs revoked %d times", revoked, repeater.times);
	ASSERT_EQ(0, __mmap_try(t->page, PROT_READ, MAP_SHARED, self->other_fd, 0));
	ASSERT_EQ(0, __bar_test_import_try(t, self->other_fd, t->page));
}

/* DMABUFs whose exporter has exited, and accesses during the close of the device */
FIXTURE(client) {
	struct bar_test t;
	struct dmabuf_client *client;
};

FIXTURE_SETUP(client)
{
	struct bar_test *t = &self->t;
	const char *missing;

	self->client = dmabuf_client_start();
	missing = bar_test_init(t, device_bdf, MODE_IOMMUFD, SZ_64K);
	if (!missing)
		missing = vfio_pci_dmabuf_mmap_missing(t->device, t->bar);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);
}

FIXTURE_TEARDOWN(client)
{
	bar_test_close(&self->t);
	dmabuf_client_stop(self->client);
}

/* The process that exported the DMABUF has exited, and another one has the device. */
TEST_F(client, exporter_gone)
{
	struct bar_test *t = &self->t;
	u32 pattern, value;
	pid_t pid;

	if (!t->ram)
		SKIP(return, "%s: %s", device_bdf, NO_RAM_BAR);

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		dmabuf_client_send(self->client,
				   vfio_pci_dmabuf_export(t->device, t->bar, t->page,
							  2 * t->page));
		_exit(0);
	}
	ASSERT_EQ(0, wait_child(pid, CALL_TIMEOUT_MS));

	ASSERT_EQ(0, __dmabuf_client_mmap(self->client, 0, 2 * t->page,
					  PROT_READ | PROT_WRITE));
	for (u64 offset = 0; offset < 2 * t->page; offset += t->page) {
		pattern = vfio_pci_ram_fill(t->device, t->bar, t->page + offset);
		ASSERT_EQ(0, dmabuf_client_read32(self->client, offset, &value));
		ASSERT_EQ(pattern, value);
		ASSERT_EQ(0, dmabuf_client_write32(self->client, offset, ~pattern));
		ASSERT_EQ(0, __vfio_pci_bar_read32(t->device, t->bar, t->page + offset, &value));
		ASSERT_EQ(~pattern, value);
	}
}

static int do_read_until_signal(void *arg)
{
	u32 value;
	int sig;

	while (!(sig = mmio_read32(arg, &value)))
		;

	return sig;
}

TEST_F_TIMEOUT(client, access_during_close, 60)
{
	struct bar_test *t = &self->t;

	for (int i = 0; i < 10; i++) {
		int fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, t->page);
		struct waiter waiter = { .fn = do_read_until_signal };

		waiter.arg = mmap(NULL, t->page, PROT_READ, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, waiter.arg);
		waiter_start(&waiter);
		usleep(i * 1000);
		bar_test_close(t);
		ASSERT_EQ(SIGBUS, waiter_join(&waiter));

		ASSERT_EQ(0, munmap(waiter.arg, t->page));
		ASSERT_EQ(0, close(fd));
		bar_test_open(t);
	}
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
