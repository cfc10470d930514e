// SPDX-License-Identifier: GPL-2.0-only
/*
 * PID 1 of the virtual machine that QEMU runs in the guest, with an edu-plus passed through:
 * use the RAM in BAR 1 as a driver does, and print what was done.
 *
 * The RAM survives resets and reboots. The first boot does everything, leaves the number
 * "run" of the kernel's command line in the last page, and reboots; the second checks what
 * the first left, and powers off. Without a number, write to the BAR forever.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>

#include <linux/pci_regs.h>

#define EDU_PLUS 0x11e81234
#define PAGE 4096UL
#define BAR1 PCI_BASE_ADDRESS_1

/* Where nothing else is: above what SeaBIOS uses */
#define ELSEWHERE 0x800000000ULL

static char device[300];
static int config;

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("nested: FAILED: ");
	vprintf(format, args);
	printf("\n");
	reboot(RB_POWER_OFF);
	exit(1);
}

static uint32_t config_read(off_t offset)
{
	uint32_t value;

	if (pread(config, &value, 4, offset) != 4)
		fail("configuration space at 0x%lx: %s", (long)offset, strerror(errno));
	return value;
}

static void config_write(off_t offset, uint32_t value, size_t size)
{
	if (pwrite(config, &value, size, offset) != (ssize_t)size)
		fail("configuration space at 0x%lx: %s", (long)offset, strerror(errno));
}

static void put(const char *file, const char *text)
{
	char path[400];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", device, file);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail("%s: %s", path, strerror(errno));
	close(fd);
}

static void memory(int on)
{
	uint32_t command = config_read(PCI_COMMAND) & 0xffff;

	command = on ? command | PCI_COMMAND_MEMORY : command & ~PCI_COMMAND_MEMORY;
	config_write(PCI_COMMAND, command, 2);
}

static void find_device(void)
{
	const char *base = "/sys/bus/pci/devices";
	struct dirent *entry;
	char path[400];
	DIR *dir = opendir(base);

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s/config", base, entry->d_name);
		config = open(path, O_RDWR | O_SYNC);
		if (config < 0)
			continue;
		if (config_read(PCI_VENDOR_ID) == EDU_PLUS) {
			snprintf(device, sizeof(device), "%s/%s", base, entry->d_name);
			return;
		}
		close(config);
	}
	fail("no edu-plus found");
}

static volatile uint32_t *map(const char *path, off_t offset, size_t size)
{
	void *bar;
	int fd = open(path, O_RDWR | O_SYNC);

	bar = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	if (bar == MAP_FAILED)
		fail("%s: %s", path, strerror(errno));
	close(fd);
	return bar;
}

static uint32_t value(size_t page)
{
	return 0x5eed0000 + page;
}

/* The first word of each page but the last */
static size_t check(volatile uint32_t *bar, size_t size)
{
	size_t n = size / PAGE - 1;

	for (size_t i = 0; i < n; i++)
		if (bar[i * PAGE / 4] != value(i))
			fail("page %zu has 0x%x instead of 0x%x", i, bar[i * PAGE / 4], value(i));
	return n;
}

/* Change the address of BAR 1, which is 64 bits wide. */
static void move(uint64_t address)
{
	memory(0);
	config_write(BAR1, address, 4);
	config_write(BAR1 + 4, address >> 32, 4);
	memory(1);
}

int main(void)
{
	char path[400], line[4096] = "";
	volatile uint32_t *bar, *moved, *last;
	const char *arg;
	uint64_t address;
	uint32_t run;
	struct stat st;
	size_t size;
	int fd;

	setvbuf(stdout, NULL, _IOLBF, 0);
	mkdir("/sys", 0755);
	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	if (mount("sysfs", "/sys", "sysfs", 0, NULL) || mount("proc", "/proc", "proc", 0, NULL) ||
	    (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) && errno != EBUSY))
		fail("mount: %s", strerror(errno));
	fd = open("/proc/cmdline", O_RDONLY);
	if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0)
		fail("/proc/cmdline: %s", strerror(errno));
	close(fd);

	find_device();
	put("enable", "1");
	snprintf(path, sizeof(path), "%s/resource1", device);
	if (stat(path, &st))
		fail("%s: %s", path, strerror(errno));
	size = st.st_size;
	bar = map(path, 0, size);
	last = bar + (size - PAGE) / 4;

	arg = strstr(line, "run=");
	if (!arg) {
		printf("nested: writing\n");
		/*
		 * It sleeps, because QEMU's emulation of SVM now and then delivers a timer
		 * interrupt twice when it interrupts user mode, which the kernel does not
		 * survive.
		 */
		for (uint32_t i = 0; ; i++) {
			bar[i % 1024 * 4] = i;
			usleep(1000);
		}
	}
	run = strtoul(arg + 4, NULL, 10);

	if (*last == run) {
		printf("nested: %zu pages have what the first boot wrote\n", check(bar, size));
		reboot(RB_POWER_OFF);
	}

	for (size_t i = 0; i < size / PAGE - 1; i++)
		bar[i * PAGE / 4] = value(i);
	printf("nested: wrote and read %zu pages\n", check(bar, size));

	put("reset_method", "flr");
	put("reset", "1");
	printf("nested: a function level reset: %zu pages\n", check(bar, size));

	memory(0);
	if (bar[0] == value(0))
		fail("memory decode is off, but a read gives the value");
	memory(1);
	printf("nested: memory decode off and on: %zu pages\n", check(bar, size));

	address = config_read(BAR1) & PCI_BASE_ADDRESS_MEM_MASK;
	address |= (uint64_t)config_read(BAR1 + 4) << 32;
	move(ELSEWHERE);
	moved = map("/dev/mem", ELSEWHERE, size);
	printf("nested: BAR 1 at another address: %zu pages\n", check(moved, size));
	move(address);
	printf("nested: BAR 1 at its first address: %zu pages\n", check(bar, size));

	*last = run;
	printf("nested: reboot\n");
	sync();
	reboot(RB_AUTOBOOT);
	fail("reboot: %s", strerror(errno));
}
