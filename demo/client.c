// SPDX-License-Identifier: GPL-2.0
/*
 * client - an unprivileged process that uses a slice of a device
 *
 *	client SOCKET NAME DEVICE_FILE
 *
 * Connect to the broker, send the name, which is also the role, and execute the
 * commands of the broker. The client cannot open DEVICE_FILE; it only has the
 * DMABUF that the broker passes. The program checks each statement before it prints
 * it. On a failure it prints the reason and exits with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common.h"
#include "protocol.h"

/* Registers of edu (docs/specs/edu in QEMU) */
#define EDU_ID		0
#define EDU_ID_VALUE	0x010000ed
#define EDU_INVERTER	1

/* The slice, mapped at "map", and the request that came with it */
struct slice {
	const char *role;
	int dmabuf;
	volatile void *map;
	struct request request;
};

static void __attribute__((format(printf, 2, 3))) say(struct slice *slice, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("  %s: ", slice->role);
	vprintf(format, args);
	putchar('\n');
	va_end(args);
}

static bool is(struct slice *slice, const char *role)
{
	return !strncmp(slice->role, role, strlen(role));
}

static unsigned long pages(struct slice *slice)
{
	return slice->request.size / sysconf(_SC_PAGESIZE);
}

static volatile uint64_t *page(struct slice *slice, unsigned long number)
{
	return (volatile uint64_t *)((char *)slice->map + number * sysconf(_SC_PAGESIZE));
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (connect(sock, (struct sockaddr *)&address, sizeof(address)))
		err(1, "%s", path);
	return sock;
}

static void reply(int sock, const char *name)
{
	struct reply reply = {};

	snprintf(reply.name, sizeof(reply.name), "%s", name);
	if (slice_send(sock, &reply, sizeof(reply), -1) != sizeof(reply))
		errx(1, "the broker has gone");
}

static void work(struct slice *slice)
{
	volatile uint32_t *registers = slice->map;
	unsigned long long expected;
	unsigned long i;

	if (is(slice, REGISTERS)) {
		uint32_t value = slice->request.value ^ getpid();

		if (registers[EDU_ID] != EDU_ID_VALUE)
			errx(1, "the identification register is 0x%08x", registers[EDU_ID]);
		registers[EDU_INVERTER] = value;
		if (registers[EDU_INVERTER] != (uint32_t)~value)
			errx(1, "the inverter register is wrong");
		return;
	}

	for (i = 0; i < pages(slice) && is(slice, WRITER); i++)
		*page(slice, i) = page_value(slice->request.value, i);
	/* Flush write-combining buffers before the broker reads. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (i = 0; i < pages(slice); i++) {
		expected = page_value(slice->request.value, i);
		if (*page(slice, i) != expected)
			errx(1, "page %lu holds 0x%016llx instead of 0x%016llx", i,
			     (unsigned long long)*page(slice, i), expected);
	}
}

static void map(struct slice *slice)
{
	uint32_t size = slice->request.size;
	bool readonly = is(slice, READER);
	void *writable;

	writable = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, slice->dmabuf, 0);
	slice->map = writable;
	if (readonly) {
		if (writable != MAP_FAILED || errno != EACCES)
			errx(1, "mmap() for writing does not fail with EACCES");
		slice->map = mmap(NULL, size, PROT_READ, MAP_SHARED, slice->dmabuf, 0);
	}
	if (slice->map == MAP_FAILED)
		err(1, "mmap()");
	if (readonly && (!mprotect((void *)slice->map, size, PROT_READ | PROT_WRITE) ||
			 errno != EACCES))
		errx(1, "mprotect() for writing does not fail with EACCES");
	work(slice);

	if (is(slice, REGISTERS))
		say(slice, "the ID register has the value of edu, and the inverter register works");
	else if (readonly)
		say(slice, "read %u KiB with the right values; mmap() and mprotect() for writing fail with EACCES",
		    size >> 10);
	else
		say(slice, "wrote %u KiB and read the values back", size >> 10);
}

static void gone(struct slice *slice)
{
	unsigned long i;
	void *probe;

	for (i = 0; i < pages(slice); i++)
		if (!gives_sigbus(page(slice, i)))
			errx(1, "page %lu can still be read", i);
	probe = mmap(NULL, slice->request.size, PROT_READ, MAP_SHARED, slice->dmabuf, 0);
	if (probe != MAP_FAILED || errno != ENODEV)
		errx(1, "mmap() does not fail with ENODEV");
	say(slice, "every page gives SIGBUS, and mmap() fails with ENODEV");
}

int main(int argc, char **argv)
{
	struct request request;
	struct slice slice = {};
	int sock, fd;

	if (argc != 4)
		errx(2, "usage: client SOCKET NAME DEVICE_FILE");
	/* The prefix of the messages of err() */
	program_invocation_short_name = argv[2];
	slice.role = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);

	if (open(argv[3], O_RDWR) >= 0 || errno != EACCES)
		err(1, "open() of %s does not fail with EACCES", argv[3]);
	sock = connect_to(argv[1]);
	reply(sock, slice.role);

	do {
		if (slice_recv(sock, &request, sizeof(request), &fd) != sizeof(request))
			errx(1, "the broker has gone");
		switch (request.command) {
		case COMMAND_MAP:
			slice.dmabuf = fd;
			slice.request = request;
			map(&slice);
			break;
		case COMMAND_WORK:
			work(&slice);
			break;
		case COMMAND_GONE:
			gone(&slice);
			break;
		}
		reply(sock, slice.role);
	} while (request.command != COMMAND_EXIT);
	return 0;
}
