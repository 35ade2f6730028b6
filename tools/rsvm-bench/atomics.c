// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Atomics of the device, alone and against CPU threads. */
#include "bench.h"
#include <pthread.h>
#include <drm/rsvm_drm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define INVOCATIONS 256
#define ALONE_ROUNDS 2000
#define MOST_THREADS 8
/* How long both sides go on together. */
#define TOGETHER_US 500000

/* Both sides' counts, and how long they took. */
struct shares {
	uint64_t device, cpu, ns, faults;
};

static uint64_t faults(struct bench *bench)
{
	struct rsvm_stats stats;

	if (rsvm_get_stats(bench->context, &stats))
		fail("statistics");
	return stats.faults;
}

static double per_second(uint64_t n, uint64_t ns)
{
	return n * 1e9 / ns;
}

static uint64_t sum_of(const struct count *c)
{
	uint64_t sum = 0;

	for (int i = 0; i < INVOCATIONS; i++)
		sum += c->done[i];
	return sum;
}

/* The device alone, on one word of @page: atomics in a second. */
static double alone(struct bench *bench, struct count *c)
{
	uint64_t start;

	c->rounds = ALONE_ROUNDS;
	run(bench, "count", INVOCATIONS, c);
	start = now_ns();
	run(bench, "count", INVOCATIONS, c);
	return per_second(sum_of(c), now_ns() - start);
}

struct member {
	struct count *c;
	uint64_t done;
	pthread_t thread;
};

static void *count_on_cpu(void *arg)
{
	struct member *m = arg;

	while (!__atomic_load_n(&m->c->stop, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(m->c->word, 1, __ATOMIC_SEQ_CST);
		m->done++;
	}
	return NULL;
}

/* @threads of the CPU, and the device if it is @with_device, on one word for a while. */
static struct shares together(struct bench *bench, struct count *c, int threads, bool with_device)
{
	struct member members[MOST_THREADS] __attribute__((aligned(64)));
	struct shares s = { .faults = faults(bench) };
	uint64_t start, before = *c->word;
	uint64_t fence = 0;
	rsvm_kernel *kernel;

	c->rounds = 0;
	c->stop = 0;
	start = now_ns();
	for (int i = 0; i < threads; i++) {
		members[i] = (struct member){ .c = c };
		if (pthread_create(&members[i].thread, NULL, count_on_cpu, &members[i]))
			fail("thread");
	}
	if (with_device && (rsvm_kernel_get(bench->module, "count", &kernel) ||
			    rsvm_launch(bench->queue, kernel, INVOCATIONS, 0, c, &fence)))
		fail("count");
	usleep(TOGETHER_US);
	__atomic_store_n(&c->stop, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < threads; i++) {
		pthread_join(members[i].thread, NULL);
		s.cpu += members[i].done;
	}
	if (with_device) {
		if (rsvm_wait(bench->queue, fence, LIMIT_NS))
			fail("count");
		rsvm_kernel_put(kernel);
		s.device = sum_of(c);
	}
	s.ns = now_ns() - start;
	s.faults = faults(bench) - s.faults;
	if (*c->word - before != s.device + s.cpu) {
		fprintf(stderr, "atomics were lost\n");
		exit(1);
	}
	return s;
}

/* A page taken from the CPUs and entered, without the fault and the replay around it. */
static void bench_grab(struct bench *bench)
{
	struct rounds mine = {}, whole = {}, peer = {};
	void *mirror = map(2 * MIB, false);
	const size_t pages = 512;

	fill(mirror, 2 * MIB);
	for (int round = 0; round < ROUNDS; round++) {
		struct touch t = { map(2 * MIB, false), pages };
		uint64_t grabs, ns, start;

		fill(t.base, 2 * MIB);
		grabs = driver_stat("exclusive_grabs");
		ns = driver_stat("exclusive_ns");
		start = now_ns();
		run(bench, "touch_atomic", pages, &t);
		add_round(&whole, (now_ns() - start) / pages);
		grabs = driver_stat("exclusive_grabs") - grabs;
		ns = driver_stat("exclusive_ns") - ns;
		if (grabs && ns)
			add_round(&mine, ns / grabs);
		munmap(t.base, 2 * MIB);
		if (peer_open()) {
			void *p = map(2 * MIB, false);

			fill(p, 2 * MIB);
			start = now_ns();
			peer_exclusive(p, 2 * MIB, mirror);
			add_round(&peer, (now_ns() - start) / pages);
			munmap(p, 2 * MIB);
		}
	}
	munmap(mirror, 2 * MIB);
	report("exclusive grab and commit alone", "ns/page", median(&mine), median(&peer), NONE);
	report("exclusive grab with its fault, 512 pages", "ns/page", median(&whole), NONE, NONE);
}

void bench_atomics(struct bench *bench)
{
	uint64_t *page = map(2 * MIB, false), *done = map(2 * MIB, false);
	struct count c = { .word = page, .done = done };
	double device_alone, cpu_alone;
	char name[96];

	fill(done, PAGE);
	*page = 0;
	device_alone = alone(bench, &c);
	report("atomics on one word, device alone, system memory", "1/s", device_alone, NONE, NONE);
	if (rsvm_set_attribute(bench->context, page, 2 * MIB, DRM_RSVM_SVM_ATTR_ATOMIC_MODE,
			       DRM_RSVM_SVM_ATOMIC_VRAM))
		fail("atomic mode");
	report("atomics on one word, device alone, device memory", "1/s", alone(bench, &c), NONE,
	       NONE);
	if (rsvm_set_attribute(bench->context, page, 2 * MIB, DRM_RSVM_SVM_ATTR_ATOMIC_MODE,
			       DRM_RSVM_SVM_ATOMIC_SYSTEM))
		fail("atomic mode");
	for (int n = 1; n <= MOST_THREADS; n *= MOST_THREADS) {
		struct shares s = together(bench, &c, n, false);

		cpu_alone = per_second(s.cpu, s.ns);
		s = together(bench, &c, n, true);
		snprintf(name, sizeof(name), "atomics against %d threads, the device's", n);
		report(name, "1/s", per_second(s.device, s.ns), NONE, NONE);
		snprintf(name, sizeof(name), "atomics against %d threads, the CPU's", n);
		report(name, "1/s", per_second(s.cpu, s.ns), NONE, NONE);
		snprintf(name, sizeof(name),
			 "fairness, %d threads: the device's part of its speed", n);
		report(name, "%", 100 * per_second(s.device, s.ns) / device_alone, NONE,
		       NONE);
		snprintf(name, sizeof(name),
			 "fairness, %d threads: the CPU's part of its speed", n);
		report(name, "%", 100 * per_second(s.cpu, s.ns) / cpu_alone, NONE, NONE);
		snprintf(name, sizeof(name), "faults for a million atomics, %d threads", n);
		report(name, "faults", s.device ? s.faults * 1e6 / s.device : NONE, NONE,
		       NONE);
	}
	munmap(page, 2 * MIB);
	munmap(done, 2 * MIB);
	bench_grab(bench);
}
