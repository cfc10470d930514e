// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random operations on mappings of BARs and of DMABUFs in several processes. At the
 * same time two threads of the owner reset the device, make it inaccessible and
 * accessible again, export and revoke DMABUFs, and close the device.
 *
 * Each access and each call is judged. Its outcome is certain if the state that
 * decides it was the same before and after: an access that begins after a revocation
 * has returned, or that begins and ends while the device is inaccessible, must raise
 * SIGBUS, and one of a live DMABUF of an accessible device must find the value of its
 * page. The test fails if one of these cases did not occur.
 *
 * The sequence of operations follows from a seed, which is printed. How the processes
 * interleave does not, so that a failure may take several runs to occur again.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <linux/align.h>
#include <linux/limits.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define SECONDS_ENV "VFIO_SELFTESTS_STRESS_SECONDS"
#define SECONDS_DEFAULT 10
/* Rounds are added for this long if something has not occurred yet. */
#define EXTRA_SECONDS 90
/* How long an export waits for the other thread to revoke */
#define MEETING_MS 50
#define TIMEOUT_S 86400

/* How much of the BAR is used */
#define MAX_SIZE SZ_16M
#define MIN_SIZE SZ_64K

/* The device, DMABUFs that the workers have, and those that only the owner has */
#define NR_SLOTS 12
#define NR_SHARED 8
#define MAX_RANGES 4
#define NR_PROCESSES 3
#define NR_THREADS 2
#define MAX_MAPPINGS 16
#define MAX_HOLDERS 4
#define STEPS_PER_ROUND 30
#define EXIT_TIMEOUT_MS 15000

/*
 * Whether the device is accessible. The two lowest bits of a number that changes each
 * time, so that it is also known whether the state has changed in the meantime.
 */
enum access_state {
	ACCESSIBLE,
	INACCESSIBLE,
	IN_TRANSITION,
};

#define SEQ_STATE(_seq) ((enum access_state)((_seq) & 3))
#define SEQ_STEP 4

enum slot_state {
	LIVE,
	/* A revocation has begun. */
	DYING,
	/* A revocation has returned, or the device was closed. */
	DEAD,
};

/* What decided about an access */
enum verdict {
	VERDICT_LIVE,
	VERDICT_DEAD,
	VERDICT_INACCESSIBLE,
	/* The state changed during the access, so that it may succeed or not. */
	VERDICT_CHANGING,
	NR_VERDICTS,
};

static const char * const verdict_names[] = {
	[VERDICT_LIVE] = "live",
	[VERDICT_DEAD] = "dead",
	[VERDICT_INACCESSIBLE] = "inaccessible",
	[VERDICT_CHANGING] = "changing",
};

/* Calls, and calls of two threads at the same time, that are counted */
enum count {
	COUNT_MMAPS,
	COUNT_EVENTS,
	/* Only with DMABUFs */
	COUNT_EXPORTS,
	COUNT_REVOKES,
	COUNT_REVOKES_AGAIN,
	COUNT_IMPORTS,
	COUNT_IMPORTS_REFUSED,
	COUNT_REVOKE_DURING_RESET,
	COUNT_REVOKE_DURING_REVOKE,
	COUNT_EXPORT_DURING_REVOKE,
	NR_COUNTS,
};

static const char * const count_names[] = {
	[COUNT_MMAPS] = "mmaps",
	[COUNT_EVENTS] = "events",
	[COUNT_EXPORTS] = "exports",
	[COUNT_REVOKES] = "revokes",
	[COUNT_REVOKES_AGAIN] = "revokes of what was revoked",
	[COUNT_IMPORTS] = "imports",
	[COUNT_IMPORTS_REFUSED] = "refused imports",
	[COUNT_REVOKE_DURING_RESET] = "revokes during resets",
	[COUNT_REVOKE_DURING_REVOKE] = "revokes during revokes",
	[COUNT_EXPORT_DURING_REVOKE] = "exports during revokes",
};

/* Something that can be mapped: the device (slot 0), or a DMABUF */
struct slot {
	int fd;
	u64 offset;
	u64 size;
	bool read_only;
	u32 nr_ranges;
	struct vfio_region_dma_range ranges[MAX_RANGES];
	atomic_int state;

	/* How many revocations have begun, and how many have succeeded */
	atomic_int revokes_begun;
	atomic_int revokes_done;
};

/* Shared by all processes */
struct control {
	atomic_ulong seq;
	atomic_bool stop;
	struct slot slots[NR_SLOTS];
	/* How many the workers have: one, if this kernel has no mmap() of DMABUFs */
	int nr_shared;

	/* Whether the workers have the device open, and how many are at work */
	bool has_device;
	atomic_int ready;

