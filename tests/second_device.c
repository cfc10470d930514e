// SPDX-License-Identifier: GPL-2.0-only
/*
 * A slice of the BAR of one edu-plus, the exporter, that another one, the importer,
 * accesses by DMA, and a client by its CPU. The client has only the DMABUF. What one of
 * them writes, the others read, until a revocation ends the access of both.
 *
 * Arguments: the importer, then the exporter.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *bdfs[2];

#define RW (PROT_READ | PROT_WRITE)

/* The slice, as long as the buffer of the importer */
#define OFFSET SZ_1M
#define SIZE EDU_PLUS_BUFFER_SIZE
#define LAST (SIZE - sizeof(u32))

FIXTURE(second_device) {
	struct bar_test exporter;
	struct bar_test importer;
	struct dmabuf_client *client;

	/* Memory that the importer can access */
	struct iova_allocator *allocator;
	struct dma_region memory;

	/* The slice, in the IOAS of the importer */
	int dmabuf;
	struct dma_region import;
	bool imported;
};

/* Which of the two devices exports */
FIXTURE_VARIANT(second_device) {
	int exporter;
};

FIXTURE_VARIANT_ADD(second_device, first) {
	.exporter = 1,
};

FIXTURE_VARIANT_ADD(second_device, second) {
	.exporter = 0,
};

typedef FIXTURE_DATA(second_device) second_device_test;

static void import(second_device_test *self)
{
	iommu_map_dmabuf(self->importer.iommu, self->dmabuf, &self->import);
	self->imported = true;
}

static void unimport(second_device_test *self)
{
	if (self->imported)
		iommu_unmap(self->importer.iommu, &self->import);
	self->imported = false;
}

/* Try to import the slice once more. */
static int try_import(second_device_test *self, u64 size)
{
	struct dma_region region = { .size = size };
	int ret;

	ret = __iommu_map_dmabuf(self->importer.iommu, self->dmabuf, &region);
	if (!ret)
		iommu_unmap(self->importer.iommu, &region);
	return ret;
}

static const char *setup(second_device_test *self, const char *exporter, const char *importer)
{
	const char *missing;

	missing = ram_test_init(&self->exporter, exporter, OFFSET + SIZE, true);
	if (!missing)
		missing = vfio_pci_dmabuf_revoke_missing(self->exporter.device);
	if (!missing)
		missing = bar_test_init(&self->importer, importer, MODE_IOMMUFD, SIZE);
	if (!missing)
		missing = edu_plus_missing(self->importer.device);
	return missing;
}

FIXTURE_SETUP(second_device)
{
	const char *missing;

	if (!bdfs[1])
		SKIP(return, "needs a second device");

	self->client = dmabuf_client_start();
	missing = setup(self, bdfs[variant->exporter], bdfs[!variant->exporter]);
	if (missing)
		SKIP(return, "%s and %s: %s", bdfs[0], bdfs[1], missing);

	self->allocator = iova_allocator_init(self->importer.iommu);
	self->memory.size = SIZE;
	self->memory.vaddr = mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory.vaddr);
	self->memory.iova = iova_allocator_alloc(self->allocator, SIZE);
	iommu_map(self->importer.iommu, &self->memory);
	vfio_pci_cmd_set(self->importer.device, PCI_COMMAND_MASTER);

	self->dmabuf = vfio_pci_dmabuf_export(self->exporter.device, self->exporter.bar, OFFSET, SIZE);
	self->import.size = SIZE;
	import(self);
	dmabuf_client_send(self->client, self->dmabuf);
	ASSERT_EQ(0, __dmabuf_client_mmap(self->client, 0, SIZE, RW));
}

FIXTURE_TEARDOWN(second_device)
{
	unimport(self);
	VFIO_ASSERT_EQ(close(self->dmabuf), 0);
	if (self->importer.device) {
		iommu_unmap(self->importer.iommu, &self->memory);
		iova_allocator_cleanup(self->allocator);
	}
	VFIO_ASSERT_EQ(munmap(self->memory.vaddr, SIZE), 0);
	bar_test_close(&self->importer);
	bar_test_close(&self->exporter);
	dmabuf_client_stop(self->client);
}

/* What is in the slice, read through the device file of the exporter */
static u32 slice_word(second_device_test *self, u64 offset)
{
	u32 value;

	VFIO_ASSERT_EQ(__vfio_pci_bar_read32(self->exporter.device, self->exporter.bar,
					     OFFSET + offset, &value), 0);
	return value;
}

