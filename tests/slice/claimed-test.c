// SPDX-License-Identifier: GPL-2.0-only
/*
 * claimed-test [-g] DDDD:BB:DD.F
 *
 * What an owner gets if another driver has claimed BAR 1 (cloud-hypervisor#4353: a framebuffer
 * has), as modules/claim_bar.c does. The device can be opened, and the other BARs be used.
 * KTAP on stdout.
 *
 *	-g	open the device by its group
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/pci_regs.h>

#include "common.h"
#include "result.h"

#define PAGE 4096

/* Map a page of the BAR by the device file. Return 0 or -errno. */
static int map_page(int device, unsigned int bar)
{
	struct vfio_region_info info;
	void *map;

	check(slice_region(device, bar, &info), "VFIO_DEVICE_GET_REGION_INFO");
	map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, device, info.offset);
	return map == MAP_FAILED ? -errno : munmap(map, PAGE);
}

int main(int argc, char **argv)
{
	struct vfio_region_dma_range page = { .length = PAGE };
	bool group = argc == 3 && !strcmp(argv[1], "-g");
	struct slice_device dev;
	int fd;

	printf("KTAP version 1\n1..4\n");
	open_device(argv[argc - 1], group, &dev);
	check(slice_set_command(dev.device, PCI_COMMAND_MEMORY, true), "PCI_COMMAND");

	result(map_page(dev.device, VFIO_PCI_BAR1_REGION_INDEX) == -EBUSY, "mmap() of a claimed BAR: EBUSY");
	fd = slice_export(dev.device, VFIO_PCI_BAR1_REGION_INDEX, &page, 1, O_RDWR | O_CLOEXEC);
	result(fd == -ENODEV, "export of a claimed BAR: ENODEV");
	result(!map_page(dev.device, VFIO_PCI_BAR0_REGION_INDEX), "mmap() of another BAR");
	fd = slice_export(dev.device, VFIO_PCI_BAR0_REGION_INDEX, &page, 1, O_RDWR | O_CLOEXEC);
	result(fd >= 0, "export of another BAR");

	return failed;
}
