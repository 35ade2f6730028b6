/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the CPU's code and the GPU's code both know: pointers in these
 * structures mean the same on either side.
 */
#ifndef DEMO_SHARED_H
#define DEMO_SHARED_H

#include <stdint.h>

/* c[i] = a[i] + b[i] for i below count */
struct vector_add {
	const uint64_t *a;
	const uint64_t *b;
	uint64_t *c;
	uint64_t count;
};

struct node {
	struct node *next;
	uint64_t key;
	uint64_t value;
	uint64_t visits;
};

/*
 * Looks each key up, adds 1 to the node's visits and writes
 * found[i] = value + key, or NOT_FOUND.
 */
struct lookup {
	struct node **buckets;
	uint64_t bucket_mask;
	const uint64_t *keys;
	uint64_t *found;
	uint64_t count;
};

#define NOT_FOUND UINT64_MAX

static inline uint64_t hash(uint64_t key)
{
	key ^= key >> 33;
	key *= 0xff51afd7ed558ccdULL;
	key ^= key >> 33;
	return key;
}

/* bins[sample % bin_count] counts the samples; whoever is free takes some from *next on. */
struct histogram {
	const uint8_t *samples;
	uint64_t count;
	uint64_t *bins;
	uint64_t bin_count;
	uint64_t *next;
	uint64_t begun;		/* not 0: the GPU is at it */
	uint64_t by_cpu;	/* samples that the CPU counted */
};

/* Counts what is left together with others, as CPU or as GPU; returns its own share. */
static inline uint64_t count_samples(const struct histogram *h)
{
	const uint64_t some = 256;
	uint64_t at, done = 0;

	while ((at = __atomic_fetch_add(h->next, some, __ATOMIC_RELAXED)) < h->count) {
		for (uint64_t i = at; i < at + some; i++)
			__atomic_fetch_add(&h->bins[h->samples[i] % h->bin_count], 1,
					   __ATOMIC_RELAXED);
		done += some;
	}
	return done;
}

/* One Jacobi step of the heat equation on a width x height grid. */
struct stencil {
	const float *from;
	float *to;
	uint64_t width;
	uint64_t height;
	float rate;
};

/* Every MIX_STRIDE'th word of data becomes mix_value() of itself. */
struct mix {
	uint64_t *data;
	uint64_t count;
	uint64_t pass;
};

#define MIX_STRIDE 128

static inline uint64_t mix_value(uint64_t value, uint64_t pass)
{
	return hash(value + pass);
}

static inline float stencil_point(const struct stencil *s, uint64_t x, uint64_t y)
{
	const float *p = s->from + y * s->width + x;
	float sum = p[-1] + p[1] + p[-(int64_t)s->width] + p[s->width];

	return p[0] + s->rate * (sum - 4.0f * p[0]);
}

#endif
