// SPDX-License-Identifier: GPL-2.0
/*
 * bench ROUNDS [BDF]
 *
 * Count the instructions that mappings of a BAR and DMABUFs take, in a guest with one
 * processor under -icount shift=0,sleep=off, where the clock counts instructions.  The
 * program also runs on a kernel without the patches.  It needs an edu-plus.
 *
 * Each result is a line with metric, parameter and value, separated by tabs.  The value is
 * the minimum of ROUNDS rounds (interrupts only add to it) minus an empty measurement, or
 * "absent" if the kernel or the device does not support the operation.  Lines that begin
 * with # are comments.  The last line is "# end".
 *
 * Only the measured operation runs between two reads of the clock.  Short operations run
 * several times, and the value is that of one.
 *
 * window() and bench_mapping_bytes() measure differently; see their comments.
 */
#include <limits.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <linux/sizes.h>
#include <linux/udmabuf.h>
#include <linux/vfio.h>

#include <libvfio.h>

/* Number of 4 KiB faults in one measurement */
#define FAULTS		256
/* Repetitions of operations that take a few thousand instructions */
#define BATCH		16
#define MAX_SPANS	65536
#define MAX_BUFFERS	1000
#define MIN_ROUNDS	10
/* Pairs of mmap() and munmap() that are measured with their deferred work */
#define PAIRS		10000
/* Nanoseconds for these; the result is the same with 500 ms and with 8 s */
#define WINDOW		1000000000ULL
/* Number of mappings whose memory is measured */
#define MAPPINGS	10000

static struct vfio_pci_device *device;
static unsigned int rounds;
static size_t page;

/* The RAM BAR, its size, and its offset in the device file */
static int ram;
static u64 ram_size;
static u64 ram_offset;

/* The value of PCI_COMMAND with memory enabled */
static u16 command;

/* Instructions per clock unit, and clock units of an empty measurement */
static double scale;
static u64 empty;

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static u64 least(u64 a, u64 b)
{
	return a < b ? a : b;
}

static void report(const char *metric, u64 parameter, u64 best, u64 times)
{
	printf("%s\t%llu\t%.1f\n", metric, (unsigned long long)parameter,
	       (best - empty) * scale / times);
}

static void absent(const char *metric, u64 parameter)
{
	printf("%s\t%llu\tabsent\n", metric, (unsigned long long)parameter);
}

/* A loop of two instructions, @n times */
static noinline void spin(unsigned long n)
{
#if defined(__x86_64__)
	asm volatile("1: dec %0\n\tjnz 1b" : "+r" (n) : : "cc");
#elif defined(__aarch64__)
	asm volatile("1: subs %0, %0, #1\n\tb.ne 1b" : "+r" (n) : : "cc");
#else
#error "Write a loop of two instructions for this architecture."
#endif
}

static void calibrate(void)
{
	static const unsigned long loops = 1000000;
	u64 t, best = UINT64_MAX;
	char name[32] = "";
	FILE *file;

	file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "r");
	if (file) {
		if (fscanf(file, "%31s", name) != 1)
			name[0] = '\0';
		fclose(file);
	}
#ifdef __x86_64__
	/* "tsc-early" works, too. Others advance in steps of 10 or 279. */
	VFIO_ASSERT_EQ(strncmp(name, "tsc", 3), 0,
		       "The clock is '%s', not 'tsc': boot with tsc=reliable.", name);
#endif

	empty = UINT64_MAX;
	for (int i = 0; i < 1000; i++) {
		t = now();
		t = now() - t;
		empty = least(empty, t);
	}

	for (int i = 0; i < 20; i++) {
		t = now();
		spin(loops);
		t = now() - t;
		best = least(best, t);
	}
	scale = 2.0 * loops / (best - empty);
	printf("# %s, %.5f instructions per ns, an empty measurement takes %llu ns\n",
	       name, scale, (unsigned long long)empty);
	if (scale < 0.99 || scale > 1.01)
		VFIO_LOG_AND_EXIT("%.3f instructions per ns: boot with -icount shift=0,sleep=off.",
				  scale);
}

