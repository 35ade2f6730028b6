/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Litmus tests and locks between the CPU and the GPU: the same code for both.
 * Words that are waited for are read again and again by plain loads, which the
 * device does not need the page to itself for.
 */
#ifndef RSVM_GPU_ORDER_H
#define RSVM_GPU_ORDER_H

#include <stddef.h>
#include <stdint.h>

enum flavour {
	BY_RELEASE,	/* release stores and acquire loads */
	BY_FENCE,	/* relaxed ones beside fences */
	BY_RMW,		/* read-modify-write operations */
};

/* Message passing: @words of data, and a flag that says which round they are of. */
struct message {
	uint64_t *data;
	uint64_t words;
	uint64_t *flag;
	uint64_t *answer;	/* of the reader */
	uint64_t rounds;
	uint64_t flavour;
	uint64_t errors;	/* words of another round than the flag's */
};

static inline uint64_t load(uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void await(uint64_t *p, uint64_t value)
{
	while (load(p) < value)
		;
}

static inline void publish(uint64_t *p, uint64_t value, uint64_t flavour)
{
	if (flavour == BY_RELEASE) {
		__atomic_store_n(p, value, __ATOMIC_RELEASE);
	} else if (flavour == BY_FENCE) {
		__atomic_thread_fence(__ATOMIC_RELEASE);
		__atomic_store_n(p, value, __ATOMIC_RELAXED);
	} else {
		__atomic_fetch_add(p, 1, __ATOMIC_RELEASE);
	}
}

static inline void await_published(uint64_t *p, uint64_t value, uint64_t flavour)
{
	if (flavour == BY_RELEASE) {
		await(p, value);
	} else if (flavour == BY_FENCE) {
		while (__atomic_load_n(p, __ATOMIC_RELAXED) < value)
			;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} else {
		while (__atomic_fetch_or(p, 0, __ATOMIC_ACQUIRE) < value)
			await(p, value);
	}
}

static inline void message_write(struct message *m)
{
	for (uint64_t round = 1; round <= m->rounds; round++) {
		for (uint64_t k = 0; k < m->words; k++)
			__atomic_store_n(&m->data[k], round, __ATOMIC_RELAXED);
		publish(m->flag, round, m->flavour);
		await(m->answer, round);
	}
}

static inline void message_read(struct message *m)
{
	for (uint64_t round = 1; round <= m->rounds; round++) {
		await_published(m->flag, round, m->flavour);
		/* The last word written is looked at first. */
		for (uint64_t k = m->words; k-- > 0;)
			if (__atomic_load_n(&m->data[k], __ATOMIC_RELAXED) != round)
				m->errors++;
		__atomic_store_n(m->answer, round, __ATOMIC_RELEASE);
	}
}

/* One side of store buffering: writes @mine, then reads @theirs. */
struct buffering {
	uint64_t *mine;
	uint64_t *theirs;
	uint64_t *ready;	/* mine: which round I am through with */
	uint64_t *their_ready;
	uint64_t *seen;		/* of theirs, by round */
	uint64_t rounds;
	uint64_t flavour;	/* BY_FENCE or BY_RMW */
};

static inline void buffering_run(struct buffering *b)
{
	for (uint64_t round = 1; round <= b->rounds; round++) {
		await(b->their_ready, round - 1);
		if (b->flavour == BY_RMW) {
			__atomic_exchange_n(b->mine, round, __ATOMIC_SEQ_CST);
		} else {
			__atomic_store_n(b->mine, round, __ATOMIC_RELAXED);
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
		}
		b->seen[round - 1] = __atomic_load_n(b->theirs, __ATOMIC_SEQ_CST);
		__atomic_store_n(b->ready, round, __ATOMIC_RELEASE);
	}
}

/* A lock, and what it protects: words that are equal whenever it is free. */
#define GUARDED 4
struct guarded {
	uint32_t *spin;
	uint64_t *tail;		/* of the MCS queue: the address of the last node */
	uint64_t *words;
	uint64_t stride;	/* in bytes, from one of the words to the next */
	uint64_t rounds;
};

struct mcs_node {
	uint64_t next;
	uint64_t waiting;
	uint64_t errors;	/* how often the words were not equal */
};

static inline void critical_section(struct guarded *g, struct mcs_node *me)
{
	uint64_t first = *(volatile uint64_t *)g->words;

	for (int k = 0; k < GUARDED; k++) {
		volatile uint64_t *w = (void *)((char *)g->words + k * g->stride);

		me->errors += *w != first;
		*w = first + 1;
	}
}

static inline void spin_locked(struct guarded *g, struct mcs_node *me)
{
	for (uint64_t k = 0; k < g->rounds; k++) {
		while (__atomic_exchange_n(g->spin, 1, __ATOMIC_ACQUIRE))
			while (__atomic_load_n(g->spin, __ATOMIC_RELAXED))
				;
		critical_section(g, me);
		__atomic_store_n(g->spin, 0, __ATOMIC_RELEASE);
	}
}

static inline void mcs_locked(struct guarded *g, struct mcs_node *me)
{
	for (uint64_t k = 0; k < g->rounds; k++) {
		uint64_t self = (uintptr_t)me, before, expected = self;

		__atomic_store_n(&me->next, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&me->waiting, 1, __ATOMIC_RELAXED);
		before = __atomic_exchange_n(g->tail, self, __ATOMIC_ACQ_REL);
		if (before) {
			__atomic_store_n(&((struct mcs_node *)before)->next, self,
					 __ATOMIC_RELEASE);
			while (load(&me->waiting))
				;
		}
		critical_section(g, me);
		if (!load(&me->next) &&
		    __atomic_compare_exchange_n(g->tail, &expected, 0, 0, __ATOMIC_RELEASE,
						__ATOMIC_RELAXED))
			continue;
		while (!load(&me->next))
			;
		__atomic_store_n(&((struct mcs_node *)me->next)->waiting, 0, __ATOMIC_RELEASE);
	}
}

#endif /* RSVM_GPU_ORDER_H */
