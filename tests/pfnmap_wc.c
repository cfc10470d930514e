// SPDX-License-Identifier: GPL-2.0-only
/*
 * x86: does a fault handler get the write-combining that its VMA asks for? It does in a
 * VMA with VM_ALLOW_ANY_UNCACHED, and gets UC- in others.
 *
 * The modules modules/pfnmap_wc.c and modules/pgprot_test.c map a BAR, and look at the
 * page table. VFIO takes no part in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/sizes.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

FIXTURE(pfnmap_wc) {
	int fd;
};

FIXTURE_VARIANT(pfnmap_wc) {
	u64 size;
};

FIXTURE_VARIANT_ADD(pfnmap_wc, pte) {
	.size = SZ_4K,
};

FIXTURE_VARIANT_ADD(pfnmap_wc, pmd) {
	.size = SZ_2M,
};

FIXTURE_SETUP(pfnmap_wc)
{
	const char *missing = pgprot_missing();

	if (missing)
		SKIP(return, "%s", missing);

	self->fd = open("/dev/pfnmap_wc", O_RDWR);
	if (self->fd < 0)
		SKIP(return, "no /dev/pfnmap_wc: load modules/pfnmap_wc.ko");
}

FIXTURE_TEARDOWN(pfnmap_wc)
{
	close(self->fd);
}

/* Map and access the start of the BAR. Return what the page table has for it. */
static void access_at(int fd, u64 size, off_t offset, struct pgprot_entry *entry)
{
	volatile u32 *vaddr = mmap_reserve(size, size, 0);

	VFIO_ASSERT_EQ(mmap((void *)vaddr, size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED, fd, offset), (void *)vaddr);
	*vaddr;
	pgprot_get((void *)vaddr, entry);
	VFIO_ASSERT_EQ(munmap((void *)vaddr, size), 0);
}

TEST_F(pfnmap_wc, any_uncached)
{
	struct pgprot_entry entry;

	access_at(self->fd, variant->size, getpagesize(), &entry);
	ASSERT_TRUE(entry.present);
	ASSERT_EQ(entry.size, variant->size);
	ASSERT_STREQ(entry.type, "WC");
}

TEST_F(pfnmap_wc, others)
{
	struct pgprot_entry entry;

	access_at(self->fd, variant->size, 0, &entry);
	ASSERT_TRUE(entry.present);
	ASSERT_EQ(entry.size, variant->size);
	ASSERT_STREQ(entry.type, "UC-");
}

int main(int argc, char *argv[])
{
	return test_harness_run(argc, argv);
}
