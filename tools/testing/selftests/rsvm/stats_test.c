// SPDX-License-Identifier: GPL-2.0
/*
 * How the work was done: leaf sizes, what a fault brings in and what it leaves
 * alone, and the figures that tell.
 */
#include "lib/rsvm_test.h"

#define KPF_ZERO_PAGE (1ull << 24)

FIXTURE(stats)
{
	struct gpu g;
	struct mem m;
	struct gpu_result out[512];
};

FIXTURE_SETUP(stats)
{
	ASSERT_OK(gpu_open(&self->g));
}

FIXTURE_TEARDOWN(stats)
{
	mem_let_khugepaged(true);
	gpu_close(&self->g);
	mem_put(&self->m);
}

#define STAT(name) fdinfo(self->g.fd, "rsvm-" name)

/* All figures are there, and move when there is work. */
TEST_F(stats, fdinfo)
{
	static const char *const keys[] = {
		"rsvm-faults", "rsvm-batches", "rsvm-pages", "rsvm-map-4k", "rsvm-map-64k",
		"rsvm-map-2m", "rsvm-replays", "rsvm-invalidations", "rsvm-retries",
	};
	long long faults, pages, invalidations;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		EXPECT_GE(fdinfo(self->g.fd, keys[i]), 0) TH_LOG("%s", keys[i]);
	}
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	faults = STAT("faults");
	pages = STAT("pages");
	invalidations = STAT("invalidations");
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 100, 1, NULL));
	EXPECT_GE(STAT("faults"), faults + 1);
	EXPECT_GE(STAT("pages"), pages + 100);
	ASSERT_OK(madvise(self->m.p, LEAF, MADV_DONTNEED));
	EXPECT_GT(STAT("invalidations"), invalidations);
	EXPECT_GE(device_stat("faults"), STAT("faults"));
	EXPECT_EQ(0, device_stat("lost_updates"));
}

/* A huge page is one 2 MiB PTE, also when the CPU maps it by 512. */
TEST_F(stats, huge_page_is_one_pte)
{
	static const enum mem_kind kinds[] = {
		MEM_THP, MEM_THP_PTES, MEM_MEMFD_THP, MEM_HUGETLB,
	};

	/*
	 * Each at an address of its own: a page that goes while its replay is being
	 * acknowledged may be mapped alone the next time.
	 */
	struct mem m[ARRAY_SIZE(kinds)] = {};

	mem_let_khugepaged(false);
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		long long huge, small;
		char *p;

		if (mem_get(&m[k], kinds[k], 2 * LEAF))
			continue;
		p = m[k].p;
		memset(p, 1, 2 * LEAF);
		ASSERT_TRUE(kinds[k] == MEM_HUGETLB || mem_contiguous(p, LEAF));
		huge = STAT("map-2m");
		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, p + 9 * PAGE, LEAF, 2, 1, NULL));
		EXPECT_EQ(huge + 2, STAT("map-2m")) TH_LOG("kind %d", kinds[k]);
		/* The rest of it is there already. */
		small = STAT("faults");
		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, p, PAGE, 1024, 1, NULL));
		EXPECT_EQ(small, STAT("faults")) TH_LOG("kind %d", kinds[k]);
	}
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		mem_put(&m[k]);
}

/* 64 KiB folios become 64 KiB PTEs. */
TEST_F(stats, folio_of_64k_is_one_pte)
{
	long long medium;

	MEM_OR_SKIP(&self->m, MEM_MTHP, LEAF);
	if (!mem_contiguous(self->m.p + 0x20000, 0x10000))
		SKIP(return, "no 64 KiB folio was had");
	medium = STAT("map-64k");
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p + 0x20000, PAGE, 16, 1, NULL));
	EXPECT_GT(STAT("map-64k"), medium);
}

/* A part of a huge page goes: the rest stays mapped, in smaller PTEs or anew. */
TEST_F(stats, huge_page_partly_unmapped)
{
	MEM_OR_SKIP(&self->m, MEM_THP, LEAF);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 512, 1, NULL));
	ASSERT_OK(munmap(self->m.p + 100 * PAGE, PAGE));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, PAGE, 100, 0, self->out));
	for (int i = 0; i < 100; i++) {
		EXPECT_EQ(1 + i, self->out[i].value);
	}
	EXPECT_EQ(-EIO, gpu_poke(&self->g, self->m.p + 100 * PAGE, 1));
}

