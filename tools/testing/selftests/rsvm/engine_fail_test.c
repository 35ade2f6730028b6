// SPDX-License-Identifier: GPL-2.0
/*
 * The copy engine fails at each point of a migration: no data is lost and nothing
 * is mapped that was not copied. Needs root.
 */
#include "lib/device.h"
#include "lib/rsvm_test.h"

#define SIZE LEAF
#define PAGES (SIZE / PAGE)
/* No path needs as many copies. */
#define MANY 2000

FIXTURE(engine)
{
	struct device d;
	struct gpu g;
	struct mem m;
	struct gpu_result out[PAGES];
	uint64_t round;
};

FIXTURE_VARIANT(engine)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(engine, small) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(engine, huge) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(engine, mix) { .kind = MEM_MIX };

FIXTURE_SETUP(engine)
{
	if (getuid())
		SKIP(return, "needs root");
	ASSERT_OK(device_find(&self->d));
	ASSERT_OK(gpu_open(&self->g));
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	pattern_fill(self->m.p, SIZE, 0);
	self->round = 0;
}

FIXTURE_TEARDOWN(engine)
{
	if (self->d.bar0) {
		device_write(&self->d, FAIL_NEXT_COPY, 0);
		device_write(&self->d, FAIL_EVERY_COPY, 0);
	}
	mem_put(&self->m);
	gpu_close(&self->g);
	device_put(&self->d);
}

/* The GPU finds all bytes as they were left, and leaves them for the next round. */
static uint64_t gpu_round(struct gpu *g, char *p, struct gpu_result *out, uint64_t *round)
{
	struct gpu_args args = {
		.addr = (uintptr_t)p, .stride = PAGE, .value = *round, .other = PAGE, .out = out,
	};
	uint64_t errors = 0;

	if (gpu_run(g, GPU_SYM_k_pattern, &args, PAGES))
		return ~0ull;
	++*round;
	for (size_t i = 0; i < PAGES; i++)
		errors += out[i].errors;
	return errors;
}

/* The n-th copy fails, for each n; true as long as there was an n-th. */
static bool failed(struct device *d)
{
	bool hit = !device_read(d, FAIL_NEXT_COPY);

	device_write(d, FAIL_NEXT_COPY, 0);
	return hit;
}

/* On the way to VRAM: pages stay where they were. */
TEST_F(engine, to_vram)
{
	int n;

	for (n = 1; n < MANY; n += 1 + n / 8) {
		bool hit;

		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM));
		ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
		device_write(&self->d, FAIL_NEXT_COPY, n);
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		hit = failed(&self->d);
		ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round))
			TH_LOG("copy %d", n);
		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round)) TH_LOG("copy %d", n);
		if (!hit)
			break;
	}
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	EXPECT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
	/* At least one was there to fail. */
	EXPECT_GT(n, 1);
	EXPECT_LT(n, MANY);
}

/* On a fault of the GPU that moves pages: it finds the data, wherever. */
TEST_F(engine, gpu_fault)
{
	int n;

	for (n = 1; n < MANY; n += 1 + n / 8) {
		bool hit;

		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round));
		/* No longer held back for having bounced. */
		usleep(20000);
		ASSERT_TRUE(inject("vram_residency_ms", 0));
		device_write(&self->d, FAIL_NEXT_COPY, n);
		ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round))
			TH_LOG("copy %d", n);
		hit = failed(&self->d);
		inject("vram_residency_ms", 50);
		if (!hit)
			break;
	}
	EXPECT_GT(n, 1);
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, self->round));
}

/* On the way back for a CPU's fault. */
TEST_F(engine, cpu_fault)
{
	int n;

	for (n = 1; n < MANY; n += 1 + n / 8) {
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		ASSERT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
		device_write(&self->d, FAIL_NEXT_COPY, n);
		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, 0)) TH_LOG("copy %d", n);
		if (!failed(&self->d))
			break;
	}
	EXPECT_GT(n, 1);
	EXPECT_LT(n, MANY);
}

/* On the way back because somebody asks for it. */
TEST_F(engine, to_system)
{
	int n;

	for (n = 1; n < MANY; n += 1 + n / 8) {
		bool hit;

		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		device_write(&self->d, FAIL_NEXT_COPY, n);
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM));
		hit = failed(&self->d);
		ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round))
			TH_LOG("copy %d", n);
		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round)) TH_LOG("copy %d", n);
		if (!hit)
			break;
	}
	EXPECT_GT(n, 1);
}

/* No copy works any more: pages in VRAM come home all the same, others stay. */
TEST_F(engine, every_copy_fails)
{
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
	device_write(&self->d, FAIL_EVERY_COPY, 1);
	ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round));
	ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round));
	ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round));
	device_write(&self->d, FAIL_EVERY_COPY, 0);
	/* And the engine recovers. */
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	EXPECT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
	ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, self->round));
}

/* The n-th copy of evictions and of what they make room for; needs little VRAM. */
TEST_F(engine, eviction)
{
	size_t total = vram_total(self->g.fd), size = 2 * total;
	struct gpu_result *out;
	long long evictions, batch;
	struct mem big;

	if (total > 64 << 20)
		SKIP(return, "needs little VRAM (--vram 16M)");
	out = calloc(size / PAGE, sizeof(*out));
	ASSERT_NE(NULL, out);
	MEM_OR_SKIP(&big, variant->kind, size);
	pattern_fill(big.p, size, 0);
	batch = device_stat("copy_ops");
	for (size_t off = 0; off < size; off += LEAF)
		ASSERT_OK(svm_migrate(&self->g, big.p + off, LEAF, TO_VRAM));
	/* If no batch came through, nothing would need room, and nothing be evicted. */
	batch = (device_stat("copy_ops") - batch) / (long long)(size / LEAF) ?: 1;
	evictions = device_stat("vram_evictions");
	device_write(&self->d, FAIL_EVERY_COPY, 5 * batch);
	for (uint64_t round = 0; round < 3; round++) {
		struct gpu_args args = {
			.addr = (uintptr_t)big.p, .stride = PAGE, .value = round, .other = PAGE,
			.out = out,
		};
		uint64_t errors = 0;

		for (size_t off = 0; off < size; off += LEAF)
			ASSERT_OK(svm_migrate(&self->g, big.p + off, LEAF, TO_VRAM));
		ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_pattern, &args, size / PAGE));
		for (size_t i = 0; i < size / PAGE; i++)
			errors += out[i].errors;
		ASSERT_EQ(0, errors) TH_LOG("round %llu", (unsigned long long)round);
		device_write(&self->d, FAIL_EVERY_COPY, (2 + round) * batch);
	}
	device_write(&self->d, FAIL_EVERY_COPY, 0);
	EXPECT_GT(device_stat("vram_evictions"), evictions);
	EXPECT_EQ(0, pattern_errors(big.p, size, 3));
	mem_put(&big);
	free(out);
}

TEST_HARNESS_MAIN