static struct rusage usage(void)
{
	struct rusage self;

	VFIO_ASSERT_EQ(getrusage(RUSAGE_SELF, &self), 0);
	return self;
}

static long minflt(void)
{
	return usage().ru_minflt;
}

/* Let RCU and delayed work finish. With sleep=off the host does not wait. */
static void settle(void)
{
	sleep(10);
}

/* Load a word from @nr addresses, @step bytes apart */
static noinline void touch(const void *vaddr, size_t nr, size_t step)
{
	for (; nr; nr--, vaddr += step)
		(void)*(const volatile u32 *)vaddr;
}

/* Like touch(), but return the cost, and check that it takes @faults faults. */
static u64 touch_measured(const void *vaddr, size_t nr, size_t step, long faults)
{
	long before = minflt();
	u64 t;

	t = now();
	touch(vaddr, nr, step);
	t = now() - t;

	VFIO_ASSERT_EQ(minflt() - before, faults, "The number of faults is wrong\n");
	return t;
}

/*
 * Map a file at an address that leaves the remainder @offset when divided by @align, or
 * at an address that the kernel chooses if @align is 0.
 */
static void *map_at(int fd, u64 start, size_t size, size_t align, size_t offset)
{
	void *vaddr = align ? mmap_reserve(size, align, offset) : NULL;
	void *ret;

	ret = mmap(vaddr, size, PROT_READ | PROT_WRITE,
		   align ? MAP_SHARED | MAP_FIXED : MAP_SHARED, fd, start);
	VFIO_ASSERT_NE(ret, MAP_FAILED);
	return ret;
}

/* No huge page fits at this address, and up to 511 pages share one page table. */
static void *map_small(int fd, u64 start, size_t nr_pages)
{
	return map_at(fd, start, nr_pages * page, SZ_2M, page);
}

static void unmap(void *vaddr, size_t size)
{
	VFIO_ASSERT_EQ(munmap(vaddr, size), 0);
}

/*
 * The argument of an export: @nr_spans spans of @span bytes that are not adjacent. In a
 * small BAR spans repeat, which is allowed.
 */
static struct vfio_device_feature *export_args(u32 nr_spans, size_t span)
{
	struct vfio_device_feature_dma_buf *dma_buf;
	struct vfio_device_feature *feature;
	size_t argsz;

	argsz = sizeof(*feature) + sizeof(*dma_buf) + nr_spans * sizeof(dma_buf->dma_ranges[0]);
	feature = calloc_assert(1, argsz);
	feature->argsz = argsz;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;

	dma_buf = (void *)feature->data;
	dma_buf->region_index = ram;
	dma_buf->open_flags = O_RDWR | O_CLOEXEC;
	dma_buf->nr_ranges = nr_spans;
	for (u32 i = 0; i < nr_spans; i++) {
		dma_buf->dma_ranges[i].offset = 2ULL * i * span % ram_size;
		dma_buf->dma_ranges[i].length = span;
	}

	return feature;
}

static int export_spans(u32 nr_spans, size_t span)
{
	struct vfio_device_feature *feature = export_args(nr_spans, span);
	int fd;

	fd = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
	VFIO_ASSERT_GE(fd, 0, "%u spans of %zu bytes cannot be exported\n", nr_spans, span);
	free(feature);
	return fd;
}

static void close_assert(int fd)
{
	VFIO_ASSERT_EQ(close(fd), 0);
}

static void bench_mmap(const char *metric, int fd, u64 start)
{
	u64 t, best = UINT64_MAX;
	void *vaddr;

	for (unsigned int round = 0; round < rounds; round++) {
		t = now();
		for (int i = 0; i < BATCH; i++) {
			vaddr = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, start);
			munmap(vaddr, page);
		}
		best = least(best, now() - t);
		VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	}
	report(metric, page, best, BATCH);
}

