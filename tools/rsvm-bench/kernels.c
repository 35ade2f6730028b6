// SPDX-License-Identifier: GPL-2.0 OR MIT
#include "shared.h"

void touch(const struct touch *t, uint64_t index, uint64_t n)
{
	for (uint64_t page = index; page < t->pages; page += n)
		++*(uint64_t *)(t->base + page * 4096);
}

void touch_atomic(const struct touch *t, uint64_t index, uint64_t n)
{
	for (uint64_t page = index; page < t->pages; page += n)
		__atomic_fetch_add((uint64_t *)(t->base + page * 4096), 1, __ATOMIC_SEQ_CST);
}

void count(const struct count *c, uint64_t index)
{
	uint64_t done = 0;

	while (c->rounds ? done < c->rounds : !__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(c->word, 1, __ATOMIC_SEQ_CST);
		done++;
	}
	c->done[index] = done;
}
