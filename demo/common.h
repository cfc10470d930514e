/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs of the demo share */
#ifndef DEMO_COMMON_H
#define DEMO_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What fail() begins its message with */
extern const char *program;

/* Say what is not as it should be, and exit with 1 */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* The number N of the device's /dev/vfio/devices/vfioN */
int vfio_number(const char *bdf);

/* Open that file and bind it to a new iommufd, which makes the device usable */
int open_device(int number);

/* Where the region begins in the device file; it has to have min_size bytes */
off_t region_offset(int device, unsigned int index, size_t min_size);

void set_memory_decode(int device, bool on);

/* The line of /proc/PID/maps that has "text" at its end; false if none has */
bool maps_line(pid_t pid, const char *text, char *line, int size);

/* Call before gives_sigbus() */
void catch_sigbus(void);

/* Does reading the page give SIGBUS? */
bool gives_sigbus(const volatile void *page);

#endif
