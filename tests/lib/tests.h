/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef TESTS_LIB_TESTS_H
#define TESTS_LIB_TESTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <sys/types.h>

#include <linux/types.h>

struct bar_test;
struct vfio_pci_device;

/*
 * bar_test_init() for a test that needs a RAM BAR and, with @dmabuf, mmap() of its DMABUFs.
 * Return why it cannot run, NULL if it can.
 */
const char *ram_test_init(struct bar_test *t, const char *bdf, u64 min_size, bool dmabuf);

/* The BDFs of a test of two devices. The second one is unchanged if one is given. */
void two_bdfs_get(int *argc, char *argv[], const char *bdfs[2]);

/* Open a device, in an iommufd of its own, and enable its memory. */
struct vfio_pci_device *device_open(const char *bdf);
void device_close(struct vfio_pci_device *device);

/* Unbind a driver and bind it again. Return false if it cannot be unbound in time. */
bool driver_rebind(const char *bdf);

/* Wait until objects that RCU protects are freed. */
void wait_rcu(void);

/* Three of the slices of 100 ms in which the kernel waits for fences */
#define WAITER_US 300000

/* A thread for a call of @fn with @arg that may block */
struct waiter {
	int (*fn)(void *arg);
	void *arg;

	pthread_t thread;
	atomic_int tid;
	atomic_bool done;
	int ret;
};

void waiter_start(struct waiter *waiter);

/*
 * Does the call block? That is, does the thread sleep in the kernel, and has the call
 * not returned WAITER_US later?
 */
bool waiter_blocks(struct waiter *waiter);

/* Wait until the call returns. Return what it returned. */
int waiter_join(struct waiter *waiter);

/* Wait until a thread sleeps in the kernel, or is gone. */
void wait_until_asleep(pid_t tid);

/* Time since boot */
u64 now_ns(void);
u64 now_ms(void);

/*
 * Return the seed of a random test: the environment variable VFIO_SELFTESTS_SEED,
 * or another one each time. It is printed, and is never 0.
 */
u64 random_seed(void);

/* Return the next number of the sequence. *@state is the seed at first. */
u64 random_next(u64 *state);

static inline u64 random_below(u64 *state, u64 n)
{
	return random_next(state) % n;
}

/* The size of a huge page at the PUD level, 0 if there are none */
size_t thp_pud_size(void);

/*
 * Read a word of each of @nr pages, which are @stride bytes apart, in a single
 * system call, so that page faults follow one another as closely as they can.
 * Return how many could be read.
 */
#define READ_PAGES_MAX 512

int read_pages(const void *addr, size_t stride, int nr);

/* Write a string to a file. Return 0 or -errno. */
int write_file(const char *path, const char *value);

/* Read a file of one line, without the newline. Return 0 or -errno. */
int read_file(const char *path, char *value, size_t size);

/*
 * Return how many DMABUFs with this size vfio-pci has exported or created for BAR
 * mappings, or -ENOENT if debugfs does not list them. The list does not say of which
 * device they are, so a test uses sizes that others do not.
 */
int nr_vfio_dmabufs(u64 size);

/*
 * sw_sync: a timeline, and fences that are signaled when it gets to their value.
 * Creating a fence sets the taint flag of a soft lockup.
 */
#define SW_SYNC "/sys/kernel/debug/sync/sw_sync"

/* Return a timeline, or -errno: -ENOENT in a kernel without CONFIG_SW_SYNC. */
int sw_sync_open(void);

/* Add a fence to the DMABUF. It is signaled when the timeline gets to @value. */
void sw_sync_add_fence(int timeline, u32 value, int dmabuf);

/* Advance the timeline by one. */
void sw_sync_advance(int timeline);

/*
 * edu-plus, which has a buffer of its own and reports whether a transfer failed. Transfers
 * are over when the functions return. They return 0 or -EIO.
 */
#define EDU_PLUS_BUFFER_SIZE 0x10000

/* Why the device is no edu-plus, NULL if it is one */
const char *edu_plus_missing(struct vfio_pci_device *device);

/* Let the device read memory into its buffer, or write it from its buffer. */
int edu_plus_read(struct vfio_pci_device *device, u64 iova, u64 offset, u64 size);
int edu_plus_write(struct vfio_pci_device *device, u64 offset, u64 iova, u64 size);

/* From one IOVA to another */
int edu_plus_copy(struct vfio_pci_device *device, u64 src, u64 dst, u64 size);

/* Open another device of the group of a device that is open. */
struct vfio_pci_device *sibling_open(const char *bdf, struct vfio_pci_device *first);

/* Does a hot reset of either device reset both of them, and nothing else? */
bool hot_reset_is_pair(struct vfio_pci_device *a, struct vfio_pci_device *b);

/* What the page table has for an address, by the module pgprot_test */
struct pgprot_entry {
	bool present;
	bool writable;

	/* How much the entry maps */
	u64 size;

	/* The memory type, as the architecture calls it */
	char type[16];
};

/* Why page tables cannot be looked at, NULL if they can */
const char *pgprot_missing(void);

void pgprot_get(const void *addr, struct pgprot_entry *entry);

bool pgprot_is_wc(const struct pgprot_entry *entry);
bool pgprot_is_uc(const struct pgprot_entry *entry);

#endif /* TESTS_LIB_TESTS_H */
