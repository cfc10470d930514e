// SPDX-License-Identifier: GPL-2.0-only
/*
 * Revocations of the BARs, by resets and by power states: the mappings of a child that
 * has inherited them, and the ways that end low power.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <linux/limits.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

#define RW (PROT_READ | PROT_WRITE)

FIXTURE(resets) {
	struct bar_test t;
	struct bar_fd map;
	void *vaddr;

	/* Words that are accessed */
	void *words[3];
	u64 offsets[3];
};

FIXTURE_VARIANT(resets) {
	bool dmabuf;
};

FIXTURE_VARIANT_ADD(resets, device_fd) {
	.dmabuf = false,
};

FIXTURE_VARIANT_ADD(resets, dmabuf) {
	.dmabuf = true,
};

typedef FIXTURE_DATA(resets) resets_test;

FIXTURE_SETUP(resets)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = ram_test_init(t, device_bdf, SZ_64K, variant->dmabuf);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	/* The address does not fit huge pages, so that each word takes a fault. */
	self->map = bar_test_fd(t, t->bar, variant->dmabuf);
	self->vaddr = bar_fd_mmap_align(&self->map, 0, self->map.size, SZ_1G, t->page);
	for (int i = 0; i < ARRAY_SIZE(self->words); i++) {
		self->offsets[i] = i * (self->map.size / 2 - t->page);
		self->words[i] = self->vaddr + self->offsets[i];
	}
}

FIXTURE_TEARDOWN(resets)
{
	VFIO_ASSERT_EQ(munmap(self->vaddr, self->map.size), 0);
	bar_fd_close(&self->map);
	bar_test_close(&self->t);
}

/* The accesses raise SIGBUS. */
static bool inaccessible(resets_test *self)
{
	u32 value;

	for (int i = 0; i < ARRAY_SIZE(self->words); i++) {
		if (mmio_read32(self->words[i], &value) != SIGBUS)
			return false;
	}

	return true;
}

/* The pages were zapped, and one access brings each of them back. */
static bool was_zapped(resets_test *self)
{
	long faults;
	u32 value;

	for (int i = 0; i < ARRAY_SIZE(self->words); i++) {
		if (mmio_read32_faults(self->words[i], &value, &faults) || faults != 1)
			return false;
	}

	return true;
}

static bool works(resets_test *self)
{
	for (int i = 0; i < ARRAY_SIZE(self->words); i++) {
		if (bar_fd_check_page(&self->map, self->words[i], self->offsets[i], true))
			return false;
	}

	return true;
}

enum question {
	INACCESSIBLE,
	WAS_ZAPPED,
	WORKS,
};

/* Answer questions until the parent has no more. */
static void child_main(resets_test *self, int questions, int answers)
{
	bool (*fns[])(resets_test *self) = {
		[INACCESSIBLE] = inaccessible,
		[WAS_ZAPPED] = was_zapped,
		[WORKS] = works,
	};
	char question, answer;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(questions, &question, 1) == 1) {
		answer = fns[(int)question](self);
		if (write(answers, &answer, 1) != 1)
			_exit(1);
	}
	_exit(0);
}

struct child {
	pid_t pid;
	int questions;
	int answers;
};

static bool ask(struct child *child, char question)
{
	char answer;

	VFIO_ASSERT_EQ(write(child->questions, &question, 1), 1);
	VFIO_ASSERT_EQ(read(child->answers, &answer, 1), 1);

	return answer;
}

static struct child child_start(resets_test *self)
{
	int questions[2], answers[2];
	struct child child;

	VFIO_ASSERT_EQ(pipe2(questions, O_CLOEXEC), 0);
	VFIO_ASSERT_EQ(pipe2(answers, O_CLOEXEC), 0);
	child.pid = fork();
	VFIO_ASSERT_GE(child.pid, 0);
	if (!child.pid) {
		close(questions[1]);
		close(answers[0]);
		child_main(self, questions[0], answers[1]);
	}
	VFIO_ASSERT_EQ(close(questions[0]), 0);
	VFIO_ASSERT_EQ(close(answers[1]), 0);
	child.questions = questions[1];
	child.answers = answers[0];

	return child;
}

/* The mappings that a child has inherited are revoked like those of its parent. */
TEST_F_TIMEOUT(resets, fork, 60)
{
	struct vfio_pci_device *device = self->t.device;
	enum vfio_pci_bar_revocation how;
	struct child child;

	ASSERT_TRUE(works(self));
	child = child_start(self);
	ASSERT_TRUE(ask(&child, WORKS));

	for_each_vfio_pci_bar_revocation(how) {
		if (vfio_pci_bars_revoke(device, how))
			continue;

		TH_LOG("%s", vfio_pci_bar_revocation_name(how));
		if (!vfio_pci_bar_revocation_is_reset(how)) {
			ASSERT_TRUE(ask(&child, INACCESSIBLE));
			ASSERT_TRUE(inaccessible(self));
		}
		vfio_pci_bars_restore(device, how);
		ASSERT_TRUE(ask(&child, WAS_ZAPPED));
		ASSERT_TRUE(was_zapped(self));
		ASSERT_TRUE(ask(&child, WORKS));
		ASSERT_TRUE(works(self));
	}

	ASSERT_EQ(0, close(child.questions));
	ASSERT_EQ(0, close(child.answers));
	ASSERT_EQ(0, wait_child(child.pid, 5000));
}

/* Low power that is ended by an ioctl, by an access, or by LOW_POWER_EXIT */
TEST_F_TIMEOUT(resets, low_power_wakeup, 60)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_pci_device *device = self->t.device;
	eventfd_t count;
	int wakeup;

	if (!vfio_pci_has_runtime_pm(device))
		SKIP(return, NO_RUNTIME_PM);

	wakeup = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	ASSERT_GE(wakeup, 0);

	for (int i = 0; i < 3; i++) {
		vfio_pci_low_power_entry(device, wakeup);
		ASSERT_TRUE(vfio_pci_wait_suspended(device));
		ASSERT_TRUE(inaccessible(self));
		ASSERT_EQ(-1, eventfd_read(wakeup, &count));
		ASSERT_EQ(EAGAIN, errno);

		if (i == 0)
			ioctl_assert(device->fd, VFIO_DEVICE_GET_INFO, &info);
		else if (i == 1)
			vfio_pci_config_readw(device, PCI_VENDOR_ID);
		else
			vfio_pci_low_power_exit(device);

		ASSERT_EQ(0, eventfd_read(wakeup, &count));
		ASSERT_EQ(1, count);
		ASSERT_TRUE(was_zapped(self));
		ASSERT_TRUE(works(self));
	}

	ASSERT_EQ(0, close(wakeup));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
