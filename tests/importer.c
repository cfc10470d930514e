// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMABUFs that are mapped by an importer that takes long to unmap them. All that makes
 * the device inaccessible, and the revocation of a DMABUF, must wait for the importer.
 * Other calls must not.
 *
 * The importer is the module modules/dmabuf_importer.c, which maps on behalf of the
 * device itself. (iommufd unmaps in its callback.) It can also add fences to a DMABUF,
 * for which the kernel must wait in the same way.
 *
 * contended_hot_reset needs another function of the same slot, given as a second
 * device.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <linux/limits.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "modules/dmabuf_importer.h"
#include "tests.h"

static const char *device_bdf;

/* Another function of the same slot, if the user has given two */
static const char *other_bdf;

#define NR_DMABUFS 3

/* Far more than a call that does not wait takes */
#define SLOW_MS 1000

struct dmabuf {
	int fd;
	void *vaddr;
};

FIXTURE(importer) {
	struct vfio_pci_device *device;
	u64 page;
	int bar;

	struct dmabuf dmabufs[NR_DMABUFS];

	/* A process that does not have the device */
	struct dmabuf_client *client;

	/* The arguments of waiters */
	enum vfio_pci_bar_revocation event;
	int revoke_fd;
};

typedef FIXTURE_DATA(importer) importer_test;

static struct dmabuf dmabuf_export(importer_test *self)
{
	struct dmabuf dmabuf = {
		.fd = vfio_pci_dmabuf_export(self->device, self->bar, 0, self->page),
	};

	dmabuf.vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, dmabuf.fd, 0);
	VFIO_ASSERT_NE(dmabuf.vaddr, MAP_FAILED);

	return dmabuf;
}

static void dmabuf_close(importer_test *self, struct dmabuf *dmabuf)
{
	VFIO_ASSERT_EQ(munmap(dmabuf->vaddr, self->page), 0);
	VFIO_ASSERT_EQ(close(dmabuf->fd), 0);
}

FIXTURE_SETUP(importer)
{
	const char *missing;
	int fd;

	fd = open(DMABUF_IMPORTER_DEV, O_RDWR);
	if (fd < 0 && errno == ENOENT)
		SKIP(return, "no " DMABUF_IMPORTER_DEV ": load the module dmabuf_importer");
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, close(fd));

	self->page = getpagesize();
	self->client = dmabuf_client_start();
	self->device = device_open(device_bdf);

	self->bar = vfio_pci_largest_bar(self->device, self->page);
	if (self->bar < 0)
		SKIP(return, "%s: no BAR that can be mapped", device_bdf);

	missing = vfio_pci_dmabuf_revoke_missing(self->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	for (int i = 0; i < NR_DMABUFS; i++)
		self->dmabufs[i] = dmabuf_export(self);
}

FIXTURE_TEARDOWN(importer)
{
	for (int i = 0; i < NR_DMABUFS; i++)
		dmabuf_close(self, &self->dmabufs[i]);
	dmabuf_client_stop(self->client);
	if (self->device)
		device_close(self->device);
}

/* On behalf of the device @bdf. Returns an importer or -errno. */
static int try_attach_for(const char *bdf, int dmabuf_fd, u32 callback_ms, u32 unmap_ms)
{
	struct dmabuf_importer_attach arg = {
		.fd = dmabuf_fd,
		.callback_ms = callback_ms,
		.unmap_ms = unmap_ms,
	};
	unsigned int slot, function;
	int fd, n;

	n = sscanf(bdf, "%x:%x:%x.%x", &arg.domain, &arg.bus, &slot, &function);
	VFIO_ASSERT_EQ(n, 4);
	arg.devfn = slot << 3 | function;

	fd = open(DMABUF_IMPORTER_DEV, O_RDWR | O_CLOEXEC);
	VFIO_ASSERT_GE(fd, 0);
	if (ioctl(fd, DMABUF_IMPORTER_ATTACH, &arg)) {
		int ret = -errno;

		VFIO_ASSERT_EQ(close(fd), 0);
		return ret;
	}

	return fd;
}

static int try_attach(int dmabuf_fd, u32 callback_ms, u32 unmap_ms)
{
	return try_attach_for(device_bdf, dmabuf_fd, callback_ms, unmap_ms);
}

static int try_map(int importer)
{
	return ioctl(importer, DMABUF_IMPORTER_MAP) ? -errno : 0;
}

static void unmap(int importer)
{
	VFIO_ASSERT_EQ(ioctl(importer, DMABUF_IMPORTER_UNMAP), 0);
}

static int told(int importer)
{
	return ioctl(importer, DMABUF_IMPORTER_TOLD);
}

static int import_for(const char *bdf, struct dmabuf *dmabuf, u32 callback_ms,
		      u32 unmap_ms)
{
	int importer = try_attach_for(bdf, dmabuf->fd, callback_ms, unmap_ms);

	VFIO_ASSERT_GE(importer, 0);
	VFIO_ASSERT_EQ(try_map(importer), 0);

	return importer;
}

