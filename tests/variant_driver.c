// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMABUFs of a device that is bound to a variant driver of vfio-pci. Such a driver may
 * not export DMABUFs, may export other memory than the BAR, may have vm_ops of its
 * own, may access user memory with memory_lock held, and may fail to resume
 * the device.
 *
 * The driver is the module modules/vfio_pci_variant.c. The tests bind the device to it,
 * and then back to its own driver.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <linux/limits.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define DRIVER "vfio-pci-variant"

/* Long enough for others to queue behind the reader, which holds memory_lock */
#define READ_MS "3000"

#define CHILD_TIMEOUT_MS 20000

FIXTURE(variant_driver) {
	char driver[NAME_MAX];
	struct vfio_pci_device *device;
	u64 page;
	int bar;
	u64 offset;
	int dmabuf;
};

typedef FIXTURE_DATA(variant_driver) variant_test;

/* Take the device, which is closed, from one driver and give it to another. */
static void change_driver(const char *from, const char *to)
{
	VFIO_ASSERT_EQ(__sysfs_driver_unbind(device_bdf, from), 0);
	sysfs_device_val_set(device_bdf, "driver_override", to);
	VFIO_ASSERT_EQ(__sysfs_driver_bind(device_bdf, to), 0);
}

FIXTURE_SETUP(variant_driver)
{
	const char *missing;
	char *driver;

	if (access("/sys/bus/pci/drivers/" DRIVER, F_OK))
		SKIP(return, "no driver " DRIVER ": load the module vfio_pci_variant");

	self->page = getpagesize();
	self->device = device_open(device_bdf);

	/* Two pages, because the driver can export the page after another one. */
	self->bar = vfio_pci_largest_bar(self->device, 2 * self->page);
	if (self->bar < 0)
		SKIP(return, "%s: no BAR that can be mapped", device_bdf);
	self->offset = self->device->bars[self->bar].info.offset;

	missing = vfio_pci_dmabuf_revoke_missing(self->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	device_close(self->device);
	driver = sysfs_driver_get(device_bdf);
	ASSERT_NE(NULL, driver);
	/* A test that was killed may have left the device with the variant driver. */
	snprintf_assert(self->driver, sizeof(self->driver), "%s",
			strcmp(driver, DRIVER) ? driver : "vfio-pci");
	change_driver(driver, DRIVER);
	free(driver);
}

/* The parent does this after the test has ended in any way. */
FIXTURE_TEARDOWN_PARENT(variant_driver)
{
	change_driver(DRIVER, self->driver);
}

/* Set an attribute of the driver. */
static void set(const char *attribute, const char *value)
{
	sysfs_device_val_set(device_bdf, attribute, value);
}

static void export(variant_test *self)
{
	self->device = device_open(device_bdf);
	self->dmabuf = vfio_pci_dmabuf_export(self->device, self->bar, 0, self->page);
}

static void *map_bar(variant_test *self)
{
	return mmap(NULL, self->page, PROT_READ, MAP_SHARED, self->device->fd, self->offset);
}

static void *map_dmabuf(variant_test *self)
{
	return mmap(NULL, self->page, PROT_READ, MAP_SHARED, self->dmabuf, 0);
}

TEST_F(variant_driver, no_export)
{
	struct vfio_region_dma_range range = { .length = self->page };
	void *vaddr;
	u32 value;

	set("dmabuf", "none");
	self->device = device_open(device_bdf);

	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_export(self->device, self->bar, O_RDWR, 1,
							&range));
	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_revoke(self->device, -1));
	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_revoke(self->device, self->device->fd));
	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_set_memattr(self->device, -1,
							     VFIO_DEVICE_DMA_BUF_MEMATTR_UC));
	ASSERT_EQ(-EOPNOTSUPP, __vfio_device_feature(self->device->fd, VFIO_DEVICE_FEATURE_PROBE |
						     VFIO_DEVICE_FEATURE_SET |
						     VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR, NULL, 0));

	/* mmap() of its BARs works as before. */
	vaddr = map_bar(self);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(0, mmio_read32(vaddr, &value));
	if (vfio_pci_bars_revoke(self->device, VFIO_PCI_BAR_MEMORY_DECODE))
		return;
	ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value));
	vfio_pci_bars_restore(self->device, VFIO_PCI_BAR_MEMORY_DECODE);
	ASSERT_EQ(0, mmio_read32(vaddr, &value));
}

