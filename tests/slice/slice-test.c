// SPDX-License-Identifier: GPL-2.0-only
/*
 * slice-test [-bg] DDDD:BB:DD.F
 *
 * Test demo/slice.c on an edu-plus that is bound to vfio-pci. KTAP on stdout.
 *
 *	-b	the kernel lacks the patches
 *	-g	open the device by its group
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/pci_regs.h>

#include "common.h"
#include "result.h"

#define PAGE 4096
#define BAR VFIO_PCI_BAR1_REGION_INDEX

static unsigned int open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Send one byte and two file descriptors */
static void send_two(int sock)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control = {
		.header = {
			.cmsg_len = CMSG_LEN(2 * sizeof(int)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
		},
	};
	struct iovec iov = { "x", 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	memcpy(CMSG_DATA(&control.header), (int []) { 0, 1 }, 2 * sizeof(int));
	if (sendmsg(sock, &msg, 0) != 1)
		err(1, "sendmsg");
}

static void test_sockets(void)
{
	unsigned int before;
	int socks[2], fd;
	char data[4];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		err(1, "socketpair");
	before = open_files();
	result(slice_send(socks[0], "abc", 4, 0) == 4 && slice_recv(socks[1], data, 4, &fd) == 4 &&
	       !strcmp(data, "abc") && fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC && !close(fd),
	       "a message and a file descriptor arrive");
	result(slice_send(socks[0], "abc", 4, -1) == 4 && slice_recv(socks[1], data, 4, &fd) == 4 && fd == -1,
	       "a message without a file descriptor arrives");
	result(slice_send(socks[0], "abc", 4, 0) == 4 && slice_recv(socks[1], data, 4, NULL) == 4 &&
	       open_files() == before, "a file descriptor that is not wanted is closed");
	send_two(socks[0]);
	result(slice_recv(socks[1], data, 1, &fd) == -EMSGSIZE && fd == -1 && open_files() == before,
	       "two file descriptors are refused, and closed");
	result(slice_send(socks[0], "abcde", 6, 0) == 6 && slice_recv(socks[1], data, 4, &fd) == -EMSGSIZE &&
	       fd == -1 && open_files() == before, "a message that is too long is refused");
	close(socks[0]);
	result(slice_recv(socks[1], data, 4, &fd) == 0 && slice_send(socks[1], "abc", 4, -1) == -EPIPE,
	       "the end of the peer is reported, without a signal");
	close(socks[1]);
}

/* Export pages of BAR 1 and map them */
static volatile uint32_t *map_slice(int device, unsigned int first_page, int *dmabuf)
{
	void *map;

	*dmabuf = export_range(device, BAR, first_page * PAGE, PAGE, O_RDWR);
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *dmabuf, 0);
	if (map == MAP_FAILED)
		err(1, "mmap of a DMABUF");
	return map;
}

struct toucher {
	volatile uint32_t *word;
	atomic_uint accesses;
	int ret;
};

static void *touch(void *arg)
{
	struct toucher *toucher = arg;

	do {
		toucher->ret = slice_access(toucher->word, PAGE, read_word, (void *)toucher->word);
		toucher->accesses++;
	} while (!toucher->ret);
	return NULL;
}

/* Two threads access pages that take_away() makes inaccessible meanwhile */
static bool both_fail(struct toucher touchers[2], int (*take_away)(int device, int *dmabufs),
		      int device, int *dmabufs)
{
	pthread_t threads[2];
	int i, ret;

	for (i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, touch, &touchers[i]))
			errx(1, "pthread_create");
	while (!touchers[0].accesses || !touchers[1].accesses)
		sched_yield();
	ret = take_away(device, dmabufs);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	return !ret && touchers[0].ret == -EFAULT && touchers[1].ret == -EFAULT &&
	       touchers[0].accesses > 1 && touchers[1].accesses > 1;
}

static int revoke_both(int device, int *dmabufs)
{
	return slice_revoke(device, dmabufs[0]) ?: slice_revoke(device, dmabufs[1]);
}

static int decode_off(int device, int *dmabufs)
{
	(void)dmabufs;
	return slice_set_command(device, PCI_COMMAND_MEMORY, false);
}

static void test_decode(int device)
{
	off_t bar = region_offset(device, BAR, 2 * PAGE);
	void *map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, device, bar);
	struct toucher touchers[2] = { { .word = map }, { .word = map + PAGE } };

	if (map == MAP_FAILED)
		err(1, "mmap of the BAR");
	result(both_fail(touchers, decode_off, device, NULL),
	       "two threads get EFAULT when memory decode goes off");
	result(!slice_set_command(device, PCI_COMMAND_MEMORY, true) &&
	       !gives_sigbus(touchers[0].word) && !gives_sigbus(touchers[1].word),
	       "and can access the BAR when it is on again");
	munmap(map, 2 * PAGE);
}

