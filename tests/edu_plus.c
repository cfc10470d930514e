// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA by the device edu-plus, which reports whether a transfer failed, does it at once,
 * and has a buffer of 64 KiB. (The driver of edu in libvfio knows none of this.) While a
 * DMABUF is imported where the device is attached, transfers to and from it succeed.
 * They fail once it is revoked, and while it is inaccessible.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/limits.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define BUFFER_SIZE EDU_PLUS_BUFFER_SIZE

FIXTURE(edu_plus) {
	struct bar_test t;

	/* Memory of the host that the device can access */
	struct iova_allocator *allocator;
	struct dma_region memory;

	/* The start of the RAM BAR, imported */
	int dmabuf;
	struct dma_region import;
};

typedef FIXTURE_DATA(edu_plus) edu_plus_test;

FIXTURE_SETUP(edu_plus)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = ram_test_init(t, device_bdf, BUFFER_SIZE, false);
	if (!missing)
		missing = vfio_pci_dmabuf_revoke_missing(t->device);
	if (!missing)
		missing = edu_plus_missing(t->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->allocator = iova_allocator_init(t->iommu);
	self->memory.size = BUFFER_SIZE;
	self->memory.vaddr = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory.vaddr);
	self->memory.iova = iova_allocator_alloc(self->allocator, BUFFER_SIZE);
	iommu_map(t->iommu, &self->memory);

	self->dmabuf = vfio_pci_dmabuf_export(t->device, t->bar, 0, BUFFER_SIZE);
	self->import.size = BUFFER_SIZE;
	iommu_map_dmabuf(t->iommu, self->dmabuf, &self->import);
	vfio_pci_cmd_set(t->device, PCI_COMMAND_MASTER);
}

FIXTURE_TEARDOWN(edu_plus)
{
	iommu_unmap(self->t.iommu, &self->import);
	VFIO_ASSERT_EQ(close(self->dmabuf), 0);
	iommu_unmap(self->t.iommu, &self->memory);
	VFIO_ASSERT_EQ(munmap(self->memory.vaddr, BUFFER_SIZE), 0);
	iova_allocator_cleanup(self->allocator);
	bar_test_close(&self->t);
}

static void fill(edu_plus_test *self, u32 seed)
{
	u32 *words = self->memory.vaddr;

	for (int i = 0; i < BUFFER_SIZE / sizeof(*words); i++)
		words[i] = seed + i;
}

/* Is it what fill() has written, all of it? */
static bool is_filled(edu_plus_test *self, u32 seed)
{
	u32 *words = self->memory.vaddr;

	for (int i = 0; i < BUFFER_SIZE / sizeof(*words); i++) {
		if (words[i] != seed + i)
			return false;
	}

	return true;
}

/* What is in the BAR, read through the device file */
static u32 bar_word(edu_plus_test *self, u64 offset)
{
	u32 value;

	VFIO_ASSERT_EQ(__vfio_pci_bar_read32(self->t.device, self->t.bar, offset, &value), 0);

	return value;
}

static void assert_works(struct __test_metadata *_metadata, edu_plus_test *self, u32 seed)
{
	u64 last = BUFFER_SIZE - sizeof(u32);

	fill(self, seed);
	ASSERT_EQ(0, edu_plus_copy(self->t.device, self->memory.iova, self->import.iova,
				   BUFFER_SIZE));
	ASSERT_EQ(seed, bar_word(self, 0));
	ASSERT_EQ(seed + last / sizeof(u32), bar_word(self, last));

	fill(self, ~seed);
	ASSERT_EQ(0, edu_plus_copy(self->t.device, self->import.iova, self->memory.iova,
				   BUFFER_SIZE));
	ASSERT_TRUE(is_filled(self, seed));
}

/* The device reports that it cannot read or write the import, and nothing changes. */
static void assert_fails(struct __test_metadata *_metadata, edu_plus_test *self)
{
	struct vfio_pci_device *device = self->t.device;

	fill(self, 1);
	ASSERT_EQ(0, edu_plus_read(device, self->memory.iova, 0, BUFFER_SIZE));
	ASSERT_EQ(-EIO, edu_plus_write(device, 0, self->import.iova, BUFFER_SIZE));
	ASSERT_EQ(-EIO, edu_plus_read(device, self->import.iova, 0, BUFFER_SIZE));
	ASSERT_TRUE(is_filled(self, 1));
}

TEST_F(edu_plus, import)
{
	assert_works(_metadata, self, 0x1000);
	ASSERT_EQ(-EIO, edu_plus_read(self->t.device, self->memory.iova, 8, BUFFER_SIZE));
	assert_works(_metadata, self, 0x2000000);
}

TEST_F(edu_plus, revoke)
{
	u64 last = BUFFER_SIZE - sizeof(u32);
	u32 first;

	assert_works(_metadata, self, 0x1000);
	first = bar_word(self, 0);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->t.device, self->dmabuf));
	assert_fails(_metadata, self);
	ASSERT_EQ(first, bar_word(self, 0));
	ASSERT_EQ(first + last / sizeof(u32), bar_word(self, last));

	/* A reset does not change that. It switches bus mastering off. */
	vfio_pci_device_reset(self->t.device);
	vfio_pci_cmd_set(self->t.device, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_fails(_metadata, self);
}

/* A temporary revocation ends an import; it is not restored by itself. */
TEST_F(edu_plus, memory_decode)
{
	struct vfio_pci_device *device = self->t.device;

	assert_works(_metadata, self, 0x1000);
	vfio_pci_cmd_clear(device, PCI_COMMAND_MEMORY);
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
	assert_fails(_metadata, self);

	iommu_unmap(self->t.iommu, &self->import);
	iommu_map_dmabuf(self->t.iommu, self->dmabuf, &self->import);
	assert_works(_metadata, self, 0x2000000);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
