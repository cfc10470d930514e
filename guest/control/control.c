// SPDX-License-Identifier: GPL-2.0-only
/*
 * Positive controls for the detectors of the debug cells, where LKDTM has no
 * crash type.
 *
 *	insmod control.ko what=abba	take two mutexes in both orders
 *	insmod control.ko what=atomic	call might_sleep() under a spinlock
 *	insmod control.ko what=leak	leak memory
 *	insmod control.ko what=race	increment a variable in two threads
 *	insmod control.ko what=silence	disable lockdep without a report
 */
#include <linux/debug_locks.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>

static char *what = "";
module_param(what, charp, 0);

static DEFINE_MUTEX(control_a);
static DEFINE_MUTEX(control_b);

static void control_abba(void)
{
	mutex_lock(&control_a);
	mutex_lock(&control_b);
	mutex_unlock(&control_b);
	mutex_unlock(&control_a);

	mutex_lock(&control_b);
	mutex_lock(&control_a);
	mutex_unlock(&control_a);
	mutex_unlock(&control_b);
}

static void control_atomic(void)
{
	static DEFINE_SPINLOCK(lock);

	/*
	 * A real sleep is also reported without CONFIG_DEBUG_ATOMIC_SLEEP, and the
	 * guest would go on with a spinlock held.
	 */
	spin_lock(&lock);
	might_sleep();
	spin_unlock(&lock);
}

static noinline int control_leak(void)
{
	int i;

	/*
	 * SLUB's per-CPU arrays of free objects keep stale pointers to the last
	 * objects that were allocated, so leak more than these. Zero each object,
	 * because its stale freelist pointer refers to another one.
	 */
	for (i = 0; i < 160; i++) {
		void *volatile p = kzalloc(192, GFP_KERNEL);

		if (!p)
			return -ENOMEM;
		p = NULL;
	}
	return 0;
}

static int control_count(void *count)
{
	while (!kthread_should_stop()) {
		++*(unsigned int *)count;
		cond_resched();
	}
	return 0;
}

static int control_race(void)
{
	static unsigned int count;
	struct task_struct *a, *b;

	a = kthread_run(control_count, &count, "control_a");
	if (IS_ERR(a))
		return PTR_ERR(a);
	b = kthread_run(control_count, &count, "control_b");
	ssleep(5);
	if (!IS_ERR(b))
		kthread_stop(b);
	kthread_stop(a);
	return PTR_ERR_OR_ZERO(b);
}

static int __init control_init(void)
{
	if (!strcmp(what, "abba"))
		control_abba();
	else if (!strcmp(what, "atomic"))
		control_atomic();
	else if (!strcmp(what, "leak"))
		return control_leak();
	else if (!strcmp(what, "race"))
		return control_race();
	else if (!strcmp(what, "silence"))
		debug_locks = 0;
	else
		return -EINVAL;
	return 0;
}
module_init(control_init);

static void __exit control_exit(void)
{
}
module_exit(control_exit);

MODULE_DESCRIPTION("Positive controls for the kernel's detectors");
MODULE_LICENSE("GPL");
