// SPDX-License-Identifier: GPL-2.0-only
/*
 * The entries of the page table for mappings of DMABUFs: their memory type, whether they
 * are writable, and their size, up to the PUD level.
 *
 * The module modules/pgprot_test.c looks at the page table, on all architectures. (The
 * kernel's own list of a page table, in debugfs, exists on x86 only.)
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/limits.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define RW (PROT_READ | PROT_WRITE)
#define UC VFIO_DEVICE_DMA_BUF_MEMATTR_UC
#define WC VFIO_DEVICE_DMA_BUF_MEMATTR_WC
#define NO_WC "no write-combining for this device on this machine"

enum level {
	LEVEL_PTE,
	LEVEL_PMD,
	LEVEL_PUD,
};

FIXTURE(page_tables) {
	struct bar_test t;

	/* The exported range, and the alignment of its mappings */
	u64 offset;
	u64 size;
	u64 align;

	/* The size of an entry of the page table */
	u64 entry_size;

	int fd;
	bool wc;
};

FIXTURE_VARIANT(page_tables) {
	enum level level;
};

FIXTURE_VARIANT_ADD(page_tables, pte) {
	.level = LEVEL_PTE,
};

FIXTURE_VARIANT_ADD(page_tables, pmd) {
	.level = LEVEL_PMD,
};

FIXTURE_VARIANT_ADD(page_tables, pud) {
	.level = LEVEL_PUD,
};

typedef FIXTURE_DATA(page_tables) map_test;

FIXTURE_SETUP(page_tables)
{
	struct bar_test *t = &self->t;
	const char *missing;
	u64 huge;

	missing = ram_test_init(t, device_bdf, SZ_64K, false);
	if (!missing)
		missing = vfio_pci_dmabuf_memattr_missing(t->device);
	if (!missing)
		missing = pgprot_missing();
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	switch (variant->level) {
	case LEVEL_PTE:
		self->entry_size = t->page;
		self->offset = 3 * t->page;
		self->size = 6 * t->page;
		break;
	case LEVEL_PMD:
		huge = thp_pmd_size();
		if (!huge || t->bar_size < 4 * huge)
			SKIP(return, "%s: no huge pages, or no RAM BAR of four of them",
			     device_bdf);
		self->entry_size = huge;
		self->offset = huge;
		self->size = 2 * huge;
		break;
	case LEVEL_PUD:
		huge = thp_pud_size();
		if (!huge || t->bar_size < huge)
			SKIP(return, "%s: no huge pages at the PUD level, or no RAM BAR of one",
			     device_bdf);
		self->entry_size = huge;
		self->size = huge;
		break;
	}
	self->align = self->entry_size;

	self->fd = vfio_pci_dmabuf_export(t->device, t->bar, self->offset, self->size);
	self->wc = !__vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC);
	vfio_pci_dmabuf_set_memattr(t->device, self->fd, UC);
}

FIXTURE_TEARDOWN(page_tables)
{
	VFIO_ASSERT_EQ(close(self->fd), 0);
	bar_test_close(&self->t);
}

static void *map_file(map_test *self, int fd, u64 offset, int prot)
{
	void *vaddr = mmap_reserve(self->size, self->align, 0);

	VFIO_ASSERT_EQ(mmap(vaddr, self->size, prot, MAP_SHARED | MAP_FIXED, fd,
			    offset), vaddr);

	return vaddr;
}

static void *map_dmabuf(map_test *self, int fd, int prot)
{
	return map_file(self, fd, 0, prot);
}

static void *map_bar(map_test *self)
{
	return map_file(self, self->t.device->fd,
			self->t.device->bars[self->t.bar].info.offset + self->offset,
			RW);
}

#define MAX_ENTRIES 16

/* Do the pages have entries of this kind? They are read first, so that they have any. */
static bool entries_are(void * const *vaddrs, int nr, u32 memattr, u64 entry_size)
{
	bool right = true;
	u32 value;

	VFIO_ASSERT_LE(nr, MAX_ENTRIES);
	for (int i = 0; i < nr; i++) {
		if (mmio_read32(vaddrs[i], &value))
			return false;
	}

	for (int i = 0; i < nr; i++) {
		struct pgprot_entry entry;

		pgprot_get(vaddrs[i], &entry);
		if (entry.present && entry.size == entry_size &&
		    (memattr == WC ? pgprot_is_wc(&entry) : pgprot_is_uc(&entry)))
			continue;

		right = false;
		fprintf(stderr, "# %p: present %d, size %#llx, type %s\n",
			vaddrs[i], entry.present, (unsigned long long)entry.size,
			entry.type);
	}

	return right;
}

