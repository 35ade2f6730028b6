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

/*
 * Each invocation adds 1 to *word, rounds times or, with 0, until stop is not 0,
 * and says in done[index] how often.
 */
struct count {
	uint64_t *word;
	uint64_t rounds;
	uint64_t stop;
	uint64_t *done;
};

#endif
