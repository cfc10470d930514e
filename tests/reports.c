// SPDX-License-Identifier: GPL-2.0-only
/*
 * What programs do with mappings of BARs, according to public reports about such programs.
 * The unpatched kernel gives the same for the device file; a comment says where it does
 * not. Reports with tests elsewhere: observers of map_files (mappings.c, opath.c), hints
 * (addresses.c), remap_file_pages() and the names in /proc (vfio_pci_mmap_test), hot resets
 * while clients access a device (hot_reset.c, importer.c), memory cgroups (cgroup.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define RW (PROT_READ | PROT_WRITE)
#define NR_PAGES 8

FIXTURE(reports) {
	struct bar_test t;
	struct bar_fd map;
	u64 size;
	void *vaddr;
};

FIXTURE_VARIANT(reports) {
	bool dmabuf;
};

FIXTURE_VARIANT_ADD(reports, device_fd) { };
FIXTURE_VARIANT_ADD(reports, dmabuf) { .dmabuf = true };

FIXTURE_SETUP(reports)
{
	struct bar_test *t = &self->t;
	const char *missing = ram_test_init(t, device_bdf, SZ_64K, variant->dmabuf);

	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->map = bar_test_fd(t, t->bar, variant->dmabuf);
	self->size = NR_PAGES * t->page;
	self->vaddr = bar_fd_mmap(&self->map, 0, self->size, RW);
}

FIXTURE_TEARDOWN(reports)
{
	munmap(self->vaddr, self->size);
	bar_fd_close(&self->map);
	bar_test_close(&self->t);
}

static sigjmp_buf on_sigbus;
static siginfo_t sigbus_info;

static void sigbus(int signal, siginfo_t *info, void *context)
{
	sigbus_info = *info;
	siglongjmp(on_sigbus, 1);
}

/*
 * A handler of SIGBUS needs the code and the address: QEMU and lf-edge/eve issue 6171,
 * SPDK issues 527 and 2873, DPDK's handler for hot removal. In a system call it is EFAULT.
 */
TEST_F(reports, sigbus)
{
	struct sigaction action = { .sa_sigaction = sigbus, .sa_flags = SA_SIGINFO }, old;
	volatile u32 *word = self->vaddr + 3 * self->t.page + 8;
	int fds[2];

	ASSERT_EQ(0, bar_fd_check_pages(&self->map, self->vaddr, 0, self->size));
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(NULL, vfio_pci_bars_revoke(self->t.device, VFIO_PCI_BAR_MEMORY_DECODE));

	ASSERT_EQ(0, sigaction(SIGBUS, &action, &old));
	if (!sigsetjmp(on_sigbus, 1)) {
		(void)*word;
		ASSERT_TRUE(false) TH_LOG("the read returned");
	}
	ASSERT_EQ(0, sigaction(SIGBUS, &old, NULL));
	ASSERT_EQ(BUS_ADRERR, sigbus_info.si_code);
	ASSERT_EQ((void *)word, sigbus_info.si_addr);

	ASSERT_EQ(-1, write(fds[1], (void *)word, 4));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_EQ(4, write(fds[1], "abcd", 4));
	ASSERT_EQ(-1, read(fds[0], (void *)word, 4));
	ASSERT_EQ(EFAULT, errno);

	vfio_pci_bars_restore(self->t.device, VFIO_PCI_BAR_MEMORY_DECODE);
	ASSERT_EQ(0, bar_fd_check_pages(&self->map, self->vaddr, 0, self->size));
	ASSERT_EQ(4, write(fds[1], (void *)word, 4));
	ASSERT_EQ(0, close(fds[0]));
	ASSERT_EQ(0, close(fds[1]));
}

/*
 * Arguments of system calls that are in a BAR, as programs that load firmware do it: no
 * lock of a call may be one that a fault takes.
 */
TEST_F(reports, arguments)
{
	struct vfio_device_info *info = self->vaddr;
	struct vfio_device_feature *feature = self->vaddr;
	struct vfio_device_feature_dma_buf *export = (void *)feature->data;
	struct vfio_pci_device *device = self->t.device;
	u64 ram = device->bars[self->t.bar].info.offset;
	int fd;

	*info = (struct vfio_device_info) { .argsz = sizeof(*info) };
	ASSERT_EQ(0, ioctl(device->fd, VFIO_DEVICE_GET_INFO, info));
	ASSERT_LT(0, info->num_regions);

	/* The device reads and writes itself. */
	ASSERT_EQ(8, pwrite(device->fd, self->vaddr, 8, ram + 2 * self->t.page));
	ASSERT_EQ(8, pread(device->fd, self->vaddr, 8, ram + 2 * self->t.page));
	ASSERT_EQ(2, pwrite(device->fd, self->vaddr, 2,
			    device->config_space.offset + PCI_CACHE_LINE_SIZE));

	if (!variant->dmabuf)
		return;
	memset(feature, 0, sizeof(*feature) + sizeof(*export) + 16);
	feature->argsz = sizeof(*feature) + sizeof(*export) + 16;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	export->region_index = self->t.bar;
	export->open_flags = O_RDWR | O_CLOEXEC;
	export->nr_ranges = 1;
	export->dma_ranges[0].length = self->t.page;
	fd = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, close(fd));
}

