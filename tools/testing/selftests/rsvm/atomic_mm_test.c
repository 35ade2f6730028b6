// SPDX-License-Identifier: GPL-2.0
/*
 * What mm does to pages that the device has to itself: nothing of it loses an
 * update, and each next atomic gets through.
 */
#include <sys/mman.h>

#include "lib/crowd.h"
#include "lib/rsvm_test.h"
#include "lib/trouble.h"

FIXTURE(atomic_mm)
{
	struct gpu g;
	struct gpu second;	/* another mirror of this process, when open */
	struct mem m;
	long long lost;
};

FIXTURE_SETUP(atomic_mm)
{
	self->second.fd = -1;
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	self->lost = device_stat("lost_updates");
}

FIXTURE_TEARDOWN(atomic_mm)
{
	EXPECT_EQ(self->lost, device_stat("lost_updates"));
	if (self->second.fd >= 0)
		gpu_close(&self->second);
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* One atomic addition of 1 on the word at @p. */
static int add(struct gpu *g, void *p)
{
	return gpu_over(g, GPU_SYM_k_atomic, p, 0, 1, 1, NULL);
}

/* Bits of SVM_GET_ATTR about the page at @p. */
static uint8_t state(struct gpu *g, void *p)
{
	struct drm_rsvm_svm_get_attr a;
	uint8_t page = 0;

	return svm_look(g, p, PAGE, &a, &page) ? 0 : page;
}

/*
 * The device's entry goes while the page stays exclusive: mprotect() tells the
 * mirrors and leaves such a page as it is. Holds: the page is faulted in before
 * the sequence is read, or the attempt at a page that is exclusive already collides
 * with itself for ever.
 */
TEST_F(atomic_mm, entry_dropped_while_exclusive)
{
	long long collisions = device_stat("exclusive_collisions");
	char *p = self->m.p + 5 * PAGE;

	*word_at(p, 0) = 0;
	for (int r = 0; r < 50; r++) {
		ASSERT_OK(add(&self->g, p));
		ASSERT_NE(0, state(&self->g, p) & DRM_RSVM_SVM_PAGE_ATOMIC);
		ASSERT_OK(mprotect(p, PAGE, PROT_READ));
		ASSERT_OK(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
		/* Nobody looked at it: no CPU mapping has come back. */
		ASSERT_EQ(0, mem_pfn(p));
		ASSERT_EQ(0, state(&self->g, p) & DRM_RSVM_SVM_PAGE_ATOMIC);
		ASSERT_OK(add(&self->g, p));
	}
	EXPECT_EQ(100, *word_at(p, 0));
	EXPECT_LE(device_stat("exclusive_collisions"), collisions + 5);
}

/* The same, when the mirror that made it exclusive is gone altogether. */
TEST_F(atomic_mm, mirror_gone_while_exclusive)
{
	char *p = self->m.p + 5 * PAGE;

	*word_at(p, 0) = 0;
	for (int r = 0; r < 10; r++) {
		ASSERT_OK(add(&self->g, p));
		gpu_close(&self->g);
		ASSERT_EQ(0, mem_pfn(p));
		ASSERT_OK(gpu_open(&self->g));
		ASSERT_OK(add(&self->g, p));
	}
	EXPECT_EQ(20, *word_at(p, 0));
}

/*
 * Atomics on memory that became read-only are refused, with what was wrong, and
 * change nothing.
 */
TEST_F(atomic_mm, read_only)
{
	char *p = self->m.p + 5 * PAGE;

	*word_at(p, 0) = 7;
	ASSERT_OK(add(&self->g, p));
	ASSERT_OK(mprotect(p, PAGE, PROT_READ));
	EXPECT_EQ(-EIO, add(&self->g, p));
	EXPECT_EQ((uintptr_t)p, self->g.fault_addr);
	EXPECT_EQ(DRM_RSVM_FAULT_PROTECTION, self->g.fault_reason);
	EXPECT_EQ(DRM_RSVM_ACCESS_ATOMIC, self->g.fault_access);
	EXPECT_EQ(8, *word_at(p, 0));
}

/*
 * Pages of one huge page at once, all in one batch. Holds: one exclusive folio at
 * a time; the second would wait for the lock that the first holds.
 */
TEST_F(atomic_mm, pages_of_one_huge_page)
{
	struct gpu_args args;

	mem_put(&self->m);
	for (int r = 0; r < scaled(10); r++) {
		MEM_OR_SKIP(&self->m, MEM_THP, LEAF);
		args = (struct gpu_args){
			.addr = (uintptr_t)self->m.p,
			.stride = 8 * PAGE,
			.value = 1,
		};
		for (int k = 0; k < 3; k++)
			ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_atomic, &args, 64));
		for (int i = 0; i < 64; i++) {
			ASSERT_EQ(3, *word_at(self->m.p, i * 8 * PAGE));
		}
		mem_put(&self->m);
	}
}

