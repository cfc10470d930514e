// SPDX-License-Identifier: GPL-2.0
/*
 * bar-mmap - map a slice of a PCI BAR, and look at what stands behind it
 *
 *	bar-mmap DDDD:BB:DD.F
 *
 * Opens a device that is bound to vfio-pci, maps 64 KiB from the middle of its
 * BAR 1, which has to be RAM (edu-plus has that), writes a value of its own into
 * every page, resets the device, and reads the values back. Every line that is
 * printed was checked before; if something is not as it should be, this says
 * what, and exits with 1.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#define BAR		VFIO_PCI_BAR1_REGION_INDEX
#define SLICE_OFFSET	(1UL << 20)
#define SLICE_SIZE	(64UL << 10)

static void __attribute__((noreturn, format(printf, 1, 2)))
fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("bar-mmap: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	exit(1);
}

/* The number N of the device's /dev/vfio/devices/vfioN */
static int vfio_number(const char *bdf)
{
	char path[128];
	struct dirent *entry;
	int number = -1;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", bdf);
	dir = opendir(path);
	if (!dir)
		fail("%s is not bound to vfio-pci: %s", bdf, strerror(errno));
	while ((entry = readdir(dir)))
		if (sscanf(entry->d_name, "vfio%d", &number) == 1)
			break;
	closedir(dir);
	if (number < 0)
		fail("%s names no vfio device", path);
	return number;
}

static int open_device(int number)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/vfio/devices/vfio%d", number);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail("%s: %s", path, strerror(errno));

	bind.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (bind.iommufd < 0)
		fail("/dev/iommu: %s", strerror(errno));
	if (ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		fail("VFIO_DEVICE_BIND_IOMMUFD: %s", strerror(errno));
	return fd;
}

static off_t region_offset(int device, unsigned int index, size_t min_size)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		fail("VFIO_DEVICE_GET_REGION_INFO: %s", strerror(errno));
	if (info.size < min_size)
		fail("region %u has %llu bytes, %zu are needed", index,
		     info.size, min_size);
	return info.offset;
}

static void set_memory_decode(int device, bool on)
{
	off_t offset = region_offset(device, VFIO_PCI_CONFIG_REGION_INDEX, 64) +
		       PCI_COMMAND;
	uint16_t command;

	if (pread(device, &command, sizeof(command), offset) != sizeof(command))
		fail("PCI_COMMAND cannot be read");
	command &= ~PCI_COMMAND_MEMORY;
	if (on)
		command |= PCI_COMMAND_MEMORY;
	if (pwrite(device, &command, sizeof(command), offset) != sizeof(command))
		fail("PCI_COMMAND cannot be written");
}

/* The line of /proc/self/maps that has the address; false if none has */
static bool maps_line(const void *address, char *line, int size)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	uintptr_t start, end;
	bool found = false;

	if (!maps)
		fail("/proc/self/maps: %s", strerror(errno));
	while (!found && fgets(line, size, maps))
		found = sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &start, &end) == 2 &&
			start <= (uintptr_t)address && (uintptr_t)address < end;
	fclose(maps);
	line[strcspn(line, "\n")] = '\0';
	return found;
}

static sigjmp_buf on_sigbus;

static void sigbus(int signal)
{
	siglongjmp(on_sigbus, 1);
}

/* Does reading the page give SIGBUS? */
static bool gives_sigbus(const volatile uint64_t *page)
{
	if (sigsetjmp(on_sigbus, 1))
		return true;
	(void)*page;
	return false;
}

static uint64_t value_of(unsigned long page)
{
	return 0x5eed000000000000ULL + page * 0x0101010101ULL;
}

int main(int argc, char **argv)
{
	unsigned long words = sysconf(_SC_PAGESIZE) / sizeof(uint64_t);
	unsigned long pages = SLICE_SIZE / sysconf(_SC_PAGESIZE);
	char line[256], expected[64];
	volatile uint64_t *slice;
	uint64_t seen;
	unsigned long i;
	int device, number;
	off_t offset;

	if (argc != 2)
		fail("usage: bar-mmap DDDD:BB:DD.F");
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGBUS, sigbus);

	number = vfio_number(argv[1]);
	device = open_device(number);
	offset = region_offset(device, BAR, SLICE_OFFSET + SLICE_SIZE) + SLICE_OFFSET;
	set_memory_decode(device, true);
	printf("%s is vfio%d\n", argv[1], number);

	slice = mmap(NULL, SLICE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, device,
		     offset);
	if (slice == MAP_FAILED)
		fail("mmap() of BAR %d: %s", BAR, strerror(errno));

	if (!maps_line((void *)slice, line, sizeof(line)))
		fail("/proc/self/maps does not show the mapping");
	snprintf(expected, sizeof(expected), " /dmabuf:vfio%d:%s/%d", number,
		 argv[1], BAR);
	if (strlen(line) < strlen(expected) ||
	    strcmp(line + strlen(line) - strlen(expected), expected))
		fail("the mapping should be called%s, and it shows as\n%s",
		     expected, line);
	printf("%lu KiB of BAR %d, 1 MiB into it, are mapped through a DMABUF:\n  %s\n",
	       SLICE_SIZE >> 10, BAR, line);

	for (i = 0; i < pages; i++)
		slice[i * words] = value_of(i);
	for (i = 0; i < pages; i++) {
		if (slice[i * words] != value_of(i))
			fail("page %lu does not keep its value: is BAR %d RAM?",
			     i, BAR);
		/* The same memory, and not through the mapping */
		if (pread(device, &seen, sizeof(seen),
			  offset + i * sysconf(_SC_PAGESIZE)) != sizeof(seen) ||
		    seen != value_of(i))
			fail("page %lu is not the page of the BAR that it should be",
			     i);
	}
	printf("each of its %lu pages was written, and pread() of the device finds the values\n",
	       pages);

	set_memory_decode(device, false);
	for (i = 0; i < pages; i++)
		if (!gives_sigbus(&slice[i * words]))
			fail("page %lu can be read with memory decode off", i);
	printf("with memory decode off, every page gives SIGBUS\n");
	set_memory_decode(device, true);

	if (ioctl(device, VFIO_DEVICE_RESET))
		fail("VFIO_DEVICE_RESET: %s", strerror(errno));
	for (i = 0; i < pages; i++) {
		if (gives_sigbus(&slice[i * words]))
			fail("page %lu gives SIGBUS after the reset", i);
		if (slice[i * words] != value_of(i))
			fail("page %lu has another value after the reset", i);
	}
	printf("the device was reset: the mapping is still right\n");

	close(device);
	if (slice[0] != value_of(0))
		fail("the mapping is wrong after close()");
	printf("the device file was closed: the mapping keeps the device open\n");
	return 0;
}
