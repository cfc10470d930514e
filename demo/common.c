// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/pci_regs.h>

#include "common.h"

int check(int ret, const char *what)
{
	if (ret >= 0)
		return ret;
	errno = -ret;
	err(1, "%s", what);
}

void open_device(const char *bdf, bool group, struct slice_device *dev)
{
	int ret = group ? -ENOENT : slice_open_cdev(bdf, dev);

	if (ret == -ENOENT)
		ret = slice_open_group(bdf, dev);
	if (ret == -ENOENT)
		errx(1, "%s is not bound to vfio-pci", bdf);
	check(ret, bdf);
}

void expect_features(int device)
{
	int features = check(slice_probe(device), "VFIO_DEVICE_FEATURE");

	if (!(features & SLICE_CAN_EXPORT))
		errx(EXIT_UNSUPPORTED, "this kernel cannot export BARs of the device as DMABUFs: it lacks VFIO_DEVICE_FEATURE_DMA_BUF (CONFIG_VFIO_PCI_DMABUF)");
	if (!(features & SLICE_CAN_REVOKE))
		errx(EXIT_UNSUPPORTED, "this kernel can neither mmap() nor revoke DMABUFs of BARs: it lacks VFIO_DEVICE_PCI_DMABUF_REVOKE");
}

off_t region_offset(int device, unsigned int index, uint64_t min_size)
{
	struct vfio_region_info info;

	check(slice_region(device, index, &info), "VFIO_DEVICE_GET_REGION_INFO");
	if (info.size < min_size)
		errx(1, "region %u has %llu bytes, %llu are needed", index, info.size,
		     (unsigned long long)min_size);
	return info.offset;
}

int export_range(int device, unsigned int bar, uint64_t offset, uint64_t size, int access)
{
	struct vfio_region_dma_range range = { offset, size };

	return check(slice_export(device, bar, &range, 1, access | O_CLOEXEC),
		     "VFIO_DEVICE_FEATURE_DMA_BUF");
}

bool is_edu_plus(int device)
{
	off_t config = region_offset(device, VFIO_PCI_CONFIG_REGION_INDEX, PCI_REVISION_ID + 1);
	uint32_t id;
	uint8_t revision;

	if (pread(device, &id, sizeof(id), config) != sizeof(id) ||
	    pread(device, &revision, sizeof(revision), config + PCI_REVISION_ID) !=
	    sizeof(revision))
		err(1, "the configuration space cannot be read");
	/* edu has the same numbers, but revision 0x10 and no RAM. */
	return id == 0x11e81234 && revision == 0x20;
}

void expect_ram(int device, unsigned int bar)
{
	if (!is_edu_plus(device) || bar != VFIO_PCI_BAR1_REGION_INDEX)
		errx(1, "the device is not known to have RAM in BAR %u, and a write to registers can do damage; -f writes to it",
		     bar);
}

uint64_t number(const char *text, uint64_t max)
{
	unsigned long long value;
	int shift = 0;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (end != text && *end) {
		shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
		end += shift > 0;
	}
	if (end == text || *text == '-' || *end || errno || value > max >> shift)
		errx(2, "'%s' is not a number, or is too large", text);
	return value << shift;
}

static void read_word(void *page)
{
	(void)*(const volatile uint32_t *)page;
}

bool gives_sigbus(const volatile void *page)
{
	int ret = slice_access(page, sizeof(uint32_t), read_word, (void *)page);

	if (ret != -EFAULT)
		check(ret, "slice_access()");
	return ret;
}

bool maps_line(pid_t pid, const char *text, char *line, int size)
{
	bool found = false;
	char path[64];
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "r");
	if (!maps)
		err(1, "%s", path);
	while (!found && fgets(line, size, maps)) {
		line[strcspn(line, "\n")] = '\0';
		found = strlen(line) >= strlen(text) &&
			!strcmp(line + strlen(line) - strlen(text), text);
	}
	fclose(maps);
	return found;
}
