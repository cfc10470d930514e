// SPDX-License-Identifier: GPL-2.0-only
/*
 * The calls for DMABUFs with random arguments, most of them wrong in one or two ways.
 *
 * For each call the test knows what is wrong with its arguments. If nothing is, the
 * call must succeed. Otherwise it must fail with an errno that is documented for one
 * of these mistakes. What succeeds must have done what was asked for. Whether the
 * kernel complains is not checked here: see its log.
 *
 * One test is the owner of the device. The other one is a process that runs as a user
 * without privileges, and that has nothing but the file descriptor of a DMABUF.
 *
 * The sequence follows from a seed, which is printed.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/dma-buf.h>
#include <linux/limits.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define CALLS_ENV "VFIO_SELFTESTS_FUZZ_CALLS"
#define CALLS_DEFAULT 8000

#define NR_FDS 10
#define MAX_RANGES 64
/* More ranges than this are refused. */
#define NR_RANGES_BOUND 262144
#define NOBODY 65534

/* A client writes this value */
#define CLIENT_VALUE 0x5afe5afeU

enum call {
	CALL_EXPORT,
	CALL_REVOKE,
	CALL_MEMATTR,
	CALL_MMAP,
	/* Other features, and mmap() of other files */
	CALL_OTHER,
	NR_CALLS,
};

static const char * const call_names[] = {
	[CALL_EXPORT] = "export",
	[CALL_REVOKE] = "revoke",
	[CALL_MEMATTR] = "memattr",
	[CALL_MMAP] = "mmap",
	[CALL_OTHER] = "other",
};

FIXTURE(fuzz) {
	struct vfio_pci_device *device;
	u64 page;
	int bar;
	u64 bar_size;
	u64 random;

	/* A process without privileges, and whether its DMABUF is for writing */
	bool client;
	bool writable;
	int fds[NR_FDS];

	/* Is there write-combining on this machine? */
	bool wc;

	unsigned long nr_success[NR_CALLS];
	unsigned long nr_errors[NR_CALLS];
};

typedef FIXTURE_DATA(fuzz) fuzz_test;

static u64 below(fuzz_test *self, u64 n)
{
	return random_below(&self->random, n);
}

static bool one_in(fuzz_test *self, int n)
{
	return !below(self, n);
}

/* Numbers at which something may go wrong */
static u64 nasty(fuzz_test *self)
{
	const u64 numbers[] = {
		0, 1, self->page - 1, self->page, self->page + 1, 2 * self->page,
		self->bar_size - self->page, self->bar_size - 1, self->bar_size,
		self->bar_size + self->page, INT_MAX, UINT_MAX, SZ_4G,
		1ULL << 40, LLONG_MAX, ULLONG_MAX, -self->page, -self->bar_size,
	};

	if (one_in(self, 4))
		return random_next(&self->random) >> below(self, 64);
	if (one_in(self, 4))
		return below(self, 64) * self->page;

	return numbers[below(self, ARRAY_SIZE(numbers))];
}

static int random_fd(fuzz_test *self)
{
	if (one_in(self, 8))
		return (int)nasty(self);

	return self->fds[below(self, NR_FDS)];
}

FIXTURE_SETUP(fuzz)
{
	char path[PATH_MAX];
	const char *missing;
	int sockets[2];

	self->page = getpagesize();
	self->device = device_open(device_bdf);

	self->bar = vfio_pci_largest_bar(self->device, 8 * self->page);
	if (self->bar < 0)
		SKIP(return, "%s: no BAR that is large enough and can be mapped",
		     device_bdf);
	self->bar_size = self->device->bars[self->bar].info.size;

	missing = vfio_pci_dmabuf_revoke_missing(self->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->random = random_seed();

	/* All kinds of file descriptors; the last ones are real DMABUFs. */
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	self->fds[0] = sockets[0];
	self->fds[1] = sockets[1];
	/* Negative if there is no udmabuf in this kernel */
	self->fds[2] = udmabuf_create(4 * self->page);
	self->fds[3] = self->device->fd;
	self->fds[4] = self->device->iommu->iommufd;
	self->fds[5] = open("/dev/zero", O_RDWR);
	self->fds[6] = vfio_pci_dmabuf_export(self->device, self->bar, 0, self->page);
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, self->fds[6]));
	self->fds[7] = vfio_pci_dmabuf_export(self->device, self->bar, 0, self->page);
	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", self->fds[7]);
	self->fds[8] = open(path, O_PATH);
	self->fds[9] = vfio_pci_dmabuf_export(self->device, self->bar, self->page,
					      4 * self->page);
	self->wc = !__vfio_pci_dmabuf_set_memattr(self->device, self->fds[9],
						  VFIO_DEVICE_DMA_BUF_MEMATTR_WC);
}

