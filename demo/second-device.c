// SPDX-License-Identifier: GPL-2.0
/*
 * second-device - let the device of another process access a slice of a device
 *
 *	second-device [-g] [-o OFFSET] EXPORTER IMPORTER
 *
 * Both devices are edu-plus and bound to vfio-pci. The parent opens EXPORTER and exports a
 * slice of its BAR 1. The child opens IMPORTER, and gets nothing of EXPORTER but the
 * DMABUF. It maps the DMABUF for DMA by its own device, which writes to the slice and reads
 * from it, until the parent revokes it.
 *
 * The calls of interest are in import_slice() and in main(). The program checks each
 * statement before it prints it. On a failure it prints the reason and exits with 1.
 *
 *	-g	open EXPORTER by its group and a container; IMPORTER needs an iommufd
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>

#include "common.h"

#define USAGE "second-device [-g] [-o OFFSET] EXPORTER IMPORTER"

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
#define SLICE_SIZE	(64UL << 10)

/* Of the child: its device, an IOAS, memory that the device can access, and the slice */
struct importer {
	struct slice_device dev;
	volatile char *registers;
	uint32_t ioas;
	uint64_t *memory;
	uint64_t memory_iova;
	uint64_t slice_iova;
};

static void expect_edu_plus(int device, const char *bdf)
{
	if (!is_edu_plus(device))
		errx(1, "%s is not edu-plus", bdf);
}

static void open_importer(struct importer *importer, const char *bdf)
{
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.length = SLICE_SIZE,
	};
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	size_t size = EDU_DMA_CMD + sizeof(uint64_t);
	int device;

	check(slice_open_cdev(bdf, &importer->dev), bdf);
	device = importer->dev.device;
	expect_edu_plus(device, bdf);
	if (ioctl(importer->dev.iommu, IOMMU_IOAS_ALLOC, &alloc))
		err(1, "IOMMU_IOAS_ALLOC");
	importer->ioas = attach.pt_id = alloc.out_ioas_id;
	if (ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		err(1, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");

	importer->memory = mmap(NULL, SLICE_SIZE, PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	map.ioas_id = importer->ioas;
	map.user_va = (uintptr_t)importer->memory;
	if (ioctl(importer->dev.iommu, IOMMU_IOAS_MAP, &map))
		err(1, "IOMMU_IOAS_MAP");
	importer->memory_iova = map.iova;

	check(slice_set_command(device, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, true), "PCI_COMMAND");
	importer->registers = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, device,
				   region_offset(device, VFIO_PCI_BAR0_REGION_INDEX, size));
	if (importer->registers == MAP_FAILED)
		err(1, "the registers cannot be mapped");
}

/* Map the DMABUF for DMA by our device; return 0 or -errno */
static int import_slice(struct importer *importer, int dmabuf)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = importer->ioas,
		.fd = dmabuf,
		.length = SLICE_SIZE,
	};

	if (ioctl(importer->dev.iommu, IOMMU_IOAS_MAP_FILE, &map))
		return -errno;
	importer->slice_iova = map.iova;
	return 0;
}

static void write_register(struct importer *importer, unsigned int offset, uint64_t value)
{
	*(volatile uint64_t *)(importer->registers + offset) = value;
}

/* Let our device copy the slice's size from one address to another; false if that failed */
static bool dma(struct importer *importer, uint64_t from, uint64_t to)
{
	int pass;

	for (pass = 0; pass < 2; pass++) {
		write_register(importer, EDU_DMA_SRC, pass ? EDU_BUFFER : from);
		write_register(importer, EDU_DMA_DST, pass ? to : EDU_BUFFER);
		write_register(importer, EDU_DMA_COUNT, SLICE_SIZE);
		write_register(importer, EDU_DMA_CMD, EDU_DMA_RUN | (pass ? EDU_DMA_TO_HOST : 0));
		if (*(volatile uint32_t *)(importer->registers + EDU_STATUS) & EDU_DMA_FAILED)
			return false;
	}
	return true;
}

/* Let the other process go on, and give it a file descriptor unless fd is -1 */
static void pass(int sock, int fd)
{
	if (slice_send(sock, "", 1, fd) != 1)
		errx(1, "the other process has gone");
}

