// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Service of faults in system memory, and what mm pays for a mirror. */
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Lets the GPU fault on each page once and gives the time per page. */
static double touch_ns(struct bench *bench, size_t pages)
{
	size_t size = pages * PAGE < 2 * MIB ? 2 * MIB : pages * PAGE;
	struct touch t = { map(size, false), pages };
	uint64_t start, warm, cold;

	keep_home(bench, t.base, size);
	fill(t.base, pages * PAGE);
	start = now_ns();
	run(bench, "touch", pages, &t);
	cold = now_ns() - start;
	/* The same launch without a fault is not the driver's time. */
	start = now_ns();
	run(bench, "touch", pages, &t);
	warm = now_ns() - start;
	munmap(t.base, size);
	return cold > warm ? (double)(cold - warm) / pages : 0;
}

void bench_faults(struct bench *bench)
{
	static const size_t sizes[] = { 1, 8, 64, 512, 4096 };
	char name[64];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct rounds ours = {}, peer = {}, copy = {};
		size_t size = sizes[i] * PAGE;
		void *mirror = map(size < 2 * MIB ? 2 * MIB : size, false);

		fill(mirror, size);
		for (int round = 0; round < ROUNDS; round++) {
			add_round(&ours, touch_ns(bench, sizes[i]));
			if (peer_open()) {
				void *p = map(2 * MIB > size ? 2 * MIB : size, false);
				uint64_t start;

				fill(p, size);
				start = now_ns();
				peer_write(p, size, mirror);
				add_round(&peer, (now_ns() - start) / sizes[i]);
				munmap(p, 2 * MIB > size ? 2 * MIB : size);
			}
			add_round(&copy, copy_ns(size) / sizes[i]);
		}
		munmap(mirror, size < 2 * MIB ? 2 * MIB : size);
		snprintf(name, sizeof(name), "fault service, batch of %zu pages", sizes[i]);
		report(name, "ns/page", median(&ours), median(&peer), median(&copy));
	}
}

/* All processes fault at once; the time from the first start to the last end. */
void bench_processes(void)
{
	static const int counts[] = { 1, 2, 4, 8, 16 };
	const size_t pages = 512;
	char name[64];

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		struct rounds ours = {};

		for (int round = 0; round < 3; round++) {
			int ready[2], go[2], status;
			uint64_t start;
			char byte = 0;

			if (pipe(ready) || pipe(go))
				fail("pipe");
			for (int n = 0; n < counts[i]; n++) {
				struct bench bench;
				struct touch t;

				if (fork())
					continue;
				close(go[1]);
				open_gpu(&bench);
				t = (struct touch){ map(2 * MIB, false), pages };
				keep_home(&bench, t.base, 2 * MIB);
				fill(t.base, pages * PAGE);
				if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 0)
					_exit(1);
				run(&bench, "touch", pages, &t);
				_exit(0);
			}
			for (int n = 0; n < counts[i]; n++)
				if (read(ready[0], &byte, 1) != 1)
					fail("child");
			start = now_ns();
			close(go[1]);
			for (int n = 0; n < counts[i]; n++)
				if (wait(&status) < 0 || status)
					fail("child");
			add_round(&ours, (now_ns() - start) / (pages * counts[i]));
			close(ready[0]);
			close(ready[1]);
			close(go[0]);
		}
		snprintf(name, sizeof(name), "fault service, %d processes", counts[i]);
		report(name, "ns/page", median(&ours), NONE, NONE);
	}
}

enum mirror { NOBODY, OURS, PEER };

/* What taking access to `size` bytes away costs with somebody mirroring them. */
static uint64_t protect_ns(struct bench *bench, size_t size, enum mirror mirror)
{
	struct touch t = { map(2 * MIB, size == 2 * MIB), size / PAGE };
	static char *copy;
	uint64_t start, ns;

	keep_home(bench, t.base, 2 * MIB);
	fill(t.base, 2 * MIB);
	if (mirror == OURS)
		run(bench, "touch", size / PAGE, &t);
	if (mirror == PEER) {
		copy = copy ?: map(2 * MIB, false);
		fill(copy, 2 * MIB);
		peer_write(t.base, size, copy);
	}
	start = now_ns();
	if (mprotect(t.base, size, PROT_READ))
		fail("mprotect");
	ns = now_ns() - start;
	munmap(t.base, 2 * MIB);
	return ns;
}

void bench_invalidation(struct bench *bench)
{
	static const struct {
		size_t size;
		const char *name;
	} cases[] = {
		{ PAGE, "invalidation, 4 KiB" },
		{ 2 * MIB, "invalidation, 2 MiB huge page" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rounds none = {}, ours = {}, peer = {};
		double base;

		for (int round = 0; round < ROUNDS; round++) {
			add_round(&none, protect_ns(bench, cases[i].size, NOBODY));
			add_round(&ours, protect_ns(bench, cases[i].size, OURS));
			if (peer_open())
				add_round(&peer, protect_ns(bench, cases[i].size, PEER));
		}
		base = median(&none);
		fprintf(stderr, "%s: %.0f ns without a mirror\n", cases[i].name, base);
		report(cases[i].name, "ns", median(&ours), median(&peer), NONE);
	}
}