static bool entry_is(void *vaddr, u32 memattr, u64 entry_size)
{
	return entries_are(&vaddr, 1, memattr, entry_size);
}

/* All entries of a mapping are of this kind, and lead to the right memory. */
static void assert_mapped(struct __test_metadata *_metadata, map_test *self,
			  void *vaddr, u32 memattr, bool write)
{
	u64 last = self->entry_size - self->t.page;
	struct bar_test *t = &self->t;
	void *vaddrs[MAX_ENTRIES];
	int nr = 0;

	/* The first and the last page of each entry */
	for (u64 offset = 0; offset < self->size; offset += self->entry_size) {
		vaddrs[nr++] = vaddr + offset;
		if (last)
			vaddrs[nr++] = vaddr + offset + last;
	}

	ASSERT_TRUE(entries_are(vaddrs, nr, memattr, self->entry_size));
	for (int i = 0; i < nr; i++)
		ASSERT_EQ(0, vfio_pci_ram_check(t->device, t->bar,
						self->offset + (vaddrs[i] - vaddr),
						vaddrs[i], write));
}

TEST_F(page_tables, uc)
{
	struct bar_test *t = &self->t;
	void *dmabuf = map_dmabuf(self, self->fd, RW);
	void *bar = map_bar(self);

	assert_mapped(_metadata, self, dmabuf, UC, true);
	assert_mapped(_metadata, self, bar, UC, true);
	ASSERT_EQ(0, munmap(dmabuf, self->size));

	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, UC));
	dmabuf = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, dmabuf, UC, true);

	/* An attribute that is refused changes nothing. */
	ASSERT_EQ(0, munmap(dmabuf, self->size));
	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, 2));
	dmabuf = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, dmabuf, UC, true);

	ASSERT_EQ(0, munmap(dmabuf, self->size));
	ASSERT_EQ(0, munmap(bar, self->size));
}

/* Either the attribute is refused, or the page table has it. */
TEST_F(page_tables, wc)
{
	struct bar_test *t = &self->t;
	bool wc = self->wc;
	void *vaddr;

	ASSERT_EQ(wc ? 0 : -EOPNOTSUPP,
		  __vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC));
	vaddr = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, vaddr, wc ? WC : UC, true);
	ASSERT_EQ(0, munmap(vaddr, self->size));
}

/* A mapping of the same range with another attribute, in either order */
TEST_F(page_tables, wc_beside_uc)
{
	struct bar_test *t = &self->t;
	void *dmabuf, *bar;

	if (!self->wc)
		SKIP(return, NO_WC);

	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC));

	for (int i = 0; i < 2; i++) {
		dmabuf = map_dmabuf(self, self->fd, RW);
		bar = map_bar(self);

		if (i)
			assert_mapped(_metadata, self, bar, UC, true);
		assert_mapped(_metadata, self, dmabuf, WC, true);
		assert_mapped(_metadata, self, bar, UC, true);
		assert_mapped(_metadata, self, dmabuf, WC, true);

		ASSERT_EQ(0, munmap(dmabuf, self->size));
		ASSERT_EQ(0, munmap(bar, self->size));
	}
}

/* The attribute applies to later mappings of the DMABUF. */
TEST_F(page_tables, later_mappings)
{
	struct bar_test *t = &self->t;
	void *uc, *untouched, *wc, *again;

	if (!self->wc)
		SKIP(return, NO_WC);

	uc = map_dmabuf(self, self->fd, RW);
	untouched = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, uc, UC, true);

	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC));
	wc = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, uc, UC, true);
	assert_mapped(_metadata, self, untouched, UC, true);
	assert_mapped(_metadata, self, wc, WC, true);
	ASSERT_EQ(0, munmap(untouched, self->size));
	untouched = map_dmabuf(self, self->fd, RW);

	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, UC));
	again = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, again, UC, true);
	assert_mapped(_metadata, self, uc, UC, true);
	assert_mapped(_metadata, self, untouched, WC, true);
	assert_mapped(_metadata, self, wc, WC, true);

	ASSERT_EQ(0, munmap(uc, self->size));
	ASSERT_EQ(0, munmap(untouched, self->size));
	ASSERT_EQ(0, munmap(wc, self->size));
	ASSERT_EQ(0, munmap(again, self->size));
}