FIXTURE_TEARDOWN(fuzz)
{
	for (int i = 0; i < NR_FDS; i++) {
		if (self->fds[i] >= 0 && i != 3 && i != 4)
			VFIO_ASSERT_EQ(close(self->fds[i]), 0);
	}
	device_close(self->device);
}

/* The errors that are documented for what is wrong with a call */
#define MAX_ERRNOS 24

struct mistakes {
	int errnos[MAX_ERRNOS];
	int nr;
};

static void mistake(struct mistakes *mistakes, bool is, int error)
{
	if (!is)
		return;

	VFIO_ASSERT_LT(mistakes->nr, MAX_ERRNOS);
	mistakes->errnos[mistakes->nr++] = error;
}

/* A call without mistakes succeeds, others fail with one of the errors. */
static void check(struct __test_metadata *_metadata, fuzz_test *self, enum call call,
		  const struct mistakes *mistakes, int error)
{
	int i = 0;

	if (!error) {
		ASSERT_EQ(0, mistakes->nr)
			TH_LOG("%s succeeds, expected errno %d", call_names[call],
			       mistakes->errnos[0]);
		self->nr_success[call]++;
		return;
	}

	ASSERT_NE(0, mistakes->nr)
		TH_LOG("%s: errno %d, although nothing is wrong", call_names[call], error);
	while (i < mistakes->nr && mistakes->errnos[i] != error)
		i++;
	ASSERT_LT(i, mistakes->nr)
		TH_LOG("%s: errno %d, expected %d", call_names[call], error,
		       mistakes->errnos[0]);
	self->nr_errors[call]++;
}

/* Where there is no model of the call: one of these, or success */
static void check_other(struct __test_metadata *_metadata, fuzz_test *self,
			int error)
{
	static const int errnos[] = {
		EINVAL, EBADF, ENODEV, EFAULT, ENOTTY, EACCES, EPERM, ENOMEM,
		EOVERFLOW, EOPNOTSUPP, EEXIST, EAGAIN, ENXIO,
	};
	int i = 0;

	if (!error) {
		self->nr_success[CALL_OTHER]++;
		return;
	}

	while (i < ARRAY_SIZE(errnos) && errnos[i] != error)
		i++;
	ASSERT_LT(i, ARRAY_SIZE(errnos))
		TH_LOG("errno %d", error);
	self->nr_errors[CALL_OTHER]++;
}

enum fd_kind {
	FD_NOT_OPEN,
	FD_NO_DMABUF_OF_VFIO,
	FD_REVOKED,
	FD_LIVE,
};

static enum fd_kind fd_kind(fuzz_test *self, int fd)
{
	if (fd >= 0 && (fd == self->fds[7] || fd == self->fds[9]))
		return FD_LIVE;
	if (fd >= 0 && fd == self->fds[6])
		return FD_REVOKED;
	/* A path is not an open file. */
	if (fd < 0 || fd == self->fds[8] || fcntl(fd, F_GETFD) < 0)
		return FD_NOT_OPEN;

	return FD_NO_DMABUF_OF_VFIO;
}