	atomic_int failed;
	char message[256];

	atomic_ulong verdicts[NR_VERDICTS];
	atomic_ulong counts[NR_COUNTS];
};

FIXTURE(stress) {
	struct vfio_pci_device *device;
	u64 page;
	int bar;
	u64 size;
	u64 seed;
	u64 random;
	struct control *control;
	/* Why there is nothing but mappings of the BAR, or NULL */
	const char *missing;
	pid_t pid;
	pid_t pids[NR_PROCESSES];

	/* The second thread of the owner, and whether it is to stop */
	pthread_t second;
	u64 second_random;
	atomic_bool second_stop;

	/* What the two threads of the owner are doing */
	atomic_int in_revoke;
	atomic_int in_reset;

	/* The DMABUF that is being revoked, so that the other thread can, too */
	atomic_int revoking;

	/* Held for write where no other call may end low power */
	pthread_rwlock_t low_power;

	/* For slots that only the owner has. Held for write while one is replaced. */
	pthread_rwlock_t slots[NR_SLOTS];
};

typedef FIXTURE_DATA(stress) stress_test;

/* What is in the first word of a page of the BAR, all the time */
static u32 page_value(stress_test *self, u64 offset)
{
	u64 state = self->seed ^ (offset / self->page + 1) * 0x9e3779b97f4a7c15ULL;

	return random_next(&state) << 1 | 1;
}

static void fail(struct control *control, const char *fmt, ...)
{
	va_list args;

	if (!control->failed++) {
		va_start(args, fmt);
		vsnprintf(control->message, sizeof(control->message), fmt, args);
		va_end(args);
	}
	control->stop = true;
}

static void count(struct control *control, enum count what)
{
	control->counts[what]++;
}

static int slot_nr(struct control *control, const struct slot *slot)
{
	return slot - control->slots;
}

static u64 slot_to_bar(const struct slot *slot, u64 offset)
{
	for (int i = 0; i < slot->nr_ranges; i++) {
		if (offset < slot->ranges[i].length)
			return slot->ranges[i].offset + offset;
		offset -= slot->ranges[i].length;
	}

	VFIO_FAIL("Beyond the end of the slot\n");
}

struct mapping {
	struct slot *slot;
	void *vaddr;
	u64 size;
	/* In the slot */
	u64 offset;
	bool writable;
	/* What was touched last, so that its page may be there */
	u64 last;
};

struct worker {
	stress_test *self;
	bool owner;
	u64 random;
	struct iommu *importer;
	struct mapping mappings[MAX_MAPPINGS];
	int nr_mappings;
	int holders[MAX_HOLDERS];
	int nr_holders;
};

static enum verdict judge(struct control *control, const struct mapping *map,
			  unsigned long seq, int before)
{
	int after = map->slot->state;

	if (before == DEAD)
		return VERDICT_DEAD;
	if (control->seq != seq || SEQ_STATE(seq) == IN_TRANSITION)
		return VERDICT_CHANGING;
	if (SEQ_STATE(seq) == INACCESSIBLE)
		return VERDICT_INACCESSIBLE;
	return after == LIVE ? VERDICT_LIVE : VERDICT_CHANGING;
}

/*
 * The oracle for accesses. @seq and @before are the states of the device and of the
 * slot when the access began; it is over now.
 */
static void check_access(struct control *control, const struct mapping *map,
			 u64 offset, const char *what, int sig, u32 value,
			 u32 expected, unsigned long seq, int before)
{
	enum verdict verdict = judge(control, map, seq, before);
	int slot = slot_nr(control, map->slot);

	control->verdicts[verdict]++;
	if (sig && sig != SIGBUS)
		fail(control, "%s of slot %d at %#llx: signal %d", what, slot,
		     (unsigned long long)offset, sig);
	else if (sig && verdict == VERDICT_LIVE)
		fail(control, "%s of slot %d at %#llx: SIGBUS although it is accessible",
		     what, slot, (unsigned long long)offset);
	else if (!sig && (verdict == VERDICT_DEAD || verdict == VERDICT_INACCESSIBLE))
		fail(control, "%s of slot %d at %#llx succeeds although it is %s", what,
		     slot, (unsigned long long)offset, verdict_names[verdict]);
	else if (!sig && value != expected)
		fail(control, "%s of slot %d at %#llx: %#x and not %#x", what, slot,
		     (unsigned long long)offset, value, expected);
}

