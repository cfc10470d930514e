/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Hand slices of a PCI BAR to other processes as DMABUFs, and take them back.
 *
 * Copy this and slice.c into your driver.  Functions that can fail return -errno.  They are
 * thread-safe and have no state, except that slice_access() installs a signal handler.
 * Documentation/slices.md is an introduction; the comments in the kernel's
 * include/uapi/linux/vfio.h describe the calls behind them.
 */
#ifndef SLICE_H
#define SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include <linux/vfio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the headers of older kernels lack */
#ifndef VFIO_DEVICE_BIND_IOMMUFD	/* Linux 6.6 */
struct vfio_device_bind_iommufd {
	__u32	argsz;
	__u32	flags;
	__s32	iommufd;
	__u32	out_devid;
};
#define VFIO_DEVICE_BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#endif

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF	/* Linux 6.19 */
#define VFIO_DEVICE_FEATURE_DMA_BUF 11
struct vfio_region_dma_range {
	__u64	offset;
	__u64	length;
};
struct vfio_device_feature_dma_buf {
	__u32	region_index;
	__u32	open_flags;
	__u32	flags;
	__u32	nr_ranges;
	struct vfio_region_dma_range dma_ranges[];
};
#endif

#ifndef VFIO_DEVICE_PCI_DMABUF_REVOKE
struct vfio_pci_dmabuf_revoke {
	__u32	argsz;
	__s32	dmabuf_fd;
};
#define VFIO_DEVICE_PCI_DMABUF_REVOKE _IO(VFIO_TYPE, VFIO_BASE + 22)
#endif

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR
#define VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR 14
enum vfio_device_dma_buf_memattr {
	VFIO_DEVICE_DMA_BUF_MEMATTR_UC = 0,
	VFIO_DEVICE_DMA_BUF_MEMATTR_WC = 1,
};
struct vfio_device_feature_dma_buf_memattr {
	__s32	dmabuf_fd;
	__u32	memattr;
};
#endif

/**
 * struct slice_device - an open device
 * @device: the file descriptor that VFIO's calls on the device take
 * @iommu: the iommufd, or the container
 * @group: the group, or -1 with an iommufd
 *
 * The DMABUFs of the device end with the last file descriptor of it.
 */
struct slice_device {
	int device;
	int iommu;
	int group;
};

/**
 * slice_cdev_number() - find the file of a device
 * @bdf: its PCI address, DDDD:BB:DD.F
 *
 * Return: the N of /dev/vfio/devices/vfioN, or -errno; -ENOENT as of slice_open_cdev()
 */
int slice_cdev_number(const char *bdf);

/**
 * slice_open_cdev() - open a device by its own file, and bind it to a new iommufd
 * @bdf: its PCI address, DDDD:BB:DD.F
 * @dev: what was opened
 *
 * Return: 0, or -errno; -ENOENT if the device is not bound to vfio-pci, or the kernel has
 * no such files (CONFIG_VFIO_DEVICE_CDEV) or no iommufd: try slice_open_group().
 */
int slice_open_cdev(const char *bdf, struct slice_device *dev);

/**
 * slice_open_group() - open a device by its group, in a new type1 container
 * @bdf: its PCI address, DDDD:BB:DD.F
 * @dev: what was opened
 *
 * A group can be open once: its devices have to be opened by one process.
 *
 * Return: 0, or -errno; -ENOENT if the device is not bound to vfio-pci or the kernel has no
 * groups, -EPERM if another device of the group has a driver that is not safe.
 */
int slice_open_group(const char *bdf, struct slice_device *dev);

/**
 * slice_close() - close a device
 * @dev: the device; file descriptors that are negative are ignored
 *
 * If no other file descriptor of the device and no mapping of a BAR is left, this
 * permanently revokes all its DMABUFs, and waits for their importers.
 */
void slice_close(struct slice_device *dev);

/**
 * enum slice_features - what a kernel can do
 * @SLICE_CAN_EXPORT: slice_export()
 * @SLICE_CAN_REVOKE: slice_revoke(), and mmap() of DMABUFs, which came before it
 * @SLICE_CAN_SET_MEMATTR: slice_set_memattr()
 */
enum slice_features {
	SLICE_CAN_EXPORT = 1 << 0,
	SLICE_CAN_REVOKE = 1 << 1,
	SLICE_CAN_SET_MEMATTR = 1 << 2,
};

