/* SPDX-License-Identifier: GPL-2.0 OR MIT */
#ifndef BENCH_H
#define BENCH_H

#include <rsvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "shared.h"

#define PAGE 4096UL
#define KIB 1024UL
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* No piece of work takes longer on the slowest machine. */
#define LIMIT_NS (600 * 1000000000LL)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* A figure that does not exist. */
#define NONE (-1.0)

struct bench {
	rsvm_context *context;
	rsvm_module *module;
	rsvm_queue *queue;
};

/* One result, as a line of JSON; a negative figure is null. */
void report(const char *name, const char *unit, double ours, double peer, double copy);

uint64_t now_ns(void);
/* Ends the program with a message that ends in what errno or the library says. */
void fail(const char *what);

/*
 * Medians of rounds that take turns, so that a drift of the machine hits all alike. Of more than
 * ROUNDS the last ones count.
 */
#define ROUNDS 15
/*
 * More rounds, before those that count, where memory moves: whenever the guest takes a page that it
 * never had, the host makes it and maps it into the virtual GPU, which takes longer than the copy.
 */
#define WARM_UP 10
struct rounds {
	double ns[ROUNDS];
	int count;
};

void add_round(struct rounds *rounds, uint64_t ns);
double median(struct rounds *rounds);

/* Anonymous memory, aligned to 2 MiB, of huge pages or of none. */
void *map(size_t size, bool huge);
void fill(void *p, size_t size);
/* memcpy() of as many bytes between warm buffers, in ns. */
uint64_t copy_ns(size_t size);

/* A figure of the driver's debugfs; 0 if there is none. */
uint64_t driver_stat(const char *name);

void open_gpu(struct bench *bench);
/* From now on nothing of [p, p + size) goes to the device when it faults. */
void keep_home(struct bench *bench, void *p, size_t size);
void close_gpu(struct bench *bench);
/* Runs a kernel to its end. */
void run(struct bench *bench, const char *kernel, uint64_t n, const void *arg);

/* The kernel's own test driver, lib/test_hmm.c. False: it is not there. */
bool peer_open(void);
void peer_to_device(void *p, size_t size, void *mirror);
void peer_to_system(void *p, size_t size, void *mirror);
void peer_write(void *p, size_t size, void *mirror);
/* Takes the pages away from the CPU, and copies them to the mirror. */
void peer_exclusive(void *p, size_t size, void *mirror);

void bench_migration(struct bench *bench);
void bench_scaling(struct bench *bench);
void bench_faults(struct bench *bench);
void bench_processes(void);
void bench_intervals(void);
void bench_invalidation(struct bench *bench);
void bench_atomics(struct bench *bench);
void bench_oversubscription(struct bench *bench);

#endif