/*
 * Count all instructions in a time window, minus those of the loop that fills it. The
 * window begins with @pairs pairs of mmap() and munmap(). Their deferred work (RCU
 * callbacks, softirqs, workers) also runs in the window and leaves less time to the loop.
 * This thread never sleeps, so that the processor is never idle and the clock counts only
 * instructions.
 */
static double window(unsigned int pairs, int fd, u64 start)
{
	static const unsigned long loops = 100000;
	u64 t = now(), end = t + WINDOW, n = 0;
	long slept = usage().ru_nvcsw;
	void *vaddr = NULL;

	for (; pairs; pairs--) {
		vaddr = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, start);
		munmap(vaddr, page);
	}
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	VFIO_ASSERT_LT(now(), end - WINDOW / 2, "No time is left for deferred work\n");

	for (; now() < end; n++)
		spin(loops);
	t = now() - t;
	VFIO_ASSERT_EQ(usage().ru_nvcsw, slept, "The processor was idle\n");
	return t * scale - 2.0 * loops * n;
}

/* Subtract an empty window, which has the same number of timer ticks. */
static void bench_mmap_all(const char *metric, int fd, u64 start)
{
	double all;

	settle();
	all = window(PAIRS, fd, start);
	settle();
	all -= window(0, fd, start);
	printf("%s\t%u\t%.1f\n", metric, PAIRS, all / PAIRS);
}

/* Bytes in use in all slab caches, or 0 if this is not available */
static u64 slab_bytes(void)
{
	unsigned long active, size;
	char line[256];
	FILE *file;
	u64 sum = 0;

	file = fopen("/proc/slabinfo", "r");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%*s %lu %*u %lu", &active, &size) == 2)
			sum += active * size;
	fclose(file);
	return sum;
}

/*
 * Bytes of kernel memory for each mapping of an untouched page. SLUB counts free objects
 * in its per-CPU caches as used, so the first half of the mappings, which uses them up, is
 * not measured.
 */
static void bench_mapping_bytes(const char *metric, int fd, u64 start)
{
	size_t size = 2 * MAPPINGS * page;
	void *vaddr = mmap_reserve(size, page, 0);
	u64 bytes = 0;

	for (size_t i = 0; i < size; i += page) {
		if (i == size / 2) {
			settle();
			bytes = slab_bytes();
		}
		VFIO_ASSERT_EQ(mmap(vaddr + i, page, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_FIXED, fd, start), vaddr + i);
	}
	settle();
	if (bytes)
		printf("%s\t%u\t%.1f\n", metric, MAPPINGS,
		       (double)(slab_bytes() - bytes) / MAPPINGS);
	else
		absent(metric, MAPPINGS);
	unmap(vaddr, size);
}

static void bench_fault(const char *metric, u64 parameter, int fd, u64 start)
{
	size_t nr = FAULTS + 1;
	u64 best = UINT64_MAX;

	for (unsigned int round = 0; round < rounds; round++) {
		void *vaddr = map_small(fd, start, nr);

		/* Allocate the page tables. */
		touch(vaddr, 1, page);
		best = least(best, touch_measured(vaddr + page, FAULTS, page, FAULTS));
		unmap(vaddr, nr * page);
	}
	report(metric, parameter, best, FAULTS);
}

/* Fault in @nr entries of @size bytes. The first allocates page tables and is not measured. */
static void bench_huge_fault(const char *metric, int fd, u64 start, size_t size, size_t nr)
{
	u64 best = UINT64_MAX;

	for (unsigned int round = 0; round < rounds; round++) {
		void *vaddr = map_at(fd, start, nr * size, SZ_1G, 0);

		touch(vaddr, 1, page);
		best = least(best, touch_measured(vaddr + size, nr - 1, size, nr - 1));
		unmap(vaddr, nr * size);
	}
	report(metric, size, best, nr - 1);
}