/**
 * slice_probe() - find out what the kernel can do
 * @device: the device
 *
 * slice_set_memattr() can fail for a certain attribute, even if this finds it.
 *
 * Return: bits of enum slice_features, or -errno
 */
int slice_probe(int device);

/**
 * slice_region() - get size and offset of a BAR or of the configuration space
 * @device: the device
 * @index: VFIO_PCI_BAR0_REGION_INDEX or another one
 * @info: the result; the size of a BAR that does not exist is 0
 *
 * Return: 0, or -errno
 */
int slice_region(int device, unsigned int index, struct vfio_region_info *info);

/**
 * slice_set_command() - set or clear bits of the command register
 * @device: the device
 * @bits: PCI_COMMAND_MEMORY, without which slices are not accessible, PCI_COMMAND_MASTER
 * @on: set them
 *
 * Return: 0, or -errno
 */
int slice_set_command(int device, uint16_t bits, bool on);

/**
 * slice_export() - export ranges of a BAR as one DMABUF
 * @device: the device
 * @bar: VFIO_PCI_BAR0_REGION_INDEX or another one
 * @ranges: multiples of the page size; they follow one another in the DMABUF
 * @nr_ranges: their number, at least 1
 * @open_flags: O_RDONLY or O_RDWR, which CPUs cannot exceed (devices can), and O_CLOEXEC
 *
 * Return: the file descriptor, or -errno. Keep it for slice_revoke().
 */
int slice_export(int device, unsigned int bar, const struct vfio_region_dma_range *ranges,
		 unsigned int nr_ranges, int open_flags);

/**
 * slice_set_memattr() - choose the memory attribute of later mmap()s
 * @device: the device that exported the DMABUF
 * @dmabuf: the DMABUF
 * @memattr: VFIO_DEVICE_DMA_BUF_MEMATTR_WC only for memory without side effects
 *
 * Return: 0, or -errno; with -EOPNOTSUPP and -ENOTTY mappings are uncached as before.
 */
int slice_set_memattr(int device, int dmabuf, enum vfio_device_dma_buf_memattr memattr);

/**
 * slice_revoke() - permanently revoke a DMABUF
 * @device: the device that exported it
 * @dmabuf: the DMABUF
 *
 * CPUs lose their access first, then the call waits for importers and fences, which any holder
 * of the DMABUF can make last. Call it from a thread that can afford to block.
 *
 * Return: 0 once nobody can access the memory by this DMABUF, -EBADFD if that was so
 * before, or another -errno.
 */
int slice_revoke(int device, int dmabuf);

/**
 * slice_send() - send a message, and optionally a file descriptor, over a UNIX socket
 * @sock: the socket, SOCK_SEQPACKET to keep the borders of messages
 * @data: the message
 * @size: its size, at least 1
 * @fd: the file descriptor, or -1
 *
 * Return: the bytes that were sent, or -errno; -EPIPE, and no signal, if the peer has gone
 */
ssize_t slice_send(int sock, const void *data, size_t size, int fd);

/**
 * slice_recv() - receive what slice_send() has sent
 * @sock: the socket
 * @data: the message
 * @size: how much of it is expected
 * @fd: the file descriptor, with close-on-exec, or -1 if none came; can be NULL
 *
 * Return: the bytes that were received, 0 if the peer has gone, or -errno; -EMSGSIZE if
 * the message was longer, or had more than one file descriptor.
 */
ssize_t slice_recv(int sock, void *data, size_t size, int *fd);

/**
 * slice_access() - access a mapping that can become inaccessible at any time
 * @map: the mapping, or a part of it
 * @length: its length
 * @access: a function that reads and writes it, by pointers to volatile
 * @arg: its argument
 *
 * Threads can call this at the same time, and @access can call it for another mapping. A
 * SIGBUS outside of @map goes to the handler that was there at the first call.
 *
 * - @access ends in the middle when it gets SIGBUS: it must not hold a lock, own memory, or
 *   be in the middle of a library call. It must not leave by longjmp() or an exception.
 * - A handler that is installed after the first call must pass on what it does not know.
 * - SIGBUS must not be blocked in the thread: the kernel would end the process.
 * - System calls (write(2) from @map) fail with EFAULT instead of a signal.
 * - The mask and the flags of a handler that was there before are not applied to it.
 *
 * Return: 0, -EFAULT if the mapping is not accessible, or another -errno. Whether it
 * is revoked permanently, mmap() of the DMABUF tells: it then fails with ENODEV.
 */
int slice_access(const volatile void *map, size_t length, void (*access)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif

#endif
