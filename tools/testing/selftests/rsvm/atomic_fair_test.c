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
#define ROUNDS	10
#define PAUSE	MS
/* Atomics that are launched one by one. */
#define SINGLES	12
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
	unsigned int trouble;	/* bits by enum trouble_kind */
};

FIXTURE_VARIANT_ADD(fair, threads_2) { 2, 0 };
FIXTURE_VARIANT_ADD(fair, threads_32) { 32, 0 };
FIXTURE_VARIANT_ADD(fair, threads_8_swap) { 8, 1 << TROUBLE_SWAP };
FIXTURE_VARIANT_ADD(fair, threads_8_migrate) { 8, 1 << TROUBLE_MIGRATE };
FIXTURE_VARIANT_ADD(fair, threads_8_ksm) { 8, 1 << TROUBLE_KSM };
FIXTURE_VARIANT_ADD(fair, threads_8_fork) { 8, 1 << TROUBLE_FORK };
FIXTURE_VARIANT_ADD(fair, threads_2_all) { 2, TROUBLE_ALL };
FIXTURE_VARIANT_ADD(fair, threads_8_all) { 8, TROUBLE_ALL };
FIXTURE_VARIANT_ADD(fair, threads_32_all) { 32, TROUBLE_ALL };

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

/* What this variant is, for the histograms. */
static const char *title(const FIXTURE_VARIANT(fair) *variant)
{
	static const char *const kinds[] = {
		" and swap", " and migration", " and KSM", " and fork",
	};
	static char text[80];

	snprintf(text, sizeof(text), "%d threads", variant->threads);
	for (int k = 0; k < TROUBLES; k++)
		if (variant->trouble & 1 << k)
			strcat(text, kinds[k]);
	return text;
}

static void print_waits(const FIXTURE_VARIANT(fair) *variant, const struct waits *w, int n)
{
	uint64_t longest = 0;

	for (int log = 0; log < WAIT_LOGS; log++) {
		uint64_t sum = 0;

		for (int k = 0; k < n; k++)
			sum += w[k].by_log2_ns[log];
		if (sum)
			printf("# histogram: %s: wait below %llu ns: %lu\n", title(variant),
			       2ull << log, sum);
	}
	for (int k = 0; k < n; k++)
		if (w[k].longest > longest)
			longest = w[k].longest;
	printf("# histogram: %s: longest wait %lu ns\n", title(variant), longest);
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
			printf("# histogram: %s: %d%s faults for one atomic: %lu\n",
			       title(variant), n, n == FAULT_BUCKETS - 1 ? " or more" : "",
			       by_faults[n]);
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
	uint64_t rounds = 0;
	int64_t begun, took;
	long long before, grabs;

	crowd_prepare(&c);
	ASSERT_OK(crowd_start(&c));
	if (variant->trouble) {
		ASSERT_OK(trouble_begin(self->trouble, variant->trouble, &self->g, page, PAGE));
	}
	self->args = (struct gpu_args){
		.addr = (uintptr_t)page + 1024,
		.stride = 64,
		.value = 1,
		.other = (uintptr_t)self->waits,
		.rounds = ROUNDS,
	};
	for (int k = 0; k < HARTS; k++)
		self->waits[k].pause = PAUSE;
	before = device_stat("exclusive_grabs");
	begun = now_ns();
	/* Until it was taken away, and had back, or nothing was tested. */
	do {
		ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_add_timed, &self->args, HARTS));
		rounds += ROUNDS;
		grabs = device_stat("exclusive_grabs") - before;
	} while (grabs <= 2 && rounds < 20 * ROUNDS);
	took = now_ns() - begun;
	EXPECT_GT(grabs, 2);
	EXPECT_OK(singles(self, variant, page + 512));
	if (variant->trouble) {
		trouble_end(self->trouble);
		for (int k = 0; k < TROUBLES; k++) {
			EXPECT_EQ(variant->trouble >> k & 1, self->trouble[k].times > 0) {
				TH_LOG("trouble %d", k);
			}
		}
	}
	/* The threads got on as well. */
	EXPECT_GT(crowd_done_by_cpu(&c), 1000);
	printf("# histogram: %s: %lld ms and %lld grabs for %lu atomics\n", title(variant),
	       took / MS, grabs, rounds * HARTS);
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

