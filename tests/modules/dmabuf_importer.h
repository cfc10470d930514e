/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_TEST_MODULES_DMABUF_IMPORTER_H
#define SELFTESTS_VFIO_TEST_MODULES_DMABUF_IMPORTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMABUF_IMPORTER_DEV "/dev/dmabuf_importer"

/*
 * Import the DMABUF @fd on behalf of a PCI device. Each open file can do that
 * once. It lets go when it is closed. An mmap() of the open file maps the DMABUF.
 *
 * When the exporter tells it to let go, the importer takes @callback_ms to
 * return, and has its mapping for another @unmap_ms, or until it is told to
 * unmap if that is zero (15 seconds at most).
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

/* Map, unmap. An unmap of what is not mapped is fine. */
#define DMABUF_IMPORTER_MAP	_IO('D', 1)
#define DMABUF_IMPORTER_UNMAP	_IO('D', 2)

/* How often was it told to let go? */
#define DMABUF_IMPORTER_TOLD	_IO('D', 3)

/*
 * Add a fence to the DMABUF, whose work begins when somebody enables signaling,
 * and takes as many milliseconds as the argument says. Each open file can have
 * one, and signals it when it is closed.
 */
#define DMABUF_IMPORTER_FENCE	_IO('D', 4)

#endif /* SELFTESTS_VFIO_TEST_MODULES_DMABUF_IMPORTER_H */
