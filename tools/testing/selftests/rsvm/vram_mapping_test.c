// SPDX-License-Identifier: GPL-2.0
/*
 * Pages in VRAM are memory of a process like any other: whatever changes, moves or
 * takes away mappings does it to them, and device memory comes back from it.
 */
#include "lib/device.h"
#include "lib/rsvm_test.h"
#include "lib/vram_fixture.h"

/* Every way to give a part of the memory back gives its VRAM back. */
static int drop(char *p, size_t len, int way)
{
	switch (way) {
	case 0:
		return munmap(p, len) ? -errno : 0;
	case 1:
		return madvise(p, len, MADV_DONTNEED) ? -errno : 0;
	default:
		return mmap(p, len, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p ? 0 : -errno;
	}
}

TEST_F(vram, part_is_given_back)
{
	for (int way = 0; way < 3; way++) {
		char *p;

		if (way) {
			mem_put(&self->m);
			ASSERT_OK(mem_get(&self->m, variant->kind, SIZE));
			pattern_fill(self->m.p, SIZE, ROUND);
			ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
			ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
		}
		p = self->m.p;
		ASSERT_OK(await_stat("vram_pages", self->pages + SIZE / PAGE));
		ASSERT_OK(drop(p + 100 * PAGE, 200 * PAGE, way));
		EXPECT_OK(await_stat("vram_pages", self->pages + SIZE / PAGE - 200))
			TH_LOG("way %d: %lld", way, device_stat("vram_pages"));
		/* The rest is as it was. */
		EXPECT_EQ(0, pattern_errors(p, 100 * PAGE, ROUND));
		EXPECT_EQ(0, pattern_errors(p + 300 * PAGE, SIZE - 300 * PAGE, ROUND));
		ASSERT_OK(drop(p, SIZE, way));
		EXPECT_OK(await_stat("vram_pages", self->pages));
		EXPECT_OK(vram_await_free(self->g.fd, self->free));
	}
}

/* Pages that move to other addresses, whole or in part, keep their data. */
TEST_F(vram, mremap)
{
	char *p = self->m.p, *to = mmap(NULL, SIZE + LEAF, PROT_NONE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *aligned = (char *)(((uintptr_t)to + LEAF - 1) & ~(LEAF - 1));
	size_t errors = 0;

	ASSERT_NE(MAP_FAILED, to);
	ASSERT_EQ(aligned, mremap(p, LEAF, LEAF, MREMAP_MAYMOVE | MREMAP_FIXED, aligned));
	EXPECT_EQ(LEAF, svm_in_vram(&self->g, aligned, LEAF));
	/* A part of the second, to an address that is aligned to pages only. */
	ASSERT_EQ(aligned + LEAF + 3 * PAGE,
		  mremap(p + LEAF + 64 * PAGE, 128 * PAGE, 128 * PAGE,
			 MREMAP_MAYMOVE | MREMAP_FIXED, aligned + LEAF + 3 * PAGE));
	/* The GPU first, then the CPU; what is gone is gone. */
	EXPECT_EQ(word_stamp(ROUND, (uintptr_t)p + 9 * PAGE),
		  gpu_peek(&self->g, aligned + 9 * PAGE));
	for (size_t off = 0; off < LEAF; off += 8)
		errors += *word_at(aligned, off) != word_stamp(ROUND, (uintptr_t)p + off);
	for (size_t off = 0; off < 128 * PAGE; off += 8)
		errors += *word_at(aligned + LEAF + 3 * PAGE, off) !=
			  word_stamp(ROUND, (uintptr_t)p + LEAF + 64 * PAGE + off);
	EXPECT_EQ(0, errors);
	EXPECT_EQ(-EIO, gpu_poke(&self->g, p, 1));
	munmap(to, SIZE + LEAF);
	mem_put(&self->m);
	EXPECT_OK(vram_await_free(self->g.fd, self->free));
}

/* Advice to reclaim does no harm to what reclaim cannot reach. */
TEST_F(vram, advice)
{
	static const int advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_FREE };

	for (size_t i = 0; i < ARRAY_SIZE(advice) - 1; i++) {
		ASSERT_OK(madvise(self->m.p, SIZE, advice[i]));
		/* A page of each 64 KiB, so that others stay there. */
		ASSERT_EQ(word_stamp(ROUND, (uintptr_t)self->m.p + i * PAGE),
			  *word_at(self->m.p, i * PAGE));
	}
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND));
	/* Data of memory given free may go, but only to zeros. */
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_FREE));
	for (size_t off = 0; off < SIZE; off += PAGE) {
		uint64_t v = *word_at(self->m.p, off);

		ASSERT_TRUE(!v || v == word_stamp(ROUND, (uintptr_t)self->m.p + off));
	}
}