/*
 * After atomics, and then use without them, a huge page is one 2 MiB entry again.
 */
TEST_F(atomic_mm, huge_entry_comes_back)
{
	long long huge;

	mem_put(&self->m);
	MEM_OR_SKIP(&self->m, MEM_THP, LEAF);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 512, 1, NULL));
	for (int i = 0; i < 4; i++)
		ASSERT_OK(add(&self->g, self->m.p + i * 100 * PAGE));
	/* The CPU has its pages back, still of one folio. */
	for (int i = 0; i < 512; i++) {
		ASSERT_EQ(1 + i + (i % 100 == 0 && i < 400), *word_at(self->m.p, i * PAGE));
	}
	ASSERT_TRUE(mem_contiguous(self->m.p, LEAF));
	huge = fdinfo(self->g.fd, "rsvm-map-2m");
	/* Used again, until the driver thinks that worth it. */
	for (int r = 0; r < 50 && fdinfo(self->g.fd, "rsvm-map-2m") == huge; r++) {
		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 512, r, NULL));
		usleep(20000);
	}
	EXPECT_GT(fdinfo(self->g.fd, "rsvm-map-2m"), huge);
}

/*
 * Two mirrors of one process, and its threads, count in one word. Holds: each
 * mirror filters its own grabs and no others'.
 */
TEST_F(atomic_mm, two_mirrors)
{
	char *p = self->m.p + 9 * PAGE;
	struct guard guard = {};
	struct crowd a = {
		.g = &self->g, .op = crowd_op("add_64"), .words = p, .harts = 16,
		.threads = 2, .endless = true,
	}, b;

	ASSERT_OK(gpu_open(&self->second));
	b = a;
	b.g = &self->second;
	b.threads = 0;
	b.words = p + 128;
	crowd_prepare(&a);
	crowd_prepare(&b);
	ASSERT_OK(crowd_start(&a));
	ASSERT_OK(crowd_start(&b));
	while (crowd_done_by_gpu(&a) < 20000 || crowd_done_by_gpu(&b) < 20000 ||
	       crowd_done_by_cpu(&a) < 20000) {
		ASSERT_FALSE(guard_over(&guard)) {
			TH_LOG("%lu, %lu and %lu done", crowd_done_by_gpu(&a),
			       crowd_done_by_gpu(&b), crowd_done_by_cpu(&a));
		}
		usleep(1000);
	}
	ASSERT_OK(crowd_end(&a));
	ASSERT_OK(crowd_end(&b));
	EXPECT_EQ(0, crowd_errors(&a));
	EXPECT_EQ(0, crowd_errors(&b));
}

/* One word for both mirrors, one operation at a time: each grab takes it from the other. */
TEST_F(atomic_mm, mirrors_in_turn)
{
	char *p = self->m.p + 9 * PAGE;

	*word_at(p, 0) = 0;
	ASSERT_OK(gpu_open(&self->second));
	for (int r = 0; r < 50; r++) {
		ASSERT_OK(add(&self->g, p));
		ASSERT_OK(add(&self->second, p));
		/* One of them has it, and no CPU. */
		ASSERT_EQ(0, state(&self->g, p) & state(&self->second, p) &
			  DRM_RSVM_SVM_PAGE_ATOMIC);
		ASSERT_EQ(0, mem_pfn(p));
	}
	EXPECT_EQ(100, *word_at(p, 0));
}

/*
 * Harts and a thread count while children are forked; each child sees the word at
 * some value between, and keeps it.
 */
TEST_F(atomic_mm, fork_while_counting)
{
	char *p = self->m.p + 9 * PAGE;
	struct crowd c = {
		.g = &self->g, .op = crowd_op("cas_64"), .words = p, .harts = 16,
		.threads = 1, .endless = true,
	};
	uint64_t before = 0, done = 0;
	int refused = 0;

	crowd_prepare(&c);
	ASSERT_OK(crowd_start(&c));
	for (int r = 0; r < scaled(40); r++) {
		pid_t pid;

		/* It gets on between forks. */
		if (r % 8 == 7) {
			while (crowd_done_by_gpu(&c) == done)
				usleep(1000);
			done = crowd_done_by_gpu(&c);
		}
		pid = fork();
		if (pid < 0) {
			/* A page was locked for the device just then. */
			ASSERT_EQ(ENOMEM, errno);
			ASSERT_LT(refused++, 1000);
			r--;
			usleep(1000);
			continue;
		}
		if (!pid) {
			uint64_t seen = *word_at(p, 0);

			usleep(5000);
			_exit(seen < before || *word_at(p, 0) != seen);
		}
		ASSERT_EQ(0, wait_exit(pid));
		before = *word_at(p, 0);
	}
	ASSERT_OK(crowd_end(&c));
	EXPECT_GE(crowd_done_by_gpu(&c), c.harts);
	EXPECT_EQ(0, crowd_errors(&c));
}

