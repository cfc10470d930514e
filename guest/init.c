// SPDX-License-Identifier: GPL-2.0
/*
 * PID 1 of the test guest.
 *
 * It prepares the guest, binds the devices under test to vfio-pci, runs one
 * command, queries the kernel's detectors, and reports.
 *
 * The guest has three separate channels to the host:
 *  - the console (ttyS0): messages of the kernel, and of init through
 *    /dev/kmsg;
 *  - the virtio-serial port "vm.output": the output of the command;
 *  - the virtio-serial port "vm.verdict": the verdict of init.  It is valid only
 *    if its last line is "end".
 *
 * The runner puts /vm/conf into the initramfs.  It has lines KEY=VALUE:
 *  mode=run|shell	run /vm/argv (NUL-terminated strings), or a shell on hvc0
 *  timeout=SECONDS	since boot; 0 for none
 *  device=NAME SLOT	the function behind root port 0000:00:SLOT; its address
 *			is passed to the command as NAME_BDF
 *  env=NAME=VALUE	an environment variable for the command
 *  size=ROWS COLUMNS	the size of the terminal behind hvc0
 *  disk=TYPE		the command runs in the file system on /dev/vda, below the
 *			files in /vm/files and a tmpfs that takes what it writes
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_PORT	"vm.output"
#define VERDICT_PORT	"vm.verdict"

/* A process that exists for longer than this after SIGKILL is a problem. */
#define KILL_SECONDS	10
/* kmemleak does not report objects that are younger than five seconds. */
#define LEAK_AGE_SECONDS 6

static int verdict_fd = -1;
static bool shell;
static struct winsize size;
static long timeout_seconds;
/* The root directory of the command */
static const char *root = "/";

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void verdict(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void write_all(int fd, const char *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		buf += n;
		len -= n;
	}
}

static void note(const char *fmt, ...)
{
	char text[512] = "init: ";
	va_list ap;
	int fd;

	va_start(ap, fmt);
	vsnprintf(text + 6, sizeof(text) - 6, fmt, ap);
	va_end(ap);

	fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		write_all(fd, text, strlen(text));
		close(fd);
	}
}

/* Send one line to the runner, with a single write(). */
static void verdict(const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	size_t len;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text) - 1, fmt, ap);
	va_end(ap);

	note("%s", text);
	len = strlen(text);
	text[len++] = '\n';
	write_all(verdict_fd, text, len);
}

static void power_off(void) __attribute__((noreturn));
static void power_off(void)
{
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/* The guest is not usable: report why, and stop. */
#define give_up(...) do {		\
	verdict("problem " __VA_ARGS__);\
	verdict("end");			\
	power_off();			\
} while (0)

static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

/* Read a small file without its trailing newline. */
static bool get(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return false;
	buf[n] = '\0';
	if (n && buf[n - 1] == '\n')
		buf[n - 1] = '\0';
	return true;
}

static void make_mount(const char *type, const char *dir, const char *options)
{
	mkdir(dir, 0755);
	if (mount(type, dir, type, 0, options) && errno != EBUSY)
		note("cannot mount %s on %s: %s", type, dir, strerror(errno));
}

static void mounts(void)
{
	make_mount("devtmpfs", "/dev", NULL);
	make_mount("proc", "/proc", NULL);
	make_mount("sysfs", "/sys", NULL);
	make_mount("debugfs", "/sys/kernel/debug", NULL);
	make_mount("tmpfs", "/dev/shm", "mode=1777");
	make_mount("tmpfs", "/tmp", "mode=1777");
	make_mount("tmpfs", "/run", "mode=755");
	make_mount("hugetlbfs", "/dev/hugepages", NULL);
	make_mount("devpts", "/dev/pts", NULL);
	if (symlink("/proc/self/fd", "/dev/fd") ||
	    symlink("/proc/self/fd/0", "/dev/stdin") ||
	    symlink("/proc/self/fd/1", "/dev/stdout") ||
	    symlink("/proc/self/fd/2", "/dev/stderr"))
		note("cannot make /dev/fd: %s", strerror(errno));
}

