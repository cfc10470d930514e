// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of BARs and of DMABUFs: many of them, what splits, moves and resizes them, and
 * the close of a device while other processes look at its mappings in /proc.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
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

#define NR_PAGES 9

FIXTURE(mappings) {
	struct bar_test t;
	/* The whole BAR */
	struct bar_fd map;
};

FIXTURE_VARIANT(mappings) {
	bool dmabuf;
};

FIXTURE_VARIANT_ADD(mappings, device_fd) {
	.dmabuf = false,
};

FIXTURE_VARIANT_ADD(mappings, dmabuf) {
	.dmabuf = true,
};

FIXTURE_SETUP(mappings)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = ram_test_init(t, device_bdf, SZ_64K, variant->dmabuf);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->map = bar_test_fd(t, t->bar, variant->dmabuf);
}

FIXTURE_TEARDOWN(mappings)
{
	bar_fd_close(&self->map);
	bar_test_close(&self->t);
}

/* Far more mappings than a process usually has. Each can be unmapped by itself. */
TEST_F(mappings, many)
{
	struct bar_test *t = &self->t;
	void *vaddr[512];

	for (int i = 0; i < ARRAY_SIZE(vaddr); i++) {
		vaddr[i] = bar_fd_mmap(&self->map, i % NR_PAGES * t->page, t->page, RW);
		if (i % 64 == 0)
			ASSERT_EQ(0, bar_fd_check_page(&self->map, vaddr[i],
						       i % NR_PAGES * t->page, true));
	}

	for (int i = 0; i < ARRAY_SIZE(vaddr); i += 2)
		ASSERT_EQ(0, munmap(vaddr[i], t->page));

	for (int i = 1; i < ARRAY_SIZE(vaddr); i += 2) {
		ASSERT_EQ(0, bar_fd_check_page(&self->map, vaddr[i],
					       i % NR_PAGES * t->page, true));
		ASSERT_EQ(0, munmap(vaddr[i], t->page));
	}
}

/* MAP_FIXED over a page of a mapping, which succeeds and which does not */
TEST_F(mappings, overlay)
{
	struct bar_test *t = &self->t;
	void *vaddr = bar_fd_mmap(&self->map, 0, 5 * t->page, RW);
	u64 offset = 7 * t->page;

	ASSERT_EQ(0, bar_fd_check_pages(&self->map, vaddr, 0, 5 * t->page));
	ASSERT_EQ(vaddr + 2 * t->page,
		  mmap(vaddr + 2 * t->page, t->page, RW, MAP_SHARED | MAP_FIXED,
		       self->map.fd, self->map.base + offset));
	ASSERT_EQ(0, bar_fd_check_page(&self->map, vaddr + 2 * t->page, offset, true));
	ASSERT_EQ(0, bar_fd_check_pages(&self->map, vaddr, 0, 2 * t->page));
	ASSERT_EQ(0, bar_fd_check_pages(&self->map, vaddr + 3 * t->page, 3 * t->page,
					2 * t->page));

	/* It may leave a hole. The other pages are not affected. */
	ASSERT_EQ(MAP_FAILED, mmap(vaddr + t->page, t->page, PROT_READ,
				   MAP_SHARED | MAP_FIXED, t->device->fd,
				   t->device->config_space.offset));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(0, bar_fd_check_page(&self->map, vaddr, 0, true));
	ASSERT_EQ(0, bar_fd_check_page(&self->map, vaddr + 2 * t->page, offset, true));
	ASSERT_EQ(0, munmap(vaddr, 5 * t->page));
}

/* A mapping through a file descriptor that is closed before the other one */
TEST_F(mappings, dup)
{
	struct bar_test *t = &self->t;
	struct bar_fd copy = self->map;
	void *vaddr, *other;

	copy.fd = dup(self->map.fd);
	ASSERT_GE(copy.fd, 0);
	vaddr = bar_fd_mmap(&copy, 0, 3 * t->page, RW);
	ASSERT_EQ(0, close(copy.fd));
	ASSERT_EQ(0, bar_fd_check_pages(&self->map, vaddr, 0, 3 * t->page));

	other = bar_fd_mmap(&self->map, t->page, 2 * t->page, RW);
	ASSERT_EQ(0, munmap(vaddr, 3 * t->page));
	ASSERT_EQ(0, bar_fd_check_pages(&self->map, other, t->page, 2 * t->page));
	ASSERT_EQ(0, munmap(other, 2 * t->page));
}

/* MADV_DONTNEED is refused, and the mapping can still be used. */
TEST_F(mappings, madvise_dontneed)
{
	struct bar_test *t = &self->t;
	void *vaddr = bar_fd_mmap(&self->map, t->page, 2 * t->page, RW);

	ASSERT_EQ(-1, madvise(vaddr, 2 * t->page, MADV_DONTNEED));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(0, bar_fd_check_pages(&self->map, vaddr, t->page, 2 * t->page));
	ASSERT_EQ(0, munmap(vaddr, 2 * t->page));
}

