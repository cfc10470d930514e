/* SPDX-License-Identifier: GPL-2.0 */
/* Helpers of the demo programs */
#ifndef DEMO_COMMON_H
#define DEMO_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The prefix of the messages of fail() */
extern const char *program;

/* Print the message, and exit with 1 */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Return N of the device's /dev/vfio/devices/vfioN */
int vfio_number(const char *bdf);

/* Open /dev/vfio/devices/vfioN and bind it to a new iommufd, which *iommufd gets unless NULL */
int open_device(int number, int *iommufd);

/* Return the offset of the region in the device file; fail if it is smaller than min_size */
off_t region_offset(int device, unsigned int index, size_t min_size);

/* Set or clear bits of PCI_COMMAND */
void set_command(int device, uint16_t bits, bool on);

/* Export a slice of a BAR; access is O_RDWR or O_RDONLY */
int export_slice(int device, unsigned int bar, off_t offset, size_t size, int access);

/* Permanently revoke a slice; return 0 or -errno */
int revoke_slice(int device, int dmabuf);

/* Copy the line of /proc/PID/maps that ends with "text"; false if there is none */
bool maps_line(pid_t pid, const char *text, char *line, int size);

/* Call before gives_sigbus() */
void catch_sigbus(void);

/* Return true if a read of the page gives SIGBUS. For single-threaded programs. */
bool gives_sigbus(const volatile void *page);

#endif