/* The ports appear after the driver has negotiated with the host: wait. */
static int open_port(const char *name)
{
	char path[320], have[64];
	struct dirent *entry;
	int tries, fd;
	DIR *dir;

	for (tries = 0; tries < 500; tries++) {
		dir = opendir("/sys/class/virtio-ports");
		while (dir && (entry = readdir(dir))) {
			snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
				 entry->d_name);
			if (!get(path, have, sizeof(have)) || strcmp(have, name))
				continue;
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			closedir(dir);
			fd = open(path, O_WRONLY | O_CLOEXEC);
			if (fd < 0)
				note("cannot open %s: %s", path, strerror(errno));
			return fd;
		}
		if (dir)
			closedir(dir);
		usleep(20000);
	}
	note("there is no port %s", name);
	return -1;
}

/* Find the function behind a root port; an empty string if there is none. */
static void find_behind(const char *slot, char bdf[13])
{
	char path[64];
	unsigned int domain, bus, dev, fn;
	struct dirent *entry;
	int len;
	DIR *dir;

	bdf[0] = '\0';
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/0000:00:%s", slot);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		len = 0;
		if (sscanf(entry->d_name, "%4x:%2x:%2x.%1x%n", &domain, &bus, &dev, &fn, &len) == 4 &&
		    len == 12 && !entry->d_name[12] && !fn)
			memcpy(bdf, entry->d_name, 13);
	}
	if (dir)
		closedir(dir);
}

static void bind_device(char *arg)
{
	char *slot = strchr(arg, ' ');
	char bdf[13], path[128], link[256], name[64];
	ssize_t len;

	if (!slot)
		give_up("/vm/conf: device= needs a name and a slot");
	*slot++ = '\0';

	find_behind(slot, bdf);
	if (!bdf[0])
		give_up("there is no device %s behind root port %s", arg, slot);

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", bdf);
	if (!put(path, "vfio-pci") || !put("/sys/bus/pci/drivers_probe", bdf))
		give_up("%s (%s) cannot be bound to vfio-pci: %s", arg, bdf, strerror(errno));
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", bdf);
	len = readlink(path, link, sizeof(link) - 1);
	link[len < 0 ? 0 : len] = '\0';
	if (!strrchr(link, '/') || strcmp(strrchr(link, '/'), "/vfio-pci"))
		give_up("%s (%s) was not bound to vfio-pci", arg, bdf);

	snprintf(name, sizeof(name), "%s_BDF", arg);
	setenv(name, bdf, 1);
}

static void load_modules(char *names)
{
	char command[512];

	snprintf(command, sizeof(command), "depmod && modprobe -a %s", names);
	if (system(command))
		give_up("the modules cannot be loaded: %s", names);
}

static void mount_disk(const char *type)
{
	static const char * const same[] = { "/dev", "/proc", "/sys", "/tmp", "/run" };
	char to[64];
	int tries;

	root = "/disk/root";
	make_mount("tmpfs", "/disk", NULL);
	mkdir("/disk/lower", 0755);
	mkdir("/disk/upper", 0755);
	mkdir("/disk/work", 0755);
	mkdir(root, 0755);
	for (tries = 0; tries < 500 && access("/dev/vda", F_OK); tries++)
		usleep(20000);
	if (mount("/dev/vda", "/disk/lower", type, MS_RDONLY, NULL))
		give_up("/dev/vda cannot be mounted: %s", strerror(errno));
	if (mount("overlay", root, "overlay", 0,
		  "lowerdir=/vm/files:/disk/lower,upperdir=/disk/upper,workdir=/disk/work"))
		give_up("an overlay cannot be mounted: %s", strerror(errno));
	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
		snprintf(to, sizeof(to), "%s%s", root, same[i]);
		if (mount(same[i], to, NULL, MS_BIND | MS_REC, NULL))
			give_up("%s cannot be mounted: %s", to, strerror(errno));
	}
}