static void touch(struct worker *worker, struct mapping *map)
{
	struct control *control = worker->self->control;
	unsigned long seq;
	u32 expected, value = 0;
	int before, sig;
	u64 offset;

	if (map->last >= map->size || random_below(&worker->random, 2))
		map->last = random_below(&worker->random, map->size / worker->self->page) *
			    worker->self->page;
	offset = map->last;
	expected = page_value(worker->self,
			      slot_to_bar(map->slot, map->offset + offset));

	before = map->slot->state;
	seq = control->seq;

	if (map->writable && random_below(&worker->random, 4) == 0) {
		sig = mmio_write32(map->vaddr + offset, expected);
		check_access(control, map, offset, "write", sig, 0, 0, seq, before);
		return;
	}

	sig = mmio_read32(map->vaddr + offset, &value);
	check_access(control, map, offset, "read", sig, value, expected, seq, before);
}

static struct mapping *random_mapping(struct worker *worker)
{
	if (!worker->nr_mappings)
		return NULL;

	return &worker->mappings[random_below(&worker->random, worker->nr_mappings)];
}

static void drop_mapping(struct worker *worker, struct mapping *map)
{
	VFIO_ASSERT_EQ(munmap(map->vaddr, map->size), 0);
	*map = worker->mappings[--worker->nr_mappings];
}

/* The owner has some DMABUFs for itself. */
static int nr_slots(struct worker *worker)
{
	int nr_shared = worker->self->control->nr_shared;

	return worker->owner && nr_shared > 1 ? NR_SLOTS : nr_shared;
}

static struct slot *random_slot(struct worker *worker)
{
	struct control *control = worker->self->control;
	int first = !control->has_device && !worker->owner;

	return &control->slots[first + random_below(&worker->random,
						    nr_slots(worker) - first)];
}

static struct slot *random_dmabuf(struct worker *worker)
{
	int nr = nr_slots(worker);

	if (nr == 1)
		return NULL;

	return &worker->self->control->slots[1 + random_below(&worker->random, nr - 1)];
}

static void op_map(struct worker *worker)
{
	struct control *control = worker->self->control;
	struct slot *slot = random_slot(worker);
	u64 page = worker->self->page;
	u64 pages = slot->size / page;
	u64 first = random_below(&worker->random, pages);
	u64 nr = 1 + random_below(&worker->random, pages - first);
	bool writable = !slot->read_only && random_below(&worker->random, 2);
	int before = slot->state, after;
	struct mapping map = {
		.slot = slot,
		.writable = writable,
	};
	int flags = MAP_SHARED;
	void *hint = NULL;

	if (worker->nr_mappings == MAX_MAPPINGS)
		drop_mapping(worker, random_mapping(worker));

	/* Sometimes all of it, and where huge pages fit */
	if (random_below(&worker->random, 3) == 0) {
		first = 0;
		nr = pages;
	}
	map.offset = first * page;
	map.size = nr * page;
	if (random_below(&worker->random, 2)) {
		hint = mmap_reserve(map.size, SZ_2M,
				    slot_to_bar(slot, map.offset) % SZ_2M);
		flags |= MAP_FIXED;
	}

	map.vaddr = mmap(hint, map.size, writable ? PROT_READ | PROT_WRITE : PROT_READ,
			 flags, slot->fd, slot->offset + map.offset);
	after = slot->state;
	if (map.vaddr == MAP_FAILED) {
		if (errno != ENODEV || after == LIVE)
			fail(control, "mmap() of slot %d: errno %d",
			     slot_nr(control, slot), errno);
		/* The reservation is gone, and another thread may have the address. */
		return;
	}

	count(control, COUNT_MMAPS);
	if (before == DEAD)
		fail(control, "mmap() of slot %d succeeds, it was revoked",
		     slot_nr(control, slot));
	worker->mappings[worker->nr_mappings++] = map;
}

static void op_unmap_part(struct worker *worker)
{
	struct mapping *map = random_mapping(worker);
	u64 page = worker->self->page;
	u64 pages, first, nr;

	if (!map)
		return;

	pages = map->size / page;
	first = random_below(&worker->random, pages);
	nr = 1 + random_below(&worker->random, pages - first);
	if (nr == pages) {
		drop_mapping(worker, map);
		return;
	}

	/* The part behind the hole is another mapping, if there is room for it. */
	VFIO_ASSERT_EQ(munmap(map->vaddr + first * page, nr * page), 0);
	if (first + nr < pages) {
		struct mapping rest = *map;

		rest.vaddr += (first + nr) * page;
		rest.offset += (first + nr) * page;
		rest.size -= (first + nr) * page;
		if (!first) {
			*map = rest;
			return;
		}
		if (worker->nr_mappings < MAX_MAPPINGS)
			worker->mappings[worker->nr_mappings++] = rest;
		else
			VFIO_ASSERT_EQ(munmap(rest.vaddr, rest.size), 0);
	}
	map->size = first * page;
}

