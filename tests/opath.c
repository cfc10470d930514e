// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMABUFs of which only a path is left: an O_PATH open keeps the dentry after the file
 * of a DMABUF has gone. Such a DMABUF must not be touched by what revokes the BARs, and
 * must keep neither the device open nor the driver bound.
 *
 * vfio_pci_dmabuf_test in the kernel tree tests the same, but skips on kernels without
 * mmap() of DMABUFs. This program does not: it crashes or hangs such a kernel if that
 * lacks the fixes.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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

#define UNBIND_TIMEOUT_MS 15000

FIXTURE(opath) {
	struct bar_test t;

	/* An O_PATH open of a DMABUF without a file, -1 if it is closed */
	int path;

	/* Another DMABUF and a mapping of the same BAR, which must keep working */
	int fd;
	void *vaddr;
};

FIXTURE_VARIANT(opath) {
	const char *iommu_mode;

	/* The hidden DMABUF of a mapping through the device file, or an exported one */
	bool mapping;
};

#define FIXTURE_VARIANT_ADD_IOMMU_MODE(_iommu_mode, _name, _mapping)	       \
FIXTURE_VARIANT_ADD(opath, _iommu_mode ## _ ## _name) {			       \
	.iommu_mode = #_iommu_mode,					       \
	.mapping = (_mapping),						       \
}

FIXTURE_VARIANT_ADD_ALL_IOMMU_MODES(exported, false);
FIXTURE_VARIANT_ADD_ALL_IOMMU_MODES(mapping, true);

#undef FIXTURE_VARIANT_ADD_IOMMU_MODE

typedef FIXTURE_DATA(opath) opath_test;

static void *bar_mmap(opath_test *self)
{
	struct bar_fd device_fd = bar_fd_device(self->t.device, self->t.bar);

	return bar_fd_mmap(&device_fd, 0, self->t.page, PROT_READ | PROT_WRITE);
}

/* Create a DMABUF, and keep only a path to it. */
static int open_path(opath_test *self, bool mapping)
{
	char name[PATH_MAX];
	void *vaddr = NULL;
	int fd = -1;
	int path;

	if (mapping) {
		vaddr = bar_mmap(self);
		snprintf_assert(name, sizeof(name), "/proc/self/map_files/%lx-%lx",
				(unsigned long)vaddr, (unsigned long)vaddr + self->t.page);
	} else {
		fd = vfio_pci_dmabuf_export(self->t.device, self->t.bar, 0, self->t.page);
		snprintf_assert(name, sizeof(name), "/proc/self/fd/%d", fd);
	}

	path = open(name, O_PATH | O_CLOEXEC);
	VFIO_ASSERT_GE(path, 0);
	if (mapping)
		VFIO_ASSERT_EQ(munmap(vaddr, self->t.page), 0);
	else
		VFIO_ASSERT_EQ(close(fd), 0);

	return path;
}

static void reopen(opath_test *self)
{
	if (!self->t.device)
		bar_test_open(&self->t);
	self->fd = vfio_pci_dmabuf_export(self->t.device, self->t.bar, 0, self->t.page);
	self->vaddr = bar_mmap(self);
}

static void close_all(opath_test *self)
{
	VFIO_ASSERT_EQ(munmap(self->vaddr, self->t.page), 0);
	VFIO_ASSERT_EQ(close(self->fd), 0);
	bar_test_close(&self->t);
}

static void close_path(opath_test *self)
{
	VFIO_ASSERT_EQ(close(self->path), 0);
	self->path = -1;
	wait_rcu();
}

FIXTURE_SETUP(opath)
{
	struct bar_test *t = &self->t;
	const char *missing;
	struct vma_info vma;

	self->path = -1;
	missing = bar_test_init(t, device_bdf, variant->iommu_mode, getpagesize());
	if (!missing)
		missing = vfio_pci_dmabuf_export_missing(t->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	reopen(self);
	ASSERT_TRUE(vma_info_get(self->vaddr, &vma));
	if (variant->mapping && strncmp(vma.name, "/dmabuf", strlen("/dmabuf")))
		SKIP(return, "BAR mappings are not DMABUFs in this kernel");

	self->path = open_path(self, variant->mapping);
	/* Wait until the file is freed. */
	wait_rcu();
}

FIXTURE_TEARDOWN(opath)
{
	if (self->path >= 0)
		VFIO_ASSERT_EQ(close(self->path), 0);
	if (self->t.device)
		close_all(self);
}

static void assert_works(struct __test_metadata *_metadata, opath_test *self)
{
	u32 value;

	ASSERT_EQ(0, __bar_test_import_try(&self->t, self->fd, self->t.page));
	ASSERT_EQ(0, mmio_read32(self->vaddr, &value));
}

static void assert_revoked(struct __test_metadata *_metadata, opath_test *self)
{
	u32 value;

	ASSERT_EQ(-ENODEV, __bar_test_import_try(&self->t, self->fd, self->t.page));
	ASSERT_EQ(SIGBUS, mmio_read32(self->vaddr, &value));
}

/* The path cannot be turned into a file again. */
TEST_F(opath, use)
{
	char path[PATH_MAX], name[PATH_MAX] = {};

	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", self->path);
	ASSERT_GT(readlink(path, name, sizeof(name) - 1), 0);
	ASSERT_EQ(0, strncmp(name, "/dmabuf", strlen("/dmabuf")));

	ASSERT_EQ(-1, open(path, O_RDWR));
	ASSERT_EQ(ENXIO, errno);
	ASSERT_EQ(-1, open(path, O_RDONLY));
	ASSERT_EQ(ENXIO, errno);

	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->t.page, PROT_READ, MAP_SHARED,
				   self->path, 0));
	ASSERT_EQ(EBADF, errno);
	ASSERT_EQ(-EBADF, __bar_test_import_try(&self->t, self->path, self->t.page));

	assert_works(_metadata, self);
}