static int import(struct dmabuf *dmabuf, u32 callback_ms, u32 unmap_ms)
{
	return import_for(device_bdf, dmabuf, callback_ms, unmap_ms);
}

static int do_revoke(void *arg)
{
	importer_test *self = arg;

	return __vfio_pci_dmabuf_revoke(self->device, self->revoke_fd);
}

static int do_event(void *arg)
{
	importer_test *self = arg;

	return vfio_pci_bars_revoke(self->device, self->event) ? -EOPNOTSUPP : 0;
}

/*
 * Access a mapping in another process, the client: a thread of this process that waits
 * in a fault would block mmap() here. Returns the signal, or 0.
 */
static int do_touch(void *arg)
{
	importer_test *self = arg;
	u32 value;

	return dmabuf_client_read32(self->client, 0, &value);
}

static void touch_by_client(importer_test *self, struct dmabuf *dmabuf)
{
	dmabuf_client_send(self->client, dmabuf->fd);
	VFIO_ASSERT_EQ(__dmabuf_client_mmap(self->client, 0, self->page, PROT_READ), 0);
}

static int do_close(void *arg)
{
	importer_test *self = arg;

	device_close(self->device);
	self->device = NULL;

	return 0;
}

static bool has_event(importer_test *self, enum vfio_pci_bar_revocation event)
{
	if (vfio_pci_bars_revoke(self->device, event))
		return false;

	vfio_pci_bars_restore(self->device, event);
	return true;
}

static void assert_works(struct __test_metadata *_metadata, struct dmabuf *dmabuf)
{
	u32 value;

	ASSERT_EQ(0, mmio_read32(dmabuf->vaddr, &value));
	ASSERT_EQ(0, close(import(dmabuf, 0, 0)));
}

static void assert_dead(struct __test_metadata *_metadata, struct dmabuf *dmabuf)
{
	u32 value;

	ASSERT_EQ(SIGBUS, mmio_read32(dmabuf->vaddr, &value));
	ASSERT_EQ(-ENODEV, try_attach(dmabuf->fd, 0, 0));
}

TEST_F(importer, map)
{
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importers[4];

	for (int i = 0; i < ARRAY_SIZE(importers); i++)
		importers[i] = import(dmabuf, 0, 0);

	for (int i = 0; i < ARRAY_SIZE(importers); i++) {
		ASSERT_EQ(-EBUSY, try_map(importers[i]));
		unmap(importers[i]);
		ASSERT_EQ(0, try_map(importers[i]));
		ASSERT_EQ(0, told(importers[i]));
		ASSERT_EQ(0, close(importers[i]));
	}
}

/*
 * A driver outside of the kernel tree gets at the file of a BAR mapping (libvfio-user issue
 * 54). It can be neither mapped nor imported, and no call takes it for an exported DMABUF.
 */
TEST_F(importer, file_of_bar_mapping)
{
	struct dma_region region = { .size = self->page };
	struct dmabuf dmabuf;
	int driver;

	dmabuf.vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, self->device->fd,
			    self->device->bars[self->bar].info.offset);
	ASSERT_NE(MAP_FAILED, dmabuf.vaddr);
	driver = open(DMABUF_IMPORTER_DEV, O_RDWR);
	ASSERT_LE(0, driver);
	dmabuf.fd = ioctl(driver, DMABUF_IMPORTER_VMA_FILE, dmabuf.vaddr);
	ASSERT_LE(0, dmabuf.fd);

	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page, PROT_READ, MAP_SHARED, dmabuf.fd, 0));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_revoke(self->device, dmabuf.fd));
	ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_set_memattr(self->device, dmabuf.fd,
							 VFIO_DEVICE_DMA_BUF_MEMATTR_UC));
	ASSERT_EQ(-EOPNOTSUPP, __iommu_map_dmabuf(self->device->iommu, dmabuf.fd, &region));

	ASSERT_EQ(-EOPNOTSUPP, try_attach(dmabuf.fd, 0, 0));
	ASSERT_EQ(0, close(driver));
	dmabuf_close(self, &dmabuf);
}

/* Importers that attached before cannot map it either. */
TEST_F(importer, map_while_inaccessible)
{
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importer;

	if (!has_event(self, VFIO_PCI_BAR_MEMORY_DECODE))
		SKIP(return, "%s: a VF", device_bdf);

	importer = try_attach(dmabuf->fd, 0, 0);
	ASSERT_GE(importer, 0);

	for (int i = 0; i < 2; i++) {
		vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
		ASSERT_EQ(-ENODEV, try_map(importer));
		ASSERT_EQ(-ENODEV, try_attach(dmabuf->fd, 0, 0));
		vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
		ASSERT_EQ(0, try_map(importer));
		unmap(importer);
	}

	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, dmabuf->fd));
	ASSERT_EQ(-ENODEV, try_map(importer));
	assert_dead(_metadata, dmabuf);
	ASSERT_EQ(0, close(importer));
}

