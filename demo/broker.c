// SPDX-License-Identifier: GPL-2.0
/*
 * broker - hand out slices of a PCI device to other processes, and revoke them
 *
 *	broker [-fg] [-s SOCKET] [-u UID] [-b BAR] [-o OFFSET] [-l LENGTH] DDDD:BB:DD.F CLIENT
 *
 * Open a device that is bound to vfio-pci, and export two slices of a BAR that is RAM and,
 * of edu-plus, one page of registers in BAR 0. Pass them to processes of an unprivileged
 * user, which run the program CLIENT. Then revoke one slice, export its range again to
 * another client, and close the device.
 *
 * The calls of interest are those of slice.h. The program checks each statement before it
 * prints it. On a failure it prints the reason and exits with 1.
 *
 *	-f	write to a device that is not known to have RAM in the BAR
 *	-g	use the group of the device and a container, not an iommufd
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
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/pci_regs.h>

#include "common.h"
#include "protocol.h"

#define USAGE "broker [-fg] [-s SOCKET] [-u UID] [-b BAR] [-o OFFSET] [-l LENGTH] DDDD:BB:DD.F CLIENT"

/* How clients are started */
struct broker {
	int device;
	int listener;
	uid_t uid;
	const char *socket;
	const char *program;
	/* Which clients must not be able to open */
	char device_file[64];
};

/* A client and its slice */
struct client {
	const char *name;
	pid_t pid;
	int sock;
	/* The broker keeps the file descriptor in order to revoke the DMABUF */
	int dmabuf;
	unsigned int bar;
	uint64_t offset;
	size_t size;
	uint64_t value;
};

static void listen_for_clients(struct broker *broker)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(broker->socket) >= sizeof(address.sun_path))
		errx(1, "%s is too long for a socket", broker->socket);
	strcpy(address.sun_path, broker->socket);
	unlink(broker->socket);
	broker->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (bind(broker->listener, (struct sockaddr *)&address, sizeof(address)) ||
	    chmod(broker->socket, 0666) || listen(broker->listener, 1))
		err(1, "%s", broker->socket);
}

static void expect_reply(struct client *client)
{
	struct reply reply;

	if (slice_recv(client->sock, &reply, sizeof(reply), NULL) != sizeof(reply))
		errx(1, "the client %s has gone", client->name);
	if (strncmp(reply.name, client->name, sizeof(reply.name)))
		errx(1, "%.16s replied instead of %s", reply.name, client->name);
}

/* Run the client as an unprivileged user, and wait until it connects */
static void start_client(struct broker *broker, struct client *client)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);
	uid_t uid = broker->uid;

	client->pid = fork();
	if (!client->pid) {
		/* The signal comes last, because it does not survive a change of the user. */
		if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid) ||
		    prctl(PR_SET_PDEATHSIG, SIGKILL))
			err(1, "cannot drop privileges");
		execl(broker->program, broker->program, broker->socket, client->name,
		      broker->device_file, NULL);
		err(1, "%s", broker->program);
	}

	client->sock = accept4(broker->listener, NULL, NULL, SOCK_CLOEXEC);
	if (client->sock < 0 ||
	    getsockopt(client->sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) ||
	    peer.pid != client->pid || peer.uid != uid)
		errx(1, "another process connected instead of %s", client->name);
	expect_reply(client);
}

static void tell(struct client *client, enum command command)
{
	struct request request = {
		.command = command,
		.size = client->size,
		.value = client->value,
	};
	int fd = command == COMMAND_MAP ? client->dmabuf : -1;

	if (slice_send(client->sock, &request, sizeof(request), fd) != sizeof(request))
		errx(1, "the client %s has gone", client->name);
	expect_reply(client);
}

static void tell_all(struct client *clients, unsigned int nr, enum command command)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		tell(&clients[i], command);
}

/* Write the first word of each page of the client's slice, without a mapping */
static void fill(int device, struct client *client)
{
	off_t start = region_offset(device, client->bar, 0) + client->offset;
	unsigned long i, page = sysconf(_SC_PAGESIZE);
	uint64_t value;

	for (i = 0; i < client->size / page; i++) {
		value = page_value(client->value, i);
		if (pwrite(device, &value, sizeof(value), start + i * page) != sizeof(value))
			err(1, "cannot write to BAR %u", client->bar);
	}
}

static void expect_filled(int device, struct client *client)
{
	off_t start = region_offset(device, client->bar, 0) + client->offset;
	unsigned long i, page = sysconf(_SC_PAGESIZE);
	uint64_t value;

	for (i = 0; i < client->size / page; i++)
		if (pread(device, &value, sizeof(value), start + i * page) != sizeof(value) ||
		    value != page_value(client->value, i))
			errx(1, "page %lu of BAR %u does not have the value of %s", i,
			     client->bar, client->name);
}

static void hand_out(struct broker *broker, struct client *client, int access)
{
	start_client(broker, client);
	client->dmabuf = export_range(broker->device, client->bar, client->offset, client->size,
				      access);
	/* The name in /proc/PID/maps */
	if (ioctl(client->dmabuf, DMA_BUF_SET_NAME, client->name))
		err(1, "DMA_BUF_SET_NAME");
}

static void show_maps(struct client *clients, unsigned int nr)
{
	char line[256], name[64];
	unsigned int i;

	for (i = 0; i < nr; i++) {
		bool readonly = !strcmp(clients[i].name, READER);

		snprintf(name, sizeof(name), " /dmabuf:%s", clients[i].name);
		if (!maps_line(clients[i].pid, name, line, sizeof(line)))
			errx(1, "/proc/%d/maps has no mapping named%s", (int)clients[i].pid, name);
		if (!strstr(line, readonly ? " r--s " : " rw-s "))
			errx(1, "the access of %s is wrong: %s", clients[i].name, line);
		printf("    %d: %s\n", (int)clients[i].pid, line);
	}
}