static void assert_unmapped(struct __test_metadata *_metadata, void *vaddr)
{
	u32 value;

	ASSERT_EQ(SIGSEGV, mmio_read32(vaddr, &value));
}

TEST_F(mappings, protection)
{
	struct bar_fd *map = &self->map;
	u64 page = self->t.page;
	struct vma_info vma;
	void *vaddr;
	u32 value;

	vaddr = bar_fd_mmap(map, page, page, PROT_NONE);
	ASSERT_EQ(SIGSEGV, mmio_read32(vaddr, &value));
	ASSERT_EQ(SIGSEGV, mmio_write32(vaddr, 0));
	ASSERT_EQ(0, mprotect(vaddr, page, RW));
	ASSERT_EQ(0, bar_fd_check_page(map, vaddr, page, true));
	ASSERT_EQ(0, munmap(vaddr, page));

	vaddr = bar_fd_mmap(map, page, page, PROT_READ);
	ASSERT_TRUE(vma_info_get(vaddr, &vma));
	ASSERT_STREQ("r--s", vma.perms);
	ASSERT_EQ(0, bar_fd_check_page(map, vaddr, page, false));
	ASSERT_EQ(SIGSEGV, mmio_write32(vaddr, 0));
	ASSERT_EQ(0, bar_fd_check_page(map, vaddr, page, false));
	ASSERT_EQ(0, mprotect(vaddr, page, RW));
	ASSERT_EQ(0, bar_fd_check_page(map, vaddr, page, true));
	ASSERT_EQ(0, munmap(vaddr, page));
}

TEST_F(mappings, split_by_munmap)
{
	struct bar_fd *map = &self->map;
	u64 page = self->t.page;
	/* The seam of the ranges of the DMABUF is in the mapping. */
	u64 offset = map->size / 2 - 4 * page;
	struct vma_info vma;
	void *vaddr;

	for (int touch = 0; touch < 2; touch++) {
		vaddr = bar_fd_mmap(map, offset, 7 * page, RW);
		if (touch)
			ASSERT_EQ(0, bar_fd_check_pages(map, vaddr, offset, 7 * page));

		/* Two holes: pages 0 1 - 3 4 - 6 */
		ASSERT_EQ(0, munmap(vaddr + 2 * page, page));
		ASSERT_EQ(0, munmap(vaddr + 5 * page, page));

		for (u64 at = 0; at < 7 * page; at += page) {
			if (at == 2 * page || at == 5 * page) {
				assert_unmapped(_metadata, vaddr + at);
				continue;
			}
			ASSERT_EQ(0, bar_fd_check_page(map, vaddr + at, offset + at, true));
		}

		ASSERT_TRUE(vma_info_get(vaddr + 3 * page, &vma));
		ASSERT_EQ((uintptr_t)vaddr + 3 * page, vma.start);
		ASSERT_EQ((uintptr_t)vaddr + 5 * page, vma.end);
		ASSERT_EQ(map->base + offset + 3 * page, vma.offset);

		/* Only the last part is left. */
		ASSERT_EQ(0, munmap(vaddr, 5 * page));
		ASSERT_EQ(0, bar_fd_check_page(map, vaddr + 6 * page, offset + 6 * page, true));
		ASSERT_EQ(0, munmap(vaddr, 7 * page));
	}
}

TEST_F(mappings, split_by_mprotect)
{
	struct bar_fd *map = &self->map;
	u64 page = self->t.page;
	u64 offset = map->size / 2 - 3 * page;
	void *vaddr;

	for (int touch = 0; touch < 2; touch++) {
		vaddr = bar_fd_mmap(map, offset, 6 * page, RW);
		if (touch)
			ASSERT_EQ(0, bar_fd_check_pages(map, vaddr, offset, 6 * page));

		ASSERT_EQ(0, mprotect(vaddr + 2 * page, 2 * page, PROT_READ));

		for (u64 at = 0; at < 6 * page; at += page) {
			bool ro = at == 2 * page || at == 3 * page;

			ASSERT_EQ(0, bar_fd_check_page(map, vaddr + at, offset + at, !ro));
			if (ro)
				ASSERT_EQ(SIGSEGV, mmio_write32(vaddr + at, 0));
		}

		ASSERT_EQ(0, mprotect(vaddr + 2 * page, 2 * page, RW));
		ASSERT_EQ(0, bar_fd_check_pages(map, vaddr, offset, 6 * page));
		ASSERT_EQ(0, munmap(vaddr, 6 * page));
	}
}