/* Wait until a revocation has zapped the mappings, and waits for the importers. */
static void wait_dead(struct dmabuf *dmabuf)
{
	void *vaddr;
	u32 value;

	while ((vaddr = mmap(NULL, getpagesize(), PROT_READ, MAP_SHARED,
			     dmabuf->fd, 0)) != MAP_FAILED) {
		VFIO_ASSERT_EQ(munmap(vaddr, getpagesize()), 0);
		sched_yield();
	}
	while (!mmio_read32(dmabuf->vaddr, &value))
		sched_yield();
}

/* A revocation zaps the mappings of the CPU at once, and waits for all importers. */
TEST_F(importer, revoke)
{
	struct waiter waiter = { .arg = self, .fn = do_revoke };
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importers[3];

	for (int i = 0; i < ARRAY_SIZE(importers); i++)
		importers[i] = import(dmabuf, 0, 0);

	self->revoke_fd = dmabuf->fd;
	waiter_start(&waiter);
	wait_dead(dmabuf);
	for (int i = 0; i < ARRAY_SIZE(importers); i++) {
		ASSERT_TRUE(waiter_blocks(&waiter));
		assert_works(_metadata, &self->dmabufs[1]);
		unmap(importers[i]);
		ASSERT_EQ(-ENODEV, try_map(importers[i]));
	}
	ASSERT_EQ(0, waiter_join(&waiter));
	assert_dead(_metadata, dmabuf);

	/* Each was notified once, and a reset does not notify them again. */
	has_event(self, VFIO_PCI_BAR_DEVICE_RESET);
	for (int i = 0; i < ARRAY_SIZE(importers); i++) {
		ASSERT_EQ(1, told(importers[i]));
		ASSERT_EQ(0, close(importers[i]));
	}
}

/* The revocation ends when the importer is closed. */
TEST_F(importer, close_importer)
{
	struct waiter waiter = { .arg = self, .fn = do_revoke };
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importer = import(dmabuf, 0, 0);

	self->revoke_fd = dmabuf->fd;
	waiter_start(&waiter);
	ASSERT_TRUE(waiter_blocks(&waiter));
	ASSERT_EQ(0, close(importer));
	ASSERT_EQ(0, waiter_join(&waiter));
}

/*
 * An importer whose callback takes long delays the revocation of that DMABUF, but
 * not its zap, no access to other mappings, and no other revocation.
 */
TEST_F(importer, slow_callback)
{
	struct waiter waiter = { .arg = self, .fn = do_revoke };
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importer = import(dmabuf, SLOW_MS, 0);
	u64 start = now_ms();
	void *vaddr;
	u32 value;

	self->revoke_fd = dmabuf->fd;
	waiter_start(&waiter);
	wait_dead(dmabuf);

	ASSERT_EQ(0, mmio_read32(self->dmabufs[1].vaddr, &value));
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, self->dmabufs[2].fd));
	ASSERT_EQ(SIGBUS, mmio_read32(self->dmabufs[2].vaddr, &value));
	vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, self->device->fd,
		     self->device->bars[self->bar].info.offset);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(0, mmio_read32(vaddr, &value));
	ASSERT_EQ(0, munmap(vaddr, self->page));

	ASSERT_FALSE(atomic_load(&waiter.done));
	ASSERT_LT(now_ms(), start + SLOW_MS);

	while (told(importer) < 1)
		sched_yield();
	unmap(importer);
	ASSERT_EQ(0, waiter_join(&waiter));
	ASSERT_GE(now_ms(), start + SLOW_MS);
	ASSERT_EQ(0, close(importer));
}

static int read_bufinfo(void *arg)
{
	return nr_vfio_dmabufs(0);
}

/*
 * A reader of debugfs waits for a DMABUF that is locked for long, and no file of a DMABUF
 * can be made meanwhile (AsahiLinux/linux issue 126: users read bufinfo when a GPU hangs).
 * So mmap() of a BAR is delayed, as an export is, but no access and no revocation.
 */
TEST_F(importer, slow_callback_and_bufinfo)
{
	struct waiter revoker = { .arg = self, .fn = do_revoke };
	struct waiter reader = { .fn = read_bufinfo };
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importer = import(dmabuf, SLOW_MS, 0);
	u64 start = now_ms();
	void *vaddr;
	u32 value;

	/* (A list that cannot be read does not wait.) */
	ASSERT_LE(0, nr_vfio_dmabufs(0));
	self->revoke_fd = dmabuf->fd;
	waiter_start(&revoker);
	wait_dead(dmabuf);
	waiter_start(&reader);
	ASSERT_TRUE(waiter_blocks(&reader));

	ASSERT_EQ(0, mmio_read32(self->dmabufs[1].vaddr, &value));
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, self->dmabufs[2].fd));
	ASSERT_EQ(SIGBUS, mmio_read32(self->dmabufs[2].vaddr, &value));
	ASSERT_FALSE(atomic_load(&reader.done));
	ASSERT_LT(now_ms(), start + SLOW_MS);

	vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, self->device->fd,
		     self->device->bars[self->bar].info.offset);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(0, mmio_read32(vaddr, &value));
	ASSERT_EQ(0, munmap(vaddr, self->page));

	ASSERT_LE(0, waiter_join(&reader));
	while (told(importer) < 1)
		sched_yield();
	unmap(importer);
	ASSERT_EQ(0, waiter_join(&revoker));
	ASSERT_EQ(0, close(importer));
}