static void op_move(struct worker *worker)
{
	struct mapping *map = random_mapping(worker);
	void *vaddr;

	if (!map)
		return;

	vaddr = mmap_reserve(map->size, SZ_2M,
			     random_below(&worker->random, 2) ? 0 : worker->self->page);
	VFIO_ASSERT_EQ(mremap(map->vaddr, map->size, map->size,
			      MREMAP_MAYMOVE | MREMAP_FIXED, vaddr), vaddr);
	map->vaddr = vaddr;
}

/* The VMA is split, and maybe merged again. */
static void op_protect(struct worker *worker)
{
	struct mapping *map = random_mapping(worker);
	u64 page = worker->self->page;
	void *vaddr;
	u32 value;

	if (!map)
		return;

	vaddr = map->vaddr + random_below(&worker->random, map->size / page) * page;
	VFIO_ASSERT_EQ(mprotect(vaddr, page, PROT_NONE), 0);
	if (mmio_read32(vaddr, &value) != SIGSEGV)
		fail(worker->self->control, "read of a page that is PROT_NONE");
	VFIO_ASSERT_EQ(mprotect(vaddr, page,
				map->writable ? PROT_READ | PROT_WRITE : PROT_READ), 0);

	if (map->slot->read_only) {
		VFIO_ASSERT_EQ(mprotect(vaddr, page, PROT_READ | PROT_WRITE), -1);
		if (errno != EACCES)
			fail(worker->self->control, "mprotect(): errno %d", errno);
		if (mmio_write32(vaddr, 0) != SIGSEGV)
			fail(worker->self->control, "write to a read-only mapping");
	}
}

static void op_fork(struct worker *worker)
{
	int status;
	pid_t pid;

	pid = fork();
	VFIO_ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < 16 && worker->nr_mappings; i++)
			touch(worker, random_mapping(worker));
		_exit(0);
	}

	VFIO_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail(worker->self->control, "a child ends with %#x", status);
}

static void op_import(struct worker *worker)
{
	struct control *control = worker->self->control;
	struct slot *slot = random_dmabuf(worker);
	struct dma_region region = {};
	unsigned long seq;
	int before, after;
	enum access_state state;
	int ret;

	/* iommufd imports one range only. */
	if (!slot || slot->nr_ranges != 1)
		return;

	region.size = slot->size;
	before = slot->state;
	seq = control->seq;
	ret = __iommu_map_dmabuf(worker->importer, slot->fd, &region);
	after = slot->state;
	state = control->seq == seq ? SEQ_STATE(seq) : IN_TRANSITION;
	count(control, ret ? COUNT_IMPORTS_REFUSED : COUNT_IMPORTS);

	if (!ret) {
		if (before == DEAD || state == INACCESSIBLE)
			fail(control, "import of slot %d succeeds",
			     slot_nr(control, slot));
		if (random_below(&worker->random, 2))
			usleep(random_below(&worker->random, 2000));
		iommu_unmap(worker->importer, &region);
	} else if (ret != -ENODEV || (after == LIVE && state == ACCESSIBLE)) {
		fail(control, "import of slot %d: errno %d",
		     slot_nr(control, slot), -ret);
	}
}

static void op_hold(struct worker *worker)
{
	struct slot *slot = random_slot(worker);
	char path[PATH_MAX];
	int fd;

	if (worker->nr_holders && random_below(&worker->random, 2)) {
		VFIO_ASSERT_EQ(close(worker->holders[--worker->nr_holders]), 0);
		return;
	}
	if (worker->nr_holders == MAX_HOLDERS)
		return;

	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", slot->fd);
	fd = open(path, O_PATH | O_CLOEXEC);
	VFIO_ASSERT_GE(fd, 0);
	worker->holders[worker->nr_holders++] = fd;
}

static void op_memattr(struct worker *worker)
{
	struct control *control = worker->self->control;
	struct slot *slot = random_dmabuf(worker);
	int before, after, ret;

	if (!slot || (!control->has_device && !worker->owner))
		return;

	before = slot->state;
	ret = __vfio_pci_dmabuf_set_memattr(worker->self->device, slot->fd,
					    random_below(&worker->random, 2));
	after = slot->state;

	/* There may be no write-combining on this machine. */
	if (before == DEAD ? ret != -EBADFD && ret != -EOPNOTSUPP :
	    ret && ret != -EOPNOTSUPP && (ret != -EBADFD || after == LIVE))
		fail(control, "memory attribute of slot %d: errno %d",
		     slot_nr(control, slot), -ret);
}

struct op {
	void (*fn)(struct worker *worker);
	int weight;
};

