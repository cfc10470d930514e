// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hot resets of two functions that are reset together. Page faults of a client must not
 * make them fail, and a hot reset that fails must not revoke anything.
 *
 * Both functions are in one IOMMU group, and both are given on the command line.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <linux/limits.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *bdfs[2];

#define NR_RESETS 30
#define MAX_THREADS 4
#define EXIT_TIMEOUT_MS 10000

/* How many times in a row EBUSY is allowed with a client of both functions */
#define MAX_BUSY 100

/* Less than a huge page, so that each page takes a fault */
#define NR_PAGES 256

struct function {
	struct vfio_pci_device *device;
	int bar;
	u64 size;

	/* A mapping of the owner, and the DMABUF for clients */
	void *vaddr;
	int dmabuf;
};

FIXTURE(hot_reset) {
	struct iommu *iommu;
	struct function functions[2];
	struct iommu *importer;
	u64 page;
};

FIXTURE_VARIANT(hot_reset) {
	const char *iommu_mode;
};

/* The caller proves that it owns the functions by a group file, or by its iommufd. */
FIXTURE_VARIANT_ADD(hot_reset, group) {
	.iommu_mode = MODE_VFIO_TYPE1V2_IOMMU,
};

FIXTURE_VARIANT_ADD(hot_reset, iommufd) {
	.iommu_mode = MODE_IOMMUFD,
};

typedef FIXTURE_DATA(hot_reset) hot_reset_test;

static void function_init(hot_reset_test *self, struct function *function)
{
	struct vfio_pci_device *device = function->device;

	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
	function->size = min_t(u64, device->bars[function->bar].info.size,
			       NR_PAGES * self->page);
	function->dmabuf = vfio_pci_dmabuf_export(device, function->bar, 0,
						  function->size);
	function->vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, device->fd,
			       device->bars[function->bar].info.offset);
	VFIO_ASSERT_NE(function->vaddr, MAP_FAILED);
}

static void function_cleanup(hot_reset_test *self, struct function *function)
{
	VFIO_ASSERT_EQ(munmap(function->vaddr, self->page), 0);
	VFIO_ASSERT_EQ(close(function->dmabuf), 0);
	vfio_pci_device_cleanup(function->device);
	function->device = NULL;
}

FIXTURE_SETUP(hot_reset)
{
	struct function *functions = self->functions;
	const char *missing;

	if (!bdfs[1])
		SKIP(return, "only one device is given");
	if (!strcmp(bdfs[0], bdfs[1]) ||
	    sysfs_iommu_group_get(bdfs[0]) != sysfs_iommu_group_get(bdfs[1]))
		SKIP(return, "%s, %s: no two functions of one group", bdfs[0], bdfs[1]);

	self->page = getpagesize();
	self->importer = iommu_init(MODE_IOMMUFD);
	self->iommu = iommu_init(variant->iommu_mode);
	functions[0].device = vfio_pci_device_init(bdfs[0], self->iommu);
	functions[1].device = sibling_open(bdfs[1], functions[0].device);

	if (!hot_reset_is_pair(functions[0].device, functions[1].device))
		SKIP(return, "%s, %s: no hot reset of these two", bdfs[0], bdfs[1]);

	for (int i = 0; i < ARRAY_SIZE(bdfs); i++) {
		functions[i].bar = vfio_pci_largest_bar(functions[i].device, self->page);
		if (functions[i].bar < 0)
			SKIP(return, "%s: no BAR that can be mapped", bdfs[i]);

		missing = vfio_pci_dmabuf_mmap_missing(functions[i].device,
						       functions[i].bar);
		if (missing)
			SKIP(return, "%s: %s", bdfs[i], missing);
	}

	for (int i = 0; i < ARRAY_SIZE(bdfs); i++)
		function_init(self, &functions[i]);
}

FIXTURE_TEARDOWN(hot_reset)
{
	for (int i = ARRAY_SIZE(bdfs) - 1; i >= 0; i--)
		function_cleanup(self, &self->functions[i]);
	iommu_cleanup(self->iommu);
	iommu_cleanup(self->importer);
}

static void assert_works(struct __test_metadata *_metadata, hot_reset_test *self,
			 struct function *function)
{
	struct dma_region region = { .size = self->page };
	void *vaddr;
	u32 value;

	ASSERT_EQ(0, mmio_read32(function->vaddr, &value));
	ASSERT_EQ(0, __iommu_map_dmabuf(self->importer, function->dmabuf, &region));
	iommu_unmap(self->importer, &region);