/* Wait for the other process; fd can be NULL */
static void turn(int sock, int *fd)
{
	char byte;

	if (slice_recv(sock, &byte, 1, fd) != 1)
		errx(1, "the other process has gone");
}

static void child(int sock, const char *bdf)
{
	unsigned long i, words = SLICE_SIZE / sizeof(uint64_t);
	struct importer importer = {};
	int dmabuf;

	open_importer(&importer, bdf);
	turn(sock, &dmabuf);
	check(import_slice(&importer, dmabuf), "IOMMU_IOAS_MAP_FILE");

	for (i = 0; i < words; i++)
		importer.memory[i] = ~i;
	if (!dma(&importer, importer.memory_iova, importer.slice_iova))
		errx(1, "DMA to the slice failed");
	printf("  importer: %s wrote 64 KiB to the slice by DMA\n", bdf);
	pass(sock, -1);

	turn(sock, NULL);
	if (!dma(&importer, importer.slice_iova, importer.memory_iova))
		errx(1, "DMA from the slice failed");
	for (i = 0; i < words; i++)
		if (importer.memory[i] != i)
			errx(1, "word %lu of the slice is wrong", i);
	printf("  importer: %s read what the CPU has written\n", bdf);
	pass(sock, -1);

	turn(sock, NULL);
	if (dma(&importer, importer.memory_iova, importer.slice_iova) ||
	    dma(&importer, importer.slice_iova, importer.memory_iova))
		errx(1, "DMA to or from the revoked slice did not fail");
	if (import_slice(&importer, dmabuf) != -ENODEV)
		errx(1, "the revoked slice can be imported again");
	printf("  importer: DMA of %s fails, and IOMMU_IOAS_MAP_FILE fails with ENODEV\n", bdf);
	pass(sock, -1);
	exit(0);
}

int main(int argc, char **argv)
{
	unsigned long i, words = SLICE_SIZE / sizeof(uint64_t);
	uint64_t offset = 1 << 20;
	int dmabuf, status, opt, socks[2];
	const char *exporter, *importer;
	volatile uint64_t *slice;
	struct slice_device dev;
	bool group = false;
	pid_t pid;

	while ((opt = getopt(argc, argv, "go:")) != -1) {
		if (opt == 'g')
			group = true;
		else if (opt == 'o')
			offset = number(optarg, 1 << 30);
		else
			errx(2, "usage: " USAGE);
	}
	if (optind != argc - 2)
		errx(2, "usage: " USAGE);
	exporter = argv[optind];
	importer = argv[optind + 1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		err(1, "socketpair()");

	/* Before the device is opened, so that the child inherits nothing of it */
	pid = fork();
	if (!pid) {
		close(socks[0]);
		child(socks[1], importer);
	}
	close(socks[1]);

	open_device(exporter, group, &dev);
	expect_edu_plus(dev.device, exporter);
	expect_features(dev.device);
	check(slice_set_command(dev.device, PCI_COMMAND_MEMORY, true), "PCI_COMMAND");
	dmabuf = export_range(dev.device, VFIO_PCI_BAR1_REGION_INDEX, offset, SLICE_SIZE, O_RDWR);
	slice = mmap(NULL, SLICE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
	if (slice == MAP_FAILED)
		err(1, "mmap()");
	printf("exporter: exported 64 KiB of BAR 1 of %s to the process that owns %s\n", exporter, importer);
	pass(socks[0], dmabuf);

	turn(socks[0], NULL);
	for (i = 0; i < words; i++)
		if (slice[i] != ~i)
			errx(1, "word %lu of the slice is wrong", i);
	for (i = 0; i < words; i++)
		slice[i] = i;
	printf("exporter: the CPU read the same values, and wrote others\n");
	pass(socks[0], -1);

	turn(socks[0], NULL);
	check(slice_revoke(dev.device, dmabuf), "VFIO_DEVICE_PCI_DMABUF_REVOKE");
	if (!gives_sigbus(slice))
		errx(1, "the slice can still be read");
	printf("exporter: revoked the slice; the CPU gets SIGBUS\n");
	pass(socks[0], -1);

	turn(socks[0], NULL);
	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "the importer exited with status 0x%x", status);
	return 0;
}
