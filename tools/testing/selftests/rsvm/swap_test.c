// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that is reclaimed, collapsed and split while the GPU uses it. The data
 * is checked after; swap is what run.sh set up (zram).
 */
#include "lib/rsvm_test.h"

#define SIZE (2 * LEAF)
#define PAGES (SIZE / PAGE)
#define RUNNERS 64

FIXTURE(swap)
{
	struct gpu g;
	struct mem m;
	struct gpu_args args;
	struct gpu_result out[PAGES];
	volatile uint64_t stop;
};

FIXTURE_VARIANT(swap)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(swap, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(swap, anon_shared) { .kind = MEM_ANON_SHARED };
FIXTURE_VARIANT_ADD(swap, thp) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(swap, thp_ptes) { .kind = MEM_THP_PTES };
FIXTURE_VARIANT_ADD(swap, mthp) { .kind = MEM_MTHP };
FIXTURE_VARIANT_ADD(swap, memfd) { .kind = MEM_MEMFD };
FIXTURE_VARIANT_ADD(swap, ext4) { .kind = MEM_EXT4 };

static bool have_swap(void)
{
	char line[256];
	int lines = 0;
	FILE *f = fopen("/proc/swaps", "re");

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f))
		lines++;
	fclose(f);
	return lines > 1;
}

FIXTURE_SETUP(swap)
{
	if (variant->kind != MEM_EXT4 && !have_swap())
		SKIP(return, "no swap is on (run.sh does that)");
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	ASSERT_OK(gpu_open(&self->g));
}

FIXTURE_TEARDOWN(swap)
{
	self->stop = 1;
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* Pushes all pages out; those of a file go once they are clean. */
static int push_out(struct mem *m, size_t size)
{
	if (msync(m->p, size, MS_SYNC))
		return -errno;
	return madvise(m->p, size, MADV_PAGEOUT) ? -errno : 0;
}

static size_t evicted(struct mem *m, size_t size)
{
	return size / PAGE - mem_present(m->p, size);
}

/* What the GPU wrote goes out and comes back, by a GPU fault and by a CPU one. */
TEST_F(swap, out_and_back)
{
	for (uint64_t r = 1; r <= 2; r++) {
		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, PAGES,
				   r << 32, NULL));
		/* A call may only age the pages, or meet some that are in use. */
		while (evicted(&self->m, SIZE) <= PAGES / 4) {
			ASSERT_OK(push_out(&self->m, SIZE));
			usleep(20000);
		}
		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, self->m.p, 2 * PAGE, PAGES / 2,
				   1, self->out));
		for (size_t i = 0; i < PAGES / 2; i++) {
			ASSERT_EQ((r << 32) + 2 * i, self->out[i].value);
		}
		for (size_t i = 0; i < PAGES; i++) {
			ASSERT_EQ((r << 32) + i + !(i & 1), *word_at(self->m.p, i * PAGE));
		}
	}
}

/* Pages are pushed out under harts that count in them: no count is lost. */
TEST_F(swap, out_while_counting)
{
	size_t out = 0;

	self->args = (struct gpu_args){
		.addr = (uintptr_t)self->m.p,
		.stride = 3 * PAGE,
		.stop = &self->stop,
		.out = self->out,
	};
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_count, &self->args, RUNNERS));
	for (int r = 0; r < scaled(12); r++) {
		ASSERT_OK(push_out(&self->m, SIZE));
		out += evicted(&self->m, SIZE);
		usleep(2000);
	}
	self->stop = 1;
	ASSERT_OK(gpu_wait(&self->g));
	EXPECT_GT(out, 0);
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(0, self->out[i].errors);
		EXPECT_EQ(*word_at(self->m.p, i * 3 * PAGE), self->out[i].value);
	}
}

static int count_start(struct gpu *g, struct gpu_args *args, struct mem *m,
		       volatile uint64_t *stop, struct gpu_result *out)
{
	*args = (struct gpu_args){
		.addr = (uintptr_t)m->p,
		.stride = 8 * PAGE,
		.stop = stop,
		.out = out,
	};
	return gpu_launch(g, GPU_SYM_k_count, args, RUNNERS);
}

