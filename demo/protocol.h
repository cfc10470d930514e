/* SPDX-License-Identifier: GPL-2.0 */
/* The protocol of broker and client, over a SOCK_SEQPACKET socket */
#ifndef DEMO_PROTOCOL_H
#define DEMO_PROTOCOL_H

#include <stdint.h>

enum command {
	/* Map the DMABUF that comes with the request, and do the work of the role */
	COMMAND_MAP,
	/* Check that everything still works */
	COMMAND_WORK,
	/* Check that the slice is not accessible any more */
	COMMAND_GONE,
	COMMAND_EXIT,
};

/* From the broker; COMMAND_MAP comes with a file descriptor */
struct request {
	uint32_t command;
	uint32_t size;
	/* The value that the memory has, or is to be filled with */
	uint64_t value;
};

/* From the client: once after it connects, and after each request */
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
