// SPDX-License-Identifier: GPL-2.0
/*
 * Nobody starves: CPU threads hammer the page that the device needs, and a third
 * party swaps, migrates, KSM-scans and forks it. Holds: one access for each grab,
 * a turn for each side. How long it took is printed as histograms; test.sh keeps
 * them in build/.
 */
#include "lib/crowd.h"
#include "lib/rsvm_test.h"
#include "lib/trouble.h"

#define HARTS	16
/* Atomics of each hart; between them the page has time to change hands. */
#define ROUNDS	200
#define PAUSE	MS
/* Atomics that are launched one by one. */
#define SINGLES	30
#define FAULT_BUCKETS 12

FIXTURE(fair)
{
	struct gpu g;
	struct gpu other;
	struct mem m;
	struct trouble trouble[TROUBLES];
	struct waits waits[HARTS] __attribute__((aligned(4096)));
	struct gpu_args args;
	long long lost;
};

FIXTURE_VARIANT(fair)
{
	int threads;
	bool trouble;
};

FIXTURE_VARIANT_ADD(fair, threads_2) { .threads = 2, .trouble = true };
FIXTURE_VARIANT_ADD(fair, threads_8) { .threads = 8, .trouble = true };
FIXTURE_VARIANT_ADD(fair, threads_32) { .threads = 32, .trouble = true };
FIXTURE_VARIANT_ADD(fair, threads_2_alone) { .threads = 2 };
FIXTURE_VARIANT_ADD(fair, threads_32_alone) { .threads = 32 };

FIXTURE_SETUP(fair)
{
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(gpu_open_queue(&self->other, &self->g));
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	self->lost = device_stat("lost_updates");
}

FIXTURE_TEARDOWN(fair)
{
	EXPECT_EQ(self->lost, device_stat("lost_updates"));
	gpu_close(&self->other);
	gpu_close(&self->g);
	mem_put(&self->m);
}

static void print_waits(const FIXTURE_VARIANT(fair) *variant, const struct waits *w, int n)
{
	uint64_t longest = 0;

	for (int log = 0; log < WAIT_LOGS; log++) {
		uint64_t sum = 0;

		for (int k = 0; k < n; k++)
			sum += w[k].by_log2_ns[log];
		if (sum)
			printf("# histogram: wait, %d threads%s, below %llu ns: %lu\n",
			       variant->threads, variant->trouble ? " and trouble" : "",
			       2ull << log, sum);
	}
	for (int k = 0; k < n; k++)
		if (w[k].longest > longest)
			longest = w[k].longest;
	printf("# histogram: wait, %d threads%s, longest: %lu ns\n", variant->threads,
	       variant->trouble ? " and trouble" : "", longest);
}

/* One atomic at a time, on a queue of its own: how many faults each takes. */
static int singles(FIXTURE_DATA(fair) *self, const FIXTURE_VARIANT(fair) *variant, char *word)
{
	uint64_t by_faults[FAULT_BUCKETS] = {};

	for (int k = 0; k < scaled(SINGLES); k++) {
		long long before = device_stat("faults"), n;
		int ret = gpu_over(&self->other, GPU_SYM_k_atomic, word, 0, 1, 1, NULL);

		if (ret)
			return ret;
		n = device_stat("faults") - before;
		by_faults[n < FAULT_BUCKETS ? n : FAULT_BUCKETS - 1]++;
	}
	for (int n = 0; n < FAULT_BUCKETS; n++)
		if (by_faults[n])
			printf("# histogram: %d%s faults for an atomic, %d threads%s: %lu\n", n,
			       n == FAULT_BUCKETS - 1 ? " or more" : "", variant->threads,
			       variant->trouble ? " and trouble" : "", by_faults[n]);
	return 0;
}

TEST_F(fair, everybody_gets_on)
{
	/* The threads' word, the harts' words and the single one's, all on one page. */
	char *page = self->m.p + 7 * PAGE;
	struct crowd c = {
		.g = &self->g,
		.op = crowd_op("add_64"),
		.words = page,
		.threads = variant->threads,
		.endless = true,
	};
	uint64_t rounds = scaled(ROUNDS);
	int64_t begun, took;
	long long grabs;

	crowd_prepare(&c);
	ASSERT_OK(crowd_start(&c));
	if (variant->trouble) {
		ASSERT_OK(trouble_begin(self->trouble, &self->g, page, PAGE));
	}
	self->args = (struct gpu_args){
		.addr = (uintptr_t)page + 1024,
		.stride = 64,
		.value = 1,
		.other = (uintptr_t)self->waits,
		.rounds = rounds,
	};
	for (int k = 0; k < HARTS; k++)
		self->waits[k].pause = PAUSE;
	grabs = device_stat("exclusive_grabs");
	begun = now_ns();
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_add_timed, &self->args, HARTS));
	EXPECT_OK(gpu_wait(&self->g));
	took = now_ns() - begun;
	grabs = device_stat("exclusive_grabs") - grabs;
	/* It was taken away, and had back, or nothing was tested. */
	EXPECT_GT(grabs, 2);
	EXPECT_OK(singles(self, variant, page + 512));
	if (variant->trouble) {
		trouble_end(self->trouble);
		for (int k = 0; k < TROUBLES; k++) {
			EXPECT_GT(self->trouble[k].times, 0) TH_LOG("trouble %d", k);
		}
	}
	/* The threads got on as well. */
	EXPECT_GT(crowd_done_by_cpu(&c), 1000);
	printf("# histogram: %d threads%s: %lld ms and %lld grabs for %lu atomics\n",
	       variant->threads, variant->trouble ? " and trouble" : "", took / MS, grabs,
	       rounds * HARTS);
	print_waits(variant, self->waits, HARTS);
	for (int k = 0; k < variant->threads; k++) {
		EXPECT_GT(c.members[k].done, 0) TH_LOG("thread %d", k);
	}
	ASSERT_OK(crowd_end(&c));
	EXPECT_EQ(0, crowd_errors(&c));
	for (int k = 0; k < HARTS; k++) {
		EXPECT_EQ(rounds, *word_at(page, 1024 + 64 * k));
	}
	EXPECT_EQ(scaled(SINGLES), *word_at(page, 512));
}

TEST_HARNESS_MAIN
