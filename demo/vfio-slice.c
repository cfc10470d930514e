// SPDX-License-Identifier: GPL-2.0
/*
 * vfio-slice - hand out slices of a PCI BAR, map them, and revoke them
 *
 * See vfio-slice.8.  The server is in serve.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common.h"
#include "vfio-slice.h"

#define CHUNK	4096

struct mapping {
	const char *name;
	int dmabuf;
	volatile char *map;
	size_t size;
	size_t width;
};

/* Words that access_words() reads or writes */
struct words {
	volatile char *map;
	size_t width;
	size_t count;
	bool write;
	union {
		uint8_t u8[CHUNK];
		uint16_t u16[CHUNK / 2];
		uint32_t u32[CHUNK / 4];
		uint64_t u64[CHUNK / 8];
	};
};

/* Send the request; return the socket */
static int send_request(const char *path, enum operation operation, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct request request = { .operation = operation };

	if (strlen(path) >= sizeof(address.sun_path))
		errx(1, "%s is too long for a socket", path);
	strcpy(address.sun_path, path);
	if (strlen(name) >= sizeof(request.name))
		errx(1, "there is no slice %s", name);
	strcpy(request.name, name);
	if (connect(sock, (struct sockaddr *)&address, sizeof(address)))
		err(1, "%s", path);
	check(slice_send(sock, &request, sizeof(request), -1), path);
	return sock;
}

static void receive_reply(int sock, struct reply *reply, int *fd)
{
	if (check(slice_recv(sock, reply, sizeof(*reply), fd), "the server") != sizeof(*reply))
		errx(1, "the server has gone");
}

/* Exit if the server refused the request for the slice */
static void expect_success(struct reply *reply, const char *name)
{
	if (reply->error == -ENOENT)
		errx(1, "there is no slice %s that this user may have", name);
	if (reply->error == -ENODEV || reply->error == -EBADFD)
		errx(EXIT_REVOKED, "%s was revoked", name);
	check(reply->error, name);
}

static int list(const char *path)
{
	int sock = send_request(path, OPERATION_LIST, "");
	struct reply reply;
	char user[16];

	printf("%-31s BAR %12s ACCESS MEMORY USER       STATE\n", "NAME", "SIZE");
	for (;;) {
		receive_reply(sock, &reply, NULL);
		if (!reply.name[0])
			return 0;
		snprintf(user, sizeof(user), reply.uid == ANY_USER ? "any" : "%u", reply.uid);
		printf("%-31.31s %3u %12llu %-6s %-6s %-10s %s\n", reply.name, reply.bar,
		       (unsigned long long)reply.size, reply.writable ? "rw" : "r",
		       reply.write_combining ? "wc" : "uc", user, reply.revoked ? "revoked" : "offered");
	}
}

static int revoke_slice(const char *path, const char *name, bool renew)
{
	int sock = send_request(path, renew ? OPERATION_RENEW : OPERATION_REVOKE, name);
	struct reply reply;

	receive_reply(sock, &reply, NULL);
	expect_success(&reply, name);
	return 0;
}

#define ACCESS(member) do {							\
	for (i = 0; i < words->count; i++) {					\
		volatile __typeof__(words->member[0]) *word =			\
			&((volatile __typeof__(words->member[0]) *)words->map)[i]; \
		if (words->write)						\
			*word = words->member[i];				\
		else								\
			words->member[i] = *word;				\
	}									\
} while (0)