/* Touch every page, including page-table allocations, and count the faults. */
static void bench_touch(const char *metric, const char *faults_metric, u64 parameter, int fd,
			u64 start, size_t size, size_t align)
{
	u64 t, best = UINT64_MAX;
	long faults = 0;

	for (unsigned int round = 0; round < rounds; round++) {
		void *vaddr = map_at(fd, start, size, align, 0);
		long before = minflt();

		t = now();
		touch(vaddr, size / page, page);
		best = least(best, now() - t);
		faults = minflt() - before;
		unmap(vaddr, size);
	}
	report(metric, parameter, best, 1);
	printf("%s\t%llu\t%ld.0\n", faults_metric, (unsigned long long)parameter, faults);
}

static void bench_export(const char *metric, const char *close_metric, u32 nr_spans, size_t span)
{
	struct vfio_device_feature *feature = export_args(nr_spans, span);
	u64 t, best = UINT64_MAX, best_close = UINT64_MAX;
	int fd;

	for (unsigned int round = 0; round < rounds; round++) {
		t = now();
		fd = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
		best = least(best, now() - t);
		VFIO_ASSERT_GE(fd, 0);
		close_assert(fd);

		t = now();
		close(ioctl(device->fd, VFIO_DEVICE_FEATURE, feature));
		best_close = least(best_close, now() - t);
	}
	free(feature);
	report(metric, nr_spans, best, 1);
	report(close_metric, nr_spans, best_close, 1);
}

/* A DMABUF without vfio, for comparison */
static void bench_udmabuf(const char *metric)
{
	struct udmabuf_create create = { .flags = UDMABUF_FLAGS_CLOEXEC, .size = page };
	int fd, dmabuf = -1, memfd;
	u64 t, best = UINT64_MAX;

	fd = open("/dev/udmabuf", O_RDWR);
	if (fd < 0) {
		absent(metric, page);
		return;
	}

	memfd = memfd_create("bench", MFD_ALLOW_SEALING);
	VFIO_ASSERT_GE(memfd, 0);
	VFIO_ASSERT_EQ(ftruncate(memfd, page), 0);
	VFIO_ASSERT_EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	create.memfd = memfd;

	for (unsigned int round = 0; round < rounds; round++) {
		t = now();
		for (int i = 0; i < BATCH; i++) {
			dmabuf = ioctl(fd, UDMABUF_CREATE, &create);
			close(dmabuf);
		}
		best = least(best, now() - t);
		VFIO_ASSERT_GE(dmabuf, 0);
	}
	close_assert(memfd);
	close_assert(fd);
	report(metric, page, best, BATCH);
}

/* Includes the exit of the child, so that the order of both does not matter */
static void bench_fork(const char *metric, u64 parameter, void *vaddr, size_t nr, size_t step)
{
	u64 t, best = UINT64_MAX;
	int status = -1;
	pid_t pid;

	touch(vaddr, nr, step);
	for (unsigned int round = 0; round < rounds; round++) {
		t = now();
		pid = fork();
		if (!pid)
			_exit(0);
		waitpid(pid, &status, 0);
		best = least(best, now() - t);
		VFIO_ASSERT_EQ(status, 0);
	}
	report(metric, parameter, best, 1);
}

static void command_write(u16 value)
{
	ssize_t ret;

	ret = pwrite(device->fd, &value, sizeof(value),
		     device->config_space.offset + PCI_COMMAND);
	VFIO_ASSERT_EQ(ret, (ssize_t)sizeof(value));
}

static void bench_command_same(const char *metric, u64 parameter)
{
	u64 t, best = UINT64_MAX;

	for (unsigned int round = 0; round < rounds; round++) {
		t = now();
		for (int i = 0; i < BATCH; i++)
			command_write(command);
		best = least(best, now() - t);
	}
	report(metric, parameter, best, BATCH);
}

/* Touch @nr pages at @vaddr, then measure memory decode off and on */
static void bench_command_toggle(const char *metric, u64 parameter, void *vaddr, size_t nr)
{
	u64 t, best = UINT64_MAX;

	for (unsigned int round = 0; round < rounds; round++) {
		touch(vaddr, nr, page);
		t = now();
		command_write(command & ~PCI_COMMAND_MEMORY);
		command_write(command);
		best = least(best, now() - t);
	}
	report(metric, parameter, best, 1);
}