static void fd_mistakes(struct mistakes *mistakes, fuzz_test *self, int fd)
{
	enum fd_kind kind = fd_kind(self, fd);

	mistake(mistakes, kind == FD_NOT_OPEN, EBADF);
	mistake(mistakes, kind == FD_NO_DMABUF_OF_VFIO, EINVAL);
	mistake(mistakes, kind == FD_REVOKED, EBADFD);
}

#define GET VFIO_DEVICE_FEATURE_GET
#define SET VFIO_DEVICE_FEATURE_SET
#define PROBE VFIO_DEVICE_FEATURE_PROBE
#define KNOWN_FLAGS (VFIO_DEVICE_FEATURE_MASK | GET | SET | PROBE)

/* Mostly @op, or a combination of operations, with bits that do not exist */
static u32 random_op(fuzz_test *self, u32 op)
{
	static const u32 ops[] = {
		0, GET, SET, GET | SET, PROBE, PROBE | GET, PROBE | SET,
		PROBE | GET | SET,
	};

	if (!one_in(self, 8))
		return op;

	op = ops[below(self, ARRAY_SIZE(ops))];
	if (one_in(self, 4))
		op |= (PROBE << 1) << below(self, 13);

	return op;
}

/* @op is the only operation of the feature. */
static void feature_mistakes(struct mistakes *mistakes,
			     const struct vfio_device_feature *feature, u32 op,
			     size_t size, size_t available)
{
	bool probe = feature->flags & PROBE;

	mistake(mistakes, available < sizeof(*feature), EFAULT);
	mistake(mistakes, feature->argsz < sizeof(*feature), EINVAL);
	mistake(mistakes, feature->flags & ~KNOWN_FLAGS, EINVAL);
	mistake(mistakes, feature->flags & (GET | SET) & ~op, EINVAL);
	if (probe)
		return;
	mistake(mistakes, !(feature->flags & (GET | SET)), EINVAL);
	mistake(mistakes, feature->argsz < sizeof(*feature) + size, EINVAL);
	mistake(mistakes, available < sizeof(*feature) + size, EFAULT);
}

/*
 * Place an argument at the end of memory, so that the kernel cannot read more than is
 * there, and sometimes not all of it. Return how many bytes it can read.
 */
static size_t place(fuzz_test *self, void *end, const void *arg, size_t size, void **at)
{
	size_t available = size - (one_in(self, 16) ? below(self, size + 1) : 0);

	*at = memcpy(end - available, arg, available);

	return available;
}

static void fuzz_export(struct __test_metadata *_metadata, fuzz_test *self, void *end)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf get;
		struct vfio_region_dma_range ranges[MAX_RANGES];
	} arg = {};
	u32 nr = 1 + below(self, MAX_RANGES), index;
	struct mistakes mistakes = {};
	size_t fixed, available;
	u64 size = 0, bar_size;
	void *at;
	int fd;

	arg.feature.argsz = sizeof(arg);
	arg.feature.flags = VFIO_DEVICE_FEATURE_DMA_BUF | random_op(self, GET);
	arg.get.region_index = self->bar;
	arg.get.open_flags = O_RDWR | O_CLOEXEC;
	for (int i = 0; i < nr; i++) {
		arg.ranges[i].offset = one_in(self, 256) ? nasty(self) :
				       below(self, 4) * self->page;
		arg.ranges[i].length = one_in(self, 256) ? nasty(self) :
				       (1 + below(self, 4)) * self->page;
	}

	if (one_in(self, 16))
		arg.feature.argsz = nasty(self);
	if (one_in(self, 16))
		arg.get.region_index = below(self, 16);
	if (one_in(self, 8))
		arg.get.open_flags = nasty(self);
	if (one_in(self, 16))
		arg.get.flags = nasty(self);
	if (one_in(self, 16))
		nr = nasty(self);
	arg.get.nr_ranges = nr;
	available = place(self, end, &arg, sizeof(arg), &at);

	fixed = sizeof(arg.feature) + sizeof(arg.get);
	feature_mistakes(&mistakes, &arg.feature, GET, sizeof(arg.get), available);
	if (arg.feature.flags & PROBE)
		goto call;

	mistake(&mistakes, arg.get.flags, EINVAL);
	mistake(&mistakes, !nr || nr > NR_RANGES_BOUND, EINVAL);
	mistake(&mistakes, fixed + (u64)nr * sizeof(arg.ranges[0]) > available, EFAULT);

	index = arg.get.region_index;
	bar_size = index < PCI_STD_NUM_BARS ? self->device->bars[index].info.size : 0;
	mistake(&mistakes, !bar_size, ENODEV);
	if (bar_size && !(self->device->bars[index].info.flags & VFIO_REGION_INFO_FLAG_MMAP)) {
		/* As mmap() of the device file fails */
		mistake(&mistakes, true, EINVAL);
		mistake(&mistakes, true, ENODEV);
	}

	for (int i = 0; i < min_t(u32, nr, MAX_RANGES); i++) {
		u64 offset = arg.ranges[i].offset, length = arg.ranges[i].length;

		if (length && !((offset | length) & (self->page - 1)) &&
		    length <= bar_size && offset <= bar_size - length) {
			size += length;
			continue;
		}
		mistake(&mistakes, true, EINVAL);
		mistake(&mistakes, offset + length < offset || offset + length > LLONG_MAX,
			EOVERFLOW);
		break;
	}

