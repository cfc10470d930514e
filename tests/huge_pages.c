// SPDX-License-Identifier: GPL-2.0-only
/*
 * Huge pages that need fixes in mm. A kernel without these may crash, or let a process
 * access memory that it has not mapped:
 *
 * - mappings by PUD leaves, and fork(), mremap() and munmap() of them
 * - the first write to a page whose writes are tracked (soft-dirty)
 * - a fault that installs a huge page where a page table has appeared meanwhile
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <linux/limits.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define CHILD_TIMEOUT_MS 5000
#define RW (PROT_READ | PROT_WRITE)

FIXTURE(huge_pages) {
	struct bar_test t;
	struct bar_fd fd;
};

FIXTURE_VARIANT(huge_pages) {
	bool dmabuf;
};

FIXTURE_VARIANT_ADD(huge_pages, device_fd) {
	.dmabuf = false,
};

FIXTURE_VARIANT_ADD(huge_pages, dmabuf) {
	.dmabuf = true,
};

typedef FIXTURE_DATA(huge_pages) huge_pages_test;

FIXTURE_SETUP(huge_pages)
{
	struct bar_test *t = &self->t;
	struct vfio_region_dma_range halves[2];
	const char *missing;

	missing = ram_test_init(t, device_bdf, SZ_64K, variant->dmabuf);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	if (!variant->dmabuf) {
		self->fd = bar_fd_device(t->device, t->bar);
		return;
	}

	/* Neighbouring ranges can make up one huge page. */
	for (int i = 0; i < ARRAY_SIZE(halves); i++) {
		halves[i].length = t->bar_size / 2;
		halves[i].offset = i * halves[i].length;
	}
	self->fd = bar_fd_export(t->device, t->bar, O_RDWR, ARRAY_SIZE(halves), halves);
}

FIXTURE_TEARDOWN(huge_pages)
{
	bar_fd_close(&self->fd);
	bar_test_close(&self->t);
}

static const char *pud_missing(huge_pages_test *self)
{
	size_t pud = thp_pud_size();

	if (!pud)
		return "no huge pages at the PUD level on this machine";
	if (self->t.bar_size < pud)
		return "no RAM BAR of a huge page at the PUD level";

	return NULL;
}

/* Check a page in each part of a PUD leaf. */
static void assert_pud(struct __test_metadata *_metadata, huge_pages_test *self,
		       void *vaddr, u64 first)
{
	size_t pud = thp_pud_size();

	for (size_t offset = first; offset < pud; offset += pud / 16)
		ASSERT_EQ(0, vfio_pci_ram_check(self->t.device, self->t.bar, offset,
						vaddr + offset, true));
}

TEST_F(huge_pages, pud)
{
	struct vfio_pci_device *device = self->t.device;
	u64 page = self->t.page, pud = thp_pud_size();
	void *vaddr;
	long faults;
	int status;
	pid_t pid;
	u32 value;

	if (pud_missing(self))
		SKIP(return, "%s: %s", device_bdf, pud_missing(self));

	vaddr = bar_fd_mmap_align(&self->fd, 0, pud, pud, 0);
	ASSERT_EQ(0, mmio_read32_faults(vaddr + page, &value, &faults));
	ASSERT_EQ(1, faults);
	for (size_t offset = 0; offset < pud; offset += pud / 16) {
		ASSERT_EQ(0, mmio_read32_faults(vaddr + offset, &value, &faults));
		ASSERT_EQ(0, faults);
	}
	assert_pud(_metadata, self, vaddr, 0);

	/* It can be zapped, and one fault maps all of it again. */
	vfio_pci_cmd_clear(device, PCI_COMMAND_MEMORY);
	for (size_t offset = 0; offset < pud; offset += pud / 16)
		ASSERT_EQ(SIGBUS, mmio_read32(vaddr + offset, &value));
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
	ASSERT_EQ(0, mmio_read32_faults(vaddr, &value, &faults));
	ASSERT_EQ(1, faults);
	ASSERT_EQ(0, mmio_read32_faults(vaddr + pud / 2, &value, &faults));
	ASSERT_EQ(0, faults);

	/* A child inherits one half, and cannot access the other one. */
	ASSERT_EQ(0, madvise(vaddr + pud / 2, pud / 2, MADV_DONTFORK));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(mmio_read32(vaddr, &value) != 0 ||
		      mmio_read32(vaddr + pud / 2, &value) != SIGSEGV);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_EQ(0, WEXITSTATUS(status));

	/* The rest is still mapped correctly around a hole. */
	ASSERT_EQ(0, munmap(vaddr + pud / 2, page));
	ASSERT_EQ(SIGSEGV, mmio_read32(vaddr + pud / 2, &value));
	assert_pud(_metadata, self, vaddr, page);
	ASSERT_EQ(0, munmap(vaddr, pud));
}

/* mremap() moves a PUD leaf as a whole if the new address is aligned. */
TEST_F(huge_pages, mremap_pud)
{
	u64 pud = thp_pud_size();
	void *vaddr, *moved;
	long faults;
	u32 value;

	if (pud_missing(self))
		SKIP(return, "%s: %s", device_bdf, pud_missing(self));

	for (int i = 0; i < 2; i++) {
		vaddr = bar_fd_mmap_align(&self->fd, 0, pud, pud, 0);
		ASSERT_EQ(0, mmio_read32(vaddr, &value));

		moved = mmap_reserve(pud, pud, i * self->t.page);
		ASSERT_EQ(moved, mremap(vaddr, pud, pud, MREMAP_MAYMOVE | MREMAP_FIXED, moved));
		ASSERT_EQ(SIGSEGV, mmio_read32(vaddr, &value));
		ASSERT_EQ(SIGSEGV, mmio_read32(vaddr + pud / 2, &value));

		ASSERT_EQ(0, mmio_read32_faults(moved + pud / 2, &value, &faults));
		ASSERT_EQ(i, faults);
		assert_pud(_metadata, self, moved, 0);
		ASSERT_EQ(0, munmap(moved, pud));
	}
}

