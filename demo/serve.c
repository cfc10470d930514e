// SPDX-License-Identifier: GPL-2.0
/*
 * vfio-slice serve - own a device, and hand out slices of it
 *
 * A thread serves each connection, because slice_revoke() can block. A revocation is complete
 * for CPUs first; until it is for devices as well, the slice has the state REVOKING.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/pci_regs.h>

#include "common.h"
#include "vfio-slice.h"

#define MAX_RANGES	16
/* A client that says nothing for so long has gone. */
#define PATIENCE	5

struct slice {
	char name[NAME_SIZE];
	unsigned int bar;
	struct vfio_region_dma_range ranges[MAX_RANGES];
	unsigned int nr_ranges;
	uint64_t size;
	bool writable;
	bool write_combining;
	uint32_t uid;
	/* Under the lock of the server */
	enum { OFFERED, REVOKING, REVOKED } state;
	int dmabuf;
};

struct server {
	int device;
	struct slice *slices;
	unsigned int nr_slices;
	pthread_mutex_t lock;
};

struct connection {
	struct server *server;
	int sock;
	uid_t uid;
};

/* Return the file descriptor of a new DMABUF, or -errno */
static int export(struct server *server, struct slice *slice)
{
	int dmabuf, ret;

	dmabuf = slice_export(server->device, slice->bar, slice->ranges, slice->nr_ranges,
			      (slice->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (dmabuf < 0)
		return dmabuf;
	/* The name in /proc/PID/maps */
	if (ioctl(dmabuf, DMA_BUF_SET_NAME, slice->name))
		warn("DMA_BUF_SET_NAME of %s", slice->name);
	if (slice->write_combining) {
		ret = slice_set_memattr(server->device, dmabuf, VFIO_DEVICE_DMA_BUF_MEMATTR_WC);
		if (ret) {
			warnx("%s is uncached, not write-combining: %s", slice->name, strerror(-ret));
			slice->write_combining = false;
		}
	}
	return dmabuf;
}

static bool is_owner(struct connection *connection)
{
	return connection->uid == 0 || connection->uid == geteuid();
}

static bool may_have(struct connection *connection, struct slice *slice)
{
	return slice->uid == ANY_USER || slice->uid == connection->uid || is_owner(connection);
}

/* Reply with the DMABUF if "get"; false if the client has gone */
static bool reply(struct connection *connection, struct slice *slice, int error, bool get)
{
	struct reply reply = {
		.error = error,
		.bar = slice->bar,
		.size = slice->size,
		.uid = slice->uid,
		.writable = slice->writable,
	};
	int fd = -1;
	bool sent;

	memcpy(reply.name, slice->name, sizeof(reply.name));
	pthread_mutex_lock(&connection->server->lock);
	reply.write_combining = slice->write_combining;
	reply.revoked = slice->state != OFFERED;
	if (get && reply.revoked)
		reply.error = -ENODEV;
	else if (get)
		fd = fcntl(slice->dmabuf, F_DUPFD_CLOEXEC, 0);
	if (get && !reply.error && fd < 0)
		reply.error = -errno;
	pthread_mutex_unlock(&connection->server->lock);

	sent = slice_send(connection->sock, &reply, sizeof(reply), fd) == sizeof(reply);
	if (fd >= 0)
		close(fd);
	return sent;
}

static int revoke_slice(struct server *server, struct slice *slice, bool renew)
{
	int ret;

	pthread_mutex_lock(&server->lock);
	if (slice->state == REVOKING) {
		pthread_mutex_unlock(&server->lock);
		return -EALREADY;
	}
	if (slice->state == OFFERED) {
		slice->state = REVOKING;
		pthread_mutex_unlock(&server->lock);
		ret = slice_revoke(server->device, slice->dmabuf);
		pthread_mutex_lock(&server->lock);
		slice->state = !ret || ret == -EBADFD ? REVOKED : OFFERED;
	} else {
		ret = renew ? 0 : -EBADFD;
	}
	if (!ret && renew) {
		ret = export(server, slice);
		if (ret >= 0) {
			close(slice->dmabuf);
			slice->dmabuf = ret;
			slice->state = OFFERED;
			ret = 0;
		}
	}
	pthread_mutex_unlock(&server->lock);
	return ret;
}

static void handle(struct connection *connection, struct request *request)
{
	struct server *server = connection->server;
	struct slice nothing = {}, *slice = &nothing;
	unsigned int i;
	int ret;

	if (request->operation == OPERATION_LIST) {
		for (i = 0; i < server->nr_slices; i++)
			if (may_have(connection, &server->slices[i]) &&
			    !reply(connection, &server->slices[i], 0, false))
				return;
		reply(connection, &nothing, 0, false);
		return;
	}

	/* Who may not have a slice does not see whether there is one. */
	for (i = 0; i < server->nr_slices; i++)
		if (!strncmp(server->slices[i].name, request->name, NAME_SIZE) &&
		    may_have(connection, &server->slices[i]))
			slice = &server->slices[i];
	if (slice == &nothing) {
		reply(connection, slice, -ENOENT, false);
	} else if (request->operation == OPERATION_GET) {
		reply(connection, slice, 0, true);
	} else {
		ret = -EPERM;
		if (is_owner(connection))
			ret = revoke_slice(server, slice, request->operation == OPERATION_RENEW);
		reply(connection, slice, ret, false);
	}
}

static void *serve_connection(void *arg)
{
	struct connection *connection = arg;
	struct request request;

	if (slice_recv(connection->sock, &request, sizeof(request), NULL) == sizeof(request) &&
	    request.operation <= OPERATION_RENEW)
		handle(connection, &request);
	close(connection->sock);
	free(connection);
	return NULL;
}

static void accept_connection(struct server *server, int listener)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	struct timeval patience = { .tv_sec = PATIENCE };
	socklen_t size = sizeof(struct ucred);
	struct ucred peer;
	pthread_t thread;

	if (!connection)
		err(1, "accept()");
	connection->server = server;
	connection->sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (connection->sock >= 0 &&
	    !getsockopt(connection->sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) &&
	    !setsockopt(connection->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience))) {
		connection->uid = peer.uid;
		if (!pthread_create(&thread, NULL, serve_connection, connection)) {
			pthread_detach(thread);
			return;
		}
	}
	/* For example too many open files: some will be closed. */
	if (connection->sock < 0)
		usleep(100000);
	else
		close(connection->sock);
	free(connection);
}