/* A random operation, or none */
static void do_op(struct worker *worker, const struct op *ops, int nr_ops)
{
	int total = 0, n;

	for (int i = 0; i < nr_ops; i++)
		total += ops[i].weight;

	n = random_below(&worker->random, 2 * total);
	for (int i = 0; i < nr_ops && n >= 0; i++) {
		if (n < ops[i].weight)
			ops[i].fn(worker);
		n -= ops[i].weight;
	}
}

static void *worker_thread(void *arg)
{
	static const struct op ops[] = {
		{ op_map, 8 },
		{ op_unmap_part, 4 },
		{ op_move, 2 },
		{ op_protect, 3 },
		{ op_import, 3 },
		{ op_memattr, 1 },
		{ op_hold, 1 },
		{ op_fork, 1 },
	};
	struct worker *worker = arg;

	while (!worker->self->control->stop) {
		do_op(worker, ops, ARRAY_SIZE(ops));
		for (int i = 0; i < 8 && worker->nr_mappings; i++)
			touch(worker, random_mapping(worker));
	}

	return NULL;
}

static void worker_process(stress_test *self, u64 random)
{
	struct worker workers[NR_THREADS] = {};
	pthread_t threads[NR_THREADS];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != self->pid)
		_exit(1);

	/* The mappings that libvfio made keep the device open, too. */
	if (!self->control->has_device) {
		for (int i = 0; i < PCI_STD_NUM_BARS; i++) {
			struct vfio_pci_bar *bar = &self->device->bars[i];

			if (bar->vaddr)
				VFIO_ASSERT_EQ(munmap(bar->vaddr, bar->info.size), 0);
		}
		VFIO_ASSERT_EQ(close(self->device->fd), 0);
	}

	for (int i = 0; i < NR_THREADS; i++) {
		workers[i].self = self;
		workers[i].random = random + i;
		workers[i].importer = iommu_init(MODE_IOMMUFD);
	}
	self->control->ready++;
	for (int i = 1; i < NR_THREADS; i++)
		VFIO_ASSERT_EQ(pthread_create(&threads[i], NULL, worker_thread,
					      &workers[i]), 0);
	worker_thread(&workers[0]);
	for (int i = 1; i < NR_THREADS; i++)
		VFIO_ASSERT_EQ(pthread_join(threads[i], NULL), 0);
	_exit(0);
}

FIXTURE_SETUP(stress)
{
	enum vfio_pci_bar_revocation how;
	pthread_rwlockattr_t attr;
	u32 value;

	/* If the runner kills the program, the test must not keep the device. */
	ASSERT_EQ(0, prctl(PR_SET_PDEATHSIG, SIGKILL));

	self->page = getpagesize();
	self->device = device_open(device_bdf);

	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	self->pid = getpid();
	self->bar = vfio_pci_ram_bar(self->device,
				     max_t(u64, MIN_SIZE, 2 * MAX_RANGES * self->page));
	if (self->bar < 0)
		SKIP(return, "%s: no RAM in a BAR", device_bdf);
	self->size = min_t(u64, self->device->bars[self->bar].info.size, MAX_SIZE);

	self->missing = vfio_pci_dmabuf_revoke_missing(self->device);
	self->seed = random_seed();
	self->random = self->seed;

	self->control = mmap(NULL, sizeof(*self->control), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->control);
	self->control->nr_shared = self->missing ? 1 : NR_SHARED;

	/* By default a continuous stream of readers starves the writer. */
	ASSERT_EQ(0, pthread_rwlockattr_init(&attr));
	ASSERT_EQ(0, pthread_rwlockattr_setkind_np(&attr,
			PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP));
	ASSERT_EQ(0, pthread_rwlock_init(&self->low_power, &attr));
	for (int i = 0; i < NR_SLOTS; i++)
		ASSERT_EQ(0, pthread_rwlock_init(&self->slots[i], &attr));

	for (u64 offset = 0; offset < self->size; offset += self->page)
		ASSERT_EQ(0, __vfio_pci_bar_write32(self->device, self->bar, offset,
						    page_value(self, offset)));

	/* Resets must not change it. */
	for_each_vfio_pci_reset(how) {
		vfio_pci_bars_revoke(self->device, how);
		ASSERT_EQ(0, __vfio_pci_bar_read32(self->device, self->bar, 0, &value));
		if (value != page_value(self, 0))
			SKIP(return, "%s: a reset changes what is in the BAR", device_bdf);
	}
}

FIXTURE_TEARDOWN(stress)
{
	munmap(self->control, sizeof(*self->control));
	if (self->device)
		device_close(self->device);
}

