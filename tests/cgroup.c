// SPDX-License-Identifier: GPL-2.0-only
/*
 * A revocation while a client is throttled. A process whose memory cgroup is above
 * memory.high sleeps when page tables are charged to it, up to two seconds each time,
 * in the middle of a fault on a DMABUF. The revocation of another DMABUF must not wait
 * for that.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <linux/limits.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

/* Page tables in a round of the client */
#define NR_TABLES 450
#define MEASURE_MS 5000
#define THROTTLED_MS 500
#define EXIT_TIMEOUT_MS 10000

FIXTURE(cgroup) {
	struct bar_test t;
	int dmabuf;

	/* The mounted hierarchy, and a cgroup in it. Empty if there is none. */
	char mount[32];
	char cgroup[64];

	/* In shared memory: how many rounds the client has done */
	atomic_int *rounds;
};

typedef FIXTURE_DATA(cgroup) cgroup_test;

static int cgroup_write(const char *cgroup, const char *name, const char *value)
{
	char path[PATH_MAX];

	snprintf_assert(path, sizeof(path), "%s/%s", cgroup, name);
	return write_file(path, value);
}

/* Returns NULL or the reason to skip */
static const char *cgroup_init(cgroup_test *self)
{
	strcpy(self->mount, "/tmp/cgroup-test-XXXXXX");
	VFIO_ASSERT_NOT_NULL(mkdtemp(self->mount));
	if (mount("cgroup2", self->mount, "cgroup2", 0, NULL)) {
		VFIO_ASSERT_EQ(rmdir(self->mount), 0);
		self->mount[0] = 0;
		return "cgroup2 cannot be mounted (CONFIG_CGROUPS)";
	}
	if (cgroup_write(self->mount, "cgroup.subtree_control", "+memory"))
		return "no memory controller in cgroup2 (CONFIG_MEMCG)";

	snprintf_assert(self->cgroup, sizeof(self->cgroup), "%s/vfio-test-%d",
			self->mount, getpid());
	VFIO_ASSERT_EQ(mkdir(self->cgroup, 0700), 0);
	VFIO_ASSERT_EQ(cgroup_write(self->cgroup, "memory.high", "0"), 0);

	return NULL;
}

static void cgroup_cleanup(cgroup_test *self)
{
	if (self->cgroup[0])
		VFIO_ASSERT_EQ(rmdir(self->cgroup), 0);
	if (self->mount[0]) {
		VFIO_ASSERT_EQ(umount(self->mount), 0);
		VFIO_ASSERT_EQ(rmdir(self->mount), 0);
	}
}

FIXTURE_SETUP(cgroup)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = bar_test_init(t, device_bdf, MODE_IOMMUFD, SZ_64K);
	if (!missing)
		missing = vfio_pci_dmabuf_revoke_missing(t->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->dmabuf = vfio_pci_dmabuf_export(t->device, t->bar, 0, t->page);
	self->rounds = mmap(NULL, t->page, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->rounds);

	missing = cgroup_init(self);
	if (missing) {
		cgroup_cleanup(self);
		SKIP(return, "%s", missing);
	}
}

FIXTURE_TEARDOWN(cgroup)
{
	cgroup_cleanup(self);
	VFIO_ASSERT_EQ(munmap(self->rounds, self->t.page), 0);
	VFIO_ASSERT_EQ(close(self->dmabuf), 0);
	bar_test_close(&self->t);
}

/* Map the DMABUF many times, at addresses that take a page table each. */
static void take_tables(cgroup_test *self, const char *cgroup, int ready)
{
	u64 page = self->t.page;
	u64 table = page / sizeof(u64) * page;
	void *vaddr = mmap_reserve(NR_TABLES * table, table, 0);

	for (int i = 0; i < NR_TABLES; i++)
		VFIO_ASSERT_NE(mmap(vaddr + i * table, page, PROT_READ,
				    MAP_SHARED | MAP_FIXED, self->dmabuf, 0), MAP_FAILED);

	/* From now on all memory that the client allocates is above the limit. */
	if (cgroup)
		VFIO_ASSERT_EQ(cgroup_write(cgroup, "cgroup.procs", "0"), 0);
	VFIO_ASSERT_EQ(write(ready, "", 1), 1);

	/* One call, because the client sleeps at the end of a call in any case. */
	read_pages(vaddr, table, NR_TABLES);
	(*self->rounds)++;

	VFIO_ASSERT_EQ(munmap(vaddr, NR_TABLES * table), 0);
}

/*
 * Revoke DMABUFs for a while, and longer until the client has done @min_rounds.
 * Returns how many milliseconds the longest revocation took.
 */
static int longest_revoke(cgroup_test *self, int min_rounds)
{
	struct bar_test *t = &self->t;
	u64 begin = now_ms(), took;
	u64 longest = 0;

	do {
		int fd = vfio_pci_dmabuf_export(t->device, t->bar, t->page, t->page);
		u64 start = now_ms();

		vfio_pci_dmabuf_revoke(t->device, fd);
		longest = max(longest, now_ms() - start);
		VFIO_ASSERT_EQ(close(fd), 0);
		took = now_ms() - begin;
	} while (took < MEASURE_MS ||
		 (*self->rounds < min_rounds && took < 4 * MEASURE_MS));

	return longest;
}

/* The same while a client, in @cgroup unless that is NULL, faults on another DMABUF */
static int longest_revoke_with_client(cgroup_test *self, const char *cgroup)
{
	int ready[2];
	int longest;
	pid_t pid;
	char c;

	VFIO_ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	VFIO_ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			take_tables(self, cgroup, ready[1]);
	}

	VFIO_ASSERT_EQ(read(ready[0], &c, 1), 1);
	*self->rounds = 0;
	longest = longest_revoke(self, !cgroup);

	VFIO_ASSERT_EQ(kill(pid, SIGKILL), 0);
	VFIO_ASSERT_EQ(wait_child(pid, EXIT_TIMEOUT_MS), 128 + SIGKILL);
	VFIO_ASSERT_EQ(close(ready[0]), 0);
	VFIO_ASSERT_EQ(close(ready[1]), 0);

	return longest;
}

TEST_F_TIMEOUT(cgroup, throttled, 90)
{
	int unlimited, throttled;

	unlimited = longest_revoke_with_client(self, NULL);
	TH_LOG("%d ms, %d rounds of the client", unlimited, atomic_load(self->rounds));
	ASSERT_GT(atomic_load(self->rounds), 0);

	throttled = longest_revoke_with_client(self, self->cgroup);
	TH_LOG("%d ms, %d rounds of the client when it is throttled", throttled,
	       atomic_load(self->rounds));
	ASSERT_LT(throttled, unlimited + THROTTLED_MS)
		TH_LOG("A revocation waits for the cgroup of a client");

	/* A throttled client does not complete a round. */
	if (atomic_load(self->rounds) > 0)
		SKIP(return, "memory.high does not throttle");
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