/* An event during the callback must wait for the importer as well. */
TEST_F(importer, slow_callback_and_event)
{
	struct waiter revoker = { .arg = self, .fn = do_revoke };
	struct waiter waiter = { .arg = self, .fn = do_event };
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importer, other;

	self->event = VFIO_PCI_BAR_MEMORY_DECODE;
	if (!has_event(self, self->event))
		SKIP(return, "%s: a VF", device_bdf);

	importer = import(dmabuf, SLOW_MS, 0);
	other = import(&self->dmabufs[1], 0, 0);

	self->revoke_fd = dmabuf->fd;
	waiter_start(&revoker);
	wait_dead(dmabuf);
	waiter_start(&waiter);
	ASSERT_TRUE(waiter_blocks(&waiter));
	while (told(importer) < 1 || told(other) < 1)
		sched_yield();
	unmap(other);
	ASSERT_TRUE(waiter_blocks(&waiter));
	unmap(importer);
	ASSERT_EQ(0, waiter_join(&revoker));
	ASSERT_EQ(0, waiter_join(&waiter));
	ASSERT_EQ(1, told(importer));
	ASSERT_EQ(1, told(other));
	vfio_pci_bars_restore(self->device, self->event);

	ASSERT_EQ(0, try_map(other));
	ASSERT_EQ(0, close(importer));
	ASSERT_EQ(0, close(other));
	assert_dead(_metadata, dmabuf);
}

/* All that makes the device inaccessible waits for all importers. */
TEST_F(importer, events)
{
	int importers[NR_DMABUFS];
	int times = 0;

	for (int i = 0; i < NR_DMABUFS; i++)
		importers[i] = import(&self->dmabufs[i], 0, 0);

	for (self->event = VFIO_PCI_BAR_MEMORY_DECODE;
	     self->event <= VFIO_PCI_BAR_HOT_RESET; self->event++) {
		struct waiter waiter = { .arg = self, .fn = do_event };

		for (int i = 0; i < NR_DMABUFS; i++)
			unmap(importers[i]);
		if (!has_event(self, self->event))
			continue;
		TH_LOG("%s", vfio_pci_bar_revocation_name(self->event));
		for (int i = 0; i < NR_DMABUFS; i++)
			ASSERT_EQ(0, try_map(importers[i]));
		times += 2;

		waiter_start(&waiter);
		for (int i = 0; i < NR_DMABUFS; i++) {
			while (told(importers[i]) < times)
				sched_yield();
			ASSERT_TRUE(waiter_blocks(&waiter));
			unmap(importers[i]);
		}
		ASSERT_EQ(0, waiter_join(&waiter));

		if (!vfio_pci_bar_revocation_is_reset(self->event)) {
			for (int i = 0; i < NR_DMABUFS; i++)
				ASSERT_EQ(-ENODEV, try_map(importers[i]));
		}
		vfio_pci_bars_restore(self->device, self->event);
		for (int i = 0; i < NR_DMABUFS; i++) {
			ASSERT_EQ(0, try_map(importers[i]));
			ASSERT_EQ(times, told(importers[i]));
		}
	}

	for (int i = 0; i < NR_DMABUFS; i++)
		ASSERT_EQ(0, close(importers[i]));
	for (int i = 0; i < NR_DMABUFS; i++)
		assert_works(_metadata, &self->dmabufs[i]);
}

TEST_F(importer, close_device)
{
	struct waiter waiter = { .arg = self, .fn = do_close };
	int importer = import(&self->dmabufs[0], 0, 0);

	waiter_start(&waiter);
	ASSERT_TRUE(waiter_blocks(&waiter));
	unmap(importer);
	ASSERT_EQ(0, waiter_join(&waiter));

	ASSERT_EQ(-ENODEV, try_map(importer));
	assert_dead(_metadata, &self->dmabufs[0]);
	self->device = device_open(device_bdf);
	ASSERT_EQ(-ENODEV, try_map(importer));
	ASSERT_EQ(0, close(importer));
}

/*
 * While a reset waits for an importer, a fault and a revocation wait for the reset, in
 * either order, but no mmap() of another process does.
 */