/* The attribute belongs to the DMABUF: to all its file descriptors, and no other DMABUF. */
TEST_F(page_tables, other_dmabufs)
{
	struct bar_test *t = &self->t;
	int before, after, copy;
	void *vaddr;

	if (!self->wc)
		SKIP(return, NO_WC);

	copy = dup(self->fd);
	ASSERT_GE(copy, 0);
	before = vfio_pci_dmabuf_export(t->device, t->bar, self->offset, self->size);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, copy, WC));
	after = vfio_pci_dmabuf_export(t->device, t->bar, self->offset, self->size);

	vaddr = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, vaddr, WC, true);
	ASSERT_EQ(0, munmap(vaddr, self->size));
	vaddr = map_dmabuf(self, copy, RW);
	assert_mapped(_metadata, self, vaddr, WC, true);
	ASSERT_EQ(0, munmap(vaddr, self->size));
	vaddr = map_dmabuf(self, before, RW);
	assert_mapped(_metadata, self, vaddr, UC, true);
	ASSERT_EQ(0, munmap(vaddr, self->size));
	vaddr = map_dmabuf(self, after, RW);
	assert_mapped(_metadata, self, vaddr, UC, true);
	ASSERT_EQ(0, munmap(vaddr, self->size));

	ASSERT_EQ(0, close(copy));
	ASSERT_EQ(0, close(before));
	ASSERT_EQ(0, close(after));
}

TEST_F(page_tables, read_only)
{
	struct bar_test *t = &self->t;
	struct vfio_region_dma_range range = {
		.offset = self->offset,
		.length = self->size,
	};
	struct pgprot_entry entry;
	void *vaddr;
	int fd;

	if (!self->wc)
		SKIP(return, NO_WC);

	fd = __vfio_pci_dmabuf_export(t->device, t->bar, O_RDONLY | O_CLOEXEC, 1, &range);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, fd, WC));

	vaddr = map_dmabuf(self, fd, PROT_READ);
	assert_mapped(_metadata, self, vaddr, WC, false);
	pgprot_get(vaddr, &entry);
	ASSERT_FALSE(entry.writable);
	ASSERT_EQ(SIGSEGV, mmio_write32(vaddr, 0));
	ASSERT_EQ(-1, mprotect(vaddr, self->size, RW));
	ASSERT_EQ(EACCES, errno);
	ASSERT_EQ(0, munmap(vaddr, self->size));

	/* A DMABUF that is writable, mapped for reading first */
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC));
	vaddr = map_dmabuf(self, self->fd, PROT_READ);
	assert_mapped(_metadata, self, vaddr, WC, false);
	ASSERT_EQ(0, mprotect(vaddr, self->size, RW));
	assert_mapped(_metadata, self, vaddr, WC, true);
	pgprot_get(vaddr, &entry);
	ASSERT_TRUE(entry.writable);
	ASSERT_EQ(0, munmap(vaddr, self->size));
	ASSERT_EQ(0, close(fd));
}

/* Mappings keep their attribute when they are zapped and faulted in again. */
TEST_F(page_tables, after_revocations)
{
	enum vfio_pci_bar_revocation how;
	struct bar_test *t = &self->t;
	void *uc, *wc;

	if (!self->wc)
		SKIP(return, NO_WC);

	uc = map_dmabuf(self, self->fd, RW);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC));
	wc = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, uc, UC, true);
	assert_mapped(_metadata, self, wc, WC, true);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, UC));

	for_each_vfio_pci_bar_revocation(how) {
		void *meanwhile;
		long faults;
		u32 value;

		/* The device may not support it. */
		if (vfio_pci_bars_revoke(t->device, how))
			continue;

		/* The attribute can be set while the BARs are inaccessible. */
		ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC));
		meanwhile = map_dmabuf(self, self->fd, RW);
		ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, UC));
		vfio_pci_bars_restore(t->device, how);

		ASSERT_EQ(0, mmio_read32_faults(wc, &value, &faults));
		ASSERT_EQ(1, faults);
		assert_mapped(_metadata, self, uc, UC, true);
		assert_mapped(_metadata, self, wc, WC, true);
		assert_mapped(_metadata, self, meanwhile, WC, true);
		ASSERT_EQ(0, munmap(meanwhile, self->size));
	}

	ASSERT_EQ(0, munmap(uc, self->size));
	ASSERT_EQ(0, munmap(wc, self->size));
}