/* Let the importer copy from memory to the slice, or back. Return 0 or -EIO. */
static int dma_to_slice(second_device_test *self)
{
	return edu_plus_copy(self->importer.device, self->memory.iova, self->import.iova, SIZE);
}

static int dma_from_slice(second_device_test *self)
{
	return edu_plus_copy(self->importer.device, self->import.iova, self->memory.iova, SIZE);
}

static void assert_dma_works(struct __test_metadata *_metadata, second_device_test *self)
{
	static u32 seed = 0x10000;
	u32 *words = self->memory.vaddr;

	seed += SIZE;
	for (int i = 0; i < SIZE / sizeof(u32); i++)
		words[i] = seed + i;
	ASSERT_EQ(0, dma_to_slice(self));
	ASSERT_EQ(seed, slice_word(self, 0));
	ASSERT_EQ(seed + LAST / sizeof(u32), slice_word(self, LAST));

	for (int i = 0; i < SIZE / sizeof(u32); i++)
		words[i] = 0;
	ASSERT_EQ(0, dma_from_slice(self));
	for (int i = 0; i < SIZE / sizeof(u32); i++)
		ASSERT_EQ(seed + i, words[i]);
}

/* The client reads what the importer has written, and the other way round. */
static void assert_works(struct __test_metadata *_metadata, second_device_test *self)
{
	u32 *words = self->memory.vaddr;
	u32 value;

	assert_dma_works(_metadata, self);
	ASSERT_EQ(0, dmabuf_client_read32(self->client, LAST, &value));
	ASSERT_EQ(words[LAST / sizeof(u32)], value);

	ASSERT_EQ(0, dmabuf_client_write32(self->client, 8, ~words[2]));
	value = ~words[2];
	ASSERT_EQ(0, dma_from_slice(self));
	ASSERT_EQ(value, words[2]);
}

/* The IOMMU stops each access of the importer, so that nothing changes on either side. */
static void assert_no_dma(struct __test_metadata *_metadata, second_device_test *self)
{
	u32 *words = self->memory.vaddr;

	words[0] = 1;
	ASSERT_EQ(-EIO, dma_to_slice(self));
	ASSERT_EQ(-EIO, dma_from_slice(self));
	ASSERT_EQ(1, words[0]);
}

static void assert_no_access(struct __test_metadata *_metadata, second_device_test *self)
{
	u32 value;

	assert_no_dma(_metadata, self);
	ASSERT_EQ(SIGBUS, dmabuf_client_read32(self->client, 0, &value));
	ASSERT_EQ(SIGBUS, dmabuf_client_write32(self->client, 0, 1));
	ASSERT_EQ(-ENODEV, try_import(self, SIZE));
}

/*
 * Does the log of the kernel have a fault of the importer at the slice? Only ten faults in
 * five seconds are logged, so try for longer.
 */
static bool iommu_logs_fault(second_device_test *self)
{
	char record[1024], fault[64];
	bool found = false;
	ssize_t len;
	int fd;

	snprintf(fault, sizeof(fault), "fault addr 0x%llx ",
		 (unsigned long long)self->import.iova);
	fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	VFIO_ASSERT_GE(fd, 0);
	VFIO_ASSERT_NE(lseek(fd, 0, SEEK_END), -1);
	for (int i = 0; i < 20 && !found; i++) {
		VFIO_ASSERT_EQ(dma_to_slice(self), -EIO);
		usleep(500000);
		while ((len = read(fd, record, sizeof(record) - 1)) > 0) {
			record[len] = '\0';
			found |= strstr(record, "DMAR: ") && strstr(record, fault);
		}
	}
	VFIO_ASSERT_EQ(close(fd), 0);
	return found;
}

TEST_F(second_device, both_ways)
{
	assert_works(_metadata, self);
}

TEST_F(second_device, revoke)
{
	u32 first, last;

	assert_works(_metadata, self);
	first = slice_word(self, 0);
	last = slice_word(self, LAST);
	vfio_pci_dmabuf_revoke(self->exporter.device, self->dmabuf);
	assert_no_access(_metadata, self);
	ASSERT_EQ(-ENODEV, __dmabuf_client_mmap(self->client, 0, SIZE, RW));
	ASSERT_TRUE(iommu_logs_fault(self));

	/* Nothing restores the access. */
	vfio_pci_bars_revoke(self->exporter.device, VFIO_PCI_BAR_MEMORY_DECODE);
	vfio_pci_bars_restore(self->exporter.device, VFIO_PCI_BAR_MEMORY_DECODE);
	assert_no_access(_metadata, self);
	ASSERT_EQ(first, slice_word(self, 0));
	ASSERT_EQ(last, slice_word(self, LAST));
}

