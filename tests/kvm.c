// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM guests that access a BAR, through a mapping of the device file or of a DMABUF, in
 * the process of the owner or in a client that has only the DMABUF. The vCPU runs without
 * exits, so that only the zap of its page tables can stop its accesses.
 *
 * The guest has no paging. It runs code of a few bytes in 32-bit mode.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <linux/kvm.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define RW (PROT_READ | PROT_WRITE)

/* Where the guest has its code, and the BAR */
#define CODE_GPA SZ_4K
#define BAR_GPA SZ_1G

/* How long to look whether a word still changes, and to wait for an end */
#define STILL_US 50000
#define END_MS 5000

#ifdef __x86_64__
static const u8 code_count[] = {
	0x40,		/* again: inc eax */
	0x89, 0x03,	/* mov [ebx], eax */
	0xeb, 0xfb,	/* jmp again */
};
static const u8 code_write[] = {
	0x89, 0x03,	/* mov [ebx], eax */
	0xf4,		/* hlt */
};
static const u8 code_read[] = {
	0x8b, 0x03,	/* mov eax, [ebx] */
	0xf4,		/* hlt */
};

static struct kvm_segment flat(u8 type)
{
	return (struct kvm_segment) {
		.limit = ~0U,
		.type = type,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
}

static void vcpu_init(int vcpu)
{
	struct kvm_sregs sregs;

	ioctl_assert(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs = flat(11);
	sregs.ds = sregs.es = sregs.ss = flat(3);
	sregs.cr0 |= 1;
	ioctl_assert(vcpu, KVM_SET_SREGS, &sregs);
}

static void vcpu_set(int vcpu, u64 offset, u32 value)
{
	struct kvm_regs regs = {
		.rip = CODE_GPA,
		.rflags = 2,
		.rax = value,
		.rbx = BAR_GPA + offset,
	};

	ioctl_assert(vcpu, KVM_SET_REGS, &regs);
}

static u32 vcpu_eax(int vcpu)
{
	struct kvm_regs regs;

	ioctl_assert(vcpu, KVM_GET_REGS, &regs);
	return regs.rax;
}
#else
static const u8 code_count[1], code_write[1], code_read[1];

static void vcpu_init(int vcpu) { }
static void vcpu_set(int vcpu, u64 offset, u32 value) { }
static u32 vcpu_eax(int vcpu) { return 0; }
#endif

/* What is asked of a guest, and the answer */
struct request {
	enum {
		/* mmap() @size bytes of the file, and give them to the guest. */
		GUEST_MAP,
		/* Try another mmap() of the file. */
		GUEST_TRY_MMAP,
		/* Access the word at @offset. */
		GUEST_READ,
		GUEST_WRITE,
		/* Write to it all the time, in a thread. */
		GUEST_COUNT,
		/* Wait until that ends by itself, or end it. */
		GUEST_WAIT,
		GUEST_STOP,
	} op;

	u64 file_offset;
	u64 size;
	u64 align;
	int prot;
	u32 flags;

	u64 offset;
	u32 value;

	/* 0, an exit reason of KVM, or -errno */
	int ret;
};

/* The guest of this process */
static struct guest {
	int file;
	void *vaddr;
	void *code;
	int vm;
	int vcpu;
	struct kvm_run *run;
	struct waiter waiter;
} guest;

/* Return the reason of the exit, or -errno. */
static int vcpu_run(void *unused)
{
	if (ioctl(guest.vcpu, KVM_RUN, NULL))
		return -errno;
	return guest.run->exit_reason;
}

static void kick(int sig)
{
}

static void set_memory(u32 slot, u32 flags, u64 gpa, u64 size, void *vaddr)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)vaddr,
	};

	ioctl_assert(guest.vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static int guest_map(const struct request *request, int file)
{
	struct sigaction action = { .sa_handler = kick };
	void *vaddr;
	int kvm;

	/* Reserve, so that the alignment is that of the caller. */
	vaddr = mmap_reserve(request->size, request->align, 0);
	guest.vaddr = mmap(vaddr, request->size, request->prot, MAP_SHARED | MAP_FIXED, file,
			   request->file_offset);
	if (guest.vaddr == MAP_FAILED)
		return -errno;
	guest.file = file;

	VFIO_ASSERT_EQ(sigaction(SIGUSR1, &action, NULL), 0);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	VFIO_ASSERT_GE(kvm, 0);
	guest.vm = ioctl(kvm, KVM_CREATE_VM, 0);
	VFIO_ASSERT_GE(guest.vm, 0);
	guest.code = mmap(NULL, SZ_4K, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(guest.code, MAP_FAILED);
	set_memory(0, 0, CODE_GPA, SZ_4K, guest.code);
	set_memory(1, request->flags, BAR_GPA, request->size, guest.vaddr);

	guest.vcpu = ioctl(guest.vm, KVM_CREATE_VCPU, 0);
	VFIO_ASSERT_GE(guest.vcpu, 0);
	guest.run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), RW, MAP_SHARED, guest.vcpu, 0);
	VFIO_ASSERT_NE(guest.run, MAP_FAILED);
	vcpu_init(guest.vcpu);
	VFIO_ASSERT_EQ(close(kvm), 0);
	return 0;
}