/* Revoke a buffer with @nr_pages mapped pages */
static void bench_revoke(const char *metric, u64 parameter, size_t nr_pages)
{
	struct vfio_pci_dmabuf_revoke revoke = { .argsz = sizeof(revoke) };
	u64 t, best = UINT64_MAX;
	void *vaddr;
	int ret;

	for (unsigned int round = 0; round < rounds; round++) {
		revoke.dmabuf_fd = export_spans(1, nr_pages * page);
		vaddr = map_small(revoke.dmabuf_fd, 0, nr_pages);
		touch(vaddr, nr_pages, page);

		t = now();
		ret = ioctl(device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke);
		best = least(best, now() - t);

		VFIO_ASSERT_EQ(ret, 0);
		unmap(vaddr, nr_pages * page);
		close_assert(revoke.dmabuf_fd);
	}
	report(metric, parameter, best, 1);
}

static void bench_memattr(const char *metric)
{
	struct vfio_device_feature_dma_buf_memattr *memattr;
	size_t argsz = sizeof(struct vfio_device_feature) + sizeof(*memattr);
	struct vfio_device_feature *feature = calloc_assert(1, argsz);
	u64 t, best = UINT64_MAX;
	int ret;

	memattr = (void *)feature->data;
	feature->argsz = argsz;
	feature->flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR;
	memattr->dmabuf_fd = export_spans(1, page);
	memattr->memattr = VFIO_DEVICE_DMA_BUF_MEMATTR_WC;

	ret = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
	if (ret) {
		VFIO_ASSERT_TRUE(errno == ENOTTY || errno == EOPNOTSUPP);
		absent(metric, 1);
	} else {
		for (unsigned int round = 0; round < rounds; round++) {
			t = now();
			for (int i = 0; i < BATCH; i++)
				ret = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
			best = least(best, now() - t);
			VFIO_ASSERT_EQ(ret, 0);
		}
		report(metric, 1, best, BATCH);
	}
	close_assert(memattr->dmabuf_fd);
	free(feature);
}

/* Operations that do not need a DMABUF of a BAR */
static void bench_device(void)
{
	static const size_t pages[] = { 1, 16, 256, 4096, 16384 };
	size_t size = SZ_32M;
	void *vaddr;

	bench_mmap("mmap-munmap", device->fd, ram_offset);
	bench_mmap_all("mmap-munmap-all", device->fd, ram_offset);
	bench_fault("fault-4k-device", 1, device->fd, ram_offset);
	bench_huge_fault("fault-2m-device", device->fd, ram_offset, SZ_2M, 16);
	if (ram_size >= SZ_2G)
		bench_huge_fault("fault-1g-device", device->fd, ram_offset, SZ_1G, 2);
	else
		absent("fault-1g-device", SZ_1G);
	bench_touch("touch-32m-device", "minflt-32m-device", size, device->fd, ram_offset, size,
		    SZ_1G);
	bench_touch("touch-null-device", "minflt-null-device", size, device->fd, ram_offset, size,
		    0);

	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		vaddr = map_small(device->fd, ram_offset, pages[i]);
		bench_fork("fork-4k-device", pages[i], vaddr, pages[i], page);
		bench_command_toggle("command-toggle-pages", pages[i], vaddr, pages[i]);
		unmap(vaddr, pages[i] * page);
	}
	vaddr = map_at(device->fd, ram_offset, size, SZ_1G, 0);
	bench_fork("fork-2m-device", size / SZ_2M, vaddr, size / SZ_2M, SZ_2M);
	unmap(vaddr, size);
}