static void configure(void)
{
	char line[4096];
	FILE *conf = fopen("/vm/conf", "re");

	if (!conf)
		give_up("/vm/conf is missing");
	while (fgets(line, sizeof(line), conf)) {
		char *value = strchr(line, '=');

		line[strcspn(line, "\n")] = '\0';
		if (!value)
			continue;
		*value++ = '\0';
		if (!strcmp(line, "mode"))
			shell = !strcmp(value, "shell");
		else if (!strcmp(line, "timeout"))
			timeout_seconds = atol(value);
		else if (!strcmp(line, "modules"))
			load_modules(value);
		else if (!strcmp(line, "device"))
			bind_device(value);
		else if (!strcmp(line, "size"))
			sscanf(value, "%hu %hu", &size.ws_row, &size.ws_col);
		else if (!strcmp(line, "disk"))
			mount_disk(value);
		else if (!strcmp(line, "env"))
			putenv(strdup(value));
		else
			give_up("/vm/conf: unknown key %s", line);
	}
	fclose(conf);
}

static char **read_argv(void)
{
	static char buf[128 * 1024];
	static char *argv[4096];
	int fd = open("/vm/argv", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, buf, sizeof(buf));
	char *p = buf;
	int n = 0;

	if (len <= 0 || len == sizeof(buf) || buf[len - 1])
		give_up("/vm/argv is missing or too long");
	while (p < buf + len && n < 4095) {
		argv[n++] = p;
		p += strlen(p) + 1;
	}
	close(fd);
	return argv;
}

/* Like the ports, the console takes a while to appear. */
static int open_terminal(void)
{
	int tries, fd;

	for (tries = 0; tries < 500; tries++) {
		fd = open("/dev/hvc0", O_RDWR | O_NOCTTY);
		if (fd >= 0)
			break;
		usleep(20000);
	}
	if (fd >= 0) {
		ioctl(fd, TIOCSCTTY, 1);
		if (size.ws_row && size.ws_col)
			ioctl(fd, TIOCSWINSZ, &size);
	}
	return fd;
}

static pid_t start(int out)
{
	static char *sh[] = { "-sh", NULL };
	char **argv = shell ? sh : read_argv();
	const char *file = shell ? "/bin/sh" : argv[0];
	sigset_t none;
	pid_t pid = fork();
	int in;

	if (pid)
		return pid;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (shell) {
		in = open_terminal();
		out = in;
	} else {
		in = open("/dev/null", O_RDONLY);
	}
	if (in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(127);
	if (in > 2)
		close(in);
	if (out > 2 && out != in)
		close(out);
	if (chroot(root) || chdir("/"))
		_exit(127);
	execvp(file, argv);
	dprintf(2, "init: cannot run %s: %s\n", file, strerror(errno));
	_exit(127);
}

/* Copy what is in the pipe, which is non-blocking. */
static void drain(int from, int to)
{
	char buf[16384];
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR))
		if (n > 0)
			write_all(to, buf, n);
}

/* Reap all children that have ended.  Return true if the command is one. */
static bool reap(pid_t command, int *status)
{
	bool ended = false;
	pid_t pid;
	int st;

	while ((pid = waitpid(-1, &st, WNOHANG)) > 0) {
		if (pid == command) {
			*status = st;
			ended = true;
		}
	}
	return ended;
}

/*
 * Kill the processes that the command left behind.  A process that survives
 * hangs in the kernel.
 */
static void kill_rest(void)
{
	char path[64], comm[64], state[256];
	int tries;
	DIR *dir;
	struct dirent *entry;

	kill(-1, SIGKILL);
	for (tries = 0; tries < KILL_SECONDS * 50; tries++) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0 && errno == ECHILD)
			return;
		if (pid == 0)
			usleep(20000);
	}

	put("/proc/sysrq-trigger", "w");
	dir = opendir("/proc");
	while (dir && (entry = readdir(dir))) {
		int pid = atoi(entry->d_name), parent;
		char *p;

		/* Skip kernel threads, children of kthreadd (PID 2). */
		if (pid <= 2)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		if (!get(path, state, sizeof(state)))
			continue;
		p = strrchr(state, ')');
		if (!p || sscanf(p, ") %*c %d", &parent) != 1 || parent == 2)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		if (get(path, comm, sizeof(comm)))
			verdict("problem process %d (%s) does not die when killed", pid, comm);
	}
	if (dir)
		closedir(dir);
}

/* A report disables lockdep, which then reports nothing any more. */
static void check_lockdep(void)
{
	char line[256];
	FILE *stats = fopen("/proc/lockdep_stats", "re");
	int on = -1;

	if (!stats)
		return;
	while (fgets(line, sizeof(line), stats))
		sscanf(line, " debug_locks: %d", &on);
	fclose(stats);
	if (on != 1)
		verdict("problem lockdep is off at the end of the run");
	else
		verdict("checked lockdep");
}

