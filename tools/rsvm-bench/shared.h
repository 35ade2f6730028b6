/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What CPU and GPU agree on. */
#ifndef SHARED_H
#define SHARED_H

#include <stdint.h>

/* Invocation i adds 1 to the first word of each page of its share of the pages. */
struct touch {
	char *base;
	uint64_t pages;
};

#endif