/* mmap() and other operations on DMABUFs, if the kernel supports them (@there) */
static void bench_dmabuf(bool there)
{
	static const size_t pages[] = { 1, 16, 256, 4096, 16384 };
	size_t size = SZ_32M;
	void *vaddr;
	int fd;

	if (!there) {
		absent("mmap-munmap-dmabuf", page);
		absent("fault-2m-dmabuf", SZ_2M);
		absent("fault-1g-dmabuf", SZ_1G);
		absent("touch-32m-dmabuf", size);
		absent("minflt-32m-dmabuf", size);
		absent("touch-null-dmabuf", size);
		absent("minflt-null-dmabuf", size);
		absent("touch-64-ranges", 64);
		absent("minflt-64-ranges", 64);
		for (int i = 0; i < ARRAY_SIZE(pages); i++) {
			absent("fork-4k-dmabuf", pages[i]);
			absent("revoke-pages", pages[i]);
		}
		absent("fork-2m-dmabuf", size / SZ_2M);
		return;
	}

	fd = export_spans(1, SZ_64M);
	bench_mmap("mmap-munmap-dmabuf", fd, 0);
	bench_huge_fault("fault-2m-dmabuf", fd, 0, SZ_2M, 16);
	bench_touch("touch-32m-dmabuf", "minflt-32m-dmabuf", size, fd, 0, size, SZ_1G);
	bench_touch("touch-null-dmabuf", "minflt-null-dmabuf", size, fd, 0, size, 0);
	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		vaddr = map_small(fd, 0, pages[i]);
		bench_fork("fork-4k-dmabuf", pages[i], vaddr, pages[i], page);
		unmap(vaddr, pages[i] * page);
	}
	vaddr = map_at(fd, 0, size, SZ_1G, 0);
	bench_fork("fork-2m-dmabuf", size / SZ_2M, vaddr, size / SZ_2M, SZ_2M);
	unmap(vaddr, size);
	close_assert(fd);

	if (ram_size >= SZ_2G) {
		fd = export_spans(1, SZ_2G);
		bench_huge_fault("fault-1g-dmabuf", fd, 0, SZ_1G, 2);
		close_assert(fd);
	} else {
		absent("fault-1g-dmabuf", SZ_1G);
	}

	for (int i = 0; i < ARRAY_SIZE(pages); i++)
		bench_revoke("revoke-pages", pages[i], pages[i]);
}

/* Adjacent ranges are merged: huge pages cross the seams. */
static void bench_neighbours(void)
{
	struct vfio_region_dma_range ranges[64];
	int fd;

	for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
		ranges[i].offset = (u64)i * SZ_1M;
		ranges[i].length = SZ_1M;
	}
	fd = __vfio_pci_dmabuf_export(device, ram, O_RDWR | O_CLOEXEC, ARRAY_SIZE(ranges), ranges);
	VFIO_ASSERT_GE(fd, 0);
	bench_touch("touch-64-ranges", "minflt-64-ranges", ARRAY_SIZE(ranges), fd, 0, SZ_64M,
		    SZ_1G);
	close_assert(fd);
}

/* Faults and exports of buffers of 1 to 65536 spans */
static void bench_spans(bool there)
{
	/* The same number of pages in each buffer, unless it has more spans */
	const u32 least_pages = 2 * FAULTS;

	for (u32 nr = 1; nr <= MAX_SPANS; nr *= 4) {
		u32 nr_pages = nr > least_pages ? nr : least_pages;
		size_t span = nr_pages / nr * page;

		bench_export("export", "export-close", nr, span);
		if (there) {
			int fd = export_spans(nr, span);

			/* The middle, the average case of a linear search */
			bench_fault("fault-4k-dmabuf", nr, fd, (nr_pages - FAULTS) / 2 * page);
			close_assert(fd);
		} else {
			absent("fault-4k-dmabuf", nr);
		}
	}
}