/*
 * One page is touched, by a read or a write, in memory that has none: one page
 * comes. Holds: fault-in and snapshot are two calls; as one, hmm would fill the
 * whole window.
 */
TEST_F(stats, holes_stay_holes)
{
	for (int write = 0; write < 2; write++) {
		ASSERT_OK(mem_get(&self->m, MEM_ANON, 2 * LEAF));
		ASSERT_OK(gpu_over(&self->g, write ? GPU_SYM_k_write : GPU_SYM_k_read,
				   self->m.p + 77 * PAGE, 0, 1, 1, self->out));
		EXPECT_EQ(1, mem_present(self->m.p, 2 * LEAF));
		/* Two more with a hole between, in one batch. */
		ASSERT_OK(gpu_over(&self->g, write ? GPU_SYM_k_write : GPU_SYM_k_read,
				   self->m.p + 200 * PAGE, 50 * PAGE, 2, 1, self->out));
		EXPECT_EQ(3, mem_present(self->m.p, 2 * LEAF));
		mem_put(&self->m);
	}
}

/* What is present beside the fault is mapped along with it. */
TEST_F(stats, present_neighbours_come_along)
{
	long long faults;

	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	memset(self->m.p, 1, LEAF);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p + 64 * PAGE, 0, 1, 1, NULL));
	faults = STAT("faults");
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p + 65 * PAGE, PAGE, 15, 1, NULL));
	EXPECT_EQ(faults, STAT("faults"));
}

/* Reading memory that nobody wrote takes no memory: it is the zero page. */
TEST_F(stats, read_takes_the_zero_page)
{
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, PAGE, 64, 0, self->out));
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(0, self->out[i].value);
		EXPECT_NE(0, mem_kpageflags(self->m.p + i * PAGE) & KPF_ZERO_PAGE);
	}
	/* And the first write replaces it, on the GPU too. */
	ASSERT_OK(gpu_poke(&self->g, self->m.p, 5));
	EXPECT_EQ(5, *word_at(self->m.p, 0));
	EXPECT_EQ(0, mem_kpageflags(self->m.p) & KPF_ZERO_PAGE);
}

/* After fork() a read copies nothing; a write copies just its page. */
TEST_F(stats, read_does_not_copy)
{
	uint64_t pfn[64];
	int pair[2];
	pid_t pid;
	char c;

	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	memset(self->m.p, 1, 64 * PAGE);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 64, 1, NULL));
	for (int i = 0; i < 64; i++)
		pfn[i] = mem_pfn(self->m.p + i * PAGE);
	ASSERT_OK(pipe(pair));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(pair[1]);
		(void)!read(pair[0], &c, 1);
		_exit(0);
	}
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, PAGE, 64, 0, self->out));
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(pfn[i], mem_pfn(self->m.p + i * PAGE));
	}
	ASSERT_OK(gpu_poke(&self->g, self->m.p + 10 * PAGE, 1));
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(i == 10, pfn[i] != mem_pfn(self->m.p + i * PAGE)) TH_LOG("page %d", i);
	}
	close(pair[1]);
	EXPECT_EQ(0, wait_exit(pid));
}

/* A private mapping of a file is copied by a write, not by a read. */
TEST_F(stats, read_of_private_file_does_not_copy)
{
	char *same;

	ASSERT_OK(mem_get(&self->m, MEM_TMPFS_PRIVATE, LEAF));
	same = mmap(NULL, LEAF, PROT_READ, MAP_SHARED, self->m.fd, 0);
	ASSERT_NE(MAP_FAILED, same);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, PAGE, 32, 0, self->out));
	for (int i = 0; i < 32; i++) {
		(void)*word_at(same, i * PAGE);
		EXPECT_EQ(mem_pfn(same + i * PAGE), mem_pfn(self->m.p + i * PAGE));
	}
	ASSERT_OK(gpu_poke(&self->g, self->m.p, 3));
	EXPECT_NE(mem_pfn(same), mem_pfn(self->m.p));
	EXPECT_EQ(0, *word_at(same, 0));
	munmap(same, LEAF);
}

/* Pages that the GPU could write and lost are counted as marked dirty. */
TEST_F(stats, dirty_marks_are_counted)
{
	long long dirtied = device_stat("dirtied");

	ASSERT_OK(mem_get(&self->m, MEM_MEMFD, LEAF));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 100, 1, NULL));
	ASSERT_OK(munmap(self->m.p, LEAF));
	EXPECT_GE(device_stat("dirtied"), dirtied + 100);
}

TEST_HARNESS_MAIN
