// SPDX-License-Identifier: GPL-2.0-only
/*
 * holder DDDD:BB:DD.F
 *
 * Map 16 pages of BAR 1 of a device that is bound to vfio-pci, print their address, and
 * read a word of each whenever there is a line on stdin.  With the patches also map the first
 * page of a DMABUF of them, named "slice".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/dma-buf.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "common.h"

#define PAGE 4096
#define PAGES 16

int main(int argc, char **argv)
{
	volatile uint32_t *bar, *slice;
	uint32_t word = 0x12345678;
	struct slice_device dev;
	int device, dmabuf;
	char line[80];
	off_t offset;

	if (argc != 2)
		errx(2, "usage: holder DDDD:BB:DD.F");
	setvbuf(stdout, NULL, _IOLBF, 0);
	open_device(argv[1], false, &dev);
	device = dev.device;
	check(slice_set_command(device, PCI_COMMAND_MEMORY, true), "PCI_COMMAND");
	offset = region_offset(device, VFIO_PCI_BAR1_REGION_INDEX, PAGES * PAGE);
	for (int i = 0; i < PAGES; i++)
		if (pwrite(device, &word, 4, offset + i * PAGE) != 4)
			errx(1, "cannot write to BAR 1");
	bar = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, offset);
	if (bar == MAP_FAILED)
		err(1, "mmap");

	dmabuf = export_range(device, VFIO_PCI_BAR1_REGION_INDEX, 0, PAGES * PAGE, O_RDWR);
	ioctl(dmabuf, DMA_BUF_SET_NAME, "slice");
	slice = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
	printf("%p\n", (void *)bar);
	printf("%p\n", slice == MAP_FAILED ? NULL : (void *)slice);

	while (fgets(line, sizeof(line), stdin)) {
		for (int i = 0; i < PAGES; i++)
			if (bar[i * PAGE / 4] != word)
				errx(1, "page %d has another value", i);
		if (slice != MAP_FAILED && *slice != word)
			errx(1, "the slice has another value");
		printf("read\n");
	}
	munmap((void *)bar, PAGES * PAGE);
	return 0;
}