static void random_export(stress_test *self, struct slot *slot, u64 *random)
{
	u64 pages = self->size / self->page / MAX_RANGES;
	bool one = random_below(random, 2);

	memset(slot, 0, sizeof(*slot));
	slot->nr_ranges = one ? 1 : 1 + random_below(random, MAX_RANGES);
	slot->read_only = random_below(random, 4) == 0;

	for (int i = 0; i < slot->nr_ranges; i++) {
		u64 first = random_below(random, self->size / self->page - pages);
		u64 nr = 1 + random_below(random, pages);

		/* Large and aligned is what huge pages need. */
		if (one && random_below(random, 2)) {
			first = 0;
			nr = self->size / self->page;
		}
		slot->ranges[i].offset = first * self->page;
		slot->ranges[i].length = nr * self->page;
		slot->size += slot->ranges[i].length;
	}

	slot->fd = __vfio_pci_dmabuf_export(self->device, self->bar,
					    slot->read_only ? O_RDONLY : O_RDWR,
					    slot->nr_ranges, slot->ranges);
	VFIO_ASSERT_GE(slot->fd, 0);
	count(self->control, COUNT_EXPORTS);
}

static void set_state(struct control *control, enum access_state state)
{
	control->seq = (control->seq & ~(SEQ_STEP - 1UL)) + SEQ_STEP + state;
}

/* Only the first thread of the owner does this, so that the state is known. */
static void do_event(stress_test *self)
{
	struct control *control = self->control;
	enum vfio_pci_bar_revocation how, reset;
	/* Without the fixes, a hot reset fails with EBUSY while others fault. */
	int nr = VFIO_PCI_BAR_HOT_RESET + (control->nr_shared > 1);
	bool low_power, wakeup, is_reset;

	how = random_below(&self->random, nr);

	/* Any ioctl of a worker would wake the device up. */
	if (how == VFIO_PCI_BAR_LOW_POWER_WAKEUP && control->has_device)
		how = VFIO_PCI_BAR_LOW_POWER;
	wakeup = how == VFIO_PCI_BAR_LOW_POWER_WAKEUP;
	low_power = how == VFIO_PCI_BAR_LOW_POWER || wakeup;
	is_reset = vfio_pci_bar_revocation_is_reset(how);

	/* Nor is it suspended while the second thread calls all the time. */
	if (low_power)
		pthread_rwlock_wrlock(&self->low_power);
	set_state(control, IN_TRANSITION);
	self->in_reset += is_reset;
	if (!vfio_pci_bars_revoke(self->device, how)) {
		if (low_power && !wakeup)
			pthread_rwlock_unlock(&self->low_power);
		if (!is_reset) {
			set_state(control, INACCESSIBLE);
			usleep(random_below(&self->random, 5000));

			/* A reset does not switch memory decode on. */
			if (how == VFIO_PCI_BAR_MEMORY_DECODE &&
			    random_below(&self->random, 4) == 0) {
				reset = VFIO_PCI_BAR_PCIE_FLR +
					random_below(&self->random, nr - VFIO_PCI_BAR_PCIE_FLR);
				vfio_pci_bars_revoke(self->device, reset);
			}
			set_state(control, IN_TRANSITION);
		}
		vfio_pci_bars_restore(self->device, how);
		if (wakeup)
			pthread_rwlock_unlock(&self->low_power);
		count(control, COUNT_EVENTS);
	} else if (low_power) {
		pthread_rwlock_unlock(&self->low_power);
	}
	self->in_reset -= is_reset;
	set_state(control, ACCESSIBLE);
}

/* By either thread of the owner. Often both revoke the same DMABUF. */
static void do_revoke(stress_test *self, u64 *random)
{
	struct control *control = self->control;
	int nr = self->revoking, before, live = LIVE, ret;
	struct slot *slot;

	if (control->nr_shared == 1)
		return;
	if (!nr || random_below(random, 2))
		nr = 1 + random_below(random, NR_SLOTS - 1);
	slot = &control->slots[nr];

	pthread_rwlock_rdlock(&self->slots[nr]);
	before = slot->state;
	slot->revokes_begun++;
	atomic_compare_exchange_strong(&slot->state, &live, DYING);
	self->revoking = nr;
	if (self->in_revoke++)
		count(control, COUNT_REVOKE_DURING_REVOKE);
	if (self->in_reset)
		count(control, COUNT_REVOKE_DURING_RESET);

	ret = __vfio_pci_dmabuf_revoke(self->device, slot->fd);
	slot->state = DEAD;
	self->in_revoke--;

	if (!ret) {
		count(control, COUNT_REVOKES);
		if (before == DEAD || slot->revokes_done++)
			fail(control, "slot %d is revoked for the second time", nr);
	} else if (ret == -EBADFD) {
		count(control, COUNT_REVOKES_AGAIN);
		if (slot->revokes_begun == 1)
			fail(control, "slot %d: EBADFD from the first revocation", nr);
	} else {
		fail(control, "revocation of slot %d: errno %d", nr, -ret);
	}
	pthread_rwlock_unlock(&self->slots[nr]);
}

