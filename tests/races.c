// SPDX-License-Identifier: GPL-2.0-only
/*
 * fork() and mremap() copy and move page table entries of a DMABUF while a revocation
 * removes them. No entry may survive the revocation.
 *
 * The race window is short, so that a run does not always hit it. The tests start from a
 * seed, which is printed.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <linux/limits.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define EXIT_TIMEOUT_MS 10000
#define NR_FORKS 100
#define NR_MREMAPS 50

FIXTURE(races) {
	struct bar_test t;
	u64 random;
};

FIXTURE_SETUP(races)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = ram_test_init(t, device_bdf, SZ_64K, false);
	if (!missing)
		missing = vfio_pci_dmabuf_revoke_missing(t->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->random = random_seed();
}

FIXTURE_TEARDOWN(races)
{
	bar_test_close(&self->t);
}

struct late_revoker {
	struct vfio_pci_device *device;
	int fd;
	pthread_barrier_t *barrier;
	u64 delay_ns;
	/* In memory that the child shares */
	atomic_bool *revoked;
};

static void *late_revoke_thread(void *arg)
{
	struct late_revoker *revoker = arg;
	u64 start;

	pthread_barrier_wait(revoker->barrier);
	start = now_ns();
	while (now_ns() - start < revoker->delay_ns)
		;
	vfio_pci_dmabuf_revoke(revoker->device, revoker->fd);
	*revoker->revoked = true;

	return NULL;
}

/* A child must not inherit an entry that its parent has lost. */
TEST_F_TIMEOUT(races, fork, 120)
{
	struct bar_test *t = &self->t;
	u64 size = min_t(u64, t->bar_size, SZ_64M), fork_ns = 0, start;
	struct late_revoker revoker = { .device = t->device };
	u64 step = size < SZ_2M ? t->page : SZ_2M;
	pthread_barrier_t barrier;
	void *vaddr;
	u32 value;
	pid_t pid;

	revoker.barrier = &barrier;
	revoker.revoked = mmap(NULL, t->page, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, revoker.revoked);
	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, 2));

	for (int i = 0; i < NR_FORKS; i++) {
		pthread_t thread;

		revoker.fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, size);
		vaddr = mmap(mmap_reserve(size, SZ_2M, 0), size, PROT_READ,
			     MAP_SHARED | MAP_FIXED, revoker.fd, 0);
		ASSERT_NE(MAP_FAILED, vaddr);
		for (u64 offset = 0; offset < size; offset += step)
			ASSERT_EQ(0, mmio_read32(vaddr + offset, &value));

		/* At any time during the fork(). The first one shows how long it takes. */
		revoker.delay_ns = fork_ns ? random_below(&self->random, fork_ns) : 0;
		*revoker.revoked = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, late_revoke_thread, &revoker));
		pthread_barrier_wait(&barrier);

		start = now_ns();
		pid = fork();
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			while (!*revoker.revoked)
				usleep(100);
			for (u64 offset = 0; offset < size; offset += step) {
				if (mmio_read32(vaddr + offset, &value) != SIGBUS)
					_exit(1);
			}
			_exit(0);
		}
		fork_ns = now_ns() - start;
		ASSERT_GE(pid, 0);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		ASSERT_EQ(0, wait_child(pid, EXIT_TIMEOUT_MS))
			TH_LOG("Attempt %d, delay %llu ns, fork() takes %llu ns", i,
			       (unsigned long long)revoker.delay_ns,
			       (unsigned long long)fork_ns);

		ASSERT_EQ(0, munmap(vaddr, size));
		ASSERT_EQ(0, close(revoker.fd));
	}
}

struct mover {
	void *vaddr;
	void *spare;
	u64 size;
	u64 step;
	atomic_bool stop;
	atomic_ulong moves;
};

static void *move_thread(void *arg)
{
	struct mover *mover = arg;
	void *vaddr;
	u32 value;

	while (!mover->stop) {
		for (u64 offset = 0; offset < mover->size; offset += mover->step)
			mmio_read32(mover->vaddr + offset, &value);

		vaddr = mremap(mover->vaddr, mover->size, mover->size,
			       MREMAP_MAYMOVE | MREMAP_FIXED, mover->spare);
		VFIO_ASSERT_EQ(vaddr, mover->spare);
		mover->spare = mover->vaddr;
		mover->vaddr = vaddr;
		mover->moves++;
	}
	return NULL;
}

/*
 * An entry must not be moved behind the back of the revocation. Map one huge page,
 * because two in one page table share their lock.
 */
TEST_F_TIMEOUT(races, mremap, 120)
{
	struct bar_test *t = &self->t;
	struct mover mover = { .size = min_t(u64, t->bar_size, SZ_2M) };
	pthread_t thread;
	u32 value;
	int fd;

	mover.step = mover.size < SZ_2M ? t->page : SZ_2M;
	for (int i = 0; i < NR_MREMAPS; i++) {
		fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, mover.size);
		mover.spare = mmap_reserve(mover.size, SZ_2M, 0);
		mover.vaddr = mmap(mmap_reserve(mover.size, SZ_2M, 0), mover.size,
				   PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
		ASSERT_NE(MAP_FAILED, mover.vaddr);
		mover.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, move_thread, &mover));

		usleep(random_below(&self->random, 10000));
		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(t->device, fd));
		mover.stop = true;
		ASSERT_EQ(0, pthread_join(thread, NULL));

		for (u64 offset = 0; offset < mover.size; offset += mover.step)
			ASSERT_EQ(SIGBUS, mmio_read32(mover.vaddr + offset, &value))
				TH_LOG("Attempt %d", i);
		ASSERT_EQ(0, munmap(mover.vaddr, mover.size));
		ASSERT_EQ(0, close(fd));
	}

	TH_LOG("%lu times moved", mover.moves);
	ASSERT_GT(atomic_load(&mover.moves), 0);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