static int listen_at(const char *path, mode_t mode)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	mode_t mask;

	if (strlen(path) >= sizeof(address.sun_path))
		errx(1, "%s is too long for a socket", path);
	strcpy(address.sun_path, path);
	if (!connect(sock, (struct sockaddr *)&address, sizeof(address)))
		errx(1, "%s: another server uses it", path);
	if (errno == ECONNREFUSED)
		unlink(path);
	/* From the first moment on nobody else can connect. */
	mask = umask(~mode & 0777);
	if (bind(sock, (struct sockaddr *)&address, sizeof(address)) || listen(sock, SOMAXCONN))
		err(1, "%s", path);
	umask(mask);
	return sock;
}

static void parse_range(struct slice *slice, char *text)
{
	struct vfio_region_dma_range *range = &slice->ranges[slice->nr_ranges];
	char *length = text ? strchr(text, '+') : NULL;

	if (!length || slice->nr_ranges++ == MAX_RANGES)
		errx(EXIT_USAGE, "%s: a range is OFFSET+LENGTH, and there are at most %d", slice->name,
		     MAX_RANGES);
	*length++ = '\0';
	range->offset = number(text, INT64_MAX);
	range->length = number(length, INT64_MAX);
	slice->size += range->length;
}

/* NAME,bar=BAR,range=OFFSET+LENGTH[,range=...][,rw][,wc][,user=UID|any] */
static void parse(struct slice *slice, char *text)
{
	static char *const tokens[] = { "bar", "range", "rw", "wc", "user", NULL };
	char *name = strsep(&text, ","), *value;

	if (!*name || strlen(name) >= NAME_SIZE)
		errx(EXIT_USAGE, "'%s' is not a name of 1 to %d characters", name, NAME_SIZE - 1);
	strcpy(slice->name, name);
	slice->bar = ANY_USER;
	slice->uid = geteuid();
	while (text && *text) {
		int token = getsubopt(&text, tokens, &value);

		if ((token == 0 || token == 4) && !value)
			errx(EXIT_USAGE, "%s: %s has no value", name, tokens[token]);
		if (token == 0)
			slice->bar = number(value, VFIO_PCI_BAR5_REGION_INDEX);
		else if (token == 1)
			parse_range(slice, value);
		else if (token == 2)
			slice->writable = true;
		else if (token == 3)
			slice->write_combining = true;
		else if (token == 4)
			slice->uid = strcmp(value, "any") ? number(value, UINT32_MAX - 1) : ANY_USER;
		else
			errx(EXIT_USAGE, "%s: there is no option '%s'", name, value);
	}
	if (slice->bar == ANY_USER || !slice->nr_ranges)
		errx(EXIT_USAGE, "%s needs bar= and range=", name);
}

#define USAGE "vfio-slice serve [-fg] [-m MODE] [-s SOCKET] DDDD:BB:DD.F SLICE..."

int serve(int argc, char **argv)
{
	static const struct option options[] = { { "force", no_argument, NULL, 'f' }, {} };
	struct server server = { .lock = PTHREAD_MUTEX_INITIALIZER };
	const char *path = DEFAULT_SOCKET;
	bool force = false, group = false;
	struct slice_device dev;
	mode_t mode = 0600;
	char rest;
	int opt, listener;
	unsigned int i;

	while ((opt = getopt_long(argc, argv, "fgm:s:", options, NULL)) != -1) {
		if (opt == 'f')
			force = true;
		else if (opt == 'g')
			group = true;
		else if (opt == 'm' && sscanf(optarg, "%o%c", &mode, &rest) == 1 && mode <= 0777)
			continue;
		else if (opt == 's')
			path = optarg;
		else
			errx(EXIT_USAGE, "usage: " USAGE);
	}
	if (optind > argc - 2)
		errx(EXIT_USAGE, "usage: " USAGE);
	server.nr_slices = argc - optind - 1;
	server.slices = calloc(server.nr_slices, sizeof(*server.slices));
	if (!server.slices)
		err(1, "calloc()");
	for (i = 0; i < server.nr_slices; i++)
		parse(&server.slices[i], argv[optind + 1 + i]);

	open_device(argv[optind], group, &dev);
	server.device = dev.device;
	expect_features(dev.device);
	check(slice_set_command(dev.device, PCI_COMMAND_MEMORY, true), "PCI_COMMAND");
	for (i = 0; i < server.nr_slices; i++) {
		struct slice *slice = &server.slices[i];

		if (slice->writable && !force)
			expect_ram(dev.device, slice->bar);
		slice->dmabuf = check(export(&server, slice), slice->name);
	}
	listener = listen_at(path, mode);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("vfio-slice: %s at %s\n", argv[optind], path);
	for (;;)
		accept_connection(&server, listener);
}
