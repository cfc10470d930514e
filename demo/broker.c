// SPDX-License-Identifier: GPL-2.0
/*
 * broker - hand out slices of a PCI device to other processes, and revoke them
 *
 *	broker DDDD:BB:DD.F CLIENT
 *
 * Open a device that is bound to vfio-pci, export two slices of BAR 1, which must
 * be RAM (as that of edu-plus), and one page of registers in BAR 0, and pass them to
 * processes of an unprivileged user, which run the program CLIENT. Then revoke one
 * slice, export its range again to another client, and close the device.
 *
 * The calls of interest are in export_slice() and revoke_slice() of common.c, and
 * map_write_combining(). The program checks each statement before it prints it. On a
 * failure it prints the reason and exits with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "common.h"
#include "protocol.h"

#define SOCKET		"/run/broker"
#define NOBODY		65534
#define MIB		(1UL << 20)
#define SLICE_SIZE	(64UL << 10)
#define MAX_CLIENTS	4

const char *program = "broker";

/* A client and its slice */
struct client {
	const char *name;
	pid_t pid;
	int sock;
	/* The broker keeps the file descriptor in order to revoke the DMABUF */
	int dmabuf;
	unsigned int bar;
	off_t offset;
	size_t size;
	uint64_t value;
};

static int device, listener;
static char device_file[64];
static struct client clients[MAX_CLIENTS];

/* Make later mmap()s of the DMABUF write-combining */
static void map_write_combining(int dmabuf)
{
	size_t argsz = sizeof(struct vfio_device_feature) +
		       sizeof(struct vfio_device_feature_dma_buf_memattr);
	struct vfio_device_feature *feature = calloc(1, argsz);
	struct vfio_device_feature_dma_buf_memattr *memattr = (void *)feature->data;

	feature->argsz = argsz;
	feature->flags = VFIO_DEVICE_FEATURE_SET |
			 VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR;
	memattr->dmabuf_fd = dmabuf;
	memattr->memattr = VFIO_DEVICE_DMA_BUF_MEMATTR_WC;
	if (ioctl(device, VFIO_DEVICE_FEATURE, feature))
		fail("VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR: %s", strerror(errno));
	free(feature);
}

static void listen_for_clients(void)
{
	struct sockaddr_un address = {
		.sun_family = AF_UNIX,
		.sun_path = SOCKET,
	};

	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	unlink(SOCKET);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
	    chmod(SOCKET, 0666) || listen(listener, 1))
		fail("%s: %s", SOCKET, strerror(errno));
}

static void expect_reply(struct client *client)
{
	struct reply reply;

	if (recv(client->sock, &reply, sizeof(reply), 0) != sizeof(reply))
		fail("the client %s has gone", client->name);
	if (strncmp(reply.name, client->name, sizeof(reply.name)))
		fail("%.16s replied instead of %s", reply.name, client->name);
}

/* Run the client as an unprivileged user, and wait until it connects */
static void start_client(struct client *client, const char *path)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	client->pid = fork();
	if (!client->pid) {
		if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
		    setresuid(NOBODY, NOBODY, NOBODY))
			fail("cannot drop privileges: %s",
			     strerror(errno));
		execl(path, path, SOCKET, client->name, device_file, NULL);
		fail("%s: %s", path, strerror(errno));
	}

	client->sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (client->sock < 0 ||
	    getsockopt(client->sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) ||
	    peer.pid != client->pid || peer.uid != NOBODY)
		fail("another process connected instead of %s", client->name);
	expect_reply(client);
}

static void tell(struct client *client, enum command command)
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
	struct request request = {
		.command = command,
		.size = client->size,
		.value = client->value,
	};
	struct iovec iov = { &request, sizeof(request) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (command == COMMAND_MAP) {
		memcpy(CMSG_DATA(&control.header), &client->dmabuf, sizeof(int));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
	}
	if (sendmsg(client->sock, &msg, MSG_NOSIGNAL) != sizeof(request))
		fail("the client %s has gone", client->name);
	expect_reply(client);
}

/* Write the first word of each page of the client's slice, without a mapping */
static void fill(struct client *client)
{
	off_t start = region_offset(device, client->bar, 0) + client->offset;
	unsigned long i, page = sysconf(_SC_PAGESIZE);
	uint64_t value;

	for (i = 0; i < client->size / page; i++) {
		value = page_value(client->value, i);
		if (pwrite(device, &value, sizeof(value), start + i * page) !=
		    sizeof(value))
			fail("cannot write to BAR %u", client->bar);
	}
}

static void expect_filled(struct client *client)
{
	off_t start = region_offset(device, client->bar, 0) + client->offset;
	unsigned long i, page = sysconf(_SC_PAGESIZE);
	uint64_t value;

	for (i = 0; i < client->size / page; i++)
		if (pread(device, &value, sizeof(value), start + i * page) !=
		    sizeof(value) || value != page_value(client->value, i))
			fail("page %lu of BAR %u does not have the value of %s", i,
			     client->bar, client->name);
}

static void hand_out(struct client *client, const char *path, int access)
{
	start_client(client, path);
	client->dmabuf = export_slice(device, client->bar, client->offset,
				      client->size, access);
	/* The name in /proc/PID/maps */
	if (ioctl(client->dmabuf, DMA_BUF_SET_NAME, client->name))
		fail("DMA_BUF_SET_NAME: %s", strerror(errno));
}