	vaddr = mmap(NULL, function->size, PROT_READ, MAP_SHARED, function->dmabuf, 0);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(0, mmio_read32(vaddr + function->size - self->page, &value));
	ASSERT_EQ(0, munmap(vaddr, function->size));
}

/*
 * Reset both functions once, by either of them. Returns 0 or -errno, or 1 if it failed
 * and nevertheless zapped a page of the owner.
 */
static int reset(hot_reset_test *self, int by)
{
	struct function *functions = self->functions;
	long faults;
	u32 value;
	int ret;

	for (int i = 0; i < ARRAY_SIZE(bdfs); i++) {
		if (functions[i].device)
			VFIO_ASSERT_EQ(mmio_read32(functions[i].vaddr, &value), 0);
	}

	ret = __vfio_pci_hot_reset(functions[by].device);

	for (int i = 0; ret && i < ARRAY_SIZE(bdfs); i++) {
		if (!functions[i].device)
			continue;
		VFIO_ASSERT_EQ(mmio_read32_faults(functions[i].vaddr, &value, &faults), 0);
		if (faults)
			return 1;
	}

	return ret;
}

static const char *reset_str(int ret)
{
	return ret > 0 ? "it failed, and zapped a mapping" : strerror(-ret);
}

/* A process that faults on its DMABUFs all the time */
struct client {
	pid_t pid;
	u64 page;
	struct function functions[2];
	int nr_functions;

	/* In shared memory: how often each thread has faulted in all pages */
	int nr_threads;
	atomic_long *rounds;
};

struct client_thread {
	struct client *client;
	atomic_long *rounds;
};

static void *client_thread(void *arg)
{
	struct client_thread *thread = arg;
	struct client *client = thread->client;

	for (;;) {
		for (int i = 0; i < client->nr_functions; i++) {
			struct function *function = &client->functions[i];
			void *vaddr;

			vaddr = mmap(NULL, function->size, PROT_READ, MAP_SHARED,
				     function->dmabuf, 0);
			VFIO_ASSERT_NE(vaddr, MAP_FAILED);
			read_pages(vaddr, client->page,
				   function->size / client->page);
			VFIO_ASSERT_EQ(munmap(vaddr, function->size), 0);
		}
		(*thread->rounds)++;
	}
}

static void client_start(hot_reset_test *self, struct client *client)
{
	struct client_thread threads[MAX_THREADS];
	pthread_t thread;

	client->page = self->page;
	client->rounds = mmap(NULL, self->page, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(client->rounds, MAP_FAILED);

	client->pid = fork();
	VFIO_ASSERT_GE(client->pid, 0);
	if (!client->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < client->nr_threads; i++) {
			threads[i].client = client;
			threads[i].rounds = &client->rounds[i];
			VFIO_ASSERT_EQ(pthread_create(&thread, NULL, client_thread,
						      &threads[i]), 0);
		}
		pause();
		_exit(0);
	}

	for (int i = 0; i < client->nr_threads; i++) {
		while (!client->rounds[i])
			sched_yield();
	}
}

static long client_rounds(struct client *client)
{
	long rounds = 0;

	for (int i = 0; i < client->nr_threads; i++)
		rounds += client->rounds[i];

	return rounds;
}

static void client_stop(hot_reset_test *self, struct client *client)
{
	VFIO_ASSERT_EQ(kill(client->pid, SIGKILL), 0);
	VFIO_ASSERT_EQ(wait_child(client->pid, EXIT_TIMEOUT_MS), 128 + SIGKILL);
	VFIO_ASSERT_EQ(munmap(client->rounds, self->page), 0);
}

/* A client of one function must not make a reset fail. */
static void test_client(struct __test_metadata *_metadata, hot_reset_test *self,
			int function)
{
	for (int threads = 1; threads <= MAX_THREADS; threads *= 2) {
		struct client client = {
			.functions = { self->functions[function] },
			.nr_functions = 1,
			.nr_threads = threads,
		};
		int busy = 0, ret = 0;
		long rounds;

		client_start(self, &client);
		rounds = client_rounds(&client);
		for (int i = 0; i < NR_RESETS && (!ret || ret == -EBUSY); i++) {
			ret = __vfio_pci_hot_reset(self->functions[i % 2].device);
			busy += ret == -EBUSY;
		}
		rounds = client_rounds(&client) - rounds;
		client_stop(self, &client);

		EXPECT_EQ(0, busy)
			TH_LOG("%d threads: %d of %d hot resets are EBUSY", threads,
			       busy, NR_RESETS);
		if (busy)
			continue;

		ASSERT_EQ(0, ret)
			TH_LOG("hot reset: %s", reset_str(ret));
		ASSERT_GT(rounds, 0)
			TH_LOG("The client did nothing in the meantime");

		for (int i = 0; i < ARRAY_SIZE(bdfs); i++)
			assert_works(_metadata, self, &self->functions[i]);
	}
}

