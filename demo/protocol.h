/* SPDX-License-Identifier: GPL-2.0 */
/* What broker and client say to each other, over a SOCK_SEQPACKET socket */
#ifndef DEMO_PROTOCOL_H
#define DEMO_PROTOCOL_H

#include <stdint.h>

enum command {
	/* Here is a DMABUF: map it, and do what the role is about */
	COMMAND_MAP,
	/* Does it all still work? */
	COMMAND_WORK,
	/* It was taken away, is that so? */
	COMMAND_GONE,
	COMMAND_EXIT,
};

/* From the broker; COMMAND_MAP comes with a file descriptor */
struct request {
	uint32_t command;
	uint32_t size;
	/* What the memory holds, or is to be filled with */
	uint64_t value;
};

/* From the client, once, to say who it is, and after each request */
struct reply {
	char name[16];
};

#define REGISTERS	"registers"
#define READER		"reader"
#define WRITER		"writer"
#define WRITER2		"writer 2"

/* The value of a page of a buffer that was filled with "value" */
static inline uint64_t page_value(uint64_t value, unsigned long page)
{
	return value + page * 0x0101010101ULL;
}

#endif