static void show_maps(const char *state, unsigned int nr)
{
	char line[256], name[64];
	unsigned int i;

	printf("broker: %s\n", state);
	for (i = 0; i < nr; i++) {
		snprintf(name, sizeof(name), " /dmabuf:%s", clients[i].name);
		if (!maps_line(clients[i].pid, name, line, sizeof(line)))
			fail("/proc/%d/maps has no mapping named%s",
			     (int)clients[i].pid, name);
		if (!strstr(line, i == 1 ? " r--s " : " rw-s "))
			fail("the access of %s is wrong: %s", clients[i].name,
			     line);
		printf("    %d: %s\n", (int)clients[i].pid, line);
	}
}

static void expect_exit(struct client *client)
{
	int status;

	tell(client, COMMAND_EXIT);
	if (waitpid(client->pid, &status, 0) != client->pid || status)
		fail("the client %s exited with status 0x%x", client->name, status);
	/* kill_clients() must not use the PID any more. */
	client->pid = 0;
}

static void kill_clients(void)
{
	unsigned int i;

	for (i = 0; i < MAX_CLIENTS; i++)
		if (clients[i].pid > 0)
			kill(clients[i].pid, SIGKILL);
}

int main(int argc, char **argv)
{
	struct client *registers = &clients[0], *reader = &clients[1];
	struct client *writer = &clients[2], *writer2 = &clients[3];
	unsigned int i;
	int number, ret;

	if (argc != 3)
		fail("usage: broker DDDD:BB:DD.F CLIENT");
	setvbuf(stdout, NULL, _IOLBF, 0);
	atexit(kill_clients);

	*registers = (struct client) { .name = REGISTERS,
		.bar = VFIO_PCI_BAR0_REGION_INDEX, .offset = 0,
		.size = sysconf(_SC_PAGESIZE), .value = 0x12345678 };
	*reader = (struct client) { .name = READER,
		.bar = VFIO_PCI_BAR1_REGION_INDEX, .offset = 2 * MIB,
		.size = SLICE_SIZE, .value = 0xfeed000000000000 };
	*writer = (struct client) { .name = WRITER,
		.bar = VFIO_PCI_BAR1_REGION_INDEX, .offset = 1 * MIB,
		.size = SLICE_SIZE, .value = 0x5eed000000000000 };
	*writer2 = *writer;
	writer2->name = WRITER2;
	writer2->value = 0xbeef000000000000;

	number = vfio_number(argv[1]);
	device = open_device(number, NULL);
	snprintf(device_file, sizeof(device_file), "/dev/vfio/devices/vfio%d",
		 number);
	set_command(device, PCI_COMMAND_MEMORY, true);
	region_offset(device, VFIO_PCI_BAR1_REGION_INDEX, 4 * MIB);
	listen_for_clients();
	printf("broker: opened %s; the clients run as user %d and cannot open %s\n",
	       argv[1], NOBODY, device_file);

	hand_out(registers, argv[2], O_RDWR);
	hand_out(reader, argv[2], O_RDONLY);
	hand_out(writer, argv[2], O_RDWR);
	map_write_combining(writer->dmabuf);
	fill(reader);
	printf("broker: exported a page of BAR 0 (client \"registers\") and two slices of 64 KiB of BAR 1: read-only (\"reader\") and write-combining (\"writer\")\n");
	for (i = 0; i < 3; i++)
		tell(&clients[i], COMMAND_MAP);
	expect_filled(writer);
	show_maps("pread() of the device returns the values of the writer; the mappings of the clients:", 3);

	ret = revoke_slice(device, writer->dmabuf);
	if (ret)
		fail("VFIO_DEVICE_PCI_DMABUF_REVOKE: %s", strerror(-ret));
	if (revoke_slice(device, writer->dmabuf) != -EBADFD)
		fail("a second revoke does not fail with EBADFD");
	printf("broker: revoked the writer's slice\n");
	tell(writer, COMMAND_GONE);
	tell(registers, COMMAND_WORK);
	tell(reader, COMMAND_WORK);
	printf("broker: the registers and the reader's slice still work\n");

	hand_out(writer2, argv[2], O_RDWR);
	printf("broker: exported the range again, to another client\n");
	tell(writer2, COMMAND_MAP);
	expect_filled(writer2);
	tell(writer, COMMAND_GONE);

	if (ioctl(device, VFIO_DEVICE_RESET))
		fail("VFIO_DEVICE_RESET: %s", strerror(errno));
	tell(registers, COMMAND_WORK);
	tell(reader, COMMAND_WORK);
	tell(writer2, COMMAND_WORK);
	printf("broker: reset the device; all slices but the revoked one work\n");
	tell(writer, COMMAND_GONE);

	close(device);
	printf("broker: closed the device\n");
	for (i = 0; i < MAX_CLIENTS; i++)
		tell(&clients[i], COMMAND_GONE);
	for (i = 0; i < MAX_CLIENTS; i++)
		expect_exit(&clients[i]);
	printf("broker: no slice is accessible, and all clients exited with 0\n");
	unlink(SOCKET);
	return 0;
}