/* The same for a revoke, of another DMABUF or of the one that has the arguments */
TEST_F(reports, revoke)
{
	struct vfio_pci_dmabuf_revoke *revoke = self->vaddr;
	struct vfio_pci_device *device = self->t.device;
	const char *missing = vfio_pci_dmabuf_revoke_missing(device);
	int fd = self->map.fd;

	if (missing)
		SKIP(return, "%s", missing);
	if (!variant->dmabuf)
		fd = vfio_pci_dmabuf_export(device, self->t.bar, 0, self->t.page);
	*revoke = (struct vfio_pci_dmabuf_revoke) {
		.argsz = sizeof(*revoke),
		.dmabuf_fd = fd,
	};
	ASSERT_EQ(0, ioctl(device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, revoke));
	ASSERT_EQ(-1, ioctl(device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, revoke));
	ASSERT_EQ(variant->dmabuf ? EFAULT : EBADFD, errno);
	if (!variant->dmabuf)
		ASSERT_EQ(0, close(fd));
}

/*
 * DPDK maps anonymous memory over a part of a BAR after a hot removal (SPDK issue 527). The
 * other parts keep their pages, also after mremap(). NVIDIA/gdrcopy issue 54 reports a
 * driver that confuses the two offsets.
 */
TEST_F(reports, anonymous_over_bar)
{
	u64 page = self->t.page;
	void *moved;
	u32 value;

	ASSERT_EQ(0, bar_fd_check_pages(&self->map, self->vaddr, 0, self->size));
	ASSERT_EQ(self->vaddr + page, mmap(self->vaddr + page, page, RW,
					   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	moved = mmap_reserve(page, page, 0);
	ASSERT_EQ(moved, mremap(self->vaddr + 3 * page, page, page,
				MREMAP_MAYMOVE | MREMAP_FIXED, moved));

	for (int off = 0; off < 2; off++) {
		*(u32 *)(self->vaddr + page) = 0xabcd;
		ASSERT_EQ(0, bar_fd_check_page(&self->map, self->vaddr, 0, true));
		ASSERT_EQ(0, bar_fd_check_page(&self->map, self->vaddr + 2 * page, 2 * page, true));
		ASSERT_EQ(0, bar_fd_check_page(&self->map, moved, 3 * page, true));
		ASSERT_EQ(SIGSEGV, mmio_read32(self->vaddr + 3 * page, &value));
		ASSERT_EQ(0, bar_fd_check_pages(&self->map, self->vaddr + 4 * page, 4 * page,
						4 * page));
		ASSERT_EQ(NULL, vfio_pci_bars_revoke(self->t.device, VFIO_PCI_BAR_MEMORY_DECODE));
		ASSERT_EQ(SIGBUS, mmio_read32(moved, &value));
		ASSERT_EQ(SIGBUS, mmio_read32(self->vaddr + 4 * page, &value));
		ASSERT_EQ(0xabcd, *(u32 *)(self->vaddr + page));
		vfio_pci_bars_restore(self->t.device, VFIO_PCI_BAR_MEMORY_DECODE);
	}
	ASSERT_EQ(0, munmap(moved, page));
}

/*
 * DPDK's primary process closes the device before it unmaps, and a secondary process never
 * unmaps. A BAR mapping keeps the device open, an exported DMABUF does not.
 */
TEST_F(reports, close_before_munmap)
{
	u32 value, expected = variant->dmabuf ? SIGBUS : 0;
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
	}
	ASSERT_EQ(0, bar_fd_check_pages(&self->map, self->vaddr, 0, self->size));
	/* (A child has the files as well.) */
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));

	bar_test_close(&self->t);
	for (int i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(expected, mmio_read32(self->vaddr + i * getpagesize(), &value));
	ASSERT_EQ(0, munmap(self->vaddr, self->size));

	/* It is free when munmap() has returned. */
	bar_test_open(&self->t);
}

static int child_of_shared_mm(void *arg)
{
	int *fds = arg;
	char c;

	close(fds[1]);
	return read(fds[0], &c, 1);
}

