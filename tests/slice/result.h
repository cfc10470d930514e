/* SPDX-License-Identifier: GPL-2.0-only */
/* What the two test programs share */
#ifndef SLICE_RESULT_H
#define SLICE_RESULT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

static int tests, failed;

static void result(bool ok, const char *what)
{
	printf("%sok %d %s\n", ok ? "" : "not ", ++tests, what);
	failed += !ok;
}

static inline void read_word(void *word)
{
	(void)*(volatile uint32_t *)word;
}

#endif
