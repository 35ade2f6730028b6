// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Vector addition over 90 MiB: with huge pages, and with 4 KiB pages. */
#include "demo.h"
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#define MIB (1024 * 1024ULL)

static uint64_t *vector(size_t bytes, int advice)
{
	void *p;

	if (posix_memalign(&p, 2 * MIB, bytes))
		exit(1);
	madvise(p, bytes, advice);
	return p;
}

static void add(struct demo *demo, uint64_t bytes, int advice)
{
	uint64_t count = bytes / sizeof(uint64_t), wrong = 0;
	uint64_t *a = vector(bytes, advice), *b = vector(bytes, advice);
	/* The GPU is the first to touch the result. */
	uint64_t *c = vector(bytes, advice);
	struct vector_add v = { a, b, c, count };

	for (uint64_t i = 0; i < count; i++) {
		a[i] = i * 3;
		b[i] = ~i;
	}
	if (demo_run(demo, "vector_add", 1024, &v)) {
		for (uint64_t i = 0; i < count; i++)
			wrong += c[i] != i * 3 + ~i;
		demo_check(demo, !wrong, "%" PRIu64 " sums, %" PRIu64 " wrong", count, wrong);
	}
	free(a);
	free(b);
	free(c);
}

void demo_vector_add(struct demo *demo)
{
	demo_begin(demo, "vector add, 3 x 24 MiB of huge pages");
	add(demo, 24 * MIB, MADV_HUGEPAGE);
	demo_end(demo);
	demo_begin(demo, "vector add, 3 x 6 MiB of 4 KiB pages");
	add(demo, 6 * MIB, MADV_NOHUGEPAGE);
	demo_end(demo);
}