/* mmap() of other memory than the BAR must be refused. */
TEST_F(variant_driver, other_memory)
{
	set("dmabuf", "other");
	export(self);

	ASSERT_EQ(MAP_FAILED, map_dmabuf(self));
	ASSERT_EQ(EOPNOTSUPP, errno);
	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page, PROT_READ, MAP_PRIVATE, self->dmabuf, 0));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(MAP_FAILED, mmap(NULL, 2 * self->page, PROT_READ, MAP_SHARED, self->dmabuf, 0));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_set_memattr(self->device, self->dmabuf,
							     VFIO_DEVICE_DMA_BUF_MEMATTR_UC));

	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, self->dmabuf));
	ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(self->device, self->dmabuf));
	ASSERT_EQ(MAP_FAILED, map_dmabuf(self));
	ASSERT_EQ(ENODEV, errno);
}

/*
 * A mapping with vm_ops of the driver is no DMABUF. All that revokes the BARs zaps it,
 * and its faults raise SIGBUS while the BARs are inaccessible.
 */
TEST_F(variant_driver, own_mmap)
{
	enum vfio_pci_bar_revocation how;
	struct vma_info vma;
	long faults;
	void *vaddr;
	u32 value;

	set("own_mmap", "1");
	self->device = device_open(device_bdf);
	vaddr = map_bar(self);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_TRUE(vma_info_get(vaddr, &vma));
	ASSERT_EQ(NULL, strstr(vma.name, "dmabuf"));

	for_each_vfio_pci_bar_revocation(how) {
		ASSERT_EQ(0, mmio_read32(vaddr, &value));
		ASSERT_EQ(0, mmio_read32_faults(vaddr, &value, &faults));
		ASSERT_EQ(0, faults);
		if (vfio_pci_bars_revoke(self->device, how))
			continue;
		if (!vfio_pci_bar_revocation_is_reset(how))
			ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value))
				TH_LOG("%s", vfio_pci_bar_revocation_name(how));
		vfio_pci_bars_restore(self->device, how);

		/* It was zapped. */
		ASSERT_EQ(0, mmio_read32_faults(vaddr, &value, &faults));
		ASSERT_EQ(1, faults)
			TH_LOG("%s", vfio_pci_bar_revocation_name(how));
	}
	ASSERT_EQ(0, munmap(vaddr, self->page));
}

TEST_F(variant_driver, resume_fails)
{
	void *vaddr;
	u32 value;

	export(self);
	vaddr = map_dmabuf(self);
	ASSERT_NE(MAP_FAILED, vaddr);

	if (!vfio_pci_has_runtime_pm(self->device))
		SKIP(return, "%s: no runtime power management", device_bdf);
	ASSERT_EQ(0, __vfio_pci_low_power_entry(self->device, -1));
	ASSERT_TRUE(vfio_pci_wait_suspended(self->device));

	set("resume_fails", "1");
	/* The error does not persist, so the second try gives it again. */
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(-EIO, __vfio_pci_dmabuf_revoke(self->device, self->dmabuf));
		ASSERT_EQ(-EIO, __vfio_pci_dmabuf_set_memattr(self->device, self->dmabuf,
							      VFIO_DEVICE_DMA_BUF_MEMATTR_UC));
	}
	set("resume_fails", "0");

	/* Nothing was revoked. */
	ASSERT_EQ(0, __vfio_pci_low_power_exit(self->device));
	ASSERT_EQ(0, mmio_read32(vaddr, &value));
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, self->dmabuf));
	ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value));
	ASSERT_EQ(0, munmap(vaddr, self->page));
}