/*
 * One atomic at a time, each of which finds the page with CPU threads that want it
 * back at once. A page that is kept for the device is kept until the atomic that
 * waited was translated, so none of them needs two such turns. Holds: the folio is
 * released after the acknowledged replay.
 */
TEST(one_access_for_each_grab)
{
	const int atomics = scaled(150);
	long long grabs, held, refaults;
	struct mem m;
	struct gpu g;
	struct crowd c = { .op = crowd_op("add_64"), .threads = 6, .endless = true };

	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(mem_get(&m, MEM_ANON, LEAF));
	c.g = &g;
	c.words = m.p + 3 * PAGE;
	*word_at(c.words, 64) = 0;
	crowd_prepare(&c);
	ASSERT_OK(crowd_start(&c));
	grabs = device_stat("exclusive_grabs");
	held = device_stat("atomics_held");
	refaults = device_stat("exclusive_refaults");
	for (int k = 0; k < atomics; k++) {
		ASSERT_OK(gpu_over(&g, GPU_SYM_k_atomic, c.words + 64, 0, 1, 1, NULL));
		while (!mem_pfn(c.words))
			;
	}
	grabs = device_stat("exclusive_grabs") - grabs;
	held = device_stat("atomics_held") - held;
	refaults = device_stat("exclusive_refaults") - refaults;
	ASSERT_OK(crowd_end(&c));
	EXPECT_EQ(0, crowd_errors(&c));
	EXPECT_EQ(atomics, *word_at(c.words, 64));
	printf("# histogram: one at a time: %lld grabs for %d atomics\n", grabs, atomics);
	printf("# histogram: %lld of them kept, %lld replayed again\n", held, refaults);
	/* A report that is looked at when its atomic is through costs one now and then. */
	EXPECT_LE(held, atomics + atomics / 20);
	EXPECT_GT(held, atomics / 2);
	gpu_close(&g);
	mem_put(&m);
}

/*
 * Pages apart by powers of two, and turns of every length: each hart gets on for
 * each grab, whatever the driver forgot meanwhile about the page. Holds: one
 * access for each grab.
 */
TEST(turns)
{
	static const unsigned int turns_us[] = { 0, 200, 20000, 100000 };
	const int threads = 4, size = 4 * LEAF, rounds = 4;
	struct waits waits[HARTS] = {};
	struct mem m;
	struct gpu g;

	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(mem_get(&m, MEM_ANON, size));
	for (size_t i = 0; i < ARRAY_SIZE(turns_us); i++) {
		struct crowd c = {
			.g = &g,
			.op = crowd_op("add_64"),
			.words = m.p,
			.stride = size / HARTS,
			.threads = threads,
			.endless = true,
		};
		struct gpu_args args = {
			.addr = (uintptr_t)m.p + 64,
			.stride = c.stride,
			.value = 1,
			.other = (uintptr_t)waits,
			.rounds = rounds,
		};
		long long grabs = device_stat("exclusive_grabs");

		memset(m.p, 0, size);
		ASSERT_TRUE(inject("atomic_quantum_us", turns_us[i]));
		for (int k = 0; k < HARTS; k++)
			waits[k].pause = turns_us[i] * 1000ull;
		crowd_prepare(&c);
		ASSERT_OK(crowd_start(&c));
		/* Those with a thread on their page; then all, most with nobody. */
		EXPECT_OK(gpu_run(&g, GPU_SYM_k_add_timed, &args, threads));
		EXPECT_OK(gpu_run(&g, GPU_SYM_k_add_timed, &args, HARTS));
		grabs = device_stat("exclusive_grabs") - grabs;
		printf("# histogram: turns of %u us: %lld grabs for %d atomics\n", turns_us[i],
		       grabs, rounds * (threads + HARTS));
		ASSERT_OK(crowd_end(&c));
		EXPECT_EQ(0, crowd_errors(&c));
		for (int k = 0; k < HARTS; k++) {
			EXPECT_EQ(k < threads ? 2 * rounds : rounds,
				  *word_at(m.p, k * c.stride + 64));
		}
		/* One for each atomic, and some that were lost to a split or a fault. */
		EXPECT_LE(grabs, 2 * rounds * (threads + HARTS)) TH_LOG("%u us", turns_us[i]);
	}
	inject("atomic_quantum_us", 2000);
	gpu_close(&g);
	mem_put(&m);
}

TEST_HARNESS_MAIN