call:
	fd = ioctl(self->device->fd, VFIO_DEVICE_FEATURE, at);
	check(_metadata, self, CALL_EXPORT, &mistakes, fd < 0 ? errno : 0);
	if (fd < 0)
		return;
	if (arg.feature.flags & PROBE) {
		ASSERT_EQ(0, fd);
		return;
	}

	ASSERT_GT(size, 0);
	ASSERT_EQ(size, lseek(fd, 0, SEEK_END));
	ASSERT_EQ(0, lseek(fd, 0, SEEK_SET));
	if (one_in(self, 4)) {
		ASSERT_EQ(0, close(self->fds[9]));
		self->fds[9] = fd;
	} else {
		ASSERT_EQ(0, close(fd));
	}
}

static void fuzz_revoke(struct __test_metadata *_metadata, fuzz_test *self, void *end)
{
	struct vfio_pci_dmabuf_revoke arg = {
		.argsz = one_in(self, 4) ? nasty(self) : sizeof(arg),
		.dmabuf_fd = random_fd(self),
	};
	struct mistakes mistakes = {};
	size_t available;
	int ret, mode;
	void *at;

	available = place(self, end, &arg, sizeof(arg), &at);
	mistake(&mistakes, available < sizeof(arg), EFAULT);
	mistake(&mistakes, arg.argsz < sizeof(arg), EINVAL);
	fd_mistakes(&mistakes, self, arg.dmabuf_fd);

	ret = ioctl(self->device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, at);
	check(_metadata, self, CALL_REVOKE, &mistakes, ret ? errno : 0);
	if (ret)
		return;

	/* It is revoked. Replace it by another one. */
	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page, PROT_READ, MAP_SHARED,
				   arg.dmabuf_fd, 0));
	ret = errno;
	mode = fcntl(arg.dmabuf_fd, F_GETFL) & O_ACCMODE;
	ASSERT_EQ(mode == O_RDONLY || mode == O_RDWR ? ENODEV : EACCES, ret);
	for (int i = 7; i < NR_FDS; i += 2) {
		if (self->fds[i] != arg.dmabuf_fd)
			continue;
		ASSERT_EQ(0, close(self->fds[i]));
		self->fds[i] = vfio_pci_dmabuf_export(self->device, self->bar, 0,
						      4 * self->page);
	}
}