/* Mappings are cut, protected, and moved, with entries and without. */
TEST_F(page_tables, mm_operations)
{
	struct bar_test *t = &self->t;
	u64 page = t->page;
	void *vaddr, *moved;

	if (!self->wc)
		SKIP(return, NO_WC);

	for (int touch = 0; touch < 2; touch++) {
		u64 half = self->size / 2;

		ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC));
		vaddr = map_dmabuf(self, self->fd, RW);
		ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, UC));
		if (touch)
			assert_mapped(_metadata, self, vaddr, WC, true);

		/* All of it, to an address where huge pages fit as well */
		moved = mmap_reserve(self->size, self->align, 0);
		ASSERT_EQ(moved, mremap(vaddr, self->size, self->size,
					MREMAP_MAYMOVE | MREMAP_FIXED, moved));
		vaddr = moved;
		if (touch)
			assert_mapped(_metadata, self, vaddr, WC, true);

		/* A part. Of a huge page, small ones remain. */
		ASSERT_EQ(0, munmap(vaddr + page, page));
		ASSERT_TRUE(entry_is(vaddr, WC, page));
		ASSERT_TRUE(entry_is(vaddr + 2 * page, WC, page));

		ASSERT_EQ(0, mprotect(vaddr + half, page, PROT_READ));
		ASSERT_TRUE(entry_is(vaddr + half, WC, page));
		ASSERT_TRUE(entry_is(vaddr + half + page, WC, page));
		ASSERT_EQ(0, mprotect(vaddr + half, page, RW));
		ASSERT_TRUE(entry_is(vaddr + half, WC, page));

		moved = mmap_reserve(page, self->align * 2, page);
		ASSERT_EQ(moved, mremap(vaddr + self->size - page, page, page,
					MREMAP_MAYMOVE | MREMAP_FIXED, moved));
		ASSERT_TRUE(entry_is(moved, WC, page));
		ASSERT_TRUE(entry_is(vaddr + self->size - 2 * page, WC, page));

		/* Zap it, and fault it in again. */
		vfio_pci_cmd_clear(t->device, PCI_COMMAND_MEMORY);
		vfio_pci_cmd_set(t->device, PCI_COMMAND_MEMORY);
		ASSERT_TRUE(entry_is(moved, WC, page));
		ASSERT_TRUE(entry_is(vaddr, WC, page));
		ASSERT_TRUE(entry_is(vaddr + 2 * page, WC, page));

		ASSERT_EQ(0, munmap(moved, page));
		ASSERT_EQ(0, munmap(vaddr, self->size));
	}
}

TEST_F(page_tables, fork)
{
	struct bar_test *t = &self->t;
	void *uc, *wc, *untouched;
	int status;
	pid_t pid;

	if (!self->wc)
		SKIP(return, NO_WC);

	uc = map_dmabuf(self, self->fd, RW);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, WC));
	wc = map_dmabuf(self, self->fd, RW);
	untouched = map_dmabuf(self, self->fd, RW);
	assert_mapped(_metadata, self, uc, UC, true);
	assert_mapped(_metadata, self, wc, WC, true);
	ASSERT_EQ(0, __vfio_pci_dmabuf_set_memattr(t->device, self->fd, UC));

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		/* The child has a page table of its own. */
		if (!entry_is(uc, UC, self->entry_size))
			_exit(1);
		if (!entry_is(wc, WC, self->entry_size))
			_exit(2);
		if (!entry_is(untouched, WC, self->entry_size))
			_exit(3);
		_exit(0);
	}

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_EQ(0, WEXITSTATUS(status));

	ASSERT_EQ(0, munmap(uc, self->size));
	ASSERT_EQ(0, munmap(wc, self->size));
	ASSERT_EQ(0, munmap(untouched, self->size));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