TEST_F(importer, fault_and_revoke)
{
	self->event = VFIO_PCI_BAR_DEVICE_RESET;
	if (!has_event(self, self->event))
		SKIP(return, "%s: no VFIO_DEVICE_RESET", device_bdf);

	for (int i = 0; i < 2; i++) {
		struct waiter resetter = { .arg = self, .fn = do_event };
		struct waiter waiters[] = {
			{ .arg = self, .fn = do_touch },
			{ .arg = self, .fn = do_revoke },
		};
		struct waiter *toucher = &waiters[0], *revoker = &waiters[1];
		int importer = import(&self->dmabufs[0], 0, 0);
		struct dmabuf *dmabuf = &self->dmabufs[1 + i];
		void *vaddr, *bar;
		u32 value;
		int ret;

		self->revoke_fd = dmabuf->fd;
		touch_by_client(self, dmabuf);

		waiter_start(&resetter);
		ASSERT_TRUE(waiter_blocks(&resetter));
		waiter_start(&waiters[i]);
		ASSERT_TRUE(waiter_blocks(&waiters[i]));
		waiter_start(&waiters[!i]);
		ASSERT_TRUE(waiter_blocks(&waiters[!i]));

		vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, dmabuf->fd, 0);
		ASSERT_NE(MAP_FAILED, vaddr);
		bar = mmap(NULL, self->page, PROT_READ, MAP_SHARED, self->device->fd,
			   self->device->bars[self->bar].info.offset);
		ASSERT_NE(MAP_FAILED, bar);
		ASSERT_TRUE(waiter_blocks(&resetter));

		unmap(importer);
		ASSERT_EQ(0, waiter_join(&resetter));
		ASSERT_EQ(0, waiter_join(revoker));
		ret = waiter_join(toucher);
		ASSERT_TRUE(!ret || ret == SIGBUS);
		assert_dead(_metadata, dmabuf);
		ASSERT_EQ(SIGBUS, do_touch(self));
		ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value));
		ASSERT_EQ(0, mmio_read32(bar, &value));

		ASSERT_EQ(0, munmap(bar, self->page));
		ASSERT_EQ(0, munmap(vaddr, self->page));
		ASSERT_EQ(0, close(importer));
	}
}

/*
 * While the close of the device waits for an importer, a fault waits as well, but
 * no mmap() of another process does. After that all accesses raise SIGBUS.
 */
TEST_F(importer, fault_and_close)
{
	struct waiter closer = { .arg = self, .fn = do_close };
	struct waiter toucher = { .arg = self, .fn = do_touch };
	int importer = import(&self->dmabufs[0], 0, 0);
	struct dmabuf *dmabuf = &self->dmabufs[1];
	void *vaddr;
	u32 value;

	touch_by_client(self, dmabuf);
	waiter_start(&closer);
	ASSERT_TRUE(waiter_blocks(&closer));
	waiter_start(&toucher);
	ASSERT_TRUE(waiter_blocks(&toucher));
	vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, dmabuf->fd, 0);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(-ENODEV, try_attach(dmabuf->fd, 0, 0));
	ASSERT_TRUE(waiter_blocks(&closer));

	unmap(importer);
	ASSERT_EQ(0, waiter_join(&closer));
	ASSERT_EQ(SIGBUS, waiter_join(&toucher));
	for (int i = 0; i < NR_DMABUFS; i++)
		assert_dead(_metadata, &self->dmabufs[i]);
	ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value));
	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page, PROT_READ, MAP_SHARED, dmabuf->fd, 0));
	ASSERT_EQ(ENODEV, errno);
	ASSERT_EQ(0, munmap(vaddr, self->page));
	ASSERT_EQ(0, close(importer));
}

/*
 * While a reset or the close of the device waits for an importer, another DMABUF is
 * released: the last file is closed, or the last O_PATH file descriptor.
 */
TEST_F(importer, release_meanwhile)
{
	struct waiter resetter = { .arg = self, .fn = do_event };
	struct waiter closer = { .arg = self, .fn = do_close };
	struct waiter *waiters[] = { &resetter, &closer };
	char path[PATH_MAX];

	self->event = VFIO_PCI_BAR_DEVICE_RESET;
	for (int i = 0; i < ARRAY_SIZE(waiters); i++) {
		int fd, dead_fd, holder, importer;

		if (waiters[i] == &resetter && !has_event(self, self->event))
			continue;

		fd = vfio_pci_dmabuf_export(self->device, self->bar, 0, self->page);
		dead_fd = vfio_pci_dmabuf_export(self->device, self->bar, 0, self->page);
		snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", dead_fd);
		holder = open(path, O_PATH | O_CLOEXEC);
		ASSERT_GE(holder, 0);
		ASSERT_EQ(0, close(dead_fd));

		importer = import(&self->dmabufs[0], 0, 0);
		waiter_start(waiters[i]);
		ASSERT_TRUE(waiter_blocks(waiters[i]));
		ASSERT_EQ(0, close(fd));
		ASSERT_EQ(0, close(holder));
		ASSERT_TRUE(waiter_blocks(waiters[i]));

		unmap(importer);
		ASSERT_EQ(0, waiter_join(waiters[i]));
		ASSERT_EQ(0, close(importer));
	}

	/* The device can be opened again. */
	self->device = device_open(device_bdf);
	for (int i = 0; i < NR_DMABUFS; i++)
		assert_dead(_metadata, &self->dmabufs[i]);
}

