// SPDX-License-Identifier: GPL-2.0
/*
 * contend device|dmabuf [BDF]
 *
 * Two threads, each on its own processor, fault in different pages of one mapping of a
 * BAR (16384 faults, 8 times), made with the device file or with a DMABUF of the BAR.  The
 * kernel's lock statistics are on only during these faults.  The output is a line
 * "# faults N" and the content of /proc/lock_stat.
 *
 * For a kernel with CONFIG_LOCK_STAT and two processors; see bench/lockstat.
 */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#define THREADS	2
#define PAGES	8192
#define ROUNDS	8

static size_t page;
static pthread_barrier_t barrier;
static void *vaddr;

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	VFIO_ASSERT_NOT_NULL(file, "%s: is CONFIG_LOCK_STAT set?", path);
	VFIO_ASSERT_GE(fputs(text, file), 0);
	VFIO_ASSERT_EQ(fclose(file), 0);
}

static void lock_stat(bool on)
{
	write_file("/proc/sys/kernel/lock_stat", on ? "1" : "0");
}

/* The threads use alternate pages, so that they share page tables. */
static void *toucher(void *arg)
{
	uintptr_t cpu = (uintptr_t)arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	VFIO_ASSERT_EQ(pthread_setaffinity_np(pthread_self(), sizeof(set), &set), 0);

	/* The first round is not measured. */
	for (int round = 0; round <= ROUNDS; round++) {
		/* Now the BAR is mapped, and the statistics are on. */
		pthread_barrier_wait(&barrier);
		for (size_t i = cpu; i < THREADS * PAGES; i += THREADS)
			(void)*(const volatile u32 *)(vaddr + i * page);
		pthread_barrier_wait(&barrier);
	}
	/* The statistics are off. */
	pthread_barrier_wait(&barrier);
	return NULL;
}

static long minflt(void)
{
	struct rusage usage;

	VFIO_ASSERT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
	return usage.ru_minflt;
}

int main(int argc, char *argv[])
{
	size_t size = THREADS * PAGES * sysconf(_SC_PAGESIZE);
	struct vfio_region_dma_range range = { .length = size };
	struct vfio_pci_device *device;
	pthread_t threads[THREADS];
	struct iommu *iommu;
	long faults = 0, before;
	const char *bdf;
	char line[4096];
	u64 offset = 0;
	FILE *file;
	int bar, fd;
	bool dmabuf;

	if (argc < 2 || (strcmp(argv[1], "device") && strcmp(argv[1], "dmabuf")))
		VFIO_LOG_AND_EXIT("usage: contend device|dmabuf [BDF]");
	dmabuf = !strcmp(argv[1], "dmabuf");
	argc--, argv++;
	bdf = vfio_selftests_get_bdf(&argc, argv);
	page = sysconf(_SC_PAGESIZE);
	VFIO_ASSERT_GE(sysconf(_SC_NPROCESSORS_ONLN), THREADS);

	iommu = iommu_init(MODE_IOMMUFD);
	device = vfio_pci_device_init(bdf, iommu);
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
	bar = vfio_pci_largest_bar(device, size);
	VFIO_ASSERT_GE(bar, 0, "%s has no BAR of %zu bytes", bdf, size);

	if (dmabuf) {
		fd = __vfio_pci_dmabuf_export(device, bar, O_RDWR, 1, &range);
		VFIO_ASSERT_GE(fd, 0);
	} else {
		fd = device->fd;
		offset = device->bars[bar].info.offset;
	}

	lock_stat(false);
	write_file("/proc/lock_stat", "0");
	VFIO_ASSERT_EQ(pthread_barrier_init(&barrier, NULL, THREADS + 1), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		VFIO_ASSERT_EQ(pthread_create(&threads[i], NULL, toucher, (void *)i), 0);

	for (int round = 0; round <= ROUNDS; round++) {
		/* No larger page fits at such an address. */
		vaddr = mmap_reserve(size, SZ_2M, page);
		VFIO_ASSERT_EQ(mmap(vaddr, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, offset), vaddr);
		before = minflt();
		if (round)
			lock_stat(true);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		if (round) {
			lock_stat(false);
			faults += minflt() - before;
		} else {
			/* No page of the program, of the stacks or of the library is to come. */
			VFIO_ASSERT_EQ(mlockall(MCL_CURRENT), 0);
		}
		VFIO_ASSERT_EQ(munmap(vaddr, size), 0);
	}
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < THREADS; i++)
		VFIO_ASSERT_EQ(pthread_join(threads[i], NULL), 0);

	printf("# faults %ld\n", faults);
	file = fopen("/proc/lock_stat", "r");
	VFIO_ASSERT_NOT_NULL(file);
	while (fgets(line, sizeof(line), file))
		fputs(line, stdout);
	fclose(file);
	return 0;
}
