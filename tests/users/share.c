// SPDX-License-Identifier: GPL-2.0-only
/*
 * share DDDD:BB:DD.F CONSOLE QEMU ARGUMENT...
 *
 * Own an edu-plus that QEMU passes through: run QEMU with the device file as fd 11 and an
 * iommufd as fd 10, and wait until the virtual machine says in the file CONSOLE that it
 * writes to BAR 1. Meanwhile a process of another user has a slice of BAR 0 and, read-only,
 * one of BAR 1. KTAP on stdout.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <linux/vfio.h>

#include "common.h"

#define IOMMUFD 10
#define DEVICE 11
#define PAGE 4096
#define NOBODY 65534
#define SECONDS 120

/* A register of edu that gives the complement of what was written */
#define LIVENESS 4

static int tests, failed;

static void result(bool ok, const char *what)
{
	printf("%sok %d %s\n", ok ? "" : "not ", ++tests, what);
	failed += !ok;
}

static bool changes(const volatile uint32_t *word)
{
	uint32_t before = *word;

	for (int i = 0; i < SECONDS * 1000; i++) {
		if (*word != before)
			return true;
		usleep(1000);
	}
	return false;
}

/* Do what the owner asks for, with the answer "y" or "n". */
static void client(int sock, int registers_fd, int ram_fd)
{
	volatile uint32_t *registers, *ram;
	char what, answer;

	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		err(1, "setresuid");
	registers = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, registers_fd, 0);
	ram = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ram_fd, 0);
	if (registers == MAP_FAILED || ram == MAP_FAILED)
		err(1, "mmap");

	while (read(sock, &what, 1) == 1) {
		bool yes = false;

		switch (what) {
		case 'r':
			registers[LIVENESS / 4] = getpid();
			yes = registers[LIVENESS / 4] == ~(uint32_t)getpid();
			break;
		case 'c':
			yes = changes(ram);
			break;
		case 'b':
			yes = gives_sigbus(registers) && gives_sigbus(ram);
			break;
		}
		answer = yes ? 'y' : 'n';
		if (write(sock, &answer, 1) != 1)
			break;
	}
	exit(0);
}

static bool ask(int sock, char what)
{
	char answer;

	return write(sock, &what, 1) == 1 && read(sock, &answer, 1) == 1 && answer == 'y';
}

static bool says(const char *path, const char *text)
{
	static char buf[1 << 20];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		close(fd);
	buf[n < 0 ? 0 : n] = '\0';
	return strstr(buf, text);
}

/* The guest goes on: the first word of BAR 1 in the device file changes. */
static bool guest_writes(void)
{
	off_t offset = region_offset(DEVICE, VFIO_PCI_BAR1_REGION_INDEX, PAGE);
	uint32_t first, now;

	if (pread(DEVICE, &first, 4, offset) != 4)
		return false;
	for (int i = 0; i < SECONDS * 1000; i++) {
		if (pread(DEVICE, &now, 4, offset) != 4)
			return false;
		if (now != first)
			return true;
		usleep(1000);
	}
	return false;
}

int main(int argc, char **argv)
{
	int registers, ram, sock[2], iommufd, device, status, i;
	char path[64];
	pid_t qemu;

	if (argc < 4)
		errx(2, "usage: share DDDD:BB:DD.F CONSOLE QEMU ARGUMENT...");
	setvbuf(stdout, NULL, _IOLBF, 0);
	snprintf(path, sizeof(path), "/dev/vfio/devices/vfio%d", check(slice_cdev_number(argv[1]), argv[1]));
	device = open(path, O_RDWR);
	iommufd = open("/dev/iommu", O_RDWR);
	if (device < 0 || iommufd < 0 || dup2(iommufd, IOMMUFD) < 0 || dup2(device, DEVICE) < 0)
		err(1, "%s", path);
	close(device);
	close(iommufd);

	qemu = fork();
	if (!qemu) {
		execvp(argv[3], argv + 3);
		err(1, "%s", argv[3]);
	}
	for (i = 0; i < SECONDS * 100 && !says(argv[2], "nested: writing"); i++) {
		if (waitpid(qemu, &status, WNOHANG) == qemu)
			errx(1, "QEMU ended with status 0x%x", status);
		usleep(10000);
	}

	if (!says(argv[2], "nested: writing"))
		errx(1, "the virtual machine does not start");

	printf("KTAP version 1\n1..4\n");
	result(guest_writes(),
	       "QEMU passes a device through that another process has opened");

	registers = export_range(DEVICE, VFIO_PCI_BAR0_REGION_INDEX, 0, PAGE, O_RDWR);
	ram = export_range(DEVICE, VFIO_PCI_BAR1_REGION_INDEX, 0, PAGE, O_RDONLY);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock))
		err(1, "socketpair");
	fflush(stdout);
	if (!fork()) {
		close(sock[0]);
		close(DEVICE);
		close(IOMMUFD);
		client(sock[1], registers, ram);
	}
	close(sock[1]);
	result(ask(sock[0], 'r') && ask(sock[0], 'c'),
	       "meanwhile a client uses a register of BAR 0, and sees in BAR 1 what the virtual machine writes");

	result(!slice_revoke(DEVICE, registers) && !slice_revoke(DEVICE, ram) && ask(sock[0], 'b') && guest_writes(),
	       "after a revoke the client gets SIGBUS, and the virtual machine goes on");

	kill(qemu, SIGKILL);
	result(waitpid(qemu, &status, 0) == qemu && !ioctl(DEVICE, VFIO_DEVICE_RESET),
	       "after the end of QEMU the device can be reset");
	return failed != 0;
}