/* After a revocation was killed, other calls wait for the importer. */
TEST_F(importer, kill)
{
	struct waiter revoker = { .arg = self, .fn = do_revoke };
	struct waiter waiter = { .arg = self, .fn = do_event };
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importer = import(dmabuf, 0, 0);
	int status;
	pid_t pid;

	unmap(importer);
	self->event = VFIO_PCI_BAR_MEMORY_DECODE;
	if (!has_event(self, self->event))
		SKIP(return, "%s: a VF", device_bdf);
	ASSERT_EQ(0, try_map(importer));
	self->revoke_fd = dmabuf->fd;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		/* Only the parent is to have the importer open. */
		close(importer);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		do_revoke(self);
		_exit(0);
	}
	wait_dead(dmabuf);
	usleep(WAITER_US);
	ASSERT_EQ(0, waitpid(pid, &status, WNOHANG));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSIGNALED(status));

	waiter_start(&revoker);
	ASSERT_TRUE(waiter_blocks(&revoker));
	waiter_start(&waiter);
	ASSERT_TRUE(waiter_blocks(&waiter));
	unmap(importer);
	ASSERT_EQ(-EBADFD, waiter_join(&revoker));
	ASSERT_EQ(0, waiter_join(&waiter));
	vfio_pci_bars_restore(self->device, self->event);
	ASSERT_EQ(2, told(importer));
	ASSERT_EQ(0, close(importer));
}

/*
 * During a callback that takes long, a second revocation of the same DMABUF waits as
 * well, and can be killed at once.
 */
TEST_F(importer, kill_second)
{
	struct waiter waiter = { .arg = self, .fn = do_revoke };
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int importer = import(dmabuf, 5 * SLOW_MS, 0);
	int status, ret;
	pid_t pid;

	self->revoke_fd = dmabuf->fd;
	waiter_start(&waiter);
	while (told(importer) < 1)
		sched_yield();

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		/* Only the parent is to have the importer open. */
		close(importer);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		do_revoke(self);
		_exit(0);
	}
	wait_until_asleep(pid);
	usleep(WAITER_US);
	ASSERT_EQ(0, waitpid(pid, &status, WNOHANG));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ret = wait_child(pid, SLOW_MS);
	ASSERT_FALSE(atomic_load(&waiter.done));
	ASSERT_EQ(128 + SIGKILL, ret)
		TH_LOG("A revocation that waits for another one cannot be killed");

	/* The first one still waits for the importer. */
	unmap(importer);
	ASSERT_EQ(0, waiter_join(&waiter));
	ASSERT_EQ(1, told(importer));
	assert_dead(_metadata, dmabuf);
	ASSERT_EQ(0, close(importer));
}

/*
 * A process has the importer for which a reset waits, and waits for the reset in a
 * fault. It can be killed, which ends both.
 */
TEST_F(importer, kill_during_fault)
{
	struct waiter waiter = { .arg = self, .fn = do_event };
	struct dmabuf *dmabuf = &self->dmabufs[0];
	int fds[2];
	pid_t pid;
	char c;

	self->event = VFIO_PCI_BAR_DEVICE_RESET;
	if (!has_event(self, self->event))
		SKIP(return, "%s: no VFIO_DEVICE_RESET", device_bdf);

	ASSERT_EQ(0, pipe(fds));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		u32 value;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		import(dmabuf, 0, 0);
		VFIO_ASSERT_EQ(write(fds[1], "", 1), 1);
		/* The reset zaps it at some time. */
		for (;;)
			mmio_read32(dmabuf->vaddr, &value);
	}

	ASSERT_EQ(1, read(fds[0], &c, 1));
	waiter_start(&waiter);
	ASSERT_TRUE(waiter_blocks(&waiter));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(128 + SIGKILL, wait_child(pid, 10 * SLOW_MS));
	ASSERT_EQ(0, waiter_join(&waiter));
	assert_works(_metadata, dmabuf);

	ASSERT_EQ(0, close(fds[0]));
	ASSERT_EQ(0, close(fds[1]));
}

struct resetter {
	struct vfio_pci_device *device;
	int (*reset)(struct vfio_pci_device *device);
};

static int do_reset(void *arg)
{
	struct resetter *resetter = arg;

	return resetter->reset(resetter->device);
}

/*
 * A hot reset of two functions begins while a reset of one of them, @busy, waits for an
 * importer. As long as the hot reset does not have both locks, it revokes nothing of
 * the other one, @idle, faults on @idle do not wait, and it can be killed.
 */
static void test_contended(struct __test_metadata *_metadata, importer_test *self,
			   struct vfio_pci_device *busy, struct dmabuf *busy_dmabuf,
			   struct vfio_pci_device *idle, struct dmabuf *idle_dmabuf)
{
	struct resetter reset = { busy, __vfio_pci_device_reset };
	struct resetter hot_reset = { idle, __vfio_pci_hot_reset };
	struct waiter resetter = { .arg = &reset, .fn = do_reset };
	struct waiter hot_resetter = { .arg = &hot_reset, .fn = do_reset };
	struct waiter toucher = { .arg = self, .fn = do_touch };
	int busy_importer = import_for(busy->bdf, busy_dmabuf, 0, 0);
	int idle_importer = import_for(idle->bdf, idle_dmabuf, 0, 0);
	u64 start;
	pid_t pid;
	u32 value;
	int ret;

