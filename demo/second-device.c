// SPDX-License-Identifier: GPL-2.0
/*
 * second-device - let the device of another process access a slice of a device
 *
 *	second-device EXPORTER IMPORTER
 *
 * Both devices are edu-plus and bound to vfio-pci. The parent opens EXPORTER and exports a
 * slice of its BAR 1. The child opens IMPORTER, and gets nothing of EXPORTER but the
 * DMABUF. It maps the DMABUF for DMA by its own device, which writes to the slice and reads
 * from it, until the parent revokes it.
 *
 * The calls of interest are in import_slice() and in main(). The program checks each
 * statement before it prints it. On a failure it prints the reason and exits with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "common.h"

#define MIB		(1UL << 20)
#define SLICE_SIZE	(64UL << 10)

/* Registers of edu-plus (qemu/), whose buffer is as large as the slice */
#define EDU_STATUS	0x20
#define  EDU_DMA_FAILED	0x100
#define EDU_DMA_SRC	0x80
#define EDU_DMA_DST	0x88
#define EDU_DMA_COUNT	0x90
#define EDU_DMA_CMD	0x98
#define  EDU_DMA_RUN	1
#define  EDU_DMA_TO_HOST 2
#define EDU_BUFFER	0x40000

const char *program = "second-device";

/* Of the child: its device, an IOAS, memory that the device can access, and the slice */
static int importer, iommufd;
static uint32_t ioas;
static uint64_t *memory;
static uint64_t memory_iova, slice_iova;

static void open_importer(const char *bdf)
{
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.length = SLICE_SIZE,
	};
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	importer = open_device(vfio_number(bdf), &iommufd);
	if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc))
		fail("IOMMU_IOAS_ALLOC: %s", strerror(errno));
	ioas = attach.pt_id = alloc.out_ioas_id;
	if (ioctl(importer, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		fail("VFIO_DEVICE_ATTACH_IOMMUFD_PT: %s", strerror(errno));

	memory = mmap(NULL, SLICE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	map.ioas_id = ioas;
	map.user_va = (uintptr_t)memory;
	if (ioctl(iommufd, IOMMU_IOAS_MAP, &map))
		fail("IOMMU_IOAS_MAP: %s", strerror(errno));
	memory_iova = map.iova;
	set_command(importer, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, true);
}

/* Map the DMABUF for DMA by our device. Returns 0 or an errno. */
static int import_slice(int dmabuf)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas,
		.fd = dmabuf,
		.length = SLICE_SIZE,
	};

	if (ioctl(iommufd, IOMMU_IOAS_MAP_FILE, &map))
		return errno;
	slice_iova = map.iova;
	return 0;
}

/* Let our device copy the slice's size from one address to another. */
static bool dma(uint64_t from, uint64_t to)
{
	static volatile char *registers;
	int pass;

	if (!registers) {
		registers = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, importer,
				 region_offset(importer, VFIO_PCI_BAR0_REGION_INDEX, MIB));
		if (registers == MAP_FAILED)
			fail("the registers cannot be mapped: %s", strerror(errno));
	}

	for (pass = 0; pass < 2; pass++) {
		*(volatile uint64_t *)(registers + EDU_DMA_SRC) = pass ? EDU_BUFFER : from;
		*(volatile uint64_t *)(registers + EDU_DMA_DST) = pass ? to : EDU_BUFFER;
		*(volatile uint64_t *)(registers + EDU_DMA_COUNT) = SLICE_SIZE;
		*(volatile uint64_t *)(registers + EDU_DMA_CMD) = EDU_DMA_RUN | (pass ? EDU_DMA_TO_HOST : 0);
		if (*(volatile uint32_t *)(registers + EDU_STATUS) & EDU_DMA_FAILED)
			return false;
	}
	return true;
}

static void transfer_fd(int sock, int *fd, bool out)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {
		.header = {
			.cmsg_len = CMSG_LEN(sizeof(int)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
		},
	};
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	if (out)
		memcpy(CMSG_DATA(&control.header), fd, sizeof(int));
	if ((out ? sendmsg(sock, &msg, MSG_NOSIGNAL) : recvmsg(sock, &msg, MSG_CMSG_CLOEXEC)) != 1)
		fail("the other process has gone");
	if (!out)
		memcpy(fd, CMSG_DATA(&control.header), sizeof(int));
}