static void fuzz_memattr(struct __test_metadata *_metadata, fuzz_test *self, void *end)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf_memattr memattr;
	} arg = {
		.feature.argsz = one_in(self, 8) ? nasty(self) : sizeof(arg),
		.feature.flags = VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR | random_op(self, SET),
		.memattr.dmabuf_fd = random_fd(self),
		.memattr.memattr = one_in(self, 8) ? nasty(self) : below(self, 3),
	};
	struct mistakes mistakes = {};
	size_t available;
	void *at;
	int ret;

	available = place(self, end, &arg, sizeof(arg), &at);
	feature_mistakes(&mistakes, &arg.feature, SET, sizeof(arg.memattr), available);
	if (!(arg.feature.flags & PROBE)) {
		mistake(&mistakes, arg.memattr.memattr > VFIO_DEVICE_DMA_BUF_MEMATTR_WC ||
			(arg.memattr.memattr && !self->wc), EOPNOTSUPP);
		fd_mistakes(&mistakes, self, arg.memattr.dmabuf_fd);
	}

	ret = ioctl(self->device->fd, VFIO_DEVICE_FEATURE, at);
	check(_metadata, self, CALL_MEMATTR, &mistakes, ret ? errno : 0);
}

/* Features that do not exist, and the one for SET by GET */
static void fuzz_other(struct __test_metadata *_metadata, fuzz_test *self, void *end)
{
	struct {
		struct vfio_device_feature feature;
		u64 data[4];
	} arg = {
		.feature.argsz = one_in(self, 4) ? nasty(self) : sizeof(arg),
		.feature.flags = VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR + 1 + below(self, 1000),
	};
	void *at;
	int ret;

	arg.feature.flags |= random_op(self, GET);
	place(self, end, &arg, sizeof(arg), &at);
	ret = ioctl(self->device->fd, VFIO_DEVICE_FEATURE, at);
	ASSERT_EQ(-1, ret);
	check_other(_metadata, self, errno);
}

/* A client that may only read tries to write as well. */
static void fuzz_access(struct __test_metadata *_metadata, fuzz_test *self, void *vaddr)
{
	u32 value;

	mmio_read32(vaddr, &value);
	if (!self->client)
		return;
	if (mmio_write32(vaddr, CLIENT_VALUE))
		return;
	ASSERT_TRUE(self->writable);
}

/* mmap() of a DMABUF with MAP_SHARED: what is wrong with it? */
static void mmap_mistakes(struct mistakes *mistakes, fuzz_test *self, int fd,
			  size_t length, u64 offset, int prot)
{
	int mode = fcntl(fd, F_GETFL) & O_ACCMODE;
	u64 size = lseek(fd, 0, SEEK_END);
	u64 pages = length / self->page + !!(length % self->page);
	u64 end = offset / self->page + pages;

	mistake(mistakes, !length || end > size / self->page, EINVAL);
	/* Of the address space, or of the rest of the BAR if it is very large */
	mistake(mistakes, pages > (1ULL << 34) / self->page, ENOMEM);
	mistake(mistakes, end >= ULONG_MAX / self->page, EOVERFLOW);
	mistake(mistakes, prot & PROT_EXEC, EPERM);
	mistake(mistakes, prot & PROT_WRITE && mode != O_RDWR, EACCES);
	mistake(mistakes, mode != O_RDONLY && mode != O_RDWR, EACCES);
	mistake(mistakes, !self->client && fd_kind(self, fd) == FD_REVOKED, ENODEV);
}

