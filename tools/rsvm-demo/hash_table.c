// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A chained hash table: built by the CPU, walked and written by the GPU. */
#include "demo.h"
#include <inttypes.h>
#include <stdlib.h>

#define BUCKETS 16384 /* a power of two */
#define NODES 65536

/* Every third key is not in the table. */
static uint64_t key_of(uint64_t i)
{
	return i * 2654435761u + 12345;
}

static bool is_inserted(uint64_t i)
{
	return i % 3 != 2;
}

static struct node **build(void)
{
	struct node **buckets = calloc(BUCKETS, sizeof(*buckets));

	if (!buckets)
		exit(1);
	for (uint64_t i = 0; i < NODES; i++) {
		struct node *node, **bucket = &buckets[hash(key_of(i)) & (BUCKETS - 1)];

		if (!is_inserted(i))
			continue;
		node = demo_alloc(sizeof(*node));
		*node = (struct node){ *bucket, key_of(i), i * i, 0 };
		*bucket = node;
	}
	return buckets;
}

/* Takes the table apart; returns how many nodes were not visited just once. */
static uint64_t tear_down(struct node **buckets)
{
	uint64_t wrong = 0;

	for (uint64_t b = 0; b < BUCKETS; b++) {
		struct node *next, *node = buckets[b];

		for (; node; node = next) {
			next = node->next;
			wrong += node->visits != 1;
			free(node);
		}
	}
	free(buckets);
	return wrong;
}

void demo_hash_table(struct demo *demo)
{
	uint64_t *keys = demo_alloc(NODES * sizeof(*keys));
	uint64_t *found = demo_alloc(NODES * sizeof(*found));
	uint64_t wrong = 0;
	struct lookup l = { build(), BUCKETS - 1, keys, found, NODES };
	bool ran;

	for (uint64_t i = 0; i < NODES; i++)
		keys[i] = key_of(i);
	demo_begin(demo, "hash table of malloc'd nodes, walked and written by the GPU");
	ran = demo_run(demo, "lookup", 2048, &l);
	if (ran) {
		for (uint64_t i = 0; i < NODES; i++)
			wrong += found[i] != (is_inserted(i) ? i * i + keys[i] : NOT_FOUND);
		demo_check(demo, !wrong, "%d look-ups, %" PRIu64 " wrong", NODES, wrong);
	}
	wrong = tear_down(l.buckets);
	if (ran)
		demo_check(demo, !wrong, "nodes written, %" PRIu64 " wrong", wrong);
	demo_end(demo);
	free(keys);
	free(found);
}
