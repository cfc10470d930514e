// SPDX-License-Identifier: GPL-2.0
/*
 * bar-mmap - map a slice of a PCI BAR through a DMABUF
 *
 *	bar-mmap DDDD:BB:DD.F
 *
 * Open a device that is bound to vfio-pci, map 64 KiB of BAR 1, which must be
 * RAM (as that of edu-plus), write a different value to each page, reset the
 * device, and read the values back. The program checks each statement before it
 * prints it. On a failure it prints the reason and exits with 1.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "common.h"

#define BAR		VFIO_PCI_BAR1_REGION_INDEX
#define SLICE_OFFSET	(1UL << 20)
#define SLICE_SIZE	(64UL << 10)

const char *program = "bar-mmap";

static uint64_t value_of(unsigned long page)
{
	return 0x5eed000000000000ULL + page * 0x0101010101ULL;
}

int main(int argc, char **argv)
{
	unsigned long words = sysconf(_SC_PAGESIZE) / sizeof(uint64_t);
	unsigned long pages = SLICE_SIZE / sysconf(_SC_PAGESIZE);
	char line[256], name[64];
	volatile uint64_t *slice;
	uint64_t seen;
	unsigned long i;
	int device, number;
	off_t offset;

	if (argc != 2)
		fail("usage: bar-mmap DDDD:BB:DD.F");
	setvbuf(stdout, NULL, _IOLBF, 0);
	catch_sigbus();

	number = vfio_number(argv[1]);
	device = open_device(number, NULL);
	offset = region_offset(device, BAR, SLICE_OFFSET + SLICE_SIZE) + SLICE_OFFSET;
	set_command(device, PCI_COMMAND_MEMORY, true);
	printf("%s is vfio%d\n", argv[1], number);

	slice = mmap(NULL, SLICE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, device,
		     offset);
	if (slice == MAP_FAILED)
		fail("mmap() of BAR %d: %s", BAR, strerror(errno));

	snprintf(name, sizeof(name), " /dmabuf:vfio%d:%s/%d", number, argv[1],
		 BAR);
	if (!maps_line(getpid(), name, line, sizeof(line)))
		fail("/proc/self/maps has no mapping named%s", name);
	printf("%lu KiB of BAR %d, 1 MiB into it, are mapped through a DMABUF:\n  %s\n",
	       SLICE_SIZE >> 10, BAR, line);

	for (i = 0; i < pages; i++)
		slice[i * words] = value_of(i);
	for (i = 0; i < pages; i++) {
		if (slice[i * words] != value_of(i))
			fail("page %lu does not keep its value: is BAR %d RAM?",
			     i, BAR);
		/* Read the same memory without the mapping. */
		if (pread(device, &seen, sizeof(seen),
			  offset + i * sysconf(_SC_PAGESIZE)) != sizeof(seen) ||
		    seen != value_of(i))
			fail("page %lu maps the wrong page of the BAR", i);
	}
	printf("all %lu pages were written, and pread() of the device returns the values\n",
	       pages);

	set_command(device, PCI_COMMAND_MEMORY, false);
	for (i = 0; i < pages; i++)
		if (!gives_sigbus(&slice[i * words]))
			fail("page %lu can be read with memory decode off", i);
	printf("with memory decode off, every page gives SIGBUS\n");
	set_command(device, PCI_COMMAND_MEMORY, true);

	if (ioctl(device, VFIO_DEVICE_RESET))
		fail("VFIO_DEVICE_RESET: %s", strerror(errno));
	for (i = 0; i < pages; i++) {
		if (gives_sigbus(&slice[i * words]))
			fail("page %lu gives SIGBUS after the reset", i);
		if (slice[i * words] != value_of(i))
			fail("page %lu has another value after the reset", i);
	}
	printf("after a reset of the device, the mapping works and has the same values\n");

	close(device);
	if (slice[0] != value_of(0))
		fail("the mapping does not work after close()");
	printf("after close() of the device file, the mapping still works\n");
	return 0;
}
