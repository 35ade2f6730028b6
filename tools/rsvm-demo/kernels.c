// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The GPU's side: invocation `index` of `n` takes an equal share of the work. */
#include "shared.h"

struct share {
	uint64_t begin;
	uint64_t end;
};

static struct share share_of(uint64_t count, uint64_t index, uint64_t n)
{
	return (struct share){ count * index / n, count * (index + 1) / n };
}

void vector_add(const struct vector_add *v, uint64_t index, uint64_t n)
{
	struct share s = share_of(v->count, index, n);
	const uint64_t *a = v->a, *b = v->b;
	uint64_t *c = v->c;

#pragma clang loop unroll_count(8)
	for (uint64_t i = s.begin; i < s.end; i++)
		c[i] = a[i] + b[i];
}

void lookup(const struct lookup *l, uint64_t index, uint64_t n)
{
	struct share s = share_of(l->count, index, n);

	for (uint64_t i = s.begin; i < s.end; i++) {
		uint64_t key = l->keys[i];
		struct node *node = l->buckets[hash(key) & l->bucket_mask];

		while (node && node->key != key)
			node = node->next;
		if (node) {
			node->visits++;
			l->found[i] = node->value + key;
		} else {
			l->found[i] = NOT_FOUND;
		}
	}
}

void mix(const struct mix *m, uint64_t index, uint64_t n)
{
	struct share s = share_of(m->count / MIX_STRIDE, index, n);

	for (uint64_t i = s.begin; i < s.end; i++) {
		uint64_t *word = m->data + i * MIX_STRIDE;

		*word = mix_value(*word, m->pass);
	}
}

void histogram(struct histogram *h)
{
	__atomic_store_n(&h->begun, 1, __ATOMIC_RELEASE);
	count_samples(h);
}

void stencil(const struct stencil *s, uint64_t index, uint64_t n)
{
	struct share rows = share_of(s->height - 2, index, n);

	for (uint64_t y = rows.begin + 1; y < rows.end + 1; y++)
		for (uint64_t x = 1; x < s->width - 1; x++)
			s->to[y * s->width + x] = stencil_point(s, x, y);
}
