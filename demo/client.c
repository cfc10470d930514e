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

const char *program;

static int dmabuf;
static volatile void *map;
static struct request buffer;

static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("  %s: ", program);
	vprintf(format, args);
	putchar('\n');
	va_end(args);
}

static bool is(const char *role)
{
	return !strncmp(program, role, strlen(role));
}

static unsigned long page_size(void)
{
	return sysconf(_SC_PAGESIZE);
}

static volatile uint64_t *page(unsigned long number)
{
	return (volatile uint64_t *)((char *)map + number * page_size());
}

static void connect_to(const char *path, int *sock)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct reply hello = {};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	snprintf(hello.name, sizeof(hello.name), "%s", program);
	*sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	if (connect(*sock, (struct sockaddr *)&address, sizeof(address)))
		fail("%s: %s", path, strerror(errno));
	if (send(*sock, &hello, sizeof(hello), 0) != sizeof(hello))
		fail("cannot send to the broker: %s", strerror(errno));
}

/* Return the file descriptor that came with the request, or -1 */
static int receive(int sock, struct request *request)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { request, sizeof(*request) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd = -1;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) != sizeof(*request))
		fail("the broker has gone");
	cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

static void work(void)
{
	volatile uint32_t *registers = map;
	unsigned long i, pages = buffer.size / page_size();

	if (is(REGISTERS)) {
		uint32_t value = buffer.value ^ getpid();

		if (registers[EDU_ID] != EDU_ID_VALUE)
			fail("the identification register is 0x%08x",
			     registers[EDU_ID]);
		registers[EDU_INVERTER] = value;
		if (registers[EDU_INVERTER] != (uint32_t)~value)
			fail("the inverter register is wrong");
		return;
	}

	for (i = 0; i < pages && is(WRITER); i++)
		*page(i) = page_value(buffer.value, i);
	/* Flush write-combining buffers before the broker reads. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (i = 0; i < pages; i++)
		if (*page(i) != page_value(buffer.value, i))
			fail("page %lu holds 0x%016llx instead of 0x%016llx", i,
			     (unsigned long long)*page(i),
			     (unsigned long long)page_value(buffer.value, i));
}

static void map_it(void)
{
	bool readonly = is(READER);
	void *writable;

	writable = mmap(NULL, buffer.size, PROT_READ | PROT_WRITE, MAP_SHARED,
			dmabuf, 0);
	if (!readonly) {
		map = writable;
		if (map == MAP_FAILED)
			fail("mmap(): %s", strerror(errno));
	} else {
		if (writable != MAP_FAILED || errno != EACCES)
			fail("mmap() for writing does not fail with EACCES");
		map = mmap(NULL, buffer.size, PROT_READ, MAP_SHARED, dmabuf, 0);
		if (map == MAP_FAILED)
			fail("mmap(): %s", strerror(errno));
		if (!mprotect((void *)map, buffer.size, PROT_READ | PROT_WRITE) ||
		    errno != EACCES)
			fail("mprotect() for writing does not fail with EACCES");
	}
	work();

	if (is(REGISTERS))
		say("the ID register has the value of edu, and the inverter register works");
	else if (readonly)
		say("read %u KiB with the right values; mmap() and mprotect() for writing fail with EACCES",
		    buffer.size >> 10);
	else
		say("wrote %u KiB and read the values back",
		    buffer.size >> 10);
}

static void gone(void)
{
	unsigned long i;

	for (i = 0; i < buffer.size / page_size(); i++)
		if (!gives_sigbus(page(i)))
			fail("page %lu can still be read", i);
	if (mmap(NULL, buffer.size, PROT_READ, MAP_SHARED, dmabuf, 0) != MAP_FAILED ||
	    errno != ENODEV)
		fail("mmap() does not fail with ENODEV");
	say("every page gives SIGBUS, and mmap() fails with ENODEV");
}

int main(int argc, char **argv)
{
	struct reply done = {};
	struct request request;
	int sock, fd;

	program = "client";
	if (argc != 4)
		fail("usage: client SOCKET NAME DEVICE_FILE");
	program = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	catch_sigbus();

	if (open(argv[3], O_RDWR) >= 0 || errno != EACCES)
		fail("open() of %s does not fail with EACCES: %s", argv[3], strerror(errno));
	connect_to(argv[1], &sock);

	do {
		fd = receive(sock, &request);
		switch (request.command) {
		case COMMAND_MAP:
			dmabuf = fd;
			buffer = request;
			map_it();
			break;
		case COMMAND_WORK:
			work();
			break;
		case COMMAND_GONE:
			gone();
			break;
		}
		snprintf(done.name, sizeof(done.name), "%s", program);
		if (send(sock, &done, sizeof(done), 0) != sizeof(done))
			fail("the broker has gone");
	} while (request.command != COMMAND_EXIT);
	return 0;
}