static void guest_handle(struct request *request, int file)
{
	u64 end;
	void *vaddr;

	switch (request->op) {
	case GUEST_MAP:
		request->ret = guest_map(request, file);
		break;
	case GUEST_TRY_MMAP:
		vaddr = mmap(NULL, getpagesize(), PROT_READ, MAP_SHARED, guest.file,
			     request->file_offset);
		request->ret = vaddr == MAP_FAILED ? -errno : munmap(vaddr, getpagesize());
		break;
	case GUEST_READ:
		memcpy(guest.code, code_read, sizeof(code_read));
		vcpu_set(guest.vcpu, request->offset, 0);
		request->ret = vcpu_run(NULL);
		request->value = vcpu_eax(guest.vcpu);
		break;
	case GUEST_WRITE:
		memcpy(guest.code, code_write, sizeof(code_write));
		vcpu_set(guest.vcpu, request->offset, request->value);
		request->ret = vcpu_run(NULL);
		break;
	case GUEST_COUNT:
		memcpy(guest.code, code_count, sizeof(code_count));
		vcpu_set(guest.vcpu, request->offset, request->value);
		guest.waiter = (struct waiter) { .fn = vcpu_run };
		waiter_start(&guest.waiter);
		request->ret = 0;
		break;
	case GUEST_WAIT:
		for (end = now_ms() + END_MS; !guest.waiter.done && now_ms() < end; )
			usleep(1000);
		request->ret = -ETIMEDOUT;
		if (!guest.waiter.done)
			break;
		request->ret = waiter_join(&guest.waiter);
		break;
	case GUEST_STOP:
		guest.run->immediate_exit = 1;
		while (!guest.waiter.done) {
			pthread_kill(guest.waiter.thread, SIGUSR1);
			usleep(1000);
		}
		request->ret = waiter_join(&guest.waiter);
		guest.run->immediate_exit = 0;
		break;
	}
}

/* --- the client: a process that has only what it is sent */

union control {
	char buf[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

static void client_main(int socket)
{
	for (;;) {
		struct request request;
		union control control;
		struct iovec iov = { .iov_base = &request, .iov_len = sizeof(request) };
		struct msghdr msg = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = &control,
			.msg_controllen = sizeof(control),
		};
		struct cmsghdr *cmsg;
		int file = -1;

		if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) != sizeof(request))
			_exit(0);
		cmsg = CMSG_FIRSTHDR(&msg);
		if (cmsg)
			memcpy(&file, CMSG_DATA(cmsg), sizeof(file));
		guest_handle(&request, file);
		if (send(socket, &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request))
			_exit(1);
	}
}

static int client_start(void)
{
	int sockets[2];
	pid_t pid;

	VFIO_ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
	pid = fork();
	VFIO_ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(sockets[0]);
		client_main(sockets[1]);
	}
	VFIO_ASSERT_EQ(close(sockets[1]), 0);
	return sockets[0];
}

