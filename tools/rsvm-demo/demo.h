/* SPDX-License-Identifier: GPL-2.0 OR MIT */
#ifndef DEMO_H
#define DEMO_H

#include <rsvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "shared.h"

/* How long any piece of work may take. */
#define LIMIT_NS (60 * 1000000000LL)

struct demo {
	rsvm_context *context;
	rsvm_module *module;
	rsvm_queue *queue;
	unsigned int passed;
	unsigned int failed;
	struct rsvm_stats before;
	uint64_t begun_ns;
	uint64_t gpu_ns;
};

/* Starts a section: prints its title and remembers the counters. */
void demo_begin(struct demo *demo, const char *title);
/* Ends a section: prints what happened in it. */
void demo_end(struct demo *demo);
/* Counts and prints one check; what may hold a printf format. */
bool demo_check(struct demo *demo, bool good, const char *what, ...)
	__attribute__((format(printf, 3, 4)));

/* Runs a kernel to its end; a failed check if it does not get there. */
bool demo_run(struct demo *demo, const char *kernel, uint64_t n, const void *arg);

/* malloc() that ends the program when there is no memory. */
void *demo_alloc(size_t size);

void demo_vector_add(struct demo *demo);
void demo_hash_table(struct demo *demo);
void demo_stencil(struct demo *demo);
void demo_histogram(struct demo *demo);
void demo_moving_memory(struct demo *demo);
void demo_oversubscribe(struct demo *demo);
void demo_bad_pointer(struct demo *demo);

#endif
