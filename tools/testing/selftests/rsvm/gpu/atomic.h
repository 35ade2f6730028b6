/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Atomics that CPU threads and harts do on the same words: the same loops,
 * compiled for either side. Each is made so that an update that is lost shows,
 * in what a later one returns or in what is there at the end:
 *
 *  add, cas	the word ends as the sum of all that was done
 *  xchg	tokens are passed round; at the end each is there once
 *  and, or, xor everybody has a bit that nobody else changes
 *  min, max	the word only falls, or only grows, beyond what anybody proposed
 */
#ifndef RSVM_GPU_ATOMIC_H
#define RSVM_GPU_ATOMIC_H

#include <stdint.h>

struct participant {
	uint64_t id;		/* its bit in a word, its place, its first token */
	uint64_t held;		/* its token, or what it proposed last */
	volatile uint64_t done;
	volatile uint64_t errors; /* results that show that an update was lost */
};

/* Where the loops run: at least @rounds times, and then until *stop. */
struct rounds {
	uint64_t rounds;
	volatile uint64_t *stop;	/* may be NULL */
};

static inline int go_on(const struct rounds *r, uint64_t done)
{
	return done < r->rounds || (r->stop && !*r->stop);
}

#define ORDER __ATOMIC_SEQ_CST

/* What gcc has no builtin for, and x86 no instruction. */
#ifdef __riscv
#define FETCH_MIN(w, v) __atomic_fetch_min(w, v, ORDER)
#define FETCH_MAX(w, v) __atomic_fetch_max(w, v, ORDER)
#else
#define FETCH_IF(w, v, cmp) ({ \
	__typeof__(v) __old = __atomic_load_n(w, __ATOMIC_RELAXED); \
	while (!__atomic_compare_exchange_n(w, &__old, __old cmp (v) ? __old : (v), 0, \
					    ORDER, ORDER)) \
		; \
	__old; })
#define FETCH_MIN(w, v) FETCH_IF(w, v, <)
#define FETCH_MAX(w, v) FETCH_IF(w, v, >)
#endif

#define ATOMIC_LOOP(name, type, bits, body) \
static inline void crowd_##name##_##bits(type *w, struct participant *p, \
					 const struct rounds *r) \
{ \
	const type bit = (type)1 << p->id % (bits); \
	type held = p->held, old; \
	uint64_t done = 0, errors = 0; \
	(void)bit; \
	while (go_on(r, done)) { \
		body; \
		p->done = ++done; \
		p->errors = errors; \
	} \
	(void)old; \
	p->held = held; \
}

#define ATOMIC_ADD(type, bits) ATOMIC_LOOP(add, type, bits, \
	old = __atomic_fetch_add(w, (type)(2 * p->id + 1), ORDER))

#define ATOMIC_CAS(type, bits) ATOMIC_LOOP(cas, type, bits, \
	old = __atomic_load_n(w, __ATOMIC_RELAXED); \
	while (!__atomic_compare_exchange_n(w, &old, (type)(old + 1), 0, ORDER, ORDER)) \
		continue)

#define ATOMIC_XCHG(type, bits) ATOMIC_LOOP(xchg, type, bits, \
	held = __atomic_exchange_n(w, held, ORDER))

#define ATOMIC_AND(type, bits) ATOMIC_LOOP(and, type, bits, \
	old = __atomic_fetch_and(w, (type)~bit, ORDER); \
	errors += !(old & bit); \
	old = __atomic_fetch_xor(w, bit, ORDER); \
	errors += !!(old & bit))

#define ATOMIC_OR(type, bits) ATOMIC_LOOP(or, type, bits, \
	old = __atomic_fetch_or(w, bit, ORDER); \
	errors += !!(old & bit); \
	old = __atomic_fetch_xor(w, bit, ORDER); \
	errors += !(old & bit))

#define ATOMIC_XOR(type, bits) ATOMIC_LOOP(xor, type, bits, \
	old = __atomic_fetch_xor(w, bit, ORDER); \
	errors += !!(old & bit) != (done & 1))

/* Nobody may find the word behind what it proposed before. */
#define ATOMIC_MIN(name, type, bits) ATOMIC_LOOP(name, type, bits, \
	old = FETCH_MIN(w, (type)(held - 1)); \
	errors += old > held; \
	held = old < held ? old : held - 1)

#define ATOMIC_MAX(name, type, bits) ATOMIC_LOOP(name, type, bits, \
	old = FETCH_MAX(w, (type)(held + 1)); \
	errors += old < held; \
	held = old > held ? old : held + 1)

/* Every operation with the type it works on and its width. */
#define ATOMIC_WORD_OPS(X, bits) \
	X(add, uint##bits##_t, bits) X(xchg, uint##bits##_t, bits) \
	X(cas, uint##bits##_t, bits) X(and, uint##bits##_t, bits) \
	X(or, uint##bits##_t, bits) X(xor, uint##bits##_t, bits) \
	X(min, int##bits##_t, bits) X(max, int##bits##_t, bits) \
	X(minu, uint##bits##_t, bits) X(maxu, uint##bits##_t, bits)
/* Of these sizes the device has no instructions, only LR/SC around them. */
#define ATOMIC_PART_OPS(X, bits) \
	X(add, uint##bits##_t, bits) X(xchg, uint##bits##_t, bits) X(cas, uint##bits##_t, bits)
#define ATOMIC_OPS(X) \
	ATOMIC_WORD_OPS(X, 32) ATOMIC_WORD_OPS(X, 64) \
	ATOMIC_PART_OPS(X, 8) ATOMIC_PART_OPS(X, 16)

#define ATOMIC_WORD_LOOPS(bits) \
	ATOMIC_AND(uint##bits##_t, bits) ATOMIC_OR(uint##bits##_t, bits) \
	ATOMIC_XOR(uint##bits##_t, bits) \
	ATOMIC_MIN(min, int##bits##_t, bits) ATOMIC_MAX(max, int##bits##_t, bits) \
	ATOMIC_MIN(minu, uint##bits##_t, bits) ATOMIC_MAX(maxu, uint##bits##_t, bits)
#define ATOMIC_PART_LOOPS(bits) \
	ATOMIC_ADD(uint##bits##_t, bits) ATOMIC_CAS(uint##bits##_t, bits) \
	ATOMIC_XCHG(uint##bits##_t, bits)

ATOMIC_WORD_LOOPS(32)
ATOMIC_WORD_LOOPS(64)
ATOMIC_PART_LOOPS(8)
ATOMIC_PART_LOOPS(16)
ATOMIC_PART_LOOPS(32)
ATOMIC_PART_LOOPS(64)

#endif /* RSVM_GPU_ATOMIC_H */
