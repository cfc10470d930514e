// SPDX-License-Identifier: GPL-2.0
/*
 * bar-mmap - map a part of a PCI BAR through a DMABUF
 *
 *	bar-mmap [-fg] [-b BAR] [-o OFFSET] [-l LENGTH] DDDD:BB:DD.F
 *
 * Open a device that is bound to vfio-pci, map a part of a BAR that is RAM, write a
 * different value to each page, reset the device, and read the values back. The program
 * checks each statement before it prints it. On a failure it prints the reason and exits
 * with 1.
 *
 *	-f	write to a device that is not known to have RAM in the BAR
 *	-g	use the group of the device and a container, not an iommufd
 */
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/pci_regs.h>

#include "common.h"

#define USAGE "bar-mmap [-fg] [-b BAR] [-o OFFSET] [-l LENGTH] DDDD:BB:DD.F"

static uint64_t value_of(unsigned long page)
{
	return 0x5eed000000000000ULL + page * 0x0101010101ULL;
}

int main(int argc, char **argv)
{
	unsigned long page = sysconf(_SC_PAGESIZE), words = page / sizeof(uint64_t), i, pages;
	unsigned int bar = VFIO_PCI_BAR1_REGION_INDEX;
	size_t start = 1 << 20, length = 64 << 10;
	bool force = false, group = false;
	struct slice_device dev;
	char line[256], name[64];
	volatile uint64_t *slice;
	uint64_t seen;
	off_t offset;
	int opt, n;

	while ((opt = getopt(argc, argv, "b:fgl:o:")) != -1) {
		if (opt == 'b')
			bar = number(optarg, VFIO_PCI_BAR5_REGION_INDEX);
		else if (opt == 'f')
			force = true;
		else if (opt == 'g')
			group = true;
		else if (opt == 'l')
			length = number(optarg, 1 << 30);
		else if (opt == 'o')
			start = number(optarg, 1 << 30);
		else
			errx(2, "usage: " USAGE);
	}
	if (optind != argc - 1)
		errx(2, "usage: " USAGE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	pages = length / page;
	if (!pages)
		errx(2, "the length is less than a page");

	open_device(argv[optind], group, &dev);
	if (!force)
		expect_ram(dev.device, bar);
	n = check(slice_cdev_number(argv[optind]), argv[optind]);
	offset = region_offset(dev.device, bar, start + length) + start;
	check(slice_set_command(dev.device, PCI_COMMAND_MEMORY, true), "PCI_COMMAND");
	printf("%s is vfio%d\n", argv[optind], n);

	slice = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, dev.device, offset);
	if (slice == MAP_FAILED)
		err(1, "mmap() of BAR %u", bar);

	snprintf(name, sizeof(name), " /dmabuf:vfio%d:%s/%u", n, argv[optind], bar);
	if (!maps_line(getpid(), name, line, sizeof(line)))
		errx(1, "/proc/self/maps has no mapping named%s", name);
	printf("%zu KiB of BAR %u, at 0x%zx, are mapped through a DMABUF:\n  %s\n", length >> 10,
	       bar, start, line);

	for (i = 0; i < pages; i++)
		slice[i * words] = value_of(i);
	for (i = 0; i < pages; i++) {
		if (slice[i * words] != value_of(i))
			errx(1, "page %lu does not keep its value: is BAR %u RAM?", i, bar);
		/* Read the same memory without the mapping. */
		if (pread(dev.device, &seen, sizeof(seen), offset + i * page) != sizeof(seen) ||
		    seen != value_of(i))
			errx(1, "page %lu maps the wrong page of the BAR", i);
	}
	printf("all %lu pages were written, and pread() of the device returns the values\n", pages);

	check(slice_set_command(dev.device, PCI_COMMAND_MEMORY, false), "PCI_COMMAND");
	for (i = 0; i < pages; i++)
		if (!gives_sigbus(&slice[i * words]))
			errx(1, "page %lu can be read with memory decode off", i);
	printf("with memory decode off, every page gives SIGBUS\n");
	check(slice_set_command(dev.device, PCI_COMMAND_MEMORY, true), "PCI_COMMAND");

	if (ioctl(dev.device, VFIO_DEVICE_RESET))
		err(1, "VFIO_DEVICE_RESET");
	for (i = 0; i < pages; i++) {
		if (gives_sigbus(&slice[i * words]))
			errx(1, "page %lu gives SIGBUS after the reset", i);
		if (slice[i * words] != value_of(i))
			errx(1, "page %lu has another value after the reset", i);
	}
	printf("after a reset of the device, the mapping works and has the same values\n");

	slice_close(&dev);
	if (slice[0] != value_of(0))
		errx(1, "the mapping does not work after close()");
	printf("after close() of the device file, the mapping still works\n");
	return 0;
}
