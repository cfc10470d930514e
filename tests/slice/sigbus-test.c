// SPDX-License-Identifier: GPL-2.0-only
/*
 * sigbus-test
 *
 * Test slice_access() of demo/slice.c without a device, on a file that is shorter than its
 * mapping. Each test runs in a child, because a process installs the handler once. KTAP on
 * stdout.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "result.h"

#define PAGE 4096

/* A mapping that gives SIGBUS from its second page on */
static char *half_a_mapping(void)
{
	int fd = memfd_create("half", MFD_CLOEXEC);
	char *map;

	if (fd < 0 || ftruncate(fd, PAGE))
		err(1, "memfd");
	map = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		err(1, "mmap");
	close(fd);
	return map;
}

/* Run the function in a child; return the status of waitpid() */
static int in_child(int (*function)(char *map))
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		alarm(10);
		_exit(function(half_a_mapping()));
	}
	if (waitpid(pid, &status, 0) != pid)
		err(1, "waitpid");
	return status;
}

static int guarded(char *map)
{
	sigset_t before = {}, after = {};

	pthread_sigmask(SIG_SETMASK, NULL, &before);
	if (slice_access(map, PAGE, read_word, map) ||
	    slice_access(map + PAGE, PAGE, read_word, map + PAGE) != -EFAULT ||
	    slice_access(map + PAGE, PAGE, read_word, map + PAGE) != -EFAULT ||
	    slice_access(map, PAGE, read_word, map))
		return 1;
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	return memcmp(&before, &after, sizeof(before)) ? 2 : 0;
}

/* Guarded: the second page, by the outer call, and the third, by the inner one */
struct nested {
	char *map;
	char *word;
	int inner;
	bool returned;
};

static void access_inside(void *arg)
{
	struct nested *nested = arg;

	nested->inner = slice_access(nested->map + 2 * PAGE, PAGE, read_word, nested->word);
	nested->returned = true;
}

static int nested(char *map)
{
	struct nested inner = { .map = map, .word = map + 2 * PAGE };
	struct nested outer = { .map = map, .word = map + PAGE };

	if (slice_access(map + PAGE, PAGE, access_inside, &inner) || inner.inner != -EFAULT)
		return 1;
	if (slice_access(map + PAGE, PAGE, access_inside, &outer) != -EFAULT || outer.returned)
		return 2;
	return 0;
}

static void *expected_address;

static void exit_with_3(int signal, siginfo_t *info, void *context)
{
	(void)context;
	_exit(signal == SIGBUS && info->si_addr == expected_address ? 3 : 4);
}

/* The access of one page is guarded, the fault is in another one */
static int previous_siginfo(char *map)
{
	struct sigaction action = { .sa_sigaction = exit_with_3, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &action, NULL);
	expected_address = map + PAGE;
	slice_access(map, PAGE, read_word, map + PAGE);
	return 1;
}

static volatile sig_atomic_t signals;

static void count_signal(int signal)
{
	(void)signal;
	signals++;
}

/* Send a signal that claims to be about the address */
static void send_signal(void *address)
{
	siginfo_t info = { .si_code = SI_QUEUE };

	info.si_addr = address;
	if (syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &info))
		_exit(3);
}

static int previous_handler(char *map)
{
	signal(SIGBUS, count_signal);
	if (guarded(map) || slice_access(map, PAGE, send_signal, map))
		return 1;
	return signals == 1 ? 0 : 2;
}

static int previous_default(char *map)
{
	signal(SIGBUS, SIG_DFL);
	if (!guarded(map))
		read_word(map + PAGE);
	return 1;
}

static int previous_default_sent(char *map)
{
	signal(SIGBUS, SIG_DFL);
	if (!guarded(map))
		raise(SIGBUS);
	return 1;
}

static int previous_ignore(char *map)
{
	signal(SIGBUS, SIG_IGN);
	if (!guarded(map))
		read_word(map + PAGE);
	return 1;
}

static int previous_ignore_sent(char *map)
{
	signal(SIGBUS, SIG_IGN);
	return guarded(map) || raise(SIGBUS);
}

static bool is_sigbus(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}

int main(void)
{
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("KTAP version 1\n1..8\n");

	result(!in_child(guarded), "slice_access() fails with EFAULT, repeatedly, and keeps the signal mask");
	result(!in_child(nested), "slice_access() can be nested");
	status = in_child(previous_siginfo);
	result(WIFEXITED(status) && WEXITSTATUS(status) == 3,
	       "a fault elsewhere goes to the previous handler, with its address");
	result(!in_child(previous_handler), "a signal that was sent goes to the previous handler");
	result(is_sigbus(in_child(previous_default)), "without a previous handler, a fault elsewhere ends the process");
	result(is_sigbus(in_child(previous_default_sent)), "without a previous handler, a signal that was sent ends the process");
	result(is_sigbus(in_child(previous_ignore)), "if SIGBUS is ignored, a fault elsewhere ends the process");
	result(!in_child(previous_ignore_sent), "if SIGBUS is ignored, a signal that was sent does nothing");
	return failed != 0;
}
