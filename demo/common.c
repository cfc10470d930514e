// SPDX-License-Identifier: GPL-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "common.h"

void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "%s: ", program);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	exit(1);
}

int vfio_number(const char *bdf)
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
		fail("%s has no vfio device", path);
	return number;
}

int open_device(int number, int *iommufd)
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
	if (iommufd)
		*iommufd = bind.iommufd;
	return fd;
}

off_t region_offset(int device, unsigned int index, size_t min_size)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		fail("VFIO_DEVICE_GET_REGION_INFO: %s", strerror(errno));
	if (info.size < min_size)
		fail("region %u has %llu bytes, %zu are needed", index,
		     info.size, min_size);
	return info.offset;
}

void set_command(int device, uint16_t bits, bool on)
{
	off_t offset = region_offset(device, VFIO_PCI_CONFIG_REGION_INDEX, 64) +
		       PCI_COMMAND;
	uint16_t command;

	if (pread(device, &command, sizeof(command), offset) != sizeof(command))
		fail("PCI_COMMAND cannot be read");
	command &= ~bits;
	if (on)
		command |= bits;
	if (pwrite(device, &command, sizeof(command), offset) != sizeof(command))
		fail("PCI_COMMAND cannot be written");
}

int export_slice(int device, unsigned int bar, off_t offset, size_t size,
		 int access)
{
	size_t argsz = sizeof(struct vfio_device_feature) +
		       sizeof(struct vfio_device_feature_dma_buf) +
		       sizeof(struct vfio_region_dma_range);
	struct vfio_device_feature *feature = calloc(1, argsz);
	struct vfio_device_feature_dma_buf *slice = (void *)feature->data;
	int fd;

	feature->argsz = argsz;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	slice->region_index = bar;
	slice->open_flags = access | O_CLOEXEC;
	slice->nr_ranges = 1;
	slice->dma_ranges[0].offset = offset;
	slice->dma_ranges[0].length = size;
	fd = ioctl(device, VFIO_DEVICE_FEATURE, feature);
	if (fd < 0)
		fail("export of a slice of BAR %u: %s", bar, strerror(errno));
	free(feature);
	return fd;
}

int revoke_slice(int device, int dmabuf)
{
	struct vfio_pci_dmabuf_revoke revoke = {
		.argsz = sizeof(revoke),
		.dmabuf_fd = dmabuf,
	};

	return ioctl(device, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke) ? -errno : 0;
}

bool maps_line(pid_t pid, const char *text, char *line, int size)
{
	bool found = false;
	char path[64];
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "r");
	if (!maps)
		fail("%s: %s", path, strerror(errno));
	while (!found && fgets(line, size, maps)) {
		line[strcspn(line, "\n")] = '\0';
		found = strlen(line) >= strlen(text) &&
			!strcmp(line + strlen(line) - strlen(text), text);
	}
	fclose(maps);
	return found;
}

static sigjmp_buf on_sigbus;

static void sigbus(int signal)
{
	siglongjmp(on_sigbus, 1);
}

void catch_sigbus(void)
{
	signal(SIGBUS, sigbus);
}

bool gives_sigbus(const volatile void *page)
{
	if (sigsetjmp(on_sigbus, 1))
		return true;
	(void)*(const volatile uint32_t *)page;
	return false;
}
