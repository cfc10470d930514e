// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <linux/dma-buf.h>
#include <linux/io.h>
#include <linux/membarrier.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "tests.h"

const char *ram_test_init(struct bar_test *t, const char *bdf, u64 min_size, bool dmabuf)
{
	const char *missing = bar_test_init(t, bdf, MODE_IOMMUFD, min_size);

	if (!missing && !t->ram)
		missing = NO_RAM_BAR;
	if (!missing && dmabuf)
		missing = vfio_pci_dmabuf_mmap_missing(t->device, t->bar);

	return missing;
}

void two_bdfs_get(int *argc, char *argv[], const char *bdfs[2])
{
	int nr_bdfs;
	char **args = vfio_selftests_get_bdfs(argc, argv, &nr_bdfs);

	bdfs[0] = args[0];
	if (nr_bdfs > 1)
		bdfs[1] = args[1];
}

#define SEED_ENV "VFIO_SELFTESTS_SEED"

#define UNBIND_TIMEOUT_MS 15000

struct vfio_pci_device *device_open(const char *bdf)
{
	struct vfio_pci_device *device;

	device = vfio_pci_device_init(bdf, iommu_init(MODE_IOMMUFD));
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);

	return device;
}

void device_close(struct vfio_pci_device *device)
{
	struct iommu *iommu = device->iommu;

	vfio_pci_device_cleanup(device);
	iommu_cleanup(iommu);
}

bool driver_rebind(const char *bdf)
{
	char *driver = sysfs_driver_get(bdf);
	int ret;

	VFIO_ASSERT_NOT_NULL(driver);
	ret = __sysfs_driver_unbind_timeout(bdf, driver, UNBIND_TIMEOUT_MS);
	if (!ret)
		sysfs_driver_bind(bdf, driver);
	free(driver);

	return !ret;
}

void wait_rcu(void)
{
	/* It waits for a grace period. After a second one, callbacks of the first ran. */
	for (int i = 0; i < 2; i++) {
		/* CONFIG_MEMBARRIER can be switched off. */
		if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
			usleep(200000);
	}
}

void wait_until_asleep(pid_t tid)
{
	char path[64], state;
	FILE *file;
	int nr;

	snprintf_assert(path, sizeof(path), "/proc/%d/stat", tid);
	do {
		sched_yield();
		file = fopen(path, "r");
		if (!file)
			return;
		/* The name of the thread is in parentheses and has no spaces here. */
		nr = fscanf(file, "%*d %*s %c", &state);
		VFIO_ASSERT_EQ(fclose(file), 0);
	} while (nr == 1 && state == 'R');
}

u64 now_ns(void)
{
	struct timespec ts;

	VFIO_ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &ts), 0);

	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

u64 now_ms(void)
{
	return now_ns() / 1000000;
}

u64 random_seed(void)
{
	const char *env = getenv(SEED_ENV);
	u64 seed;

	seed = env ? strtoull(env, NULL, 0) : (u64)time(NULL) << 16 ^ getpid();
	seed = seed ?: 1;
	fprintf(stderr, "# " SEED_ENV "=%llu\n", (unsigned long long)seed);

	return seed;
}

/* xorshift64*: its upper bits are the better ones */
u64 random_next(u64 *state)
{
	u64 x = *state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;

	x *= 0x2545f4914f6cdd1dULL;
	return x << 32 | x >> 32;
}

size_t thp_pud_size(void)
{
	size_t size = 0;
#ifdef __x86_64__
	char word[64];
	FILE *file;

	/* The kernel does not say. It uses what the processor has. */
	file = fopen("/proc/cpuinfo", "r");
	VFIO_ASSERT_NOT_NULL(file);
	while (!size && fscanf(file, "%63s", word) == 1) {
		if (!strcmp(word, "pdpe1gb"))
			size = SZ_1G;
	}
	VFIO_ASSERT_EQ(fclose(file), 0);
#endif
	return thp_pmd_size() ? size : 0;
}