#define ROUNDS 20

static void test_revoke(int device)
{
	int dmabufs[2], kept, round;
	volatile uint32_t *other = map_slice(device, 2, &kept);
	bool ok = true;
	void *probe;

	for (round = 0; round < ROUNDS && ok; round++) {
		struct toucher touchers[2] = {
			{ .word = map_slice(device, 0, &dmabufs[0]) },
			{ .word = map_slice(device, 1, &dmabufs[1]) },
		};

		ok = both_fail(touchers, revoke_both, device, dmabufs);
		probe = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, dmabufs[0], 0);
		ok = ok && probe == MAP_FAILED && errno == ENODEV && !gives_sigbus(other) &&
		     slice_revoke(device, dmabufs[0]) == -EBADFD;
		munmap((void *)touchers[0].word, PAGE);
		munmap((void *)touchers[1].word, PAGE);
		close(dmabufs[0]);
		close(dmabufs[1]);
	}
	result(ok, "two threads get EFAULT when their slices are revoked, and a third slice works");
	munmap((void *)other, PAGE);
	close(kept);
}

static void test_ranges(int device)
{
	struct vfio_region_dma_range ranges[] = { { 5 * PAGE, PAGE }, { 3 * PAGE, PAGE } };
	off_t bar = region_offset(device, BAR, 6 * PAGE);
	int dmabuf = slice_export(device, BAR, ranges, 2, O_RDONLY | O_CLOEXEC);
	uint32_t words[] = { 0x55555555, 0x33333333 };
	volatile uint32_t *map;
	void *probe;
	bool ok;

	if (pwrite(device, &words[0], 4, bar + 5 * PAGE) != 4 ||
	    pwrite(device, &words[1], 4, bar + 3 * PAGE) != 4)
		err(1, "pwrite");
	map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, dmabuf, 0);
	ok = map != MAP_FAILED && map[0] == words[0] && map[PAGE / 4] == words[1];
	probe = mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, dmabuf, 0);
	result(ok && probe == MAP_FAILED && errno == EACCES,
	       "two ranges follow one another in the order given, read-only");
	result(!slice_set_memattr(device, dmabuf, VFIO_DEVICE_DMA_BUF_MEMATTR_WC) &&
	       !slice_set_memattr(device, dmabuf, VFIO_DEVICE_DMA_BUF_MEMATTR_UC) &&
	       slice_set_memattr(device, dmabuf, (enum vfio_device_dma_buf_memattr)2) == -EOPNOTSUPP,
	       "the memory attribute can be set, unless it is unknown");
	close(dmabuf);
}

int main(int argc, char **argv)
{
	int (*open_it)(const char *bdf, struct slice_device *dev) = slice_open_cdev;
	int all = SLICE_CAN_EXPORT | SLICE_CAN_REVOKE | SLICE_CAN_SET_MEMATTR, opt, ret;
	struct vfio_region_dma_range odd = { 1, PAGE };
	struct slice_device dev, again;
	bool base = false;

	while ((opt = getopt(argc, argv, "bg")) != -1) {
		if (opt == 'b')
			base = true;
		else if (opt == 'g')
			open_it = slice_open_group;
		else
			argc = 0;
	}
	if (optind != argc - 1)
		errx(2, "usage: slice-test [-bg] DDDD:BB:DD.F");
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("KTAP version 1\n1..%d\n", base ? 15 : 17);

	test_sockets();

	result(open_it("0000:ff:1f.7", &dev) == -ENOENT && dev.device == -1,
	       "a device that does not exist gives ENOENT");
	ret = open_it(argv[optind], &dev);
	result(!ret, "the device can be opened");
	if (ret)
		errx(1, "%s: %s", argv[optind], strerror(-ret));
	result(open_it(argv[optind], &again) < 0 && again.device == -1 && again.iommu == -1,
	       "but not twice, and nothing stays open");
	slice_close(&dev);
	result(dev.device == -1 && !open_it(argv[optind], &dev), "it can be closed and opened again");
	result(slice_probe(dev.device) == (base ? SLICE_CAN_EXPORT : all), "the kernel has the features that it should");
	result(slice_export(dev.device, BAR, &odd, 1, O_RDWR) == -EINVAL, "a range that is not a page is refused");
	check(slice_set_command(dev.device, PCI_COMMAND_MEMORY, true), "PCI_COMMAND");
	test_decode(dev.device);
	if (base) {
		ret = export_range(dev.device, BAR, 0, PAGE, O_RDWR);
		result(slice_revoke(dev.device, ret) == -ENOTTY, "there is no revocation");
	} else {
		test_ranges(dev.device);
		test_revoke(dev.device);
	}
	slice_close(&dev);
	return failed != 0;
}