static void op_revoke(struct worker *worker)
{
	do_revoke(worker->self, &worker->random);
}

/* Replace one of the DMABUFs that only the owner has. */
static void op_export(struct worker *worker)
{
	stress_test *self = worker->self;
	struct control *control = self->control;
	int nr = NR_SHARED + random_below(&worker->random, NR_SLOTS - NR_SHARED);
	struct slot *slot = &control->slots[nr];
	u64 end;

	if (control->nr_shared == 1)
		return;

	for (int i = worker->nr_mappings - 1; i >= 0; i--) {
		if (worker->mappings[i].slot == slot)
			drop_mapping(worker, &worker->mappings[i]);
	}

	/* A revocation is short: on a busy machine no export meets one by chance. */
	end = now_ms() + (random_below(&worker->random, 4) ? 0 : MEETING_MS);
	while (!self->in_revoke && now_ms() < end)
		sched_yield();

	pthread_rwlock_wrlock(&self->slots[nr]);
	VFIO_ASSERT_EQ(close(slot->fd), 0);
	if (self->in_revoke)
		count(control, COUNT_EXPORT_DURING_REVOKE);
	random_export(self, slot, &worker->random);
	pthread_rwlock_unlock(&self->slots[nr]);
}

/*
 * The second thread of the owner: all that a worker does, revocations and exports.
 * It imports where the device is attached, so that the IOMMU is involved.
 */
static void *second_owner(void *arg)
{
	static const struct op ops[] = {
		{ op_map, 4 },
		{ op_unmap_part, 2 },
		{ op_import, 2 },
		{ op_memattr, 1 },
		{ op_export, 4 },
		{ op_revoke, 4 },
	};
	stress_test *self = arg;
	struct worker worker = {
		.self = self,
		.owner = true,
		.random = self->second_random,
		.importer = self->device->iommu,
	};

	while (!self->second_stop && !self->control->stop) {
		pthread_rwlock_rdlock(&self->low_power);
		do_op(&worker, ops, ARRAY_SIZE(ops));
		pthread_rwlock_unlock(&self->low_power);
		for (int i = 0; i < 4 && worker.nr_mappings; i++)
			touch(&worker, random_mapping(&worker));
	}

	while (worker.nr_mappings)
		drop_mapping(&worker, &worker.mappings[0]);

	return NULL;
}

static void second_start(stress_test *self)
{
	self->second_random = random_next(&self->random) | 1;
	self->second_stop = false;
	VFIO_ASSERT_EQ(pthread_create(&self->second, NULL, second_owner, self), 0);
}

static void second_stop(stress_test *self)
{
	self->second_stop = true;
	VFIO_ASSERT_EQ(pthread_join(self->second, NULL), 0);
}

static void round_start(stress_test *self, bool has_device)
{
	struct control *control = self->control;
	struct slot *slot = &control->slots[0];

	control->stop = false;
	control->has_device = has_device;
	control->ready = 0;
	set_state(control, ACCESSIBLE);

	memset(slot, 0, sizeof(*slot));
	slot->fd = self->device->fd;
	slot->offset = self->device->bars[self->bar].info.offset;
	slot->size = self->size;
	slot->nr_ranges = 1;
	slot->ranges[0].length = self->size;
	self->revoking = 0;
	for (int i = 1; !self->missing && i < NR_SLOTS; i++)
		random_export(self, &control->slots[i], &self->random);

	for (int i = 0; i < NR_PROCESSES; i++) {
		u64 random = random_next(&self->random);

		self->pids[i] = fork();
		VFIO_ASSERT_GE(self->pids[i], 0);
		if (!self->pids[i])
			worker_process(self, random | 1);
	}

	/* A worker that fails before that has reported it. */
	for (int ms = 0; ms < EXIT_TIMEOUT_MS && control->ready < NR_PROCESSES; ms++)
		usleep(1000);

	second_start(self);
}