static void test_reset(struct __test_metadata *_metadata, opath_test *self,
		       enum vfio_pci_bar_revocation how)
{
	const char *missing;

	assert_works(_metadata, self);
	missing = vfio_pci_bars_revoke(self->t.device, how);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);
	assert_works(_metadata, self);

	close_path(self);
	vfio_pci_bars_revoke(self->t.device, how);
	assert_works(_metadata, self);
}

TEST_F(opath, device_reset)
{
	test_reset(_metadata, self, VFIO_PCI_BAR_DEVICE_RESET);
}

TEST_F(opath, pcie_flr)
{
	test_reset(_metadata, self, VFIO_PCI_BAR_PCIE_FLR);
}

TEST_F(opath, af_flr)
{
	test_reset(_metadata, self, VFIO_PCI_BAR_AF_FLR);
}

TEST_F(opath, hot_reset)
{
	test_reset(_metadata, self, VFIO_PCI_BAR_HOT_RESET);
}

static void test_inaccessible(struct __test_metadata *_metadata, opath_test *self,
			      enum vfio_pci_bar_revocation how)
{
	const char *missing;

	for (int i = 0; i < 3; i++) {
		missing = vfio_pci_bars_revoke(self->t.device, how);
		if (missing)
			SKIP(return, "%s: %s", device_bdf, missing);
		assert_revoked(_metadata, self);

		/* The path is closed while the BARs are inaccessible. */
		if (i == 1)
			close_path(self);

		vfio_pci_bars_restore(self->t.device, how);
		assert_works(_metadata, self);
	}
}

TEST_F(opath, memory_decode)
{
	test_inaccessible(_metadata, self, VFIO_PCI_BAR_MEMORY_DECODE);
}

TEST_F(opath, d3hot)
{
	test_inaccessible(_metadata, self, VFIO_PCI_BAR_D3HOT);
}

TEST_F(opath, low_power)
{
	test_inaccessible(_metadata, self, VFIO_PCI_BAR_LOW_POWER);
}

TEST_F(opath, low_power_wakeup)
{
	test_inaccessible(_metadata, self, VFIO_PCI_BAR_LOW_POWER_WAKEUP);
}

/* After the close of its last file and mapping the device can be opened at once. */
TEST_F(opath, close)
{
	for (int i = 0; i < 3; i++) {
		close_all(self);
		ASSERT_EQ(0, __vfio_pci_device_try_open(device_bdf, variant->iommu_mode));
		if (i == 1)
			close_path(self);
		reopen(self);
		assert_works(_metadata, self);
		vfio_pci_cmd_clear(self->t.device, PCI_COMMAND_MEMORY);
		vfio_pci_cmd_set(self->t.device, PCI_COMMAND_MEMORY);
		assert_works(_metadata, self);
	}
}

/* The unbinding of the driver does not wait until the path is closed. */
TEST_F_TIMEOUT(opath, unbind, 60)
{
	char *driver = sysfs_driver_get(device_bdf);
	pid_t pid;
	int ret;

	ASSERT_NE(NULL, driver);
	close_all(self);

	/* A child, because it may hang. It must not keep the path open itself. */
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(self->path);
		_exit(-__sysfs_driver_unbind(device_bdf, driver));
	}

	ret = wait_child(pid, UNBIND_TIMEOUT_MS);
	if (ret == -ETIMEDOUT) {
		TH_LOG("The driver cannot be unbound because of the DMABUF");

		/* Leave the device behind in a better state, if possible. */
		close_path(self);
		if (!wait_child(pid, UNBIND_TIMEOUT_MS))
			__sysfs_driver_bind(device_bdf, driver);
	}
	ASSERT_EQ(0, ret);
	sysfs_driver_bind(device_bdf, driver);
	free(driver);

	/* The path belongs to the device that was unbound, not to this one. */
	reopen(self);
	assert_works(_metadata, self);
	close_path(self);
	vfio_pci_cmd_clear(self->t.device, PCI_COMMAND_MEMORY);
	assert_revoked(_metadata, self);
	vfio_pci_cmd_set(self->t.device, PCI_COMMAND_MEMORY);
	assert_works(_metadata, self);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
