// SPDX-License-Identifier: GPL-2.0-only
/*
 * holder DDDD:BB:DD.F
 *
 * Map 16 pages of BAR 1 of a device that is bound to vfio-pci, print their address, and
 * read a word of each whenever there is a line on stdin.  With the series also map the first
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

const char *program = "holder";

int main(int argc, char **argv)
{
	volatile uint32_t *bar, *slice;
	uint32_t word = 0x12345678;
	int device, dmabuf;
	char line[80];
	off_t offset;

	if (argc != 2)
		fail("usage: holder DDDD:BB:DD.F");
	setvbuf(stdout, NULL, _IOLBF, 0);
	device = open_device(vfio_number(argv[1]), NULL);
	set_command(device, PCI_COMMAND_MEMORY, true);
	offset = region_offset(device, VFIO_PCI_BAR1_REGION_INDEX, PAGES * PAGE);
	for (int i = 0; i < PAGES; i++)
		if (pwrite(device, &word, 4, offset + i * PAGE) != 4)
			fail("cannot write to BAR 1");
	bar = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, offset);
	if (bar == MAP_FAILED)
		fail("mmap: %s", strerror(errno));

	dmabuf = export_slice(device, VFIO_PCI_BAR1_REGION_INDEX, 0, PAGES * PAGE, O_RDWR);
	ioctl(dmabuf, DMA_BUF_SET_NAME, "slice");
	slice = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
	printf("%p\n", (void *)bar);
	printf("%p\n", slice == MAP_FAILED ? NULL : (void *)slice);

	while (fgets(line, sizeof(line), stdin)) {
		for (int i = 0; i < PAGES; i++)
			if (bar[i * PAGE / 4] != word)
				fail("page %d has another value", i);
		if (slice != MAP_FAILED && *slice != word)
			fail("the slice has another value");
		printf("read\n");
	}
	munmap((void *)bar, PAGES * PAGE);
	return 0;
}