TEST_F_TIMEOUT(hot_reset, client_of_first, 120)
{
	test_client(_metadata, self, 0);
}

TEST_F_TIMEOUT(hot_reset, client_of_second, 120)
{
	test_client(_metadata, self, 1);
}

/*
 * A client that faults on both functions can take one of the locks whenever the reset
 * holds the other one. The kernel gives up after some tries, so EBUSY is allowed here.
 * But such a reset must not zap anything, and an owner that tries again must succeed.
 */
TEST_F_TIMEOUT(hot_reset, client_of_both, 120)
{
	for (int threads = 1; threads <= MAX_THREADS; threads *= 2) {
		struct client client = {
			.functions = { self->functions[0], self->functions[1] },
			.nr_functions = 2,
			.nr_threads = threads,
		};
		int busy = 0, ret = 0;

		client_start(self, &client);
		for (int i = 0; i < NR_RESETS && !ret; i++) {
			int tries = 0;

			while ((ret = reset(self, i % 2)) == -EBUSY && tries++ < MAX_BUSY)
				busy++;
		}
		client_stop(self, &client);

		TH_LOG("%d threads: %d times EBUSY", threads, busy);
		ASSERT_EQ(0, ret)
			TH_LOG("hot reset: %s", reset_str(ret));
		for (int i = 0; i < ARRAY_SIZE(bdfs); i++)
			assert_works(_metadata, self, &self->functions[i]);
	}
}

/* A function that is not open is reset as well. */
TEST_F(hot_reset, closed_function)
{
	struct function *functions = self->functions;
	int bar = functions[1].bar;
	u32 value;

	function_cleanup(self, &functions[1]);
	ASSERT_EQ(0, reset(self, 0));
	assert_works(_metadata, self, &functions[0]);

	functions[1].device = sibling_open(bdfs[1], functions[0].device);
	functions[1].bar = bar;
	function_init(self, &functions[1]);
	ASSERT_EQ(0, reset(self, 1));
	for (int i = 0; i < ARRAY_SIZE(bdfs); i++) {
		ASSERT_EQ(0, mmio_read32(functions[i].vaddr, &value));
		assert_works(_metadata, self, &functions[i]);
	}
}

/* The reset is refused while one function has no VFIO driver. */
TEST_F(hot_reset, unbound_function)
{
	struct function *functions = self->functions;
	char *driver = sysfs_driver_get(bdfs[1]);
	int bar = functions[1].bar;

	ASSERT_NE(NULL, driver);
	function_cleanup(self, &functions[1]);
	ASSERT_EQ(0, __sysfs_driver_unbind(bdfs[1], driver));
	EXPECT_EQ(-EINVAL, reset(self, 0));
	ASSERT_EQ(0, __sysfs_driver_bind(bdfs[1], driver));
	free(driver);
	assert_works(_metadata, self, &functions[0]);

	functions[1].device = sibling_open(bdfs[1], functions[0].device);
	functions[1].bar = bar;
	function_init(self, &functions[1]);
	ASSERT_EQ(0, reset(self, 0));
	for (int i = 0; i < ARRAY_SIZE(bdfs); i++)
		assert_works(_metadata, self, &functions[i]);
}

/* The reset is refused unless the caller proves that it owns both functions. */
TEST_F(hot_reset, wrong_owner)
{
	struct vfio_pci_device *device = self->functions[0].device;
	struct {
		struct vfio_pci_hot_reset hdr;
		s32 fds[1];
	} arg = {
		.hdr.argsz = sizeof(arg),
	};

	/* No group file where one is needed, or a file where none is allowed */
	arg.hdr.count = !device->group_fd;
	arg.fds[0] = self->importer->iommufd;
	ASSERT_EQ(-1, ioctl(device->fd, VFIO_DEVICE_PCI_HOT_RESET, &arg));
	ASSERT_EQ(EINVAL, errno);

	/* Not a group file */
	arg.hdr.count = 1;
	ASSERT_EQ(-1, ioctl(device->fd, VFIO_DEVICE_PCI_HOT_RESET, &arg));
	ASSERT_EQ(EINVAL, errno);

	for (int i = 0; i < ARRAY_SIZE(bdfs); i++)
		assert_works(_metadata, self, &self->functions[i]);
}

int main(int argc, char *argv[])
{
	two_bdfs_get(&argc, argv, bdfs);
	return test_harness_run(argc, argv);
}