TEST_F(mappings, mremap_move)
{
	struct bar_fd *map = &self->map;
	u64 page = self->t.page;
	u64 sizes[] = { page, 5 * page, map->size };
	struct vma_info vma;
	void *old, *new;

	for (int i = 0; i < 2 * ARRAY_SIZE(sizes); i++) {
		u64 size = sizes[i / 2];
		u64 offset = map->size - size;

		old = bar_fd_mmap(map, offset, size, RW);
		if (i % 2)
			ASSERT_EQ(0, bar_fd_check_pages(map, old, offset, size));

		/* Huge pages do not fit at the new address. */
		new = mmap_reserve(size, SZ_1G, page);
		ASSERT_EQ(new, mremap(old, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, new));

		assert_unmapped(_metadata, old);
		ASSERT_TRUE(vma_info_get(new, &vma));
		ASSERT_EQ(map->base + offset, vma.offset);
		ASSERT_EQ(0, bar_fd_check_pages(map, new, offset, size));
		ASSERT_EQ(0, munmap(new, size));
	}
}

TEST_F(mappings, mremap_resize)
{
	struct bar_fd *map = &self->map;
	u64 page = self->t.page;
	struct {
		u64 old, new;
		int flags, error;
	} refused[] = {
		{ 2 * page, 4 * page, 0, EFAULT },
		{ 2 * page, 4 * page, MREMAP_MAYMOVE, EFAULT },
		{ 0, page, MREMAP_MAYMOVE, EFAULT },
		{ 2 * page, 2 * page, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, EINVAL },
	};
	void *vaddr;

	vaddr = bar_fd_mmap(map, 4 * page, 4 * page, RW);
	ASSERT_EQ(0, bar_fd_check_pages(map, vaddr, 4 * page, 4 * page));
	ASSERT_EQ(vaddr, mremap(vaddr, 4 * page, 2 * page, 0));
	assert_unmapped(_metadata, vaddr + 2 * page);

	for (int i = 0; i < ARRAY_SIZE(refused); i++) {
		ASSERT_EQ(MAP_FAILED, mremap(vaddr, refused[i].old, refused[i].new,
					     refused[i].flags));
		ASSERT_EQ(refused[i].error, errno);
	}

	ASSERT_EQ(0, bar_fd_check_pages(map, vaddr, 4 * page, 2 * page));
	ASSERT_EQ(0, munmap(vaddr, 2 * page));
}

TEST_F(mappings, fork)
{
	struct bar_fd *map = &self->map;
	u64 page = self->t.page;
	u64 offset = map->size / 2 - 2 * page;
	u32 pattern[4], value;
	void *vaddr;
	int status;
	pid_t pid;

	/* One page is present at the time of the fork. */
	vaddr = bar_fd_mmap(map, offset, 4 * page, RW);
	ASSERT_EQ(0, bar_fd_check_page(map, vaddr, offset, true));
	for (int i = 0; i < 4; i++)
		pattern[i] = vfio_pci_ram_fill(map->device, map->bar,
					       bar_fd_to_bar(map, offset + i * page));

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		for (int i = 0; i < 4; i++) {
			if (mmio_read32(vaddr + i * page, &value) || value != pattern[i])
				_exit(1);
		}

		/* The parent keeps its own mapping of this page. */
		if (munmap(vaddr, page))
			_exit(2);
		if (mmio_write32(vaddr + 3 * page, ~pattern[3]))
			_exit(3);
		_exit(0);
	}

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_EQ(0, WEXITSTATUS(status));

	ASSERT_EQ(0, mmio_read32(vaddr + 3 * page, &value));
	ASSERT_EQ(~pattern[3], value);
	ASSERT_EQ(0, bar_fd_check_pages(map, vaddr, offset, 4 * page));
	ASSERT_EQ(0, munmap(vaddr, 4 * page));
}

/* Two DMABUFs that overlap, and the device file */
TEST_F(mappings, overlapping)
{
	struct bar_test *t = &self->t;
	u64 page = t->page;
	struct bar_fd maps[3];
	void *vaddrs[3];
	u32 value;

	if (!self->map.is_dmabuf)
		return;

	maps[0] = bar_fd_export_range(t->device, t->bar, 4 * page, 4 * page, O_RDWR);
	maps[1] = bar_fd_export_range(t->device, t->bar, 6 * page, 4 * page, O_RDWR);
	maps[2] = bar_fd_device(t->device, t->bar);
	vaddrs[0] = bar_fd_mmap(&maps[0], 3 * page, page, RW);
	vaddrs[1] = bar_fd_mmap(&maps[1], page, page, RW);
	vaddrs[2] = bar_fd_mmap(&maps[2], 7 * page, page, RW);

	for (int i = 0; i < 3; i++) {
		u32 pattern = ~vfio_pci_ram_fill(t->device, t->bar, 7 * page);

		ASSERT_EQ(0, mmio_write32(vaddrs[i], pattern));
		for (int j = i; j < 3; j++) {
			ASSERT_EQ(0, mmio_read32(vaddrs[j], &value));
			ASSERT_EQ(pattern, value);
		}

		ASSERT_EQ(0, munmap(vaddrs[i], page));
		bar_fd_close(&maps[i]);
	}
}

