/* SPDX-License-Identifier: GPL-2.0 */
/* A third party: threads that take pages away from whoever uses them. */
#ifndef RSVM_LIB_TROUBLE_H
#define RSVM_LIB_TROUBLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "gpu.h"

enum trouble_kind {
	TROUBLE_SWAP,		/* MADV_PAGEOUT */
	TROUBLE_MIGRATE,	/* to device memory and back, and compaction */
	TROUBLE_KSM,		/* scans the pages, which are to be merged */
	TROUBLE_FORK,		/* a child for a moment, which holds all pages */
	TROUBLES,
	TROUBLE_ALL = (1 << TROUBLES) - 1,
};

/* Who does one of them to @size bytes at @p until trouble_end(). */
struct trouble {
	enum trouble_kind kind;
	struct gpu *g;
	char *p;
	size_t size;
	volatile uint64_t stop;
	volatile uint64_t times;	/* it was done */
	bool running;
	pthread_t thread;
};

/* @t holds TROUBLES of them; those begin whose bit is in @kinds. -errno. */
int trouble_begin(struct trouble *t, unsigned int kinds, struct gpu *g, void *p, size_t size);
void trouble_end(struct trouble *t);

#endif /* RSVM_LIB_TROUBLE_H */
