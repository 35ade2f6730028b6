// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Memory that changes under the GPU, and pointers that lead nowhere. */
#define _GNU_SOURCE
#include "demo.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define SIZE (4UL << 20)
#define COUNT (SIZE / sizeof(uint64_t))

static uint64_t *map(void)
{
	void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void sums(struct demo *demo, struct vector_add *v, uint64_t expected, const char *when)
{
	uint64_t wrong = 0;

	if (!demo_run(demo, "vector_add", 256, v))
		return;
	for (uint64_t i = 0; i < COUNT; i++)
		wrong += v->c[i] != expected;
	demo_check(demo, !wrong, "%s: %" PRIu64 " of %lu sums wrong", when, wrong, COUNT);
}

static void fill(uint64_t *a, uint64_t value)
{
	for (uint64_t i = 0; i < COUNT; i++)
		a[i] = value;
}

void demo_moving_memory(struct demo *demo)
{
	uint64_t *a = map(), *b = map(), *c = map(), *place = map();
	struct vector_add v = { a, b, c, COUNT };

	demo_begin(demo, "memory that changes between launches");
	if (!demo_check(demo, a && b && c && place, "4 x 4 MiB mapped"))
		return;
	fill(a, 1);
	fill(b, 10);
	sums(demo, &v, 11, "first");
	madvise(b, SIZE, MADV_DONTNEED);
	sums(demo, &v, 1, "after MADV_DONTNEED of b");
	/* The old pages appear at the new address, others at the old one. */
	a = mremap(a, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	b = mmap(b, SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (demo_check(demo, a != MAP_FAILED && b != MAP_FAILED, "mremap of a, new mapping at b")) {
		fill(b, 100);
		v.a = a;
		sums(demo, &v, 101, "after both");
	}
	demo_end(demo);
	munmap(a, SIZE);
	munmap(b, SIZE);
	munmap(c, SIZE);
}

void demo_bad_pointer(struct demo *demo)
{
	uint64_t *a = map(), *b = map(), *c = map();
	struct vector_add v = { a, b, c, 1 };
	struct rsvm_fault fault = {};
	rsvm_queue *doomed;
	rsvm_kernel *kernel;
	int err;

	demo_begin(demo, "a pointer that leads nowhere");
	if (!demo_check(demo, a && b && c, "memory mapped"))
		return;
	munmap(c, SIZE);
	err = rsvm_kernel_get(demo->module, "vector_add", &kernel);
	if (err || rsvm_queue_create(demo->context, &doomed)) {
		demo_check(demo, false, "%s", rsvm_error());
		return;
	}
	err = rsvm_launch(doomed, kernel, 1, 0, &v, NULL);
	if (!err)
		err = rsvm_finish(doomed, LIMIT_NS);
	demo_check(demo, err && !rsvm_last_fault(&fault) && fault.addr >> 12 == (uintptr_t)c >> 12,
		   "the launch reports: %s", err ? rsvm_error() : "nothing");
	rsvm_queue_destroy(doomed);
	rsvm_kernel_put(kernel);
	a[0] = 40;
	b[0] = 2;
	v.c = &a[1];
	if (demo_run(demo, "vector_add", 1, &v))
		demo_check(demo, a[1] == 42, "another queue goes on");
	demo_end(demo);
	munmap(a, SIZE);
	munmap(b, SIZE);
}