/*
 * Somebody else keeps the mm, as vhost does (kata-containers/runtime issue 1669): the device
 * stays open until that ends, and is free then.
 */
TEST_F(reports, shared_mm)
{
	struct bar_test *t = &self->t;
	int fds[2], ready[2], status;
	pid_t owner, other = 0;
	char c;

	bar_fd_close(&self->map);
	munmap(self->vaddr, self->size);
	bar_test_close(t);
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(0, pipe(ready));

	owner = fork();
	ASSERT_LE(0, owner);
	if (!owner) {
		char *stack = mmap(NULL, SZ_64K, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct bar_fd map;

		bar_test_open(t);
		map = bar_test_fd(t, t->bar, variant->dmabuf);
		bar_fd_mmap(&map, 0, self->size, RW);
		/* Without CLONE_FILES, so that the other has copies, which it closes */
		other = clone(child_of_shared_mm, stack + SZ_64K, CLONE_VM | CLONE_PARENT | SIGCHLD, fds);
		VFIO_ASSERT_EQ(write(ready[1], &other, sizeof(other)), sizeof(other));
		pause();
	}
	ASSERT_EQ(sizeof(other), read(ready[0], &other, sizeof(other)));
	ASSERT_LT(0, other);
	ASSERT_EQ(0, kill(owner, SIGKILL));
	ASSERT_EQ(owner, waitpid(owner, &status, 0));

	ASSERT_NE(0, __vfio_pci_device_try_open(device_bdf, t->iommu_mode));
	ASSERT_EQ(1, write(fds[1], &c, 1));
	ASSERT_EQ(other, waitpid(other, &status, 0));
	ASSERT_EQ(0, __vfio_pci_device_try_open(device_bdf, t->iommu_mode));
	bar_test_open(t);
}

#define EXPECT_ERROR(_errno, _call) do {				\
	errno = 0;							\
	EXPECT_EQ(-1, (long)(_call)) TH_LOG(#_call);			\
	EXPECT_EQ(_errno, errno) TH_LOG(#_call ": %s", strerror(errno));\
} while (0)

/*
 * Debuggers, checkpointers (checkpoint-restore/criu issue 2065), sanitizers and others apply
 * what Linux has to whatever is in /proc/PID/maps. It is refused, or does nothing.
 */
TEST_F(reports, refused)
{
	void *vaddr = self->vaddr;
	u64 page = self->t.page;
	u32 buf;
	int fd;

	ASSERT_EQ(0, bar_fd_check_page(&self->map, vaddr, 0, true));

	/* As debuggers do it. This would go around a revoke. */
	fd = open("/proc/self/mem", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_ERROR(EIO, pread(fd, &buf, 4, (uintptr_t)vaddr));
	EXPECT_ERROR(EIO, pwrite(fd, &buf, 4, (uintptr_t)vaddr));
	ASSERT_EQ(0, close(fd));

	EXPECT_ERROR(EFAULT, syscall(SYS_futex, vaddr, FUTEX_WAKE, 1, NULL, NULL, 0));
	EXPECT_ERROR(EINVAL, madvise(vaddr, page, MADV_DOFORK));
	EXPECT_ERROR(EINVAL, madvise(vaddr, page, MADV_COLD));
	EXPECT_ERROR(EINVAL, madvise(vaddr, page, MADV_PAGEOUT));
	EXPECT_ERROR(EINVAL, madvise(vaddr, page, MADV_FREE));
	EXPECT_ERROR(ENODEV, madvise(vaddr, page, MADV_REMOVE));
	EXPECT_ERROR(EINVAL, madvise(vaddr, page, MADV_DODUMP));
	EXPECT_ERROR(EINVAL, madvise(vaddr, page, MADV_POPULATE_WRITE));
	EXPECT_EQ(0, madvise(vaddr, page, MADV_WILLNEED));
	EXPECT_EQ(0, bar_fd_check_page(&self->map, vaddr, 0, true));
}

/* "Is it faulted in?" */
TEST_F(reports, mincore)
{
	unsigned char resident = 1;

	EXPECT_EQ(0, mincore(self->vaddr, self->t.page, &resident));
	EXPECT_EQ(0, resident & 1);
	ASSERT_EQ(0, bar_fd_check_page(&self->map, self->vaddr, 0, true));
	EXPECT_EQ(0, mincore(self->vaddr, self->t.page, &resident));
	EXPECT_EQ(1, resident & 1);
}

/* QEMU and OFS/opae-sdk issue 380 ask for all pages of a BAR. The faults come later. */
TEST_F(reports, populate)
{
	unsigned char resident = 1;
	void *vaddr;

	vaddr = mmap(NULL, self->size, RW, MAP_SHARED | MAP_POPULATE, self->map.fd,
		     self->map.base);
	ASSERT_NE(MAP_FAILED, vaddr);
	EXPECT_EQ(0, mincore(vaddr, self->t.page, &resident));
	EXPECT_EQ(0, resident & 1);
	EXPECT_EQ(0, bar_fd_check_pages(&self->map, vaddr, 0, self->size));
	ASSERT_EQ(0, munmap(vaddr, self->size));
}

struct unmapper {
	void *vaddr;
	u64 size;
	u64 ns;
};

static int unmap_and_close_device(void *arg)
{
	struct unmapper *unmapper = arg;
	u64 start = now_ns();

	munmap(unmapper->vaddr, unmapper->size);
	unmapper->ns = now_ns() - start;
	return 0;
}

/*
 * The munmap() that closes a device lasts as long as the reset of the device (SPDK issue
 * 1275). Other threads can change the address space meanwhile.
 */
TEST_F(reports, munmap_closes_device)
{
	struct unmapper unmapper = { .vaddr = self->vaddr, .size = self->size };
	int nr = 0, tries = 0;
	u64 longest = 0;

	/* Mappings of DMABUFs do not keep the device open. */
	if (variant->dmabuf)
		return;

	/* A busy host can delay a thread, so try again. */
	do {
		struct waiter waiter = { .fn = unmap_and_close_device, .arg = &unmapper };

		bar_test_close(&self->t);
		nr = longest = 0;
		waiter_start(&waiter);
		while (!atomic_load(&waiter.done)) {
			u64 start = now_ns();
			void *other;

			other = mmap(NULL, self->t.page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			ASSERT_NE(MAP_FAILED, other);
			ASSERT_EQ(0, munmap(other, self->t.page));
			longest = max(longest, now_ns() - start);
			nr++;
			usleep(1000);
		}
		ASSERT_EQ(0, waiter_join(&waiter));
		TH_LOG("munmap(): %u us; %d others meanwhile, at most %u us",
		       (unsigned int)(unmapper.ns / 1000), nr, (unsigned int)(longest / 1000));

		/* (A reset begins with a sleep of 100 ms.) */
		EXPECT_GT(unmapper.ns, 100000000);
		bar_test_open(&self->t);
		self->map = bar_test_fd(&self->t, self->t.bar, false);
		unmapper.vaddr = self->vaddr = bar_fd_mmap(&self->map, 0, self->size, RW);
	} while ((nr < 10 || longest > unmapper.ns / 2) && ++tries < 10);
	EXPECT_GE(nr, 10);
	EXPECT_LE(longest, unmapper.ns / 2);
}

#if defined(__aarch64__)
#define UNALIGNED_UC SIGBUS
#else
#define UNALIGNED_UC 0
#endif

typedef u64 __attribute__((aligned(1))) unaligned_u64;

static int read_unaligned(void *vaddr)
{
	struct sigaction action = { .sa_sigaction = sigbus, .sa_flags = SA_SIGINFO }, old;
	int ret = 0;

	VFIO_ASSERT_EQ(sigaction(SIGBUS, &action, &old), 0);
	if (!sigsetjmp(on_sigbus, 1))
		(void)*(volatile unaligned_u64 *)(vaddr + 1);
	else
		ret = sigbus_info.si_code == BUS_ADRALN ? SIGBUS : -1;
	VFIO_ASSERT_EQ(sigaction(SIGBUS, &old, NULL), 0);
	return ret;
}

/*
 * Unaligned accesses of a BAR: arm64 refuses them unless the mapping is write-combining
 * (tenstorrent/tt-umd issue 2648). The same holds for a page that faults again.
 */
TEST_F(reports, unaligned)
{
	struct vfio_pci_device *device = self->t.device;
	void *wc = NULL;

	/* (This fails where there is no write-combining.) */
	if (variant->dmabuf && !__vfio_pci_dmabuf_set_memattr(device, self->map.fd,
							      VFIO_DEVICE_DMA_BUF_MEMATTR_WC))
		wc = bar_fd_mmap(&self->map, 0, self->size, RW);
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(UNALIGNED_UC, read_unaligned(self->vaddr));
		if (wc)
			ASSERT_EQ(0, read_unaligned(wc));
		if (vfio_pci_bars_revoke(device, VFIO_PCI_BAR_MEMORY_DECODE))
			break;
		vfio_pci_bars_restore(device, VFIO_PCI_BAR_MEMORY_DECODE);
	}
	if (wc)
		ASSERT_EQ(0, munmap(wc, self->size));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
