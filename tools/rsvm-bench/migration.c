// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Pages moving to device memory and back. */
#include "bench.h"
#include <drm/rsvm_drm.h>
#include <stdio.h>
#include <sys/mman.h>

static void migrate(struct bench *bench, void *p, size_t size, uint32_t where)
{
	static uint64_t fence, value;

	value++;
	if (rsvm_migrate(bench->context, p, size, where, &fence, value) ||
	    rsvm_wait_value(bench->queue, &fence, value, LIMIT_NS))
		fail("migration");
}

/* What the driver does in a migration; the rest is the way there and the fence. */
static const struct {
	const char *stat, *name;
} steps[] = {
	{ "migrate_alloc_ns", "allocating" },
	{ "migrate_unmap_ns", "unmapping" },
	{ "migrate_copy_ns", "copying" },
	{ "migrate_install_ns", "installing" },
};

#define STEPS ARRAY_SIZE(steps)

struct one_way {
	struct rounds all, steps[STEPS];
};

struct both_ways {
	struct one_way there, back;
	/* Back because the CPU reads it. */
	struct rounds read;
};

static uint64_t read_ns(const volatile char *p, size_t size)
{
	uint64_t start = now_ns();

	for (size_t at = 0; at < size; at += PAGE)
		(void)p[at];
	return now_ns() - start;
}

static void timed(struct bench *bench, struct one_way *out, void *p, size_t size, uint32_t where)
{
	uint64_t start, before[STEPS];

	for (size_t i = 0; i < STEPS; i++)
		before[i] = driver_stat(steps[i].stat);
	start = now_ns();
	migrate(bench, p, size, where);
	add_round(&out->all, now_ns() - start);
	for (size_t i = 0; i < STEPS; i++)
		add_round(&out->steps[i], driver_stat(steps[i].stat) - before[i]);
}

static void ours(struct bench *bench, struct both_ways *out, size_t size, bool huge)
{
	size_t mapped = size < 2 * MIB ? 2 * MIB : size;
	void *p = map(mapped, huge);

	fill(p, mapped);
	timed(bench, &out->there, p, size, DRM_RSVM_SVM_LOCATION_VRAM);
	timed(bench, &out->back, p, size, DRM_RSVM_SVM_LOCATION_SYSTEM);
	migrate(bench, p, size, DRM_RSVM_SVM_LOCATION_VRAM);
	add_round(&out->read, read_ns(p, size));
	munmap(p, mapped);
}

/* Where the time of one way went. */
static void report_steps(const char *way, const char *what, struct one_way *mine)
{
	char name[96];

	for (size_t i = 0; i < STEPS; i++) {
		snprintf(name, sizeof(name), "%s, %s: %s", way, what, steps[i].name);
		report(name, "ns", median(&mine->steps[i]), NONE, NONE);
	}
}

static void peers(struct both_ways *out, size_t size, bool huge, void *mirror)
{
	size_t mapped = size < 2 * MIB ? 2 * MIB : size;
	void *p = map(mapped, huge);
	uint64_t start;

	fill(p, mapped);
	start = now_ns();
	peer_to_device(p, size, mirror);
	add_round(&out->there.all, now_ns() - start);
	start = now_ns();
	peer_to_system(p, size, mirror);
	add_round(&out->back.all, now_ns() - start);
	peer_to_device(p, size, mirror);
	add_round(&out->read, read_ns(p, size));
	munmap(p, mapped);
}

void bench_migration(struct bench *bench)
{
	static const struct {
		const char *name;
		size_t size;
		bool huge;
	} cases[] = {
		{ "4 KiB", 4 * KIB, false },
		{ "64 KiB", 64 * KIB, false },
		{ "2 MiB of 4 KiB pages", 2 * MIB, false },
		{ "2 MiB huge page", 2 * MIB, true },
	};
	void *mirror = map(2 * MIB, false);
	char name[64];

	fill(mirror, 2 * MIB);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct both_ways mine = {}, peer = {};
		struct rounds copy = {};

		for (int round = 0; round < WARM_UP + ROUNDS; round++) {
			ours(bench, &mine, cases[i].size, cases[i].huge);
			if (peer_open())
				peers(&peer, cases[i].size, cases[i].huge, mirror);
			add_round(&copy, copy_ns(cases[i].size));
		}
		snprintf(name, sizeof(name), "to device memory, %s", cases[i].name);
		report(name, "ns", median(&mine.there.all), median(&peer.there.all),
		       median(&copy));
		snprintf(name, sizeof(name), "to system memory, %s", cases[i].name);
		report(name, "ns", median(&mine.back.all), median(&peer.back.all),
		       median(&copy));
		snprintf(name, sizeof(name), "to system memory, read by the CPU, %s",
			 cases[i].name);
		report(name, "ns", median(&mine.read), median(&peer.read), median(&copy));
		if (cases[i].size == 2 * MIB) {
			report_steps("to device memory", cases[i].name, &mine.there);
			report_steps("to system memory", cases[i].name, &mine.back);
		}
	}
	munmap(mirror, 2 * MIB);
}

/* Time per page must not grow with what is moved already. */
void bench_scaling(struct bench *bench)
{
	static const size_t sizes[] = { 16 * MIB, 128 * MIB, GIB };
	uint64_t vram;
	char name[64];

	if (rsvm_query(bench->context, DRM_RSVM_PARAM_VRAM_TOTAL, &vram))
		fail("query");
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct both_ways mine = {};
		size_t size = sizes[i], pages = size / PAGE;

		if (size > vram / 8 * 7) {
			fprintf(stderr, "device memory is too small for %zu MiB\n", size / MIB);
			break;
		}
		for (int round = 0; round < WARM_UP + ROUNDS; round++)
			ours(bench, &mine, size, true);
		snprintf(name, sizeof(name), "to device memory, %zu MiB", size / MIB);
		report(name, "ns/page", median(&mine.there.all) / pages, NONE, NONE);
		snprintf(name, sizeof(name), "to system memory, %zu MiB", size / MIB);
		report(name, "ns/page", median(&mine.back.all) / pages, NONE, NONE);
		snprintf(name, sizeof(name), "to system memory, read by the CPU, %zu MiB",
			 size / MIB);
		report(name, "ns/page", median(&mine.read) / pages, NONE, NONE);
	}
}

/* The device sweeps over four times its memory. */
void bench_oversubscription(struct bench *bench)
{
	struct rounds mine = {}, copy = {};
	uint64_t vram, start;
	struct touch t;

	if (rsvm_query(bench->context, DRM_RSVM_PARAM_VRAM_TOTAL, &vram))
		fail("query");
	t.pages = 4 * vram / PAGE;
	t.base = map(4 * vram, true);
	fill(t.base, 4 * vram);
	run(bench, "touch", 256, &t);
	for (int round = 0; round < 3; round++) {
		start = now_ns();
		run(bench, "touch", 256, &t);
		add_round(&mine, now_ns() - start);
		add_round(&copy, copy_ns(2 * 4 * vram));
	}
	report("sweep over 4 x device memory", "ns/page", median(&mine) / t.pages, NONE,
	       median(&copy) / t.pages);
	munmap(t.base, 4 * vram);
}