static void fuzz_mmap(struct __test_metadata *_metadata, fuzz_test *self)
{
	int fd = one_in(self, 2) ? self->fds[9] : random_fd(self);
	size_t length = one_in(self, 3) ? nasty(self) : (1 + below(self, 5)) * self->page;
	u64 offset = one_in(self, 3) ? nasty(self) & -self->page :
				       below(self, 4) * self->page;
	int flags = one_in(self, 8) ? nasty(self) & ~(MAP_FIXED | MAP_LOCKED | MAP_POPULATE) :
				      MAP_SHARED;
	bool dmabuf = fd == self->fds[6] || fd == self->fds[7] || fd == self->fds[9];
	bool modelled = dmabuf && flags == MAP_SHARED;
	struct mistakes mistakes = {};
	int prot = one_in(self, 2) ? below(self, 8) : PROT_READ;
	void *vaddr;

	if (self->client)
		flags &= ~MAP_ANONYMOUS;
	if (modelled)
		mmap_mistakes(&mistakes, self, fd, length, offset, prot);

	vaddr = mmap(NULL, length, prot, flags, fd, offset);
	if (modelled)
		check(_metadata, self, CALL_MMAP, &mistakes, vaddr == MAP_FAILED ? errno : 0);
	else
		check_other(_metadata, self, vaddr == MAP_FAILED ? errno : 0);
	if (vaddr == MAP_FAILED)
		return;

	/* With other flags it is shared, too, and not larger or writable. */
	if (dmabuf && !(flags & MAP_ANONYMOUS)) {
		int type = flags & MAP_TYPE;

		if (!self->client)
			ASSERT_NE(self->fds[6], fd);
		ASSERT_TRUE(type == MAP_SHARED || type == MAP_SHARED_VALIDATE);
		ASSERT_LE(offset + length, (u64)lseek(fd, 0, SEEK_END));
		ASSERT_FALSE(self->client && !self->writable && (prot & PROT_WRITE));
	}

	/* Whether or not it can be accessed, it can be unmapped. */
	fuzz_access(_metadata, self, vaddr);
	if (length > self->page)
		fuzz_access(_metadata, self, vaddr + ((length - 1) & -self->page));
	syscall(SYS_remap_file_pages, vaddr, self->page, 0, nasty(self) / self->page, 0);
	/* Not more, because some of these allocate it. */
	madvise(vaddr, min_t(u64, length, SZ_1M), below(self, 26));
	mprotect(vaddr, self->page, below(self, 8));
	fuzz_access(_metadata, self, vaddr);
	munmap(vaddr, length);
}

/* The calls that every DMABUF has */
static void fuzz_dmabuf(struct __test_metadata *_metadata, fuzz_test *self)
{
	struct dma_buf_sync sync = {
		.flags = nasty(self),
	};
	struct dma_buf_export_sync_file export = {
		.flags = nasty(self),
	};
	int fd = random_fd(self);

	/* Only a DMABUF: a terminal or a disk may understand one of these. */
	if (fd != self->fds[7] && fd != self->fds[8] && fd != self->fds[9])
		return;

	switch (below(self, 6)) {
	case 0:
		ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
		break;
	case 1:
		if (!ioctl(fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &export))
			close(export.fd);
		break;
	case 2:
		ioctl(fd, DMA_BUF_SET_NAME, "fuzz");
		break;
	case 3:
		lseek(fd, nasty(self), below(self, 5));
		break;
	case 4:
		if (read(fd, &sync, sizeof(sync)) >= 0 || write(fd, &sync, 1) >= 0)
			ASSERT_TRUE(false);
		break;
	case 5:
		ASSERT_NE(0, ftruncate(fd, nasty(self)));
		fallocate(fd, 0, 0, self->page);
		break;
	}
}

static unsigned long nr_calls(void)
{
	char *env = getenv(CALLS_ENV);

	return env ? strtoul(env, NULL, 0) : CALLS_DEFAULT;
}

/* Each call has to succeed and to fail sometimes. */
static void report(struct __test_metadata *_metadata, fuzz_test *self, enum call first,
		   enum call last)
{
	for (enum call call = first; call <= last; call++) {
		TH_LOG("%s: %lu succeed, %lu fail", call_names[call],
		       self->nr_success[call], self->nr_errors[call]);
		EXPECT_GT(self->nr_success[call], 0);
		EXPECT_GT(self->nr_errors[call], 0);
	}
}

static void assert_works(struct __test_metadata *_metadata, fuzz_test *self)
{
	int fd = vfio_pci_dmabuf_export(self->device, self->bar, 0, self->page);
	void *vaddr;
	u32 value;

	vaddr = mmap(NULL, self->page, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(0, mmio_read32(vaddr, &value));
	ASSERT_EQ(0, munmap(vaddr, self->page));
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(self->device, fd));
	ASSERT_EQ(0, close(fd));
}