int read_pages(const void *addr, size_t stride, int nr)
{
	struct iovec iov[READ_PAGES_MAX];
	ssize_t len;
	int fds[2];

	VFIO_ASSERT_LE(nr, READ_PAGES_MAX);
	for (int i = 0; i < nr; i++) {
		iov[i].iov_base = (void *)addr + i * stride;
		iov[i].iov_len = sizeof(u32);
	}

	/* All of it fits into the pipe. */
	VFIO_ASSERT_EQ(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	len = writev(fds[1], iov, nr);
	VFIO_ASSERT_EQ(close(fds[0]), 0);
	VFIO_ASSERT_EQ(close(fds[1]), 0);

	return len < 0 ? 0 : len / sizeof(u32);
}

int write_file(const char *path, const char *value)
{
	int ret = 0;
	int fd;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;

	if (write(fd, value, strlen(value)) < 0)
		ret = -errno;
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

int read_file(const char *path, char *value, size_t size)
{
	ssize_t len;
	int ret = 0;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;

	len = read(fd, value, size - 1);
	if (len < 0)
		ret = -errno;
	value[len < 0 ? 0 : len] = 0;
	value[strcspn(value, "\n")] = 0;
	VFIO_ASSERT_EQ(close(fd), 0);

	return ret;
}

static void *waiter_thread(void *arg)
{
	struct waiter *waiter = arg;

	waiter->tid = syscall(SYS_gettid);
	waiter->ret = waiter->fn(waiter->arg);
	waiter->done = true;

	return NULL;
}

void waiter_start(struct waiter *waiter)
{
	VFIO_ASSERT_EQ(pthread_create(&waiter->thread, NULL, waiter_thread, waiter), 0);
}

bool waiter_blocks(struct waiter *waiter)
{
	while (!waiter->tid)
		sched_yield();
	wait_until_asleep(waiter->tid);
	usleep(WAITER_US);

	return !waiter->done;
}

int waiter_join(struct waiter *waiter)
{
	VFIO_ASSERT_EQ(pthread_join(waiter->thread, NULL), 0);

	return waiter->ret;
}

#define BUFINFO "/sys/kernel/debug/dma_buf/bufinfo"

int nr_vfio_dmabufs(u64 size)
{
	char line[256], exporter[64];
	unsigned long line_size;
	FILE *file;
	int nr = 0;

	if (!debugfs_mount())
		return -ENOENT;
	file = fopen(BUFINFO, "r");
	if (!file)
		return -ENOENT;

	/* size, flags, mode, count, exporter, inode, name */
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lu %*x %*x %*d %63s", &line_size, exporter) == 2 &&
		    !strncmp(exporter, "vfio", strlen("vfio")) && line_size == size)
			nr++;
	}
	VFIO_ASSERT_EQ(fclose(file), 0);

	return nr;
}

struct sw_sync_create_fence_data {
	__u32 value;
	char name[32];
	__s32 fence;
};

#define SW_SYNC_IOC_CREATE_FENCE _IOWR('W', 0, struct sw_sync_create_fence_data)
#define SW_SYNC_IOC_INC _IOW('W', 1, __u32)