/* Wait for the other process, or let it go on. */
static void turn(int sock, bool ours)
{
	char byte = 0;

	if ((ours ? recv(sock, &byte, 1, 0) : send(sock, &byte, 1, MSG_NOSIGNAL)) != 1)
		fail("the other process has gone");
}

static void child(int sock, const char *bdf)
{
	unsigned long i, words = SLICE_SIZE / sizeof(*memory);
	int dmabuf, error;

	open_importer(bdf);
	transfer_fd(sock, &dmabuf, false);
	error = import_slice(dmabuf);
	if (error)
		fail("IOMMU_IOAS_MAP_FILE: %s", strerror(error));

	for (i = 0; i < words; i++)
		memory[i] = ~i;
	if (!dma(memory_iova, slice_iova))
		fail("DMA to the slice failed");
	printf("  importer: %s wrote 64 KiB to the slice by DMA\n", bdf);
	turn(sock, false);

	turn(sock, true);
	if (!dma(slice_iova, memory_iova))
		fail("DMA from the slice failed");
	for (i = 0; i < words; i++)
		if (memory[i] != i)
			fail("word %lu of the slice is wrong", i);
	printf("  importer: %s read what the CPU has written\n", bdf);
	turn(sock, false);

	turn(sock, true);
	if (dma(memory_iova, slice_iova) || dma(slice_iova, memory_iova))
		fail("DMA to or from the revoked slice did not fail");
	if (import_slice(dmabuf) != ENODEV)
		fail("the revoked slice can be imported again");
	printf("  importer: DMA of %s fails, and IOMMU_IOAS_MAP_FILE fails with ENODEV\n", bdf);
	turn(sock, false);
	exit(0);
}

int main(int argc, char **argv)
{
	unsigned long i, words = SLICE_SIZE / sizeof(uint64_t);
	int device, dmabuf, ret, status, socks[2];
	volatile uint64_t *slice;
	pid_t pid;

	if (argc != 3)
		fail("usage: second-device EXPORTER IMPORTER");
	setvbuf(stdout, NULL, _IOLBF, 0);
	catch_sigbus();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		fail("socketpair(): %s", strerror(errno));

	/* Before the device is opened, so that the child inherits nothing of it */
	pid = fork();
	if (!pid) {
		close(socks[0]);
		child(socks[1], argv[2]);
	}
	close(socks[1]);

	device = open_device(vfio_number(argv[1]), NULL);
	set_command(device, PCI_COMMAND_MEMORY, true);
	dmabuf = export_slice(device, VFIO_PCI_BAR1_REGION_INDEX, MIB, SLICE_SIZE, O_RDWR);
	slice = mmap(NULL, SLICE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
	if (slice == MAP_FAILED)
		fail("mmap(): %s", strerror(errno));
	printf("exporter: exported 64 KiB of BAR 1 of %s to the process that owns %s\n", argv[1], argv[2]);
	transfer_fd(socks[0], &dmabuf, true);

	turn(socks[0], true);
	for (i = 0; i < words; i++)
		if (slice[i] != ~i)
			fail("word %lu of the slice is wrong", i);
	for (i = 0; i < words; i++)
		slice[i] = i;
	printf("exporter: the CPU read the same values, and wrote others\n");
	turn(socks[0], false);

	turn(socks[0], true);
	ret = revoke_slice(device, dmabuf);
	if (ret)
		fail("VFIO_DEVICE_PCI_DMABUF_REVOKE: %s", strerror(-ret));
	if (!gives_sigbus(slice))
		fail("the slice can still be read");
	printf("exporter: revoked the slice; the CPU gets SIGBUS\n");
	turn(socks[0], false);

	turn(socks[0], true);
	if (waitpid(pid, &status, 0) != pid || status)
		fail("the importer exited with status 0x%x", status);
	return 0;
}