static void round_end(struct __test_metadata *_metadata, stress_test *self)
{
	struct control *control = self->control;
	bool killed = random_below(&self->random, 2);
	int status[NR_PROCESSES];

	/* Workers are killed in the middle of an operation, or not. */
	if (!killed)
		control->stop = true;
	for (int i = 0; i < NR_PROCESSES; i++) {
		if (killed)
			kill(self->pids[i], SIGKILL);
		status[i] = wait_child(self->pids[i], EXIT_TIMEOUT_MS);
	}
	/* The children of killed workers are children of this process now. */
	for (int ms = 0; waitpid(-1, NULL, WNOHANG) >= 0; ms++) {
		ASSERT_LT(ms, EXIT_TIMEOUT_MS);
		usleep(1000);
	}
	ASSERT_EQ(ECHILD, errno);

	if (control->failed)
		TH_LOG("%s", control->message);
	ASSERT_FALSE(atomic_load(&control->failed));
	for (int i = 0; i < NR_PROCESSES; i++)
		ASSERT_EQ(killed ? 128 + SIGKILL : 0, status[i]);

	for (int i = 1; !self->missing && i < NR_SLOTS; i++) {
		struct slot *slot = &control->slots[i];

		/* Of all revocations of a DMABUF one succeeds. */
		ASSERT_EQ(!!slot->revokes_begun, atomic_load(&slot->revokes_done))
			TH_LOG("slot %d: %d revocations began", i, slot->revokes_begun);
		ASSERT_EQ(0, close(slot->fd));
	}
}

static void steps(stress_test *self)
{
	for (int i = 0; i < STEPS_PER_ROUND && !self->control->stop; i++) {
		switch (random_below(&self->random, 8)) {
		case 0 ... 1:
			do_revoke(self, &self->random);
			break;
		case 2 ... 3:
			usleep(random_below(&self->random, 20000));
			break;
		default:
			do_event(self);
			break;
		}
	}
}

/* What did not occur, NULL if all did */
static const char *not_seen(stress_test *self)
{
	struct control *control = self->control;

	for (int i = 0; i < NR_VERDICTS; i++) {
		if (!control->verdicts[i] && !(self->missing && i == VERDICT_DEAD))
			return verdict_names[i];
	}
	for (int i = 0; i < NR_COUNTS; i++) {
		if (!control->counts[i] && !(self->missing && i >= COUNT_EXPORTS))
			return count_names[i];
	}

	return NULL;
}

static time_t duration(void)
{
	char *env = getenv(SECONDS_ENV);

	return env ? atoi(env) : SECONDS_DEFAULT;
}

/* On a slow machine it takes longer until all has been seen. */
static bool goes_on(stress_test *self, time_t start)
{
	time_t now = time(NULL), end = start + duration();

	return now < end || (not_seen(self) && now < end + EXTRA_SECONDS);
}

static void report(struct __test_metadata *_metadata, stress_test *self, int rounds)
{
	struct control *control = self->control;
	unsigned long accesses = 0;
	struct rusage usage;

	/* Of the workers, which have all been waited for */
	ASSERT_EQ(0, getrusage(RUSAGE_CHILDREN, &usage));
	for (int i = 0; i < NR_VERDICTS; i++)
		accesses += control->verdicts[i];
	TH_LOG("%d rounds, %ld page faults", rounds, usage.ru_minflt + usage.ru_majflt);
	TH_LOG("%lu accesses, of which:", accesses);
	for (int i = 0; i < NR_VERDICTS; i++)
		TH_LOG("%lu %s", control->verdicts[i], verdict_names[i]);
	for (int i = 0; i < NR_COUNTS; i++)
		TH_LOG("%lu %s", control->counts[i], count_names[i]);

	ASSERT_EQ(NULL, not_seen(self))
		TH_LOG("There were no accesses or calls of this kind: %s", not_seen(self));
}

TEST_F_TIMEOUT(stress, open, TIMEOUT_S)
{
	time_t start = time(NULL);
	int rounds = 0;

	do {
		round_start(self, true);
		steps(self);
		second_stop(self);
		round_end(_metadata, self);
		rounds++;
	} while (goes_on(self, start));

	report(_metadata, self, rounds);
}

/* The device is closed while the workers use its DMABUFs. */
TEST_F_TIMEOUT(stress, close, TIMEOUT_S)
{
	struct control *control = self->control;
	time_t start = time(NULL);
	int rounds = 0;

	if (self->missing)
		SKIP(return, "%s: %s", device_bdf, self->missing);

	do {
		round_start(self, false);
		usleep(random_below(&self->random, 200000));
		steps(self);
		second_stop(self);

		for (int i = 1; i < NR_SLOTS; i++) {
			int live = LIVE;

			atomic_compare_exchange_strong(&control->slots[i].state, &live,
						       DYING);
		}
		device_close(self->device);
		self->device = NULL;
		for (int i = 1; i < NR_SLOTS; i++)
			control->slots[i].state = DEAD;
		usleep(random_below(&self->random, 50000));

		if (random_below(&self->random, 2)) {
			ASSERT_TRUE(driver_rebind(device_bdf));
			usleep(random_below(&self->random, 50000));
		}

		self->device = device_open(device_bdf);
		usleep(random_below(&self->random, 50000));
		round_end(_metadata, self);
		rounds++;
	} while (goes_on(self, start));

	report(_metadata, self, rounds);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