int sw_sync_open(void)
{
	int fd;

	if (!debugfs_mount())
		return -ENOENT;

	fd = open(SW_SYNC, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

void sw_sync_add_fence(int timeline, u32 value, int dmabuf)
{
	struct sw_sync_create_fence_data fence = { .value = value };
	struct dma_buf_import_sync_file sync_file = {
		.flags = DMA_BUF_SYNC_RW,
	};

	ioctl_assert(timeline, SW_SYNC_IOC_CREATE_FENCE, &fence);
	sync_file.fd = fence.fence;
	ioctl_assert(dmabuf, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &sync_file);
	VFIO_ASSERT_EQ(close(fence.fence), 0);
}

void sw_sync_advance(int timeline)
{
	__u32 by = 1;

	ioctl_assert(timeline, SW_SYNC_IOC_INC, &by);
}

static void region_get(struct vfio_pci_device *device, int index,
		       struct vfio_region_info *info)
{
	memset(info, 0, sizeof(*info));
	info->argsz = sizeof(*info);
	info->index = index;
	ioctl_assert(device->fd, VFIO_DEVICE_GET_REGION_INFO, info);
}

struct vfio_pci_device *sibling_open(const char *bdf, struct vfio_pci_device *first)
{
	struct vfio_pci_device *device;

	if (!first->group_fd)
		return vfio_pci_device_init(bdf, first->iommu);

	/* The group can be opened once only, so libvfio cannot open a second device. */
	device = vfio_pci_device_alloc(bdf, first->iommu);
	device->group_fd = dup(first->group_fd);
	VFIO_ASSERT_GE(device->group_fd, 0);
	__vfio_pci_group_get_device_fd(device, bdf, NULL);
	VFIO_ASSERT_GE(device->fd, 0);

	device->info.argsz = sizeof(device->info);
	ioctl_assert(device->fd, VFIO_DEVICE_GET_INFO, &device->info);
	region_get(device, VFIO_PCI_CONFIG_REGION_INDEX, &device->config_space);
	for (int i = 0; i < PCI_STD_NUM_BARS; i++)
		region_get(device, i, &device->bars[i].info);
	for (int i = 0; i < ARRAY_SIZE(device->msi_eventfds); i++)
		device->msi_eventfds[i] = -1;

	return device;
}

bool hot_reset_is_pair(struct vfio_pci_device *a, struct vfio_pci_device *b)
{
	size_t slot = strrchr(a->bdf, '.') - a->bdf + 1;

	return vfio_pci_hot_reset_count(a) == 2 && strcmp(a->bdf, b->bdf) &&
	       !strncmp(a->bdf, b->bdf, slot);
}

#define PGPROT_FILE "/sys/kernel/debug/pgprot_test"

const char *pgprot_missing(void)
{
	if (!debugfs_mount())
		return "debugfs cannot be mounted";

	return access(PGPROT_FILE, R_OK | W_OK) ? "the module pgprot_test is not loaded" : NULL;
}

void pgprot_get(const void *addr, struct pgprot_entry *entry)
{
	unsigned long long size;
	char answer[128];
	int fd, nr, writable;
	ssize_t len;

	memset(entry, 0, sizeof(*entry));

	fd = open(PGPROT_FILE, O_RDWR | O_CLOEXEC);
	VFIO_ASSERT_GE(fd, 0);
	len = dprintf(fd, "%#lx", (unsigned long)addr);
	VFIO_ASSERT_GT(len, 0, "The module does not know %p\n", addr);
	len = pread(fd, answer, sizeof(answer) - 1, 0);
	VFIO_ASSERT_GT(len, 0);
	VFIO_ASSERT_EQ(close(fd), 0);
	answer[len] = 0;

	if (!strcmp(answer, "none\n"))
		return;

	nr = sscanf(answer, "type=%15s size=%llu writable=%d", entry->type, &size,
		    &writable);
	VFIO_ASSERT_EQ(nr, 3, "Unknown format: %s", answer);
	entry->present = true;
	entry->size = size;
	entry->writable = writable;
}

bool pgprot_is_wc(const struct pgprot_entry *entry)
{
	return !strcmp(entry->type, "WC") || !strcmp(entry->type, "Normal-NC");
}

/* The type of pgprot_noncached() */
bool pgprot_is_uc(const struct pgprot_entry *entry)
{
	return !strcmp(entry->type, "UC-") || !strcmp(entry->type, "Device-nGnRnE");
}

#define EDU_STATUS 0x20
#define  EDU_STATUS_DMA_FAILED 0x100
#define EDU_DMA_SRC 0x80
#define EDU_DMA_DST 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_CMD 0x98
#define  EDU_DMA_CMD_RUN 1
#define  EDU_DMA_CMD_TO_HOST 2
#define EDU_BUFFER 0x40000

const char *edu_plus_missing(struct vfio_pci_device *device)
{
	return vfio_pci_device_match(device, 0x1234, 0x11e8) &&
	       vfio_pci_config_readb(device, PCI_REVISION_ID) >= 0x20 ? NULL : "not an edu-plus";
}

static int edu_plus_transfer(struct vfio_pci_device *device, u64 src, u64 dst, u64 size, u64 cmd)
{
	void *registers = device->bars[0].vaddr;

	writeq(src, registers + EDU_DMA_SRC);
	writeq(dst, registers + EDU_DMA_DST);
	writeq(size, registers + EDU_DMA_COUNT);
	writeq(EDU_DMA_CMD_RUN | cmd, registers + EDU_DMA_CMD);

	return readl(registers + EDU_STATUS) & EDU_STATUS_DMA_FAILED ? -EIO : 0;
}

int edu_plus_read(struct vfio_pci_device *device, u64 iova, u64 offset, u64 size)
{
	return edu_plus_transfer(device, iova, EDU_BUFFER + offset, size, 0);
}

int edu_plus_write(struct vfio_pci_device *device, u64 offset, u64 iova, u64 size)
{
	return edu_plus_transfer(device, EDU_BUFFER + offset, iova, size, EDU_DMA_CMD_TO_HOST);
}

int edu_plus_copy(struct vfio_pci_device *device, u64 src, u64 dst, u64 size)
{
	return edu_plus_read(device, src, 0, size) ?: edu_plus_write(device, 0, dst, size);
}