/* PCI_COMMAND and revoke with an increasing number of idle buffers */
static void bench_buffers(bool there)
{
	int fds[MAX_BUFFERS], nr = 0;

	for (int max = 1; max <= MAX_BUFFERS; max *= 10) {
		while (nr < max)
			fds[nr++] = export_spans(1, page);

		bench_command_same("command-same-buffers", nr);
		bench_command_toggle("command-toggle-buffers", nr, NULL, 0);
		if (there)
			bench_revoke("revoke-buffers", nr, 1);
		else
			absent("revoke-buffers", nr);
	}
	while (nr)
		close_assert(fds[--nr]);
}

/* The same with mappings of the device file, each of which has a DMABUF */
static void bench_mappings(void)
{
	void *vaddrs[MAX_BUFFERS];
	int nr = 0;

	for (int max = 1; max <= MAX_BUFFERS; max *= 10) {
		for (; nr < max; nr++)
			vaddrs[nr] = map_small(device->fd, ram_offset, 1);

		bench_command_same("command-same-mappings", nr);
		bench_command_toggle("command-toggle-mappings", nr, NULL, 0);
	}
	while (nr)
		unmap(vaddrs[--nr], page);
}

/* libvfio maps every BAR; do not count these mappings. */
static void unmap_bars(void)
{
	for (int i = 0; i < PCI_STD_NUM_BARS; i++) {
		struct vfio_pci_bar *bar = &device->bars[i];

		if (!bar->vaddr)
			continue;
		unmap(bar->vaddr, bar->info.size > page ? bar->info.size : page);
		bar->vaddr = NULL;
	}
}

int main(int argc, char *argv[])
{
	static char output[SZ_64K];
	const char *bdf = vfio_selftests_get_bdf(&argc, argv);
	struct rlimit files = { .rlim_cur = 2 * MAX_BUFFERS, .rlim_max = 2 * MAX_BUFFERS };
	const char *missing;
	struct iommu *iommu;
	char *end;

	rounds = argc == 2 ? strtoul(argv[1], &end, 10) : 0;
	if (rounds < MIN_ROUNDS || rounds > 1000 || *end)
		VFIO_LOG_AND_EXIT("usage: bench ROUNDS [BDF], with %u to 1000 rounds", MIN_ROUNDS);

	/* Buffer stdout: writing to it would disturb the measurements. */
	setvbuf(stdout, output, _IOFBF, sizeof(output));
	page = getpagesize();
	VFIO_ASSERT_EQ(page, SZ_4K);
	VFIO_ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);

	iommu = iommu_init(default_iommu_mode);
	device = vfio_pci_device_init(bdf, iommu);
	unmap_bars();
	command = vfio_pci_config_readw(device, PCI_COMMAND) | PCI_COMMAND_MEMORY;
	command_write(command);
	ram = vfio_pci_ram_bar(device, SZ_64M);
	VFIO_ASSERT_GE(ram, 0, "%s has no RAM BAR of 64 MiB or more (VFIO_SELFTESTS_RAM_BAR)\n", bdf);
	ram_size = device->bars[ram].info.size;
	ram_offset = device->bars[ram].info.offset;

	/* Avoid other faults. */
	VFIO_ASSERT_EQ(mlockall(MCL_CURRENT), 0);
	printf("# %u rounds, %s, BAR %d of %llu MiB\n", rounds, bdf, ram,
	       (unsigned long long)ram_size / SZ_1M);
	calibrate();

	bench_udmabuf("udmabuf");
	bench_device();
	bench_mappings();

	missing = vfio_pci_dmabuf_export_missing(device);
	VFIO_ASSERT_NULL(missing, "%s\n", missing);
	missing = vfio_pci_dmabuf_mmap_missing(device, ram);
	if (missing)
		printf("# %s\n", missing);
	bench_dmabuf(!missing);
	if (!missing)
		bench_neighbours();
	bench_spans(!missing);
	bench_buffers(!missing);
	bench_memattr("memattr");
	bench_mapping_bytes("mapping-bytes", device->fd, ram_offset);

	vfio_pci_device_cleanup(device);
	iommu_cleanup(iommu);
	printf("# end\n");
	VFIO_ASSERT_EQ(fflush(stdout), 0);
	return 0;
}
