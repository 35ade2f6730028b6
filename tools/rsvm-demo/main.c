// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A GPU computes on malloc'd memory, by plain pointers, and the CPU checks
 * every value.
 */
#include "demo.h"
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern const char demo_kernels[], demo_kernels_end[];

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

void *demo_alloc(size_t size)
{
	void *p = malloc(size);

	if (!p) {
		fprintf(stderr, "out of memory\n");
		exit(1);
	}
	return p;
}

bool demo_check(struct demo *demo, bool good, const char *what, ...)
{
	va_list args;

	printf("  %s: ", good ? "pass" : "FAIL");
	va_start(args, what);
	vprintf(what, args);
	va_end(args);
	putchar('\n');
	if (good)
		demo->passed++;
	else
		demo->failed++;
	return good;
}

void demo_begin(struct demo *demo, const char *title)
{
	printf("\n%s\n", title);
	demo->gpu_ns = 0;
	demo->begun_ns = now_ns();
	if (rsvm_get_stats(demo->context, &demo->before))
		demo_check(demo, false, "statistics: %s", rsvm_error());
}

void demo_end(struct demo *demo)
{
	const struct rsvm_stats *a = &demo->before;
	struct rsvm_stats b;
	uint64_t ns = now_ns() - demo->begun_ns;

	if (rsvm_get_stats(demo->context, &b)) {
		demo_check(demo, false, "statistics: %s", rsvm_error());
		return;
	}
	printf("  %" PRIu64 " faults in %" PRIu64 " batches, %" PRIu64 " replays; %" PRIu64
	       " pages mapped, %" PRIu64 " of them beside a fault\n",
	       b.faults - a->faults, b.batches - a->batches, b.replays - a->replays,
	       b.pages - a->pages, b.prefetched - a->prefetched);
	printf("  entries: %" PRIu64 " x 4K, %" PRIu64 " x 64K, %" PRIu64 " x 2M (%" PRIu64
	       " split); %" PRIu64 " invalidations, %" PRIu64 " retries\n",
	       b.map_4k - a->map_4k, b.map_64k - a->map_64k, b.map_2m - a->map_2m,
	       b.demotions - a->demotions, b.invalidations - a->invalidations,
	       b.retries - a->retries);
	if (b.to_vram != a->to_vram)
		printf("  %" PRIu64 " migrations, %" PRIu64 " pages to device memory, %" PRIu64
		       " of them zeroed there; %" PRIu64 " kept away because they bounced\n",
		       b.migrations - a->migrations, b.to_vram - a->to_vram,
		       b.zeroed - a->zeroed, b.thrashed - a->thrashed);
	if (b.grabs != a->grabs)
		printf("  %" PRIu64 " times the GPU had a page to itself, %" PRIu64
		       " times the CPU took one back\n",
		       b.grabs - a->grabs, b.revoked - a->revoked);
	printf("  %.3f s, of which %.3f s waiting for the GPU\n", ns / 1e9, demo->gpu_ns / 1e9);
}

bool demo_run(struct demo *demo, const char *name, uint64_t n, const void *arg)
{
	rsvm_kernel *kernel;
	uint64_t fence, start = now_ns();
	int err;

	err = rsvm_kernel_get(demo->module, name, &kernel);
	if (!err) {
		err = rsvm_launch(demo->queue, kernel, n, 0, arg, &fence);
		if (!err)
			err = rsvm_wait(demo->queue, fence, LIMIT_NS);
		rsvm_kernel_put(kernel);
	}
	demo->gpu_ns += now_ns() - start;
	if (err)
		demo_check(demo, false, "kernel %s: %s", name, rsvm_error());
	return !err;
}

static void setup(struct demo *demo)
{
	size_t size = demo_kernels_end - demo_kernels;

	if (rsvm_open(NULL, &demo->context) ||
	    rsvm_module_load(demo_kernels, size, &demo->module) ||
	    rsvm_queue_create(demo->context, &demo->queue)) {
		fprintf(stderr, "%s\n", rsvm_error());
		exit(1);
	}
}

int main(void)
{
	struct demo demo = {};

	setvbuf(stdout, NULL, _IOLBF, 0);
	/* Large blocks are mappings of their own and begin untouched. */
	mallopt(M_MMAP_THRESHOLD, 128 * 1024);
	setup(&demo);
	demo_vector_add(&demo);
	demo_hash_table(&demo);
	demo_stencil(&demo);
	demo_histogram(&demo);
	demo_moving_memory(&demo);
	demo_oversubscribe(&demo);
	demo_bad_pointer(&demo);
	rsvm_queue_destroy(demo.queue);
	rsvm_module_unload(demo.module);
	rsvm_close(demo.context);
	printf("\ndemo: %u passed, %u failed\n", demo.passed, demo.failed);
	return demo.failed != 0;
}
