/* SPDX-License-Identifier: GPL-2.0 */
/* What the driver tells about itself, in fdinfo and in debugfs. */
#ifndef RSVM_LIB_STATS_H
#define RSVM_LIB_STATS_H

#include <stdbool.h>
#include <stdint.h>

/* The number after "@key:" in the fdinfo of @fd; -1 if there is none. */
long long fdinfo(int fd, const char *key);
/* A figure of the device by name, from debugfs; -1 if there is none. */
long long device_stat(const char *name);
/* Sets a knob that widens a race in the driver; false if there is none. */
bool inject(const char *knob, unsigned int value);
/* Whether a knob that works so many times is used up. */
bool injected(const char *knob);

/*
 * A hang guard that does not mind how slow the system is: whether no counter of
 * a device moved in the last GPU_GUARD_NS in which this was called. From { }.
 */
struct guard {
	int64_t since;
	uint64_t seen;
};

bool guard_over(struct guard *guard);

#endif /* RSVM_LIB_STATS_H */