/* A page goes to swap while it is exclusive; the next atomic, and the CPU, get all back. */
TEST_F(atomic_mm, swapped_out)
{
	char *p = self->m.p + 9 * PAGE;
	int out = 0;

	if (sys_read("/proc/swaps") == -1)
		SKIP(return, "no swap");
	*word_at(p, 0) = 0;
	for (int r = 0; r < 20; r++) {
		ASSERT_OK(add(&self->g, p));
		/* Reclaim has to give it back to the CPU first, and then take it. */
		for (int k = 0; k < 20 && !mem_swapped(p); k++)
			ASSERT_OK(madvise(p, PAGE, MADV_PAGEOUT));
		out += !mem_pfn(p);
		if (r & 1)
			ASSERT_EQ(r + 1, *word_at(p, 0));
	}
	EXPECT_EQ(20, *word_at(p, 0));
	EXPECT_GT(out, 0);
}

/*
 * Equal pages, on which the device does atomics that change nothing, are scanned
 * for merging; then it changes one of them. KSM leaves exclusive pages alone.
 */
TEST_F(atomic_mm, ksm)
{
	struct gpu_args args = { .addr = (uintptr_t)self->m.p, .stride = PAGE };

	if (madvise(self->m.p, 64 * PAGE, MADV_MERGEABLE))
		SKIP(return, "no KSM");
	memset(self->m.p, 0x77, 64 * PAGE);
	ASSERT_OK(ksm_start());
	for (int r = 0; r < 20; r++) {
		ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_atomic, &args, 64));
		usleep(20000);
		for (int i = r & 1; i < 64; i += 2) {
			ASSERT_EQ(0x7777777777777777, *word_at(self->m.p, i * PAGE));
		}
	}
	args.stride = 2 * PAGE;
	args.value = 1;
	ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_atomic, &args, 32));
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(0x7777777777777777 + !(i & 1), *word_at(self->m.p, i * PAGE));
	}
	ASSERT_OK(ksm_split());
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(0x7777777777777777 + !(i & 1), gpu_peek(&self->g, self->m.p + i * PAGE));
	}
	ksm_stop();
}

/*
 * Each page that the device had to itself is marked dirty when it gives it back;
 * what it only read is not. Holds: the dirty mark, which core leaves to the driver.
 */
TEST_F(atomic_mm, dirty_marks)
{
	struct gpu_args args = { .addr = (uintptr_t)self->m.p, .stride = PAGE, .value = 1 };
	struct gpu_result out[100];
	long long dirtied;

	/* The first grab takes away nothing that was mapped. */
	memset(self->m.p, 0, 100 * PAGE);
	ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_atomic, &args, 100));
	dirtied = device_stat("dirtied");
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(1, *word_at(self->m.p, i * PAGE));
	}
	EXPECT_EQ(dirtied + 100, device_stat("dirtied"));

	memset(self->m.p + LEAF / 2, 1, 100 * PAGE);
	ASSERT_OK(mprotect(self->m.p + LEAF / 2, 100 * PAGE, PROT_READ));
	dirtied = device_stat("dirtied");
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p + LEAF / 2, PAGE, 100, 0, out));
	ASSERT_OK(madvise(self->m.p + LEAF / 2, 100 * PAGE, MADV_DONTNEED));
	EXPECT_EQ(dirtied, device_stat("dirtied"));
}

/* A snapshot that was rejected marks nothing. */
TEST_F(atomic_mm, no_mark_without_a_commit)
{
	long long dirtied, collisions = device_stat("collisions");
	struct gpu_result out;

	memset(self->m.p, 1, PAGE);
	dirtied = device_stat("dirtied");
	if (!inject("inject_collision", 20))
		SKIP(return, "this driver has no inject_collision");
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, 0, 1, 0, &out));
	ASSERT_OK(add(&self->g, self->m.p));
	EXPECT_GT(device_stat("collisions") + device_stat("exclusive_collisions"), collisions);
	inject("inject_collision", 0);
	/* At most for the one entry there was before the page became exclusive. */
	EXPECT_LE(device_stat("dirtied"), dirtied + 1);
}

TEST_HARNESS_MAIN