static void access_words(void *arg)
{
	struct words *words = arg;
	size_t i;

	if (words->width == 1)
		ACCESS(u8);
	else if (words->width == 2)
		ACCESS(u16);
	else if (words->width == 4)
		ACCESS(u32);
	else
		ACCESS(u64);
	/* Flush write-combining buffers. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static bool is_revoked(struct mapping *mapping)
{
	void *probe = mmap(NULL, mapping->size, PROT_READ, MAP_SHARED, mapping->dmabuf, 0);

	if (probe != MAP_FAILED) {
		munmap(probe, mapping->size);
		return false;
	}
	if (errno != ENODEV)
		err(1, "mmap() of %s", mapping->name);
	return true;
}

/* Read or write words->count words at the offset; return 0 or -EFAULT */
static int try_access(struct mapping *mapping, uint64_t offset, struct words *words)
{
	size_t length = words->count * mapping->width;
	int ret;

	if (offset % mapping->width || offset > mapping->size || length > mapping->size - offset)
		errx(EXIT_USAGE, "0x%llx is not aligned, or the access exceeds the slice of %zu bytes",
		     (unsigned long long)offset, mapping->size);
	words->map = mapping->map + offset;
	ret = slice_access(words->map, length, access_words, words);
	return ret == -EFAULT ? ret : check(ret, "slice_access()");
}

static void access_now(struct mapping *mapping, uint64_t offset, struct words *words)
{
	if (!try_access(mapping, offset, words))
		return;
	if (is_revoked(mapping))
		errx(EXIT_REVOKED, "%s was revoked", mapping->name);
	errx(1, "%s is not accessible at present: the device is off, asleep, or being reset", mapping->name);
}

static uint64_t get_word(struct words *words, size_t i)
{
	return words->width == 1 ? words->u8[i] : words->width == 2 ? words->u16[i] :
	       words->width == 4 ? words->u32[i] : words->u64[i];
}

static void set_word(struct words *words, uint64_t value)
{
	if (words->width == 1)
		words->u8[0] = value;
	else if (words->width == 2)
		words->u16[0] = value;
	else if (words->width == 4)
		words->u32[0] = value;
	else
		words->u64[0] = value;
}

static void print_word(struct words *words, size_t i)
{
	printf("0x%0*llx\n", (int)words->width * 2, (unsigned long long)get_word(words, i));
}

static void read_words(struct mapping *mapping, uint64_t offset, uint64_t count, bool raw)
{
	size_t i, chunk = CHUNK / mapping->width;
	struct words words = { .width = mapping->width };

	for (; count; count -= words.count, offset += words.count * mapping->width) {
		words.count = count < chunk ? count : chunk;
		access_now(mapping, offset, &words);
		if (raw)
			fwrite(words.u8, mapping->width, words.count, stdout);
		else
			for (i = 0; i < words.count; i++)
				print_word(&words, i);
	}
	if (fflush(stdout))
		err(1, "stdout");
}

static void write_words(struct mapping *mapping, uint64_t offset, char **values)
{
	uint64_t max = UINT64_MAX >> (64 - 8 * mapping->width);
	struct words words = { .width = mapping->width, .count = 1, .write = true };

	for (; *values; values++, offset += mapping->width) {
		set_word(&words, number(*values, max));
		access_now(mapping, offset, &words);
	}
}

/* Print the word whenever it changes, until the slice is revoked */
static void watch(struct mapping *mapping, uint64_t offset)
{
	struct words words = { .width = mapping->width, .count = 1 };
	bool accessible = false;
	uint64_t last = 0;

	for (;; usleep(100000)) {
		if (try_access(mapping, offset, &words)) {
			if (is_revoked(mapping))
				errx(EXIT_REVOKED, "%s was revoked", mapping->name);
			if (accessible)
				printf("not accessible\n");
			accessible = false;
		} else {
			if (!accessible || get_word(&words, 0) != last)
				print_word(&words, 0);
			accessible = true;
			last = get_word(&words, 0);
		}
	}
}

#define USAGE "usage: vfio-slice serve [-fg] [-m MODE] [-s SOCKET] DDDD:BB:DD.F SLICE...\n" \
	"       vfio-slice list [-s SOCKET]\n" \
	"       vfio-slice revoke [-a] [-s SOCKET] NAME\n" \
	"       vfio-slice map [-s SOCKET] [-w 1|2|4|8] NAME read OFFSET [COUNT]\n" \
	"       vfio-slice map [-s SOCKET] [-w 1|2|4|8] NAME write OFFSET VALUE...\n" \
	"       vfio-slice map [-s SOCKET] [-w 1|2|4|8] NAME dump [OFFSET [LENGTH]]\n" \
	"       vfio-slice map [-s SOCKET] [-w 1|2|4|8] NAME watch OFFSET"

static void usage(void) __attribute__((noreturn));
static void usage(void)
{
	fprintf(stderr, "%s\n", USAGE);
	exit(EXIT_USAGE);
}

/* argv: NAME OPERATION [OFFSET [ARGUMENT...]] */
static int map(const char *path, size_t width, int argc, char **argv)
{
	struct mapping mapping = { .name = argv[0], .width = width };
	bool writes = argc >= 4 && !strcmp(argv[1], "write");
	bool dumps = argc >= 2 && argc <= 4 && !strcmp(argv[1], "dump");
	bool reads = argc >= 3 && argc <= 4 && !strcmp(argv[1], "read");
	bool watches = argc == 3 && !strcmp(argv[1], "watch");
	uint64_t offset, count;
	struct reply reply;

	if (!writes && !dumps && !reads && !watches)
		usage();
	receive_reply(send_request(path, OPERATION_GET, argv[0]), &reply, &mapping.dmabuf);
	expect_success(&reply, argv[0]);
	mapping.size = reply.size;
	mapping.map = mmap(NULL, mapping.size, writes ? PROT_READ | PROT_WRITE : PROT_READ,
			   MAP_SHARED, mapping.dmabuf, 0);
	if (mapping.map == MAP_FAILED && errno == EACCES)
		errx(1, "%s is read-only", argv[0]);
	if (mapping.map == MAP_FAILED)
		err(errno == ENODEV ? EXIT_REVOKED : 1, "mmap() of %s", argv[0]);

	offset = argc > 2 ? number(argv[2], mapping.size) : 0;
	if (writes) {
		write_words(&mapping, offset, argv + 3);
	} else if (watches) {
		watch(&mapping, offset);
	} else if (dumps) {
		count = argc > 3 ? number(argv[3], mapping.size) : mapping.size - offset;
		if (count % width)
			errx(EXIT_USAGE, "the length is not a multiple of %zu", width);
		read_words(&mapping, offset, count / width, true);
	} else {
		count = argc > 3 ? number(argv[3], mapping.size / width) : 1;
		read_words(&mapping, offset, count, false);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *path = DEFAULT_SOCKET, *command = argc > 1 ? argv[1] : "";
	bool again = false;
	size_t width = 4;
	int opt;

	if (argc < 2)
		usage();
	/* getopt() takes the first string for the name of the program. */
	argv[1] = argv[0];
	argc--;
	argv++;
	if (!strcmp(command, "serve"))
		return serve(argc, argv);

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((opt = getopt(argc, argv, "+as:w:")) != -1) {
		if (opt == 'a')
			again = true;
		else if (opt == 's')
			path = optarg;
		else if (opt == 'w')
			width = number(optarg, 8);
		else
			usage();
	}
	if (width & (width - 1) || !width)
		usage();
	argc -= optind;
	argv += optind;
	if (!strcmp(command, "list") && !argc)
		return list(path);
	if (!strcmp(command, "revoke") && argc == 1)
		return revoke_slice(path, argv[0], again);
	if (!strcmp(command, "map") && argc > 1)
		return map(path, width, argc, argv);
	usage();
}