/* Small pages become a huge one and small ones again, under counting harts. */
TEST(collapse_and_split)
{
	struct gpu_result out[RUNNERS];
	volatile uint64_t stop = 0;
	struct gpu_args args;
	int collapsed = 0;
	struct gpu g;
	struct mem m;

	ASSERT_OK(mem_get(&m, MEM_ANON, LEAF));
	ASSERT_OK(gpu_open(&g));
	for (size_t i = 0; i < LEAF / PAGE; i++)
		*word_at(m.p, i * PAGE + 8) = i;
	ASSERT_OK(count_start(&g, &args, &m, &stop, out));
	ASSERT_OK(madvise(m.p, LEAF, MADV_HUGEPAGE));
	for (int r = 0; r < scaled(20); r++) {
		/* EAGAIN, when a page was pinned for a moment, is no failure. */
		if (!madvise(m.p, LEAF, MADV_COLLAPSE)) {
			collapsed += mem_is_pmd(m.p);
		} else {
			ASSERT_TRUE(errno == EAGAIN || errno == EBUSY || errno == EINVAL);
		}
		usleep(2000);
		/* Splits the PMD; every other time the folio's page goes as well. */
		ASSERT_OK(mprotect(m.p + 5 * PAGE, PAGE, PROT_READ));
		ASSERT_OK(mprotect(m.p + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE));
		if (r & 1) {
			ASSERT_OK(madvise(m.p + 6 * PAGE, PAGE, MADV_DONTNEED));
		}
		usleep(2000);
	}
	stop = 1;
	ASSERT_OK(gpu_wait(&g));
	EXPECT_GT(collapsed, 0);
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(0, out[i].errors);
		EXPECT_EQ(*word_at(m.p, i * 8 * PAGE), out[i].value);
	}
	for (size_t i = 0; i < LEAF / PAGE; i++)
		if (i != 6) {
			ASSERT_EQ(i, *word_at(m.p, i * PAGE + 8));
		}
	gpu_close(&g);
	mem_put(&m);
}

/* The folio itself is split, page by page, where the GPU has one 2 MiB PTE. */
TEST(folio_split)
{
	struct gpu_result out[RUNNERS];
	volatile uint64_t stop = 0;
	struct gpu_args args;
	char command[96];
	struct gpu g;
	struct mem m;

	MEM_OR_SKIP(&m, MEM_THP, LEAF);
	ASSERT_OK(gpu_open(&g));
	for (size_t i = 0; i < LEAF / PAGE; i++)
		*word_at(m.p, i * PAGE + 8) = i;
	ASSERT_OK(count_start(&g, &args, &m, &stop, out));
	ASSERT_OK(await_change(word_at(m.p, (RUNNERS - 1) * 8 * PAGE), 0));
	snprintf(command, sizeof(command), "%d,0x%lx,0x%lx", getpid(), (uintptr_t)m.p,
		 (uintptr_t)m.p + LEAF);
	if (sys_write("/sys/kernel/debug/split_huge_pages", command))
		SKIP(stop = 1; gpu_close(&g); return, "no split_huge_pages in debugfs");
	EXPECT_EQ(0, mem_kpageflags(m.p + 9 * PAGE) & KPF_THP);
	usleep(20000);
	stop = 1;
	ASSERT_OK(gpu_wait(&g));
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(0, out[i].errors);
		EXPECT_EQ(*word_at(m.p, i * 8 * PAGE), out[i].value);
	}
	for (size_t i = 0; i < LEAF / PAGE; i++) {
		ASSERT_EQ(i, *word_at(m.p, i * PAGE + 8));
	}
	gpu_close(&g);
	mem_put(&m);
}

/* Compaction moves pages that the GPU uses. */
TEST(compaction)
{
	struct gpu_result out[RUNNERS];
	volatile uint64_t stop = 0;
	struct gpu_args args;
	struct gpu g;
	struct mem m;

	ASSERT_OK(mem_get(&m, MEM_ANON, LEAF));
	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(count_start(&g, &args, &m, &stop, out));
	for (int r = 0; r < 5; r++)
		if (sys_write("/proc/sys/vm/compact_memory", "1"))
			SKIP(stop = 1; gpu_close(&g); return, "no compaction");
	stop = 1;
	ASSERT_OK(gpu_wait(&g));
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(0, out[i].errors);
		EXPECT_EQ(*word_at(m.p, i * 8 * PAGE), out[i].value);
	}
	gpu_close(&g);
	mem_put(&m);
}

TEST_HARNESS_MAIN