static void expect_exit(struct client *client)
{
	int status;

	tell(client, COMMAND_EXIT);
	if (waitpid(client->pid, &status, 0) != client->pid || status)
		errx(1, "the client %s exited with status 0x%x", client->name, status);
}

/* The last client of the array takes over the range of the writer. */
static void show(struct broker *broker, struct client *clients, unsigned int nr)
{
	struct client *writer2 = &clients[nr - 1], *writer = &clients[nr - 2];
	struct client *reader = &clients[nr - 3];
	unsigned int i;

	for (i = 0; i < nr - 1; i++)
		hand_out(broker, &clients[i], &clients[i] == reader ? O_RDONLY : O_RDWR);
	check(slice_set_memattr(broker->device, writer->dmabuf, VFIO_DEVICE_DMA_BUF_MEMATTR_WC),
	      "VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR");
	fill(broker->device, reader);
	if (nr == 4)
		printf("broker: exported a page of BAR 0 (client \"registers\")\n");
	printf("broker: exported two slices of %zu KiB of BAR %u: read-only (\"reader\") and write-combining (\"writer\")\n",
	       writer->size >> 10, writer->bar);
	tell_all(clients, nr - 1, COMMAND_MAP);
	expect_filled(broker->device, writer);
	printf("broker: pread() of the device returns the values of the writer; the mappings of the clients:\n");
	show_maps(clients, nr - 1);

	check(slice_revoke(broker->device, writer->dmabuf), "VFIO_DEVICE_PCI_DMABUF_REVOKE");
	if (slice_revoke(broker->device, writer->dmabuf) != -EBADFD)
		errx(1, "a second revoke does not fail with EBADFD");
	printf("broker: revoked the writer's slice\n");
	tell(writer, COMMAND_GONE);
	tell_all(clients, nr - 2, COMMAND_WORK);
	printf("broker: the other slices still work\n");

	hand_out(broker, writer2, O_RDWR);
	printf("broker: exported the range again, to another client\n");
	tell(writer2, COMMAND_MAP);
	expect_filled(broker->device, writer2);
	tell(writer, COMMAND_GONE);

	if (ioctl(broker->device, VFIO_DEVICE_RESET))
		err(1, "VFIO_DEVICE_RESET");
	tell_all(clients, nr - 2, COMMAND_WORK);
	tell(writer2, COMMAND_WORK);
	printf("broker: reset the device; all slices but the revoked one work\n");
	tell(writer, COMMAND_GONE);
}

int main(int argc, char **argv)
{
	struct broker broker = { .socket = "/run/broker", .uid = 65534 };
	unsigned int bar = VFIO_PCI_BAR1_REGION_INDEX, nr = 0, i;
	uint64_t start = 1 << 20, length = 64 << 10;
	bool force = false, group = false;
	struct client clients[4] = {};
	struct slice_device dev;
	int opt;

	while ((opt = getopt(argc, argv, "b:fgl:o:s:u:")) != -1) {
		if (opt == 'b')
			bar = number(optarg, VFIO_PCI_BAR5_REGION_INDEX);
		else if (opt == 'f')
			force = true;
		else if (opt == 'g')
			group = true;
		else if (opt == 'l')
			length = number(optarg, 1 << 30);
		else if (opt == 'o')
			start = number(optarg, 1 << 30);
		else if (opt == 's')
			broker.socket = optarg;
		else if (opt == 'u')
			broker.uid = number(optarg, UINT32_MAX);
		else
			errx(2, "usage: " USAGE);
	}
	if (optind != argc - 2)
		errx(2, "usage: " USAGE);
	setvbuf(stdout, NULL, _IOLBF, 0);

	open_device(argv[optind], group, &dev);
	broker.device = dev.device;
	broker.program = argv[optind + 1];
	expect_features(dev.device);
	if (!force)
		expect_ram(dev.device, bar);
	region_offset(dev.device, bar, start + 2 * length);
	check(slice_set_command(dev.device, PCI_COMMAND_MEMORY, true), "PCI_COMMAND");
	snprintf(broker.device_file, sizeof(broker.device_file), "/dev/vfio/devices/vfio%d",
		 check(slice_cdev_number(argv[optind]), argv[optind]));
	listen_for_clients(&broker);
	printf("broker: opened %s; the clients run as user %u and cannot open %s\n",
	       argv[optind], broker.uid, broker.device_file);

	if (is_edu_plus(dev.device))
		clients[nr++] = (struct client) { .name = REGISTERS,
			.bar = VFIO_PCI_BAR0_REGION_INDEX,
			.size = sysconf(_SC_PAGESIZE), .value = 0x12345678 };
	clients[nr++] = (struct client) { .name = READER, .bar = bar, .offset = start + length,
		.size = length, .value = 0xfeed000000000000 };
	clients[nr++] = (struct client) { .name = WRITER, .bar = bar, .offset = start,
		.size = length, .value = 0x5eed000000000000 };
	clients[nr++] = (struct client) { .name = WRITER2, .bar = bar, .offset = start,
		.size = length, .value = 0xbeef000000000000 };
	show(&broker, clients, nr);

	slice_close(&dev);
	printf("broker: closed the device\n");
	tell_all(clients, nr, COMMAND_GONE);
	for (i = 0; i < nr; i++)
		expect_exit(&clients[i]);
	printf("broker: no slice is accessible, and all clients exited with 0\n");
	unlink(broker.socket);
	return 0;
}
