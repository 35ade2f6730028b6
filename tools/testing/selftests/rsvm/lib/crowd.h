/* SPDX-License-Identifier: GPL-2.0 */
/* Harts and CPU threads that do atomics on the same words. Errors are -errno. */
#ifndef RSVM_LIB_CROWD_H
#define RSVM_LIB_CROWD_H

#include <pthread.h>
#include <stdbool.h>

#include "gpu.h"
#include "../gpu/atomic.h"

/* Participants of one crowd: a 32-bit word has a bit for each. */
#define CROWD_HARTS	16
#define CROWD_MEMBERS	64

/* One operation: its kernel, the same on the CPU, and how to judge the end. */
struct crowd_op {
	const char *name;
	unsigned int bits;
	uint64_t kernel;
	void (*on_cpu)(void *word, struct participant *p, const struct rounds *r);
};

/* All of gpu/atomic.h, named as there: "add_32". NULL: there is none. */
const struct crowd_op *crowd_op(const char *name);

struct crowd {
	struct gpu *g;
	const struct crowd_op *op;
	char *words;		/* of participant k: words + k * stride */
	uint64_t stride;	/* in bytes; 0: all on the same */
	int harts;		/* at most CROWD_HARTS where bits count */
	int threads;
	uint64_t rounds;	/* at least these, of each participant */
	bool endless;		/* and then until crowd_end() */

	/* The harts first, then the threads. */
	struct participant *members;
	struct gpu_args args;
	struct rounds limits;
	volatile uint64_t stop;
	pthread_t running[CROWD_MEMBERS];
};

/* Gives the words their first values. */
void crowd_prepare(struct crowd *c);
/*
 * Starts the threads, then the harts. The words must be as crowd_prepare() left
 * them.
 */
int crowd_start(struct crowd *c);
/* How many operations the harts, the threads, have done so far. */
uint64_t crowd_done_by_gpu(const struct crowd *c);
uint64_t crowd_done_by_cpu(const struct crowd *c);
/* Stops and waits for all. */
int crowd_end(struct crowd *c);
/*
 * After crowd_end(): results and final words that are not what the operations
 * make of each other. The members are gone then.
 */
uint64_t crowd_errors(struct crowd *c);

#endif /* RSVM_LIB_CROWD_H */
