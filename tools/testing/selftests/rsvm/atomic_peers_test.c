// SPDX-License-Identifier: GPL-2.0
/*
 * Two devices and the CPU use atomics on one page. For a machine with two virtual
 * GPUs (VGPUS=2 of vm-run.sh); run by name, not with the others. Holds: each device
 * takes the page from the other as from a CPU, and waits for nobody's folio while it
 * has one.
 */
#include "lib/crowd.h"
#include "lib/rsvm_test.h"

#define DEVICES 2

FIXTURE(peers)
{
	struct gpu g[DEVICES];
	struct mem m;
	long long lost;
};

FIXTURE_VARIANT(peers)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(peers, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(peers, thp) { .kind = MEM_THP };

FIXTURE_SETUP(peers)
{
	for (int n = 0; n < DEVICES; n++)
		ASSERT_OK(gpu_open_device(&self->g[n], n));
	MEM_OR_SKIP(&self->m, variant->kind, LEAF);
	self->lost = device_stat("lost_updates");
}

FIXTURE_TEARDOWN(peers)
{
	EXPECT_EQ(self->lost, device_stat("lost_updates"));
	for (int n = 0; n < DEVICES; n++)
		gpu_close(&self->g[n]);
	mem_put(&self->m);
}

/* One after the other, on one word. */
TEST_F(peers, in_turn)
{
	char *p = self->m.p + 3 * PAGE;

	*word_at(p, 0) = 0;
	for (int r = 0; r < 50; r++)
		for (int n = 0; n < DEVICES; n++)
			ASSERT_OK(gpu_over(&self->g[n], GPU_SYM_k_atomic, p, 0, 8, 1, NULL));
	EXPECT_EQ(50 * DEVICES * 8, *word_at(p, 0));
}

/* Both, and threads, at once: on words of one page, and each on some of its own. */
static void together(struct __test_metadata *_metadata, FIXTURE_DATA(peers) *self,
		     size_t apart, int threads)
{
	struct crowd c[DEVICES];
	struct guard guard = {};
	bool through;

	for (int n = 0; n < DEVICES; n++) {
		c[n] = (struct crowd){
			.g = &self->g[n],
			.op = crowd_op(n ? "add_64" : "cas_64"),
			.words = self->m.p + 3 * PAGE + n * apart,
			.harts = CROWD_HARTS,
			.threads = threads,
			.endless = true,
		};
		crowd_prepare(&c[n]);
	}
	for (int n = 0; n < DEVICES; n++)
		ASSERT_OK(crowd_start(&c[n]));
	do {
		usleep(1000);
		through = true;
		for (int n = 0; n < DEVICES; n++)
			through &= crowd_done_by_gpu(&c[n]) > 5000 &&
				   (!threads || crowd_done_by_cpu(&c[n]) > 5000);
		ASSERT_FALSE(guard_over(&guard));
	} while (!through);
	for (int n = 0; n < DEVICES; n++) {
		ASSERT_OK(crowd_end(&c[n]));
		EXPECT_EQ(0, crowd_errors(&c[n])) TH_LOG("device %d", n);
	}
}

TEST_F(peers, on_one_page)
{
	together(_metadata, self, 64, 0);
}

TEST_F(peers, on_one_page_with_threads)
{
	together(_metadata, self, 64, 2);
}

/* Two pages, perhaps of one folio, whose lock both want. */
TEST_F(peers, on_two_pages_with_threads)
{
	together(_metadata, self, 5 * PAGE, 2);
}

TEST_HARNESS_MAIN
