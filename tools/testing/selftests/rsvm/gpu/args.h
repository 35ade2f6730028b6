/* SPDX-License-Identifier: GPL-2.0 */
/* What a GPU kernel of the selftests is given; shared by both sides. */
#ifndef RSVM_GPU_ARGS_H
#define RSVM_GPU_ARGS_H

#include <stdint.h>

/*
 * Hart i works on the 64-bit word at addr + i * stride. The pointers are plain
 * pointers of the process.
 */
struct gpu_args {
	uint64_t addr;
	uint64_t stride;		/* in bytes */
	uint64_t value;
	uint64_t other;			/* second value or address */
	uint64_t rounds;		/* 0: until *stop is not zero */
	volatile uint64_t *stop;	/* may be NULL */
	struct gpu_result *out;		/* one per hart; may be NULL */
};

struct gpu_result {
	uint64_t value;			/* last value seen, or what the kernel says */
	uint64_t errors;
};

/* How long single atomics took, bucket k those of 2^k to 2^(k+1) nanoseconds. */
#define WAIT_LOGS 40
struct waits {
	uint64_t by_log2_ns[WAIT_LOGS];
	uint64_t longest;	/* in nanoseconds */
	uint64_t pause;		/* given: nanoseconds between two atomics */
};

/*
 * What the word at @address holds after @round, if all of its bytes are right.
 * The factors fit into instructions: GPU code has no data to load them from.
 */
static inline uint64_t word_stamp(uint64_t round, uint64_t address)
{
	return (round * 0x1e3779b1) << 32 ^ address * 0x2545f491;
}

#endif /* RSVM_GPU_ARGS_H */