/* Start to track writes to pages. Return false if the kernel does not do that. */
static bool soft_dirty_track(void *vaddr)
{
	u64 entry, page = (unsigned long)vaddr / getpagesize();
	int fd;

	fd = open("/proc/self/pagemap", O_RDONLY);
	if (fd < 0)
		return false;
	*(char *)vaddr = 1;
	VFIO_ASSERT_EQ(pread(fd, &entry, sizeof(entry), page * sizeof(entry)),
		       (ssize_t)sizeof(entry));
	VFIO_ASSERT_EQ(close(fd), 0);
	if (!(entry & (1ULL << 55)))
		return false;

	VFIO_ASSERT_EQ(write_file("/proc/self/clear_refs", "4"), 0);

	return true;
}

/*
 * If writes are tracked, page table entries of each size are read-only until the first
 * write. Only that write may fault.
 */
TEST_F(huge_pages, soft_dirty)
{
	u64 sizes[] = { self->t.page, thp_pmd_size(), thp_pud_size() };
	void *anon;
	pid_t pid;
	int ret;

	anon = mmap(NULL, self->t.page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, anon);

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		void *vaddrs[ARRAY_SIZE(sizes)];
		long faults;
		u32 value;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
			if (sizes[i] && sizes[i] <= self->t.bar_size)
				vaddrs[i] = bar_fd_mmap_align(&self->fd, 0, sizes[i],
							      sizes[i], 0);
		}
		if (!soft_dirty_track(anon))
			_exit(KSFT_SKIP);
		for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
			if (!sizes[i] || sizes[i] > self->t.bar_size)
				continue;
			VFIO_ASSERT_EQ(mmio_read32(vaddrs[i], &value), 0);
			VFIO_ASSERT_EQ(mmio_write32(vaddrs[i], i), 0);
			VFIO_ASSERT_EQ(mmio_write32(vaddrs[i], ~i), 0);
			VFIO_ASSERT_EQ(mmio_read32_faults(vaddrs[i], &value, &faults), 0);
			VFIO_ASSERT_EQ(value, (u32)~i);
			VFIO_ASSERT_EQ(faults, 0);
		}
		_exit(0);
	}

	ret = wait_child(pid, CHILD_TIMEOUT_MS);
	if (ret == -ETIMEDOUT)
		kill(pid, SIGKILL);
	if (ret == KSFT_SKIP)
		SKIP(return, "no soft-dirty pages in this kernel");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, munmap(anon, self->t.page));
}

static int do_reset(void *arg)
{
	return __vfio_pci_device_reset(arg);
}

static int do_write(void *arg)
{
	return mmio_write32(arg, 0);
}

/*
 * A write that would map a huge page waits for a reset, which waits for a fence.
 * Meanwhile huge pages are switched off, and another fault, which waits as well,
 * brings a page table.
 */
TEST_F(huge_pages, late)
{
	struct bar_test *t = &self->t;
	struct waiter resetter = { .fn = do_reset, .arg = t->device };
	struct waiter huge = { .fn = do_write }, small = { .fn = do_write };
	size_t pmd = thp_pmd_size();
	int timeline, dmabuf;
	void *vaddr;

	if (!pmd || t->bar_size < pmd)
		SKIP(return, "%s: no RAM BAR of a huge page", device_bdf);
	if (!(t->device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		SKIP(return, "%s: no VFIO_DEVICE_RESET", device_bdf);
	if (vfio_pci_dmabuf_revoke_missing(t->device))
		SKIP(return, "%s: %s", device_bdf,
		     vfio_pci_dmabuf_revoke_missing(t->device));
	timeline = sw_sync_open();
	if (timeline == -ENOENT)
		SKIP(return, "no " SW_SYNC " (CONFIG_SW_SYNC)");
	ASSERT_GE(timeline, 0);

	vaddr = bar_fd_mmap_align(&self->fd, 0, pmd, pmd, 0);
	huge.arg = vaddr;
	small.arg = vaddr + t->page;
	dmabuf = vfio_pci_dmabuf_export(t->device, t->bar, 0, t->page);
	sw_sync_add_fence(timeline, 1, dmabuf);

	waiter_start(&resetter);
	ASSERT_TRUE(waiter_blocks(&resetter));
	waiter_start(&huge);
	ASSERT_TRUE(waiter_blocks(&huge));
	ASSERT_EQ(0, prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	waiter_start(&small);
	ASSERT_TRUE(waiter_blocks(&small));

	sw_sync_advance(timeline);
	ASSERT_EQ(0, waiter_join(&resetter));
	ASSERT_EQ(0, waiter_join(&huge));
	ASSERT_EQ(0, waiter_join(&small));
	ASSERT_EQ(0, prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
	ASSERT_EQ(0, munmap(vaddr, pmd));
	ASSERT_EQ(0, close(dmabuf));
	ASSERT_EQ(0, close(timeline));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