/* Importers are cut off, and have to map the slice again. The client can wait. */
TEST_F(second_device, revocations_of_exporter)
{
	struct vfio_pci_device *device = self->exporter.device;
	enum vfio_pci_bar_revocation how;
	u32 value;

	for_each_vfio_pci_bar_revocation(how) {
		assert_works(_metadata, self);
		if (vfio_pci_bars_revoke(device, how))
			continue;

		TH_LOG("%s", vfio_pci_bar_revocation_name(how));
		if (!vfio_pci_bar_revocation_is_reset(how)) {
			assert_no_access(_metadata, self);
			vfio_pci_bars_restore(device, how);
		}
		assert_no_dma(_metadata, self);
		ASSERT_EQ(0, dmabuf_client_read32(self->client, 0, &value));
		unimport(self);
		import(self);
	}
	assert_works(_metadata, self);
}

/* The exporter can be closed while the importer has the slice, and does not get it back. */
TEST_F(second_device, close_exporter)
{
	assert_works(_metadata, self);
	bar_test_close(&self->exporter);
	assert_no_access(_metadata, self);

	bar_test_open(&self->exporter);
	assert_no_access(_metadata, self);
	unimport(self);
	ASSERT_EQ(-ENODEV, try_import(self, SIZE));
}

/* What happens to the importer does not concern the exporter and the client. */
TEST_F(second_device, reset_and_close_importer)
{
	u32 value;

	vfio_pci_bars_revoke(self->importer.device, VFIO_PCI_BAR_DEVICE_RESET);
	vfio_pci_cmd_set(self->importer.device, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_works(_metadata, self);

	unimport(self);
	iommu_unmap(self->importer.iommu, &self->memory);
	iova_allocator_cleanup(self->allocator);
	bar_test_close(&self->importer);
	ASSERT_EQ(0, dmabuf_client_write32(self->client, 0, 0x5a5a));
	ASSERT_EQ(0x5a5a, slice_word(self, 0));
	ASSERT_EQ(0, dmabuf_client_read32(self->client, 0, &value));
	vfio_pci_dmabuf_revoke(self->exporter.device, self->dmabuf);
	ASSERT_EQ(SIGBUS, dmabuf_client_read32(self->client, 0, &value));
}

/* iommufd takes one range. Neighbours are one, wherever the exporter's caller cut them. */
TEST_F(second_device, ranges)
{
	struct vfio_region_dma_range apart[] = {
		{ .offset = OFFSET, .length = SIZE / 2 },
		{ .offset = OFFSET + SIZE, .length = SIZE / 2 },
	};
	struct vfio_region_dma_range adjacent[] = {
		{ .offset = OFFSET, .length = SIZE / 4 },
		{ .offset = OFFSET + SIZE / 4, .length = SIZE / 2 },
		{ .offset = OFFSET + SIZE / 4 + SIZE / 2, .length = SIZE / 4 },
	};
	struct bar_fd map;

	unimport(self);
	VFIO_ASSERT_EQ(close(self->dmabuf), 0);

	map = bar_fd_export(self->exporter.device, self->exporter.bar, O_RDWR, 2, apart);
	self->dmabuf = map.fd;
	ASSERT_EQ(-EOPNOTSUPP, try_import(self, SIZE));
	bar_fd_close(&map);

	map = bar_fd_export(self->exporter.device, self->exporter.bar, O_RDWR, 3, adjacent);
	self->dmabuf = map.fd;
	import(self);
	assert_dma_works(_metadata, self);
}

/* Read-only is for the CPU: an importer can write to such a DMABUF. */
TEST_F(second_device, read_only)
{
	struct bar_fd map;
	u32 value;

	unimport(self);
	VFIO_ASSERT_EQ(close(self->dmabuf), 0);

	map = bar_fd_export_range(self->exporter.device, self->exporter.bar, OFFSET, SIZE, O_RDONLY);
	self->dmabuf = map.fd;
	dmabuf_client_send(self->client, map.fd);
	ASSERT_EQ(-EACCES, __dmabuf_client_mmap(self->client, 0, SIZE, RW));
	ASSERT_EQ(0, __dmabuf_client_mmap(self->client, 0, SIZE, PROT_READ));
	import(self);
	assert_dma_works(_metadata, self);
	ASSERT_EQ(0, dmabuf_client_read32(self->client, LAST, &value));
	ASSERT_EQ(slice_word(self, LAST), value);
}

int main(int argc, char *argv[])
{
	two_bdfs_get(&argc, argv, bdfs);
	return test_harness_run(argc, argv);
}
