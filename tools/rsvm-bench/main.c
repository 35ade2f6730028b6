// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * How long rsvm takes, beside the kernel's own test driver for the same work
 * and a plain memcpy() of the same bytes, all in one boot. Every result is a
 * line of JSON; the rest goes to stderr.
 */
#include "bench.h"
#include <drm/rsvm_drm.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

extern const char bench_kernels[], bench_kernels_end[];

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

void fail(const char *what)
{
	fprintf(stderr, "%s: %s; %s\n", what, strerror(errno), rsvm_error());
	exit(1);
}

static void figure(const char *key, double value)
{
	if (value < 0)
		printf(", \"%s\": null", key);
	else
		printf(", \"%s\": %.1f", key, value);
}

void report(const char *name, const char *unit, double ours, double peer, double copy)
{
	printf("{\"name\": \"%s\", \"unit\": \"%s\"", name, unit);
	figure("rsvm", ours);
	figure("peer", peer);
	figure("memcpy", copy);
	puts("}");
}

void add_round(struct rounds *rounds, uint64_t ns)
{
	rounds->ns[rounds->count++ % ROUNDS] = ns;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double median(struct rounds *rounds)
{
	int count = rounds->count < ROUNDS ? rounds->count : ROUNDS;

	if (!count)
		return NONE;
	qsort(rounds->ns, count, sizeof(rounds->ns[0]), compare);
	return rounds->ns[count / 2];
}

void *map(size_t size, bool huge)
{
	char *p = mmap(NULL, size + 2 * MIB, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *aligned = (char *)(((uintptr_t)p + 2 * MIB - 1) & -(2 * MIB));

	if (p == MAP_FAILED)
		fail("mmap");
	munmap(p, aligned - p);
	munmap(aligned + size, p + 2 * MIB - aligned);
	if (madvise(aligned, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		fail("madvise");
	return aligned;
}

void fill(void *p, size_t size)
{
	memset(p, 0x5a, size);
}

uint64_t copy_ns(size_t size)
{
	static char *from, *to;
	const size_t most = 16 * MIB;
	uint64_t start;

	if (!from) {
		from = map(most, true);
		to = map(most, true);
		fill(from, most);
		fill(to, most);
	}
	start = now_ns();
	for (size_t done = 0; done < size; done += most)
		memcpy(to, from, size - done < most ? size - done : most);
	return now_ns() - start;
}

uint64_t driver_stat(const char *name)
{
	char line[128], key[64];
	uint64_t value, found = 0;
	glob_t g;
	FILE *f;

	if (glob("/sys/kernel/debug/rsvm-*/stats", 0, NULL, &g))
		return 0;
	f = fopen(g.gl_pathv[0], "re");
	globfree(&g);
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %lu", key, &value) == 2 && !strcmp(key, name))
			found = value;
	if (f)
		fclose(f);
	return found;
}

void open_gpu(struct bench *bench)
{
	if (rsvm_open(NULL, &bench->context) ||
	    rsvm_module_load(bench_kernels, bench_kernels_end - bench_kernels, &bench->module) ||
	    rsvm_queue_create(bench->context, &bench->queue))
		fail("opening the GPU");
}

void keep_home(struct bench *bench, void *p, size_t size)
{
	if (rsvm_set_attribute(bench->context, p, size, DRM_RSVM_SVM_ATTR_NO_MIGRATE, 1))
		fail("setting an attribute");
}

void close_gpu(struct bench *bench)
{
	rsvm_queue_destroy(bench->queue);
	rsvm_module_unload(bench->module);
	rsvm_close(bench->context);
}

void run(struct bench *bench, const char *name, uint64_t n, const void *arg)
{
	rsvm_kernel *kernel;
	uint64_t fence;

	if (rsvm_kernel_get(bench->module, name, &kernel) ||
	    rsvm_launch(bench->queue, kernel, n, 0, arg, &fence) ||
	    rsvm_wait(bench->queue, fence, LIMIT_NS))
		fail(name);
	rsvm_kernel_put(kernel);
}

int main(int argc, char **argv)
{
	const char *part = argc == 2 ? argv[1] : "";
	struct bench bench;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!peer_open())
		fprintf(stderr, "test_hmm is not loaded: no peer to compare with\n");
	if (!strcmp(part, "latency")) {
		bench_processes();
		bench_intervals();
		open_gpu(&bench);
		bench_faults(&bench);
		bench_invalidation(&bench);
		bench_migration(&bench);
		bench_scaling(&bench);
	} else if (!strcmp(part, "atomics")) {
		open_gpu(&bench);
		bench_atomics(&bench);
	} else if (!strcmp(part, "oversubscription")) {
		open_gpu(&bench);
		bench_oversubscription(&bench);
	} else {
		fprintf(stderr, "usage: rsvm-bench latency|atomics|oversubscription\n");
		return 2;
	}
	close_gpu(&bench);
	return 0;
}
