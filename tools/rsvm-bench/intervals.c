// SPDX-License-Identifier: GPL-2.0 OR MIT
/* How much memory one interval notifier should watch. */
#include "bench.h"
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#define REGION (64 * MIB)
#define PAGES (4 * MIB / PAGE)

/* Only root can choose the size; false otherwise. */
static bool set_size(unsigned int mib)
{
	glob_t found = {};
	FILE *f = NULL;

	if (!glob("/sys/kernel/debug/rsvm-*/interval_mib", 0, NULL, &found))
		f = fopen(found.gl_pathv[0], "w");
	globfree(&found);
	if (!f)
		return false;
	fprintf(f, "%u", mib);
	return !fclose(f);
}

struct churn {
	char *base;
	volatile bool stop;
	unsigned long count;
};

/* Memory next to what the GPU uses comes and goes. */
static void *churn(void *arg)
{
	struct churn *c = arg;

	for (; !c->stop; c->count++) {
		char *p = c->base + c->count * 37 % (REGION / PAGE) * PAGE;

		*p = 1;
		if (madvise(p, PAGE, MADV_DONTNEED))
			fail("madvise");
	}
	return NULL;
}

/* Time of a fault on each of PAGES pages, which are not there yet. */
static double fault_ns(bool busy)
{
	struct bench bench;
	struct churn c = { .base = map(2 * REGION, false) };
	struct touch t = { c.base + REGION, PAGES };
	pthread_t thread;
	uint64_t start, ns;

	open_gpu(&bench);
	keep_home(&bench, c.base, 2 * REGION);
	/* An interval is there for what the other thread does. */
	run(&bench, "touch", 1, &(struct touch){ c.base, 1 });
	if (busy && pthread_create(&thread, NULL, churn, &c))
		fail("pthread_create");
	start = now_ns();
	run(&bench, "touch", PAGES, &t);
	ns = now_ns() - start;
	c.stop = true;
	if (busy)
		pthread_join(thread, NULL);
	close_gpu(&bench);
	munmap(c.base, 2 * REGION);
	return (double)ns / PAGES;
}

void bench_intervals(void)
{
	static const unsigned int sizes[] = { 2, 16, 64, 512 };
	struct rounds quiet[ARRAY_SIZE(sizes)] = {}, busy[ARRAY_SIZE(sizes)] = {};
	char name[64];

	/* In turns, so that a slow moment of the machine hits all sizes. */
	for (int round = 0; round < ROUNDS; round++)
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			if (!set_size(sizes[i])) {
				fputs("debugfs cannot be written: no figures of intervals\n",
				      stderr);
				return;
			}
			add_round(&quiet[i], fault_ns(false));
			add_round(&busy[i], fault_ns(true));
		}
	set_size(64);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		snprintf(name, sizeof(name), "fault service, intervals of %u MiB", sizes[i]);
		report(name, "ns/page", median(&quiet[i]), NONE, NONE);
		snprintf(name, sizeof(name), "the same beside madvise, %u MiB", sizes[i]);
		report(name, "ns/page", median(&busy[i]), NONE, NONE);
	}
}