/*
 * Scan twice: the first scan can miss a pointer that is in a register, or in a
 * block that moves between lists.
 */
static void check_leaks(void)
{
	const char *path = "/sys/kernel/debug/kmemleak";
	char line[4096];
	FILE *leaks;
	int n = 0, lines = 0;

	if (!get("/proc/cmdline", line, sizeof(line)) || !strstr(line, "kmemleak=on"))
		return;
	sleep(LEAK_AGE_SECONDS);
	/* This fails if kmemleak ran out of memory and disabled itself. */
	if (!put(path, "scan") || !put(path, "scan")) {
		verdict("problem kmemleak does not scan: %s", strerror(errno));
		return;
	}
	leaks = fopen(path, "re");
	if (!leaks) {
		verdict("problem kmemleak cannot be read: %s", strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), leaks)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "unreferenced object", 19))
			n++;
		/* The console is slow: print only the first lines. */
		if (lines++ < 60)
			note("kmemleak report: %s", line);
	}
	fclose(leaks);
	if (n)
		verdict("problem kmemleak found %d leaked objects", n);
	else
		verdict("checked kmemleak");
}

/* The runner decides which flags are a problem. */
static void report_taint(void)
{
	char text[32];

	if (get("/proc/sys/kernel/tainted", text, sizeof(text)))
		verdict("taint %lu", strtoul(text, NULL, 10));
}

int main(void)
{
	struct pollfd fds[3] = { };
	int out = -1, fd[2] = { -1, -1 }, status = 0;
	bool timed_out = false;
	sigset_t set;
	pid_t pid;

	umask(022);
	mounts();
	setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
	setenv("HOME", "/root", 1);

	verdict_fd = open_port(VERDICT_PORT);
	if (verdict_fd < 0)
		power_off();
	configure();

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fds[1].fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	fds[2].fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	fds[0].fd = -1;
	if (fds[1].fd < 0 || fds[2].fd < 0)
		give_up("init has no signalfd or timerfd");
	if (timeout_seconds) {
		struct itimerspec at = { .it_value.tv_sec = timeout_seconds };

		timerfd_settime(fds[2].fd, TFD_TIMER_ABSTIME, &at, NULL);
	}
	if (!shell) {
		out = open_port(OUTPUT_PORT);
		if (out < 0 || pipe2(fd, O_CLOEXEC | O_NONBLOCK))
			give_up("there is no channel for the output of the command");
		/* Programs expect a blocking stdout. */
		fcntl(fd[1], F_SETFL, 0);
		fds[0].fd = fd[0];
	}
	fds[0].events = fds[1].events = fds[2].events = POLLIN;

	note("starting the command");
	pid = start(fd[1]);
	if (pid < 0)
		give_up("init cannot fork: %s", strerror(errno));
	if (fd[1] >= 0)
		close(fd[1]);

	for (;;) {
		struct signalfd_siginfo info;

		if (poll(fds, 3, -1) < 0)
			continue;
		if (fds[0].revents) {
			drain(fd[0], out);
			/* All writers have closed the pipe. */
			if (!(fds[0].revents & POLLIN))
				fds[0].fd = -1;
		}
		if (fds[1].revents) {
			while (read(fds[1].fd, &info, sizeof(info)) > 0)
				;
			if (reap(pid, &status))
				break;
		}
		if (fds[2].revents) {
			timed_out = true;
			break;
		}
	}
	if (fd[0] >= 0)
		drain(fd[0], out);

	if (timed_out) {
		put("/proc/sysrq-trigger", "w");
		verdict("timeout");
		verdict("end");
		power_off();
	}

	note("the command has ended");
	kill_rest();
	if (fd[0] >= 0)
		drain(fd[0], out);
	report_taint();
	check_lockdep();
	if (!shell)
		check_leaks();
	if (WIFSIGNALED(status))
		verdict("signal %d", WTERMSIG(status));
	else
		verdict("exit %d", WEXITSTATUS(status));
	verdict("end");
	power_off();
}
