// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A histogram that CPU and GPU count into together: atomics on the same words tell
 * them which samples are next, and count.
 */
#include "demo.h"
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES (4 << 20)
#define BINS 64
#define INVOCATIONS 256

static void *count_on_cpu(void *arg)
{
	struct histogram *h = arg;

	while (!__atomic_load_n(&h->begun, __ATOMIC_ACQUIRE))
		;
	h->by_cpu = count_samples(h);
	return NULL;
}

void demo_histogram(struct demo *demo)
{
	/* What they fight for lies on one page, apart from what they only read. */
	uint64_t *shared = aligned_alloc(4096, 4096);
	uint8_t *samples = demo_alloc(SAMPLES);
	struct histogram h = {
		.samples = samples, .count = SAMPLES, .bins = shared,
		.bin_count = BINS, .next = shared + BINS,
	};
	uint64_t exact[BINS] = {}, wrong = 0;
	pthread_t cpu;
	bool ran;

	demo_begin(demo, "one histogram, counted into by CPU and GPU with atomics");
	if (!shared || pthread_create(&cpu, NULL, count_on_cpu, &h)) {
		demo_check(demo, false, "memory and a thread");
		return;
	}
	memset(shared, 0, 4096);
	for (uint64_t i = 0; i < SAMPLES; i++) {
		samples[i] = hash(i);
		exact[samples[i] % BINS]++;
	}
	ran = demo_run(demo, "histogram", INVOCATIONS, &h);
	/* If the GPU did not even begin. */
	__atomic_store_n(&h.begun, 1, __ATOMIC_RELEASE);
	pthread_join(cpu, NULL);
	if (ran) {
		for (int i = 0; i < BINS; i++)
			wrong += h.bins[i] != exact[i];
		demo_check(demo, !wrong, "%d samples in %d bins, %" PRIu64 " bins wrong",
			   SAMPLES, BINS, wrong);
		demo_check(demo, h.by_cpu && h.by_cpu < SAMPLES,
			   "%" PRIu64 " counted by the CPU, %" PRIu64 " by the GPU", h.by_cpu,
			   SAMPLES - h.by_cpu);
	}
	demo_end(demo);
	free(samples);
	free(shared);
}