/* Enough processes to preempt one in the middle, and enough mappings to look at */
#define NR_OBSERVERS 8
#define NR_OBSERVED 64
#define OBSERVED_SECONDS 5
#define FIRST_LOOK_SECONDS 30
#define EXIT_TIMEOUT_MS 15000

/* The IOMMU mode decides which file is busy: that of the group or of the device. */
FIXTURE(observed) {
	struct bar_test t;
};

FIXTURE_VARIANT(observed) {
	const char *iommu_mode;
};

#define FIXTURE_VARIANT_ADD_IOMMU_MODE(_iommu_mode)			       \
FIXTURE_VARIANT_ADD(observed, _iommu_mode) {				       \
	.iommu_mode = #_iommu_mode,					       \
}

FIXTURE_VARIANT_ADD_ALL_IOMMU_MODES();

#undef FIXTURE_VARIANT_ADD_IOMMU_MODE

FIXTURE_SETUP(observed)
{
	const char *missing;

	missing = bar_test_init(&self->t, device_bdf, variant->iommu_mode, getpagesize());
	if (!missing && sysconf(_SC_NPROCESSORS_ONLN) < 2)
		missing = "needs two processors";
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);
}

FIXTURE_TEARDOWN(observed)
{
	bar_test_close(&self->t);
}

/* Look at all mappings of a process again and again, as monitors do. */
static void observe(pid_t pid, atomic_int *nr_looks)
{
	char path[PATH_MAX], target[PATH_MAX];
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf_assert(path, sizeof(path), "/proc/%d/map_files", pid);

	for (;;) {
		dir = opendir(path);
		if (!dir)
			_exit(1);

		while ((entry = readdir(dir))) {
			/* It may be gone already. */
			if (readlinkat(dirfd(dir), entry->d_name, target,
				       sizeof(target)) > 0 &&
			    strstr(target, "vfio"))
				(*nr_looks)++;
			fstatat(dirfd(dir), entry->d_name, &st, 0);
		}
		closedir(dir);
	}
}

/*
 * After munmap() of its last mapping the device is not busy. Processes that look at
 * /proc/PID/map_files hold paths to mappings for a moment, which does not matter.
 */
TEST_F_TIMEOUT(observed, close, 180)
{
	struct bar_test *t = &self->t;
	size_t size = NR_OBSERVED * t->page;
	pid_t pids[NR_OBSERVERS];
	atomic_int *nr_looks;
	int ret = 0, rounds;
	time_t end;

	nr_looks = mmap(NULL, t->page, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, nr_looks);

	/* The observers must not inherit the device. */
	bar_test_close(t);
	for (int i = 0; i < NR_OBSERVERS; i++) {
		pid_t parent = getpid();

		pids[i] = fork();
		ASSERT_GE(pids[i], 0);
		if (!pids[i])
			observe(parent, nr_looks);
	}

	end = time(NULL) + OBSERVED_SECONDS;
	for (rounds = 0; !ret && (!rounds || time(NULL) < end); rounds++) {
		void *vaddr;

		bar_test_open(t);
		vaddr = mmap_reserve(size, t->page, 0);
		for (int i = 0; i < NR_OBSERVED; i++)
			ASSERT_EQ(vaddr + i * t->page,
				  mmap(vaddr + i * t->page, t->page, PROT_READ,
				       MAP_SHARED | MAP_FIXED, t->device->fd,
				       t->device->bars[t->bar].info.offset));
		/* On a slow machine the observers may need longer than a round. */
		while (!atomic_load(nr_looks) && time(NULL) < end + FIRST_LOOK_SECONDS)
			sched_yield();
		bar_test_close(t);
		ASSERT_EQ(0, munmap(vaddr, size));
		ret = __vfio_pci_device_try_open(device_bdf, variant->iommu_mode);
	}

	for (int i = 0; i < NR_OBSERVERS; i++) {
		ASSERT_EQ(0, kill(pids[i], SIGKILL));
		ASSERT_EQ(128 + SIGKILL, wait_child(pids[i], EXIT_TIMEOUT_MS));
	}

	ASSERT_EQ(0, ret)
		TH_LOG("Round %d: the device is busy after the last munmap(): %s",
		       rounds, strerror(-ret));
	ASSERT_GT(atomic_load(nr_looks), 0)
		TH_LOG("The observers have not seen a mapping of the device");
	TH_LOG("%d rounds, %d looks at mappings of the device", rounds,
	       atomic_load(nr_looks));
	ASSERT_EQ(0, munmap(nr_looks, t->page));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
