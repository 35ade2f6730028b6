// SPDX-License-Identifier: GPL-2.0
/*
 * GPU code of the selftests: RV64 compiled by stock clang, without data of its
 * own, so that it runs wherever it is copied to.
 *
 * No kernel here uses an atomic but k_atomic: stores of one hart to a word of its
 * own are enough. Those that share words with the CPU are in kernels_atomic.c.
 */
#include "kernel.h"

static void report(const struct gpu_args *a, uint64_t i, uint64_t value,
		   uint64_t errors)
{
	if (!a->out)
		return;
	a->out[i].value = value;
	a->out[i].errors = errors;
}

/* Whether a loop that has gone through @done rounds goes on. */
static int more(const struct gpu_args *a, uint64_t done)
{
	if (a->stop && *a->stop)
		return 0;
	return !a->rounds || done < a->rounds;
}

/* Reads its word. */
KERNEL(k_read)
{
	(void)n;
	report(a, i, *slot(a, i), 0);
}

/* Writes value + i. */
KERNEL(k_write)
{
	(void)n;
	*slot(a, i) = a->value + i;
}

/* Adds value to its word. */
KERNEL(k_add)
{
	uint64_t v = *slot(a, i);

	(void)n;
	*slot(a, i) = v + a->value;
	report(a, i, v, 0);
}

/* Copies n words from other to addr, both as misaligned as they are. */
KERNEL(k_copy)
{
	struct unaligned {
		uint64_t v;
	} __attribute__((packed)) *to = (void *)a->addr, *from = (void *)a->other;
	uint64_t v;

	(void)n;
	/* One access each way, also across a page: asm, or clang splits it. */
	asm volatile("ld %0, 0(%1)" : "=r"(v) : "r"(&from[i]) : "memory");
	asm volatile("sd %0, 0(%1)" : : "r"(v), "r"(&to[i]) : "memory");
}

/* Writes one byte, one half, one word and one double of its 16-byte slot. */
KERNEL(k_sizes)
{
	volatile uint8_t *p = (volatile uint8_t *)slot(a, i);

	(void)n;
	p[0] = 0x11;
	*(volatile uint16_t *)(p + 2) = 0x2222;
	*(volatile uint32_t *)(p + 4) = 0x33333333;
	*(volatile uint64_t *)(p + 8) = 0x4444444444444444;
	report(a, i, p[0], 0);
}

/* Reads until the word is value. */
KERNEL(k_await)
{
	uint64_t v, done = 0;

	(void)n;
	do {
		v = *slot(a, i);
	} while (v != a->value && more(a, ++done));
	report(a, i, v, v != a->value);
}

/*
 * Counts its word up and checks before each store that nobody else changed it:
 * a page that is lost, swapped for an old one or written by somebody else shows.
 */
KERNEL(k_count)
{
	uint64_t done = 0, errors = 0, expect = *slot(a, i);

	(void)n;
	for (; more(a, done); done++) {
		uint64_t v = *slot(a, i);

		if (v != expect)
			errors++;
		expect = v + 1;
		*slot(a, i) = expect;
	}
	report(a, i, expect, errors);
}

/* Stores value, again and again. */
KERNEL(k_store)
{
	uint64_t done = 0;

	(void)n;
	for (; more(a, done); done++)
		*slot(a, i) = a->value;
	report(a, i, done, 0);
}

/* Reads and counts what lies outside value..other, both included. */
KERNEL(k_check)
{
	uint64_t v = 0, done = 0, errors = 0;

	(void)n;
	for (; more(a, done); done++) {
		v = *slot(a, i);
		if (v < a->value || v > a->other)
			errors++;
	}
	report(a, i, v, errors);
}

/*
 * Reads a word that only grows and counts each step back: an old page that is
 * still in reach shows as one.
 */
KERNEL(k_monotonic)
{
	uint64_t v, last = 0, done = 0, errors = 0;

	(void)n;
	for (; more(a, done); done++) {
		v = *slot(a, i);
		if (v < last)
			errors++;
		last = v;
	}
	report(a, i, last, errors);
}

/* Never ends, touches no memory. */
KERNEL(k_spin)
{
	(void)a;
	(void)i;
	(void)n;
	for (;;)
		asm volatile("");
}

/* Walks rounds words from its slot on, other bytes apart, without an end. */
KERNEL(k_walk)
{
	(void)n;
	for (;;)
		for (uint64_t k = 0; k < a->rounds; k++)
			(void)*(word *)(a->addr + i * a->stride + k * a->other);
}

/* One atomic on its word. */
KERNEL(k_atomic)
{
	(void)n;
	report(a, i, __atomic_fetch_add(slot(a, i), a->value, __ATOMIC_SEQ_CST), 0);
}

/* An illegal instruction. */
KERNEL(k_illegal)
{
	(void)a;
	(void)i;
	(void)n;
	asm volatile(".word 0");
}

/* Jumps to addr. */
KERNEL(k_jump)
{
	(void)n;
	((void (*)(struct gpu_args *, uint64_t))a->addr)(a, i);
}

/* A float sum over rounds doubles from addr on, in the order of memory. */
KERNEL(k_sum)
{
	double sum = 0;

	(void)n;
	for (uint64_t k = 0; k < a->rounds; k++)
		sum += ((volatile double *)slot(a, i))[k];
	*(volatile double *)&a->out[i].value = sum;
}

/*
 * other bytes from its slot on: counts the words that are not what round value
 * left there, and leaves there what round value + 1 does. Reports the last wrong one.
 */
KERNEL(k_pattern)
{
	word *w = slot(a, i);
	uint64_t wrong = 0, errors = 0;

	(void)n;
	for (uint64_t k = 0; k < a->other / sizeof(*w); k++) {
		uint64_t v = w[k];

		if (v != word_stamp(a->value, (uint64_t)&w[k])) {
			wrong = v;
			errors++;
		}
		w[k] = word_stamp(a->value + 1, (uint64_t)&w[k]);
	}
	report(a, i, wrong, errors);
}

/* The same without a change. */
KERNEL(k_pattern_check)
{
	word *w = slot(a, i);
	uint64_t errors = 0;

	(void)n;
	for (uint64_t k = 0; k < a->other / sizeof(*w); k++)
		if (w[k] != word_stamp(a->value, (uint64_t)&w[k]))
			errors++;
	report(a, i, a->value, errors);
}