/* Let the guest do something, in this process or, with a socket, in the client. */
static void guest_call(int socket, struct request *request, int file)
{
	struct iovec iov = { .iov_base = request, .iov_len = sizeof(*request) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	union control control = {};
	struct cmsghdr *cmsg;

	if (socket < 0) {
		guest_handle(request, file);
		return;
	}

	if (file >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(file));
		memcpy(CMSG_DATA(cmsg), &file, sizeof(file));
	}
	VFIO_ASSERT_EQ(sendmsg(socket, &msg, MSG_NOSIGNAL), sizeof(*request));
	VFIO_ASSERT_EQ(recv(socket, request, sizeof(*request), 0), sizeof(*request));
}

/* --- the tests */

FIXTURE(kvm) {
	struct bar_test t;
	struct bar_fd map;
	int client;

	/* The guest has this much of the BAR, and counts in this word of it. */
	u64 size;
	u64 word;
};

FIXTURE_VARIANT(kvm) {
	bool dmabuf;
	bool client;
	bool huge;
	bool wc;
};

#define VARIANT(_name, ...)							       \
FIXTURE_VARIANT_ADD(kvm, _name) { __VA_ARGS__ }

VARIANT(device_fd);
VARIANT(device_fd_huge, .huge = true);
VARIANT(dmabuf, .dmabuf = true);
VARIANT(dmabuf_huge, .dmabuf = true, .huge = true);
VARIANT(dmabuf_wc, .dmabuf = true, .huge = true, .wc = true);
VARIANT(client, .dmabuf = true, .client = true);
VARIANT(client_huge, .dmabuf = true, .client = true, .huge = true);
VARIANT(client_wc, .dmabuf = true, .client = true, .wc = true);

typedef FIXTURE_DATA(kvm) kvm_test;

static const char *kvm_missing(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return "no KVM";
	VFIO_ASSERT_EQ(close(kvm), 0);
#ifdef __x86_64__
	return NULL;
#else
	return "the guest's code is for x86";
#endif
}

static int guest_do(kvm_test *self, int op, u64 offset, u32 *value)
{
	struct request request = { .op = op, .offset = offset, .value = value ? *value : 0 };

	request.file_offset = self->map.base;
	guest_call(self->client, &request, -1);
	if (value)
		*value = request.value;
	return request.ret;
}

/* Give the first @size bytes of a file to the guest. */
static int map(kvm_test *self, const struct bar_fd *map, u64 size, bool huge, int prot, u32 flags)
{
	struct request request = {
		.op = GUEST_MAP,
		.file_offset = map->base,
		.size = size,
		.align = huge ? SZ_2M : SZ_4K,
		.prot = prot,
		.flags = flags,
	};

	guest_call(self->client, &request, map->fd);
	return request.ret;
}