	waiter_start(&resetter);
	while (told(busy_importer) < 1)
		sched_yield();
	ASSERT_TRUE(waiter_blocks(&resetter));

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		/* Only the parent is to have the importers open. */
		close(busy_importer);
		close(idle_importer);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		do_reset(&hot_reset);
		pause();
	}
	wait_until_asleep(pid);
	usleep(WAITER_US);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ret = wait_child(pid, SLOW_MS);
	EXPECT_EQ(0, told(idle_importer))
		TH_LOG("%s loses its importers to the lock of %s", idle->bdf, busy->bdf);
	EXPECT_EQ(128 + SIGKILL, ret)
		TH_LOG("A hot reset that waits for %s cannot be killed", busy->bdf);

	waiter_start(&hot_resetter);
	if (!waiter_blocks(&hot_resetter))
		TH_LOG("The hot reset does not wait for %s", busy->bdf);
	EXPECT_EQ(0, told(idle_importer))
		TH_LOG("%s loses its importers to the lock of %s", idle->bdf, busy->bdf);

	touch_by_client(self, idle_dmabuf);
	start = now_ms();
	waiter_start(&toucher);
	while (!atomic_load(&toucher.done) && now_ms() < start + SLOW_MS)
		sched_yield();
	EXPECT_TRUE(atomic_load(&toucher.done))
		TH_LOG("A fault on %s waits for %s", idle->bdf, busy->bdf);

	unmap(busy_importer);
	ASSERT_EQ(0, waiter_join(&resetter));
	ASSERT_EQ(0, waiter_join(&toucher));
	while (!told(idle_importer) && !atomic_load(&hot_resetter.done))
		sched_yield();
	unmap(idle_importer);
	ret = waiter_join(&hot_resetter);
	ASSERT_TRUE(!ret || ret == -EBUSY)
		TH_LOG("hot reset: %s", strerror(-ret));
	EXPECT_EQ(!ret, told(idle_importer));

	ASSERT_EQ(0, close(busy_importer));
	ASSERT_EQ(0, close(idle_importer));
	ASSERT_EQ(0, mmio_read32(busy_dmabuf->vaddr, &value));
	ASSERT_EQ(0, mmio_read32(idle_dmabuf->vaddr, &value));
}

/* Either of the two may be locked first, so try both. */
TEST_F_TIMEOUT(importer, contended_hot_reset, 120)
{
	struct vfio_pci_device *device = self->device, *other;
	struct dmabuf dmabuf;
	int bar;

	if (!other_bdf)
		SKIP(return, "only one device is given");
	if (sysfs_iommu_group_get(device_bdf) != sysfs_iommu_group_get(other_bdf))
		SKIP(return, "%s, %s: no two functions of one group", device_bdf,
		     other_bdf);

	other = sibling_open(other_bdf, device);
	bar = vfio_pci_largest_bar(other, self->page);
	if (!hot_reset_is_pair(device, other))
		SKIP(goto out, "%s, %s: no hot reset of these two", device_bdf, other_bdf);
	if (bar < 0)
		SKIP(goto out, "%s: no BAR that can be mapped", other_bdf);
	if (!(device->info.flags & other->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(goto out, "no VFIO_DEVICE_RESET of both functions");

	vfio_pci_cmd_set(other, PCI_COMMAND_MEMORY);
	dmabuf.fd = vfio_pci_dmabuf_export(other, bar, 0, self->page);
	dmabuf.vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, dmabuf.fd, 0);
	ASSERT_NE(MAP_FAILED, dmabuf.vaddr);

	test_contended(_metadata, self, device, &self->dmabufs[0], other, &dmabuf);
	test_contended(_metadata, self, other, &dmabuf, device, &self->dmabufs[0]);

	dmabuf_close(self, &dmabuf);
out:
	vfio_pci_device_cleanup(other);
}

/* The wait takes as long as the slowest importer, not as long as all of them. */
TEST_F(importer, together)
{
	int importers[NR_DMABUFS];
	u64 start, took;

	if (!has_event(self, VFIO_PCI_BAR_MEMORY_DECODE))
		SKIP(return, "%s: a VF", device_bdf);

	for (int i = 0; i < NR_DMABUFS; i++)
		importers[i] = import(&self->dmabufs[i], 0, SLOW_MS);

	start = now_ms();
	vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
	took = now_ms() - start;
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	TH_LOG("%llu ms", (unsigned long long)took);

	ASSERT_GE(took, SLOW_MS);
	ASSERT_LT(took, 2 * SLOW_MS);

	for (int i = 0; i < NR_DMABUFS; i++)
		ASSERT_EQ(0, close(importers[i]));
}

/* Attach, and add a fence, which takes @ms from when its signaling is enabled. */
static int add_fence(struct dmabuf *dmabuf, u32 ms)
{
	int importer = try_attach(dmabuf->fd, 0, 0);

	VFIO_ASSERT_GE(importer, 0);
	VFIO_ASSERT_EQ(ioctl(importer, DMABUF_IMPORTER_FENCE, ms), 0);

	return importer;
}

/*
 * The wait for several fences takes as long as the slowest of them, although their
 * work begins when signaling is enabled. Try one fence in each of several DMABUFs,
 * which a reset revokes together, and several fences in one DMABUF.
 */
TEST_F(importer, fences)
{
	int importers[2 * NR_DMABUFS];
	u64 start, took;

	self->event = VFIO_PCI_BAR_DEVICE_RESET;
	if (!has_event(self, self->event))
		SKIP(return, "%s: no VFIO_DEVICE_RESET", device_bdf);

	for (int i = 0; i < NR_DMABUFS; i++)
		importers[i] = add_fence(&self->dmabufs[i], SLOW_MS);
	start = now_ms();
	ASSERT_EQ(0, do_event(self));
	took = now_ms() - start;
	TH_LOG("reset with %d fences of %d ms: %llu ms", NR_DMABUFS, SLOW_MS,
	       (unsigned long long)took);
	ASSERT_GE(took, SLOW_MS);
	EXPECT_LT(took, 2 * SLOW_MS);

	for (int i = NR_DMABUFS; i < ARRAY_SIZE(importers); i++)
		importers[i] = add_fence(&self->dmabufs[0], SLOW_MS);
	start = now_ms();
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, self->dmabufs[0].fd));
	took = now_ms() - start;
	TH_LOG("revocation with %d fences of %d ms: %llu ms", NR_DMABUFS, SLOW_MS,
	       (unsigned long long)took);
	ASSERT_GE(took, SLOW_MS);
	EXPECT_LT(took, 2 * SLOW_MS);

	for (int i = 0; i < ARRAY_SIZE(importers); i++)
		ASSERT_EQ(0, close(importers[i]));
	assert_works(_metadata, &self->dmabufs[1]);
}

