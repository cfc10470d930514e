/* SPDX-License-Identifier: GPL-2.0 */
/* The protocol of vfio-slice: one request for each connection of a SOCK_SEQPACKET socket */
#ifndef VFIO_SLICE_H
#define VFIO_SLICE_H

#include <stdint.h>

#define DEFAULT_SOCKET	"/run/vfio-slice"
#define NAME_SIZE	32	/* DMA_BUF_NAME_LEN of the kernel */
#define ANY_USER	UINT32_MAX

/* The exit status, see vfio-slice.8; 3 is EXIT_UNSUPPORTED */
enum {
	EXIT_USAGE = 2,
	EXIT_REVOKED = 4,
};

enum operation {
	/* Get a reply for each slice that the client may have, and one with an empty name */
	OPERATION_LIST,
	/* Get a reply with the DMABUF */
	OPERATION_GET,
	/* Revoke the slice, and get a reply */
	OPERATION_REVOKE,
	/* The same, and export the slice again */
	OPERATION_RENEW,
};

struct request {
	uint32_t operation;
	char name[NAME_SIZE];
};

struct reply {
	/* 0 or -errno */
	int32_t error;
	uint32_t bar;
	uint64_t size;
	/* Or ANY_USER */
	uint32_t uid;
	uint8_t writable;
	uint8_t write_combining;
	uint8_t revoked;
	uint8_t padding;
	char name[NAME_SIZE];
};

int serve(int argc, char **argv);

#endif