/* Protection counts for both sides, with the pages where they are. */
TEST_F(vram, mprotect)
{
	struct gpu second;

	ASSERT_OK(gpu_open_queue(&second, &self->g));
	ASSERT_OK(mprotect(self->m.p + PAGE, SIZE - PAGE, PROT_READ));
	EXPECT_EQ(word_stamp(ROUND, (uintptr_t)self->m.p + 5 * PAGE),
		  gpu_peek(&self->g, self->m.p + 5 * PAGE));
	EXPECT_EQ(-EIO, gpu_poke(&second, self->m.p + 5 * PAGE, 1));
	EXPECT_EQ(DRM_RSVM_FAULT_PROTECTION, second.fault_reason);
	gpu_close(&second);
	ASSERT_OK(mprotect(self->m.p, SIZE, PROT_READ | PROT_WRITE));
	ASSERT_OK(gpu_poke(&self->g, self->m.p + 5 * PAGE,
			   word_stamp(ROUND, (uintptr_t)self->m.p + 5 * PAGE)));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND));
}

/* What came home is swapped as ever, and goes to VRAM again from swap. */
TEST_F(vram, swap_after_coming_home)
{
	size_t before = mem_swap_used();

	ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND));
	ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_PAGEOUT));
	if (mem_swap_used() < before + SIZE / 4)
		SKIP(return, "no swap is on (run.sh does that)");
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	struct gpu_args args = {
		.addr = (uintptr_t)self->m.p, .stride = PAGE, .value = ROUND, .other = PAGE,
	};
	ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_pattern, &args, SIZE / PAGE));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND + 1));
}

/* Unbacked memory that goes to VRAM is zero, whatever was in VRAM before. */
TEST_F(vram, fresh_memory_is_zero)
{
	struct mem fresh;
	size_t errors = 0;

	mem_put(&self->m);
	ASSERT_OK(vram_await_free(self->g.fd, self->free));
	for (int i = 0; i < 4; i++) {
		ASSERT_OK(mem_get(&fresh, MEM_ANON, 4 * LEAF));
		if (variant->kind == MEM_THP)
			madvise(fresh.p, 4 * LEAF, MADV_HUGEPAGE);
		ASSERT_OK(svm_migrate(&self->g, fresh.p, 4 * LEAF, TO_VRAM));
		ASSERT_EQ(4 * LEAF, svm_in_vram(&self->g, fresh.p, 4 * LEAF));
		for (size_t off = 0; off < 4 * LEAF; off += 8)
			errors += *word_at(fresh.p, off) != 0;
		/* Rubbish for the next one to find. */
		memset(fresh.p, 0xa5, 4 * LEAF);
		ASSERT_OK(svm_migrate(&self->g, fresh.p, 4 * LEAF, TO_VRAM));
		mem_put(&fresh);
	}
	EXPECT_EQ(0, errors);
}

/*
 * A mirror that has none of it mapped gets it one page at a time, as after
 * collisions, of which there are one more each time: each page is the right one.
 * Holds: hmm tells the right page where a walk begins inside a large page.
 */
TEST_F(vram, mapped_page_by_page)
{
	struct gpu_result out[16];
	struct gpu_args args = { .stride = PAGE, .value = ROUND, .other = PAGE, .out = out };
	long long temporary = device_stat("temporary_intervals");

	for (unsigned int collisions = 1; collisions <= 8; collisions++) {
		static uint64_t elsewhere;
		struct gpu fresh;
		int ret;

		/* Code, arguments and results are mapped first. */
		ASSERT_OK(gpu_open(&fresh));
		args.addr = (uintptr_t)&elsewhere;
		args.other = 0;
		ASSERT_OK(gpu_run(&fresh, GPU_SYM_k_pattern_check, &args, 1));
		args.addr = (uintptr_t)self->m.p + 7 * PAGE;
		args.other = PAGE;
		if (!inject("inject_collision", collisions))
			SKIP(return, "this driver has no inject_collision");
		ret = gpu_run(&fresh, GPU_SYM_k_pattern_check, &args, ARRAY_SIZE(out));
		inject("inject_collision", 0);
		ASSERT_OK(ret);
		for (size_t i = 0; i < ARRAY_SIZE(out); i++) {
			ASSERT_EQ(0, out[i].errors)
				TH_LOG("%u collisions, page %zu", collisions, i);
		}
		gpu_close(&fresh);
	}
	EXPECT_GT(device_stat("temporary_intervals"), temporary);
	EXPECT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
}

/* The last reference goes where interrupts are off: the page is freed all the same. */
TEST_F(vram, last_put_with_interrupts_off)
{
	HOLD_OR_SKIP();
	for (size_t off = 0; off < SIZE; off += LEAF) {
		uint64_t pfn = mem_device_pfn(self->m.p + off);

		ASSERT_NE(0, pfn);
		ASSERT_OK(hold_folio(pfn, false));
	}
	mem_put(&self->m);
	usleep(50000);
	/* Held, or nothing is tested. */
	EXPECT_GT(device_stat("vram_pages"), self->pages);
	ASSERT_OK(hold_release(true));
	EXPECT_OK(await_stat("vram_pages", self->pages));
	EXPECT_OK(vram_await_free(self->g.fd, self->free));
}

TEST_HARNESS_MAIN
