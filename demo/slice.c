// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/pci_regs.h>

#include "slice.h"

static int open_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

void slice_close(struct slice_device *dev)
{
	if (dev->device >= 0)
		close(dev->device);
	if (dev->group >= 0)
		close(dev->group);
	if (dev->iommu >= 0)
		close(dev->iommu);
	*dev = (struct slice_device) { -1, -1, -1 };
}

int slice_cdev_number(const char *bdf)
{
	struct dirent *entry;
	int number = -ENOENT;
	char path[128];
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", bdf);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir)))
		if (sscanf(entry->d_name, "vfio%d", &number) == 1)
			break;
	closedir(dir);
	return number;
}

int slice_open_cdev(const char *bdf, struct slice_device *dev)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	int number = slice_cdev_number(bdf), ret;
	char path[64];

	*dev = (struct slice_device) { -1, -1, -1 };
	if (number < 0)
		return number;
	snprintf(path, sizeof(path), "/dev/vfio/devices/vfio%d", number);
	ret = dev->device = open_file(path);
	if (ret < 0)
		return ret;

	ret = dev->iommu = open_file("/dev/iommu");
	if (ret < 0)
		goto err_close;
	bind.iommufd = dev->iommu;
	if (!ioctl(dev->device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return 0;
	ret = -errno;
err_close:
	slice_close(dev);
	return ret;
}

int slice_open_group(const char *bdf, struct slice_device *dev)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	char path[128], link[256];
	ssize_t length;
	int ret;

	*dev = (struct slice_device) { -1, -1, -1 };
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	length = readlink(path, link, sizeof(link) - 1);
	if (length < 0)
		return -errno;
	link[length] = '\0';
	snprintf(path, sizeof(path), "/dev/vfio/%.32s", strrchr(link, '/') + 1);
	ret = dev->group = open_file(path);
	if (ret < 0)
		return ret;

	ret = dev->iommu = open_file("/dev/vfio/vfio");
	if (ret < 0)
		goto err_close;
	if (ioctl(dev->group, VFIO_GROUP_GET_STATUS, &status))
		goto err_errno;
	errno = EPERM;
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		goto err_errno;
	if (ioctl(dev->group, VFIO_GROUP_SET_CONTAINER, &dev->iommu) ||
	    ioctl(dev->iommu, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		goto err_errno;
	dev->device = ioctl(dev->group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	if (dev->device >= 0)
		return 0;
err_errno:
	ret = -errno;
err_close:
	slice_close(dev);
	return ret;
}

int slice_probe(int device)
{
	struct vfio_device_feature export = {
		.argsz = sizeof(export),
		.flags = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET |
			 VFIO_DEVICE_FEATURE_DMA_BUF,
	};
	struct vfio_device_feature memattr = {
		.argsz = sizeof(memattr),
		.flags = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET |
			 VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR,
	};
	int features = 0;

	if (!ioctl(device, VFIO_DEVICE_FEATURE, &export))
		features |= SLICE_CAN_EXPORT;
	else if (errno != ENOTTY)
		return -errno;
	if (!ioctl(device, VFIO_DEVICE_FEATURE, &memattr))
		features |= SLICE_CAN_SET_MEMATTR;

	/* There is no PROBE of an ioctl: one that exists looks at the file descriptor. */
	if (slice_revoke(device, -1) == -EBADF)
		features |= SLICE_CAN_REVOKE;
	return features;
}

int slice_region(int device, unsigned int index, struct vfio_region_info *info)
{
	*info = (struct vfio_region_info) { .argsz = sizeof(*info), .index = index };
	return ioctl(device, VFIO_DEVICE_GET_REGION_INFO, info) ? -errno : 0;
}

int slice_set_command(int device, uint16_t bits, bool on)
{
	struct vfio_region_info config;
	uint16_t command;
	off_t offset;
	int ret = slice_region(device, VFIO_PCI_CONFIG_REGION_INDEX, &config);

	if (ret)
		return ret;
	offset = config.offset + PCI_COMMAND;
	if (pread(device, &command, sizeof(command), offset) != sizeof(command))
		return -EIO;
	command = on ? command | bits : command & ~bits;
	if (pwrite(device, &command, sizeof(command), offset) != sizeof(command))
		return -EIO;
	return 0;
}

int slice_export(int device, unsigned int bar, const struct vfio_region_dma_range *ranges,
		 unsigned int nr_ranges, int open_flags)
{
	struct vfio_device_feature_dma_buf *dma_buf;
	struct vfio_device_feature *feature;
	size_t argsz = sizeof(*feature) + sizeof(*dma_buf) + nr_ranges * sizeof(*ranges);
	int ret;

	feature = calloc(1, argsz);
	if (!feature)
		return -ENOMEM;
	feature->argsz = argsz;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	dma_buf = (void *)feature->data;
	dma_buf->region_index = bar;
	dma_buf->open_flags = open_flags;
	dma_buf->nr_ranges = nr_ranges;
	memcpy(dma_buf->dma_ranges, ranges, nr_ranges * sizeof(*ranges));
	ret = ioctl(device, VFIO_DEVICE_FEATURE, feature);
	if (ret < 0)
		ret = -errno;
	free(feature);
	return ret;
}

int slice_set_memattr(int device, int dmabuf, enum vfio_device_dma_buf_memattr memattr)
{
	union {
		struct vfio_device_feature feature;
		char space[sizeof(struct vfio_device_feature) +
			   sizeof(struct vfio_device_feature_dma_buf_memattr)];
	} arg = {
		.feature = {
			.argsz = sizeof(arg),
			.flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR,
		},
	};
	struct vfio_device_feature_dma_buf_memattr set = { dmabuf, memattr };

	memcpy(arg.feature.data, &set, sizeof(set));
	return ioctl(device, VFIO_DEVICE_FEATURE, &arg) ? -errno : 0;
}

int slice_revoke(int device, int dmabuf)
{
	struct vfio_pci_dmabuf_revoke revoke = {
		.argsz = sizeof(revoke),
		.dmabuf_fd = dmabuf,
	};

	return ioctl(device, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke) ? -errno : 0;
}

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

ssize_t slice_send(int sock, const void *data, size_t size, int fd)
{
	union control control = {
		.header = {
			.cmsg_len = CMSG_LEN(sizeof(fd)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
		},
	};
	struct iovec iov = { (void *)data, size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t ret;

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
	}
	ret = sendmsg(sock, &msg, MSG_NOSIGNAL);
	return ret < 0 ? -errno : ret;
}

ssize_t slice_recv(int sock, void *data, size_t size, int *fd)
{
	struct iovec iov = { data, size };
	union control control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		/* Not sizeof(control), which has space for two because of its padding */
		.msg_controllen = CMSG_LEN(sizeof(int)),
	};
	struct cmsghdr *cmsg;
	int received = -1;
	ssize_t ret;

	if (fd)
		*fd = -1;
	ret = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	if (ret < 0)
		return -errno;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(&received, CMSG_DATA(cmsg), sizeof(received));
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		ret = -EMSGSIZE;
	if (fd && ret > 0)
		*fd = received;
	else if (received >= 0)
		close(received);
	return ret;
}

/* A call of slice_access() that is running in this thread */
struct guard {
	struct guard *outer;
	uintptr_t start;
	size_t length;
	sigjmp_buf env;
};

/* The handler must not call what allocates memory: initial-exec, also in a shared library. */
static __thread struct guard *volatile guards __attribute__((tls_model("initial-exec")));
static struct sigaction previous;
static int handler_error;

static void handle_sigbus(int signal, siginfo_t *info, void *context)
{
	struct guard *guard;

	for (guard = guards; guard && info->si_code > 0; guard = guard->outer)
		if ((uintptr_t)info->si_addr - guard->start < guard->length)
			siglongjmp(guard->env, 1);

	if (previous.sa_flags & SA_SIGINFO) {
		previous.sa_sigaction(signal, info, context);
	} else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(signal);
	} else if (previous.sa_handler == SIG_DFL || info->si_code > 0) {
		/* End as without a handler: a fault happens again, a signal is sent again. */
		sigaction(SIGBUS, &(struct sigaction) { .sa_handler = SIG_DFL }, NULL);
		if (info->si_code <= 0)
			raise(signal);
	}
}

static void install_handler(void)
{
	/* SA_NODEFER: siglongjmp() then has no signal mask to restore. */
	struct sigaction action = {
		.sa_sigaction = handle_sigbus,
		.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK,
	};

	sigemptyset(&action.sa_mask);
	/* The first call, because the handler may run before the second one returns */
	if (sigaction(SIGBUS, NULL, &previous) || sigaction(SIGBUS, &action, NULL))
		handler_error = errno;
}

int slice_access(const volatile void *map, size_t length, void (*access)(void *arg), void *arg)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct guard guard = {
		.outer = guards,
		.start = (uintptr_t)map,
		.length = length,
	};
	int ret = pthread_once(&once, install_handler);

	if (ret || handler_error)
		return -(ret ?: handler_error);
	if (sigsetjmp(guard.env, 0)) {
		guards = guard.outer;
		return -EFAULT;
	}
	guards = &guard;
	access(arg);
	guards = guard.outer;
	return 0;
}