/*
 * mmap() of the importer's file maps the DMABUF. The importer's file is writable; the
 * access mode of the DMABUF's own file decides.
 */
TEST_F(importer, mmap)
{
	struct vfio_region_dma_range range = { .length = self->page };
	static const int modes[] = { O_RDONLY, O_WRONLY, O_RDWR };

	for (int i = 0; i < ARRAY_SIZE(modes); i++) {
		int fd = __vfio_pci_dmabuf_export(self->device, self->bar, modes[i],
						  1, &range);
		int importer;
		void *vaddr;
		u32 value;

		TH_LOG("mode %#o", modes[i]);
		ASSERT_GE(fd, 0);
		importer = try_attach(fd, 0, 0);
		ASSERT_GE(importer, 0);

		vaddr = mmap(NULL, self->page, PROT_READ | PROT_WRITE, MAP_SHARED,
			     importer, 0);
		if (modes[i] == O_RDWR) {
			ASSERT_NE(MAP_FAILED, vaddr);
			ASSERT_EQ(0, mmio_read32(vaddr, &value));
			if (self->bar == vfio_pci_ram_bar(self->device, self->page))
				ASSERT_EQ(0, mmio_write32(vaddr, value));
			ASSERT_EQ(0, munmap(vaddr, self->page));
		} else {
			ASSERT_EQ(MAP_FAILED, vaddr);
			ASSERT_EQ(EACCES, errno);
		}

		vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, importer, 0);
		if (modes[i] == O_WRONLY) {
			ASSERT_EQ(MAP_FAILED, vaddr);
			ASSERT_EQ(EACCES, errno);
		} else {
			ASSERT_NE(MAP_FAILED, vaddr);
			ASSERT_EQ(0, mmio_read32(vaddr, &value));
			ASSERT_EQ(SIGSEGV, mmio_write32(vaddr, value));
		}
		if (modes[i] == O_RDONLY) {
			ASSERT_EQ(-1, mprotect(vaddr, self->page, PROT_READ | PROT_WRITE));
			ASSERT_EQ(EACCES, errno);
		}

		/* A revocation zaps this mapping as well. */
		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
		if (modes[i] != O_WRONLY) {
			ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value));
			ASSERT_EQ(0, munmap(vaddr, self->page));
		}
		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page, PROT_READ, MAP_SHARED,
					   importer, 0));
		ASSERT_EQ(ENODEV, errno);

		ASSERT_EQ(0, close(importer));
		ASSERT_EQ(0, close(fd));
	}
}

int main(int argc, char *argv[])
{
	int nr_bdfs;
	char **bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	device_bdf = bdfs[0];
	if (nr_bdfs > 1)
		other_bdf = bdfs[1];

	return test_harness_run(argc, argv);
}
