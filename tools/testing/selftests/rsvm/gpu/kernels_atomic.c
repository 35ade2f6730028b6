// SPDX-License-Identifier: GPL-2.0
/* GPU code that shares words with the CPU: atomics, order, locks. */
#include "kernel.h"
#include "atomic.h"
#include "order.h"

/* Hart i is other[i] of the participants. */
#define CROWD_KERNEL(name, type, bits) \
KERNEL(k_##name##_##bits) \
{ \
	struct participant *p = &((struct participant *)a->other)[i]; \
	struct rounds r = { a->rounds, a->stop }; \
	(void)n; \
	crowd_##name##_##bits((type *)slot(a, p->id), p, &r); \
}

ATOMIC_OPS(CROWD_KERNEL)

static uint64_t time_ns(void)
{
	uint64_t t;

	asm volatile("rdtime %0" : "=r"(t));
	return t;
}

/*
 * Adds value to its word rounds times, and counts in the struct waits other[i]
 * how long each took.
 */
KERNEL(k_add_timed)
{
	struct waits *w = &((struct waits *)a->other)[i];

	(void)n;
	for (uint64_t k = 0; k < a->rounds; k++) {
		uint64_t begun = time_ns(), ns;
		int log = 0;

		__atomic_fetch_add((uint64_t *)slot(a, i), a->value, ORDER);
		ns = time_ns() - begun;
		if (ns > w->longest)
			w->longest = ns;
		while (ns >>= 1)
			log++;
		w->by_log2_ns[log < WAIT_LOGS ? log : WAIT_LOGS - 1]++;
		for (begun = time_ns(); time_ns() - begun < w->pause;)
			;
	}
}

KERNEL(k_message_write)
{
	(void)i;
	(void)n;
	message_write((struct message *)a->other);
}

KERNEL(k_message_read)
{
	(void)i;
	(void)n;
	message_read((struct message *)a->other);
}

KERNEL(k_buffering)
{
	(void)i;
	(void)n;
	buffering_run((struct buffering *)a->other);
}

/* The harts' nodes are stride bytes apart. */
KERNEL(k_spin_locked)
{
	(void)n;
	spin_locked((struct guarded *)a->other, (struct mcs_node *)slot(a, i));
}

KERNEL(k_mcs_locked)
{
	(void)n;
	mcs_locked((struct guarded *)a->other, (struct mcs_node *)slot(a, i));
}
