/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef TESTS_MODULES_DMABUF_IMPORTER_H
#define TESTS_MODULES_DMABUF_IMPORTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMABUF_IMPORTER_DEV "/dev/dmabuf_importer"

/*
 * Attach the DMABUF @fd on behalf of a PCI device. Each open file can do that once,
 * and detaches when it is closed. mmap() of the open file maps the DMABUF.
 *
 * The callback for a revocation takes @callback_ms. The importer then keeps its mapping
 * for another @unmap_ms, or, if that is 0, until DMABUF_IMPORTER_UNMAP (15 seconds at
 * most).
 */
struct dmabuf_importer_attach {
	__s32 fd;
	__u32 domain;
	__u32 bus;
	__u32 devfn;
	__u32 callback_ms;
	__u32 unmap_ms;
};

#define DMABUF_IMPORTER_ATTACH	_IOW('D', 0, struct dmabuf_importer_attach)

/* Map and unmap for DMA. UNMAP without a mapping succeeds. */
#define DMABUF_IMPORTER_MAP	_IO('D', 1)
#define DMABUF_IMPORTER_UNMAP	_IO('D', 2)

/* Returns how many times the callback was called. */
#define DMABUF_IMPORTER_TOLD	_IO('D', 3)

/*
 * Add a fence to the DMABUF. The argument is how many milliseconds its work takes,
 * which begins when signaling is enabled. Each open file can have one, and signals it
 * when it is closed.
 */
#define DMABUF_IMPORTER_FENCE	_IO('D', 4)

/*
 * Return a file descriptor of the file that is mapped at the address in the argument, as
 * drivers outside of the kernel tree do. There is no other way to have one of the DMABUF
 * of a BAR mapping.
 */
#define DMABUF_IMPORTER_VMA_FILE	_IO('D', 5)

#endif /* TESTS_MODULES_DMABUF_IMPORTER_H */