FIXTURE_SETUP(kvm)
{
	struct bar_test *t = &self->t;
	const char *missing = kvm_missing();

	if (missing)
		SKIP(return, "%s", missing);

	self->client = variant->client ? client_start() : -1;
	missing = ram_test_init(t, device_bdf, SZ_8M, variant->dmabuf);
	if (!missing && variant->dmabuf)
		missing = vfio_pci_dmabuf_revoke_missing(t->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->size = variant->huge ? SZ_4M : SZ_64K;
	self->word = self->size / 2 + 8;
	self->map = variant->dmabuf ?
		bar_fd_export_range(t->device, t->bar, SZ_2M, self->size, O_RDWR) :
		bar_fd_device(t->device, t->bar);
	if (variant->wc &&
	    __vfio_pci_dmabuf_set_memattr(t->device, self->map.fd, VFIO_DEVICE_DMA_BUF_MEMATTR_WC))
		SKIP(return, "no write-combining in this kernel");
	ASSERT_EQ(0, map(self, &self->map, self->size, variant->huge, RW, 0));
}

FIXTURE_TEARDOWN(kvm)
{
	if (self->client >= 0)
		VFIO_ASSERT_EQ(close(self->client), 0);
	bar_fd_close(&self->map);
	bar_test_close(&self->t);
}

/* The word as the device file shows it */
static u32 word(kvm_test *self, u64 offset)
{
	u32 value;

	VFIO_ASSERT_EQ(__vfio_pci_bar_read32(self->t.device, self->t.bar,
					     bar_fd_to_bar(&self->map, offset), &value), 0);
	return value;
}

static bool changes(kvm_test *self)
{
	u32 before = word(self, self->word);

	for (u64 end = now_ms() + END_MS; now_ms() < end; ) {
		if (word(self, self->word) != before)
			return true;
	}
	return false;
}

static bool is_still(kvm_test *self)
{
	u32 before = word(self, self->word);

	usleep(STILL_US);
	return word(self, self->word) == before;
}

static void count(struct __test_metadata *_metadata, kvm_test *self)
{
	u32 value = 1;

	ASSERT_EQ(0, guest_do(self, GUEST_COUNT, self->word, &value));
	ASSERT_TRUE(changes(self));
}

/* The guest reads and writes the words that it should, and can count. */
static void assert_works(struct __test_metadata *_metadata, kvm_test *self)
{
	u64 offsets[] = { 0, self->word, self->size - 4 };
	u32 value;

	for (int i = 0; i < ARRAY_SIZE(offsets); i++) {
		value = vfio_pci_ram_fill(self->t.device, self->t.bar,
					  bar_fd_to_bar(&self->map, offsets[i]));
		u32 seen = 0;

		ASSERT_EQ(KVM_EXIT_HLT, guest_do(self, GUEST_READ, offsets[i], &seen));
		ASSERT_EQ(value, seen);
		value = ~value;
		ASSERT_EQ(KVM_EXIT_HLT, guest_do(self, GUEST_WRITE, offsets[i], &value));
		ASSERT_EQ(value, word(self, offsets[i]));
	}

	count(_metadata, self);
	ASSERT_EQ(-EINTR, guest_do(self, GUEST_STOP, 0, NULL));
	ASSERT_TRUE(is_still(self));
}

TEST_F(kvm, access)
{
	assert_works(_metadata, self);
}

/* Memory off, D3hot and low power end the run, and a reset does not. */
TEST_F(kvm, revocations)
{
	struct vfio_pci_device *device = self->t.device;
	enum vfio_pci_bar_revocation how;
	u32 value = 0;

	for_each_vfio_pci_bar_revocation(how) {
		count(_metadata, self);
		if (vfio_pci_bars_revoke(device, how)) {
			ASSERT_EQ(-EINTR, guest_do(self, GUEST_STOP, 0, NULL));
			continue;
		}

		TH_LOG("%s", vfio_pci_bar_revocation_name(how));
		if (vfio_pci_bar_revocation_is_reset(how)) {
			ASSERT_TRUE(changes(self));
			ASSERT_EQ(-EINTR, guest_do(self, GUEST_STOP, 0, NULL));
		} else {
			ASSERT_EQ(-EFAULT, guest_do(self, GUEST_WAIT, 0, NULL));
			ASSERT_EQ(-EFAULT, guest_do(self, GUEST_WRITE, self->word, &value));
			vfio_pci_bars_restore(device, how);
			ASSERT_TRUE(is_still(self));
		}
		assert_works(_metadata, self);
	}
}

/* When the revoke has returned, no write arrives any more, and the run ends. */
TEST_F(kvm, revoke)
{
	struct bar_fd other;
	u32 value = 0;

	count(_metadata, self);
	if (!variant->dmabuf) {
		/* A revoke does not affect mappings of the device file. */
		if (vfio_pci_dmabuf_revoke_missing(self->t.device))
			SKIP(return, "no VFIO_DEVICE_PCI_DMABUF_REVOKE in this kernel");
		other = bar_fd_export_range(self->t.device, self->t.bar, 0, self->size, O_RDWR);
		vfio_pci_dmabuf_revoke(self->t.device, other.fd);
		bar_fd_close(&other);
		ASSERT_TRUE(changes(self));
		ASSERT_EQ(-EINTR, guest_do(self, GUEST_STOP, 0, NULL));
		return;
	}

	vfio_pci_dmabuf_revoke(self->t.device, self->map.fd);
	ASSERT_TRUE(is_still(self));
	ASSERT_EQ(-EFAULT, guest_do(self, GUEST_WAIT, 0, NULL));
	ASSERT_EQ(-EFAULT, guest_do(self, GUEST_WRITE, self->word, &value));
	ASSERT_EQ(-EFAULT, guest_do(self, GUEST_READ, 0, &value));
	ASSERT_EQ(-ENODEV, guest_do(self, GUEST_TRY_MMAP, 0, NULL));

	/* Nothing makes it accessible again. */
	vfio_pci_bars_revoke(self->t.device, VFIO_PCI_BAR_DEVICE_RESET);
	ASSERT_EQ(-EFAULT, guest_do(self, GUEST_WRITE, self->word, &value));
}

/* The close of the device ends it as well. A client cannot keep the device open. */
TEST_F(kvm, close)
{
	u32 value = 0;

	count(_metadata, self);
	bar_test_close(&self->t);
	if (!variant->dmabuf) {
		/* A mapping of the device file keeps the device open. */
		ASSERT_EQ(-EINTR, guest_do(self, GUEST_STOP, 0, NULL));
		ASSERT_EQ(KVM_EXIT_HLT, guest_do(self, GUEST_READ, self->word, &value));
		return;
	}

	ASSERT_EQ(-EFAULT, guest_do(self, GUEST_WAIT, 0, NULL));

	bar_test_open(&self->t);
	ASSERT_TRUE(is_still(self));
	ASSERT_EQ(-EFAULT, guest_do(self, GUEST_WRITE, self->word, &value));
	ASSERT_EQ(-ENODEV, guest_do(self, GUEST_TRY_MMAP, 0, NULL));
}

/* A read-only DMABUF: the guest can read, and its writes go to the VMM as MMIO. */
FIXTURE(kvm_read_only) {
	kvm_test k;
};

FIXTURE_VARIANT(kvm_read_only) {
	bool client;
	u32 flags;
};

FIXTURE_VARIANT_ADD(kvm_read_only, read_only_slot) { .flags = KVM_MEM_READONLY };
FIXTURE_VARIANT_ADD(kvm_read_only, writable_slot) { };
FIXTURE_VARIANT_ADD(kvm_read_only, client) { .client = true, .flags = KVM_MEM_READONLY };

FIXTURE_SETUP(kvm_read_only)
{
	struct bar_test *t = &self->k.t;
	const char *missing = kvm_missing();

	if (missing)
		SKIP(return, "%s", missing);

	self->k.client = variant->client ? client_start() : -1;
	missing = ram_test_init(t, device_bdf, SZ_8M, true);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->k.size = SZ_64K;
	self->k.map = bar_fd_export_range(t->device, t->bar, SZ_2M, SZ_64K, O_RDONLY);
	ASSERT_EQ(0, map(&self->k, &self->k.map, SZ_64K, false, PROT_READ, variant->flags));
}

FIXTURE_TEARDOWN(kvm_read_only)
{
	if (self->k.client >= 0)
		VFIO_ASSERT_EQ(close(self->k.client), 0);
	bar_fd_close(&self->k.map);
	bar_test_close(&self->k.t);
}

TEST_F(kvm_read_only, access)
{
	u32 before, value = 0;

	before = vfio_pci_ram_fill(self->k.t.device, self->k.t.bar, SZ_2M + 4);
	ASSERT_EQ(KVM_EXIT_HLT, guest_do(&self->k, GUEST_READ, 4, &value));
	ASSERT_EQ(before, value);

	value = ~before;
	ASSERT_EQ(KVM_EXIT_MMIO, guest_do(&self->k, GUEST_WRITE, 4, &value));
	ASSERT_EQ(before, word(&self->k, 4));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