TEST_F_TIMEOUT(fuzz, owner, 600)
{
	void *memory, *end;

	/* Arguments end where the memory ends. */
	memory = mmap(NULL, 2 * self->page, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, memory);
	end = memory + self->page;
	ASSERT_EQ(0, mprotect(end, self->page, PROT_NONE));

	for (unsigned long i = nr_calls(); i; i--) {
		switch (below(self, 9)) {
		case 0 ... 2:
			fuzz_export(_metadata, self, end);
			break;
		case 3:
			fuzz_revoke(_metadata, self, end);
			break;
		case 4:
			fuzz_memattr(_metadata, self, end);
			break;
		case 5 ... 6:
			fuzz_mmap(_metadata, self);
			break;
		case 7:
			fuzz_dmabuf(_metadata, self);
			break;
		case 8:
			fuzz_other(_metadata, self, end);
			break;
		}
	}

	report(_metadata, self, CALL_EXPORT, CALL_MMAP);
	assert_works(_metadata, self);
}

/* In a process without privileges that has nothing but a DMABUF. Return its status. */
static int fuzz_as_client(struct __test_metadata *_metadata, fuzz_test *self, int dmabuf)
{
	pid_t parent = getpid();
	int status;
	pid_t pid;

	pid = fork();
	VFIO_ASSERT_GE(pid, 0);
	if (!pid) {
		/* Keep the standard ones, the DMABUF, and nothing else. */
		VFIO_ASSERT_EQ(dup2(dmabuf, 3), 3);
		VFIO_ASSERT_EQ(syscall(SYS_close_range, 4, ~0U, 0), 0);
		for (int i = 0; i < PCI_STD_NUM_BARS; i++) {
			struct vfio_pci_bar *bar = &self->device->bars[i];

			if (bar->vaddr)
				VFIO_ASSERT_EQ(munmap(bar->vaddr, bar->info.size), 0);
		}
		for (int i = 0; i < NR_FDS; i++)
			self->fds[i] = 3;
		self->client = true;
		VFIO_ASSERT_EQ(setgroups(0, NULL), 0);
		VFIO_ASSERT_EQ(setgid(NOBODY), 0);
		VFIO_ASSERT_EQ(setuid(NOBODY), 0);

		/* Setting the IDs clears it. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		VFIO_ASSERT_EQ(getppid(), parent);

		for (unsigned long i = nr_calls() / 4; i; i--) {
			fuzz_mmap(_metadata, self);
			fuzz_dmabuf(_metadata, self);
		}
		report(_metadata, self, CALL_MMAP, CALL_MMAP);
		_exit(_metadata->exit_code);
	}

	VFIO_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	return status;
}

TEST_F_TIMEOUT(fuzz, client, 600)
{
	int flags[] = { O_RDONLY, O_RDWR };
	int ram = vfio_pci_ram_bar(self->device, 4 * self->page);
	u32 before, after;
	int dmabuf;

	if (ram < 0)
		SKIP(return, "%s: no RAM in a BAR", device_bdf);

	/* A read-only client cannot write to the BAR. Another one does. */
	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		self->writable = flags[i] == O_RDWR;
		dmabuf = __vfio_pci_dmabuf_export(self->device, ram, flags[i] | O_CLOEXEC, 1,
						  &(struct vfio_region_dma_range){
							.length = 4 * self->page,
						  });
		ASSERT_GE(dmabuf, 0);
		for (u64 offset = 0; offset < 4 * self->page; offset += self->page)
			ASSERT_EQ(0, __vfio_pci_bar_write32(self->device, ram, offset,
							    ~CLIENT_VALUE));

		ASSERT_EQ(0, fuzz_as_client(_metadata, self, dmabuf));

		for (u64 offset = 0; offset < 4 * self->page; offset += self->page) {
			ASSERT_EQ(0, __vfio_pci_bar_read32(self->device, ram, offset, &after));
			before = self->writable ? CLIENT_VALUE : ~CLIENT_VALUE;
			ASSERT_EQ(before, after);
		}
		ASSERT_EQ(0, close(dmabuf));
	}

	assert_works(_metadata, self);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