/* Threads that read the BAR and that write to the command register */
static int do_read(void *arg)
{
	variant_test *self = arg;
	int ret = 0;
	void *page;

	/* New memory: it is faulted in, which takes the mmap_lock. */
	page = mmap(NULL, self->page, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(page, MAP_FAILED);
	if (pread(self->device->fd, page, 4, self->offset) != 4)
		ret = -errno;
	VFIO_ASSERT_EQ(munmap(page, self->page), 0);

	return ret;
}

static int do_memory_off(void *arg)
{
	variant_test *self = arg;

	vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
	return 0;
}

/*
 * The reader holds memory_lock for read, and takes the mmap_lock in a fault on its own
 * memory. A writer waits for memory_lock. If mmap() waited for memory_lock now, the
 * three would deadlock. They could not be killed, so this is left to a child.
 */
static int mmap_in_between(variant_test *self)
{
	struct waiter reader = { .arg = self, .fn = do_read };
	struct waiter writer = { .arg = self, .fn = do_memory_off };
	void *bar, *dmabuf;
	u32 value;

	waiter_start(&reader);
	if (!waiter_blocks(&reader))
		return 1;
	waiter_start(&writer);
	if (!waiter_blocks(&writer))
		return 2;

	bar = map_bar(self);
	dmabuf = map_dmabuf(self);
	if (bar == MAP_FAILED || dmabuf == MAP_FAILED)
		return 3;
	if (!waiter_blocks(&reader))
		return 4;

	if (waiter_join(&reader))
		return 5;
	waiter_join(&writer);
	if (mmio_read32(bar, &value) != SIGBUS || mmio_read32(dmabuf, &value) != SIGBUS)
		return 6;
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	if (mmio_read32(bar, &value) || mmio_read32(dmabuf, &value))
		return 7;

	return 0;
}

TEST_F(variant_driver, mmap_under_memory_lock)
{
	pid_t pid;

	export(self);
	if (vfio_pci_bars_revoke(self->device, VFIO_PCI_BAR_MEMORY_DECODE))
		SKIP(return, "%s: a VF", device_bdf);
	vfio_pci_bars_restore(self->device, VFIO_PCI_BAR_MEMORY_DECODE);
	set("read_ms", READ_MS);

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(mmap_in_between(self));
	}
	ASSERT_EQ(0, wait_child(pid, CHILD_TIMEOUT_MS));
}

static int do_revoke(void *arg)
{
	variant_test *self = arg;

	return __vfio_pci_dmabuf_revoke(self->device, self->dmabuf);
}

/* A revocation that waits for memory_lock can be killed, and has no effect. */
TEST_F(variant_driver, kill_under_memory_lock)
{
	struct waiter reader = { .arg = self, .fn = do_read };
	void *vaddr;
	u32 value;
	pid_t pid;

	export(self);
	vaddr = map_dmabuf(self);
	ASSERT_NE(MAP_FAILED, vaddr);
	set("read_ms", READ_MS);

	waiter_start(&reader);
	ASSERT_TRUE(waiter_blocks(&reader));

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(-do_revoke(self));
	wait_until_asleep(pid);
	usleep(WAITER_US);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(128 + SIGKILL, wait_child(pid, CHILD_TIMEOUT_MS));
	ASSERT_TRUE(waiter_blocks(&reader));

	ASSERT_EQ(0, waiter_join(&reader));
	ASSERT_EQ(0, mmio_read32(vaddr, &value));
	ASSERT_EQ(0, munmap(vaddr, self->page));
}

/* Of several revocations that wait for memory_lock, one succeeds. */
TEST_F(variant_driver, revoke_under_memory_lock)
{
	struct waiter reader = { .arg = self, .fn = do_read };
	struct waiter revokers[3];
	int revoked = 0;
	void *vaddr;
	u32 value;

	export(self);
	vaddr = map_dmabuf(self);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(0, mmio_read32(vaddr, &value));
	set("read_ms", READ_MS);

	waiter_start(&reader);
	ASSERT_TRUE(waiter_blocks(&reader));
	for (int i = 0; i < ARRAY_SIZE(revokers); i++) {
		revokers[i] = (struct waiter) { .arg = self, .fn = do_revoke };
		waiter_start(&revokers[i]);
		ASSERT_TRUE(waiter_blocks(&revokers[i]));
	}
	/* While they wait, the page is still mapped. */
	ASSERT_EQ(0, mmio_read32(vaddr, &value));

	for (int i = 0; i < ARRAY_SIZE(revokers); i++) {
		int ret = waiter_join(&revokers[i]);

		revoked += !ret;
		if (ret)
			ASSERT_EQ(-EBADFD, ret);
	}
	ASSERT_EQ(1, revoked);
	ASSERT_EQ(0, waiter_join(&reader));
	ASSERT_EQ(SIGBUS, mmio_read32(vaddr, &value));
	ASSERT_EQ(0, munmap(vaddr, self->page));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
