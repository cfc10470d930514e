// SPDX-License-Identifier: GPL-2.0-only
/*
 * The address that mmap() of a BAR returns: a hint is followed, and without a hint huge
 * pages fit at it, which needs the queue followup.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/align.h>
#include <linux/limits.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

FIXTURE(addresses) {
	struct bar_test t;
	struct bar_fd fd;
};

typedef FIXTURE_DATA(addresses) addresses_test;

FIXTURE_SETUP(addresses)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = bar_test_init(t, device_bdf, MODE_IOMMUFD, getpagesize());
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->fd = bar_fd_device(t->device, t->bar);
}

FIXTURE_TEARDOWN(addresses)
{
	bar_test_close(&self->t);
}

static size_t huge_size(addresses_test *self)
{
	return thp_pmd_size() ?: self->t.page * 512;
}

/*
 * Map a part of the BAR into a gap that is just as large, @shift bytes above a place
 * for a huge page. The address is a hint, unless @flags say otherwise. Returns NULL
 * if the mapping is somewhere else.
 */
static void *map_in_gap(addresses_test *self, u64 offset, size_t size, size_t shift,
			int flags)
{
	size_t align = huge_size(self);
	size_t around = 2 * align;
	void *gap, *vaddr;

	gap = mmap_reserve(size + 2 * around, align, shift) + around;
	VFIO_ASSERT_EQ(munmap(gap, size), 0);

	vaddr = mmap(gap, size, PROT_READ, MAP_SHARED | flags, self->fd.fd,
		     self->fd.base + offset);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	VFIO_ASSERT_EQ(munmap(gap - around, around), 0);
	VFIO_ASSERT_EQ(munmap(gap + size, around), 0);
	if (vaddr == gap)
		return vaddr;

	VFIO_ASSERT_EQ(munmap(vaddr, size), 0);
	return NULL;
}

/* A hint is followed if the mapping fits there, with huge pages or without. */
TEST_F(addresses, hint)
{
	static const int flags[] = { 0, MAP_FIXED_NOREPLACE };
	size_t shifts[] = { 0, self->t.page };
	u64 offsets[] = { 0, self->t.page };
	void *vaddr;
	u32 value;

	for (int i = 0; i < 8; i++) {
		u64 offset = offsets[i % 2];
		size_t shift = shifts[i / 2 % 2];
		u64 size = min_t(u64, self->fd.size - offset, 2 * huge_size(self));

		if (offset >= self->fd.size)
			continue;

		vaddr = map_in_gap(self, offset, size, shift, flags[i / 4]);
		ASSERT_NE(NULL, vaddr)
			TH_LOG("Not at the hint: %#llx bytes, offset %#llx, shift %#zx, flags %#x",
			       (unsigned long long)size, (unsigned long long)offset, shift,
			       flags[i / 4]);
		if (!offset || self->t.ram)
			ASSERT_EQ(0, mmio_read32(vaddr, &value));
		ASSERT_EQ(0, munmap(vaddr, size));
	}
}

/*
 * mmap(NULL) gives an address at which huge pages fit, whatever the offset. (A kernel
 * without this feature returns at most one such address, by chance.)
 */
TEST_F(addresses, huge_pages_anywhere)
{
	struct bar_test *t = &self->t;
	size_t pmd = thp_pmd_size();
	void *vaddr[4];
	int fit = 0;
	long faults;
	u32 value;

	if (!t->ram)
		SKIP(return, "%s: %s", device_bdf, NO_RAM_BAR);
	if (!pmd)
		SKIP(return, "no huge pages in this kernel");
	if (self->fd.size < 3 * pmd)
		SKIP(return, "%s: no RAM BAR of three huge pages", device_bdf);

	for (int i = 0; i < ARRAY_SIZE(vaddr); i++) {
		u64 offset = i * t->page;

		vaddr[i] = bar_fd_mmap(&self->fd, offset, 2 * pmd, PROT_READ | PROT_WRITE);
		fit += !((uintptr_t)(vaddr[i] - offset) % pmd);
	}
	if (fit > 1)
		ASSERT_EQ(ARRAY_SIZE(vaddr), fit);

	for (int i = 0; i < ARRAY_SIZE(vaddr); i++) {
		/* The first place for a huge page */
		void *huge = vaddr[i] + (i ? pmd - i * t->page : 0);

		if (fit > 1) {
			ASSERT_EQ(0, mmio_read32_faults(huge + t->page, &value, &faults));
			ASSERT_EQ(1, faults);
			ASSERT_EQ(0, mmio_read32_faults(huge + pmd - t->page, &value, &faults));
			ASSERT_EQ(0, faults);
			ASSERT_EQ(0, bar_fd_check_pages(&self->fd, vaddr[i], i * t->page,
							2 * pmd));
		}
		ASSERT_EQ(0, munmap(vaddr[i], 2 * pmd));
	}
	if (fit <= 1)
		SKIP(return, "mmap() does not align BAR mappings for huge pages in this kernel");
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
