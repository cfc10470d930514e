/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs share beside slice.h */
#ifndef DEMO_COMMON_H
#define DEMO_COMMON_H

#include <err.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "slice.h"

#define EXIT_UNSUPPORTED 3

/* Return what a function of slice.h has returned; on -errno print "what: reason" and exit */
int check(int ret, const char *what);

/* Open by the device's own file or, if "group" or there is no such file, by its group; or exit */
void open_device(const char *bdf, bool group, struct slice_device *dev);

/* Return the offset of a region in the device file; fail if it is smaller than min_size */
off_t region_offset(int device, unsigned int index, uint64_t min_size);

/* Export one range of a BAR; access is O_RDWR or O_RDONLY */
int export_range(int device, unsigned int bar, uint64_t offset, uint64_t size, int access);

/* Return whether the device is edu-plus, which has RAM in BAR 1 */
bool is_edu_plus(int device);

/* Exit with EXIT_UNSUPPORTED, and say what is missing, unless DMABUFs can be mapped and revoked */
void expect_features(int device);

/* Exit unless the device is known to have RAM in that BAR: registers can do anything on a write */
void expect_ram(int device, unsigned int bar);

/* Convert "64K", "1M" or "0x1000"; exit with 2 if it is not a number or above "max" */
uint64_t number(const char *text, uint64_t max);

/* Return whether a read of the page gives SIGBUS */
bool gives_sigbus(const volatile void *page);

/* Copy the line of /proc/PID/maps that ends with "text"; false if there is none */
bool maps_line(pid_t pid, const char *text, char *line, int size);

#endif
