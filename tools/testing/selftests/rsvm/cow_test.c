// SPDX-License-Identifier: GPL-2.0
/*
 * fork() and copy-on-write, and KSM, under the GPU. Hold: RO is not ignored,
 * and the flush of a revoked right is over before the mm goes on; else the GPU
 * writes into the page that the child still reads.
 */
#include "lib/rsvm_test.h"

#define SIZE LEAF
#define PAGES (SIZE / PAGE)
#define RUNNERS 32

FIXTURE(cow)
{
	struct gpu g;
	struct mem m;
	struct gpu_args args;
	struct gpu_result out[PAGES];
	volatile uint64_t stop;
};

FIXTURE_VARIANT(cow)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(cow, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(cow, thp) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(cow, thp_ptes) { .kind = MEM_THP_PTES };
FIXTURE_VARIANT_ADD(cow, mthp) { .kind = MEM_MTHP };
FIXTURE_VARIANT_ADD(cow, hugetlb) { .kind = MEM_HUGETLB };
FIXTURE_VARIANT_ADD(cow, tmpfs_private) { .kind = MEM_TMPFS_PRIVATE };

FIXTURE_SETUP(cow)
{
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	ASSERT_OK(gpu_open(&self->g));
	/* The GPU holds the right to write every page. */
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, PAGES, 100, NULL));
}

FIXTURE_TEARDOWN(cow)
{
	self->stop = 1;
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* Two pipes between parent and child, one byte each way. */
struct pair {
	int down[2], up[2];
};

static void tell(int *fd)
{
	char c = 0;

	if (write(fd[1], &c, 1) != 1)
		_exit(99);
}

static void hear(int *fd)
{
	char c;

	if (read(fd[0], &c, 1) != 1)
		_exit(98);
}

static int make_pair(struct pair *p)
{
	return pipe(p->down) || pipe(p->up) ? -errno : 0;
}

static bool pages_hold(struct mem *m, uint64_t first)
{
	for (size_t i = 0; i < PAGES; i++)
		if (*word_at(m->p, i * PAGE) != first + i)
			return false;
	return true;
}

/* The parent's GPU writes after the fork: the child keeps the old data. */
TEST_F(cow, parent_gpu_writes)
{
	struct pair pair;
	pid_t pid;

	ASSERT_OK(make_pair(&pair));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		hear(pair.down);
		_exit(!pages_hold(&self->m, 100));
	}
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, PAGES, 200, NULL));
	tell(pair.down);
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_TRUE(pages_hold(&self->m, 200));
}

/* The child's CPU writes: the parent's GPU sees nothing of it. */
TEST_F(cow, child_cpu_writes)
{
	pid_t pid = fork();

	ASSERT_GE(pid, 0);
	if (!pid) {
		for (size_t i = 0; i < PAGES; i++)
			*word_at(self->m.p, i * PAGE) = 300 + i;
		_exit(0);
	}
	ASSERT_EQ(0, wait_exit(pid));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, PAGE, PAGES, 0, self->out));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(100 + i, self->out[i].value);
	}
}

/*
 * The parent's CPU writes after the fork, so that its page is another one now:
 * the GPU, which had read the shared page, follows.
 */
TEST_F(cow, parent_cpu_writes)
{
	struct pair pair;
	pid_t pid;

	ASSERT_OK(make_pair(&pair));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		hear(pair.down);
		_exit(!pages_hold(&self->m, 100));
	}
	/* Read mappings of what both share. */
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, PAGE, PAGES, 0, self->out));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(100 + i, self->out[i].value);
		*word_at(self->m.p, i * PAGE) = 400 + i;
	}
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, self->m.p, PAGE, PAGES, 1, self->out));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(400 + i, self->out[i].value);
	}
	EXPECT_TRUE(pages_hold(&self->m, 401));
	tell(pair.down);
	EXPECT_EQ(0, wait_exit(pid));
}

/*
 * fork() while the GPU counts every word up: each child's copy stands still from
 * the first moment, and no count of the parent's is lost.
 */
TEST_F(cow, fork_while_counting)
{
	self->args = (struct gpu_args){
		.addr = (uintptr_t)self->m.p,
		.stride = 8 * PAGE,
		.stop = &self->stop,
		.out = self->out,
	};
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_count, &self->args, RUNNERS));
	for (int r = 0; r < scaled(20); r++) {
		uint64_t running = *word_at(self->m.p, 0);
		pid_t pid;

		ASSERT_OK(await_change(word_at(self->m.p, 0), running));
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid) {
			uint64_t first[RUNNERS];

			for (int i = 0; i < RUNNERS; i++)
				first[i] = *word_at(self->m.p, i * 8 * PAGE);
			usleep(3000);
			for (int i = 0; i < RUNNERS; i++)
				if (first[i] != *word_at(self->m.p, i * 8 * PAGE))
					_exit(1);
			_exit(0);
		}
		ASSERT_EQ(0, wait_exit(pid)) TH_LOG("round %d", r);
	}
	self->stop = 1;
	ASSERT_OK(gpu_wait(&self->g));
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(0, self->out[i].errors);
		EXPECT_EQ(*word_at(self->m.p, i * 8 * PAGE), self->out[i].value);
	}
}

/* Grandchildren: three generations keep three versions. */
TEST_F(cow, generations)
{
	pid_t pid;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct gpu g;
		pid_t grandchild;

		if (gpu_open(&g) ||
		    gpu_over(&g, GPU_SYM_k_write, self->m.p, PAGE, PAGES, 500, NULL))
			_exit(1);
		grandchild = fork();
		if (!grandchild) {
			struct gpu own;

			if (gpu_open(&own) ||
			    gpu_over(&own, GPU_SYM_k_add, self->m.p, PAGE, PAGES, 100, NULL))
				_exit(2);
			_exit(pages_hold(&self->m, 600) ? 0 : 3);
		}
		if (wait_exit(grandchild))
			_exit(4);
		_exit(pages_hold(&self->m, 500) ? 0 : 5);
	}
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_TRUE(pages_hold(&self->m, 100));
	EXPECT_EQ(100 + 7, gpu_peek(&self->g, self->m.p + 7 * PAGE));
}

/* Shared memory stays shared: each side sees what the other wrote last. */
TEST(shared_across_fork)
{
	struct gpu_result out;
	struct gpu g;
	struct mem m;
	pid_t pid;

	ASSERT_OK(mem_get(&m, MEM_MEMFD, SIZE));
	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(gpu_over(&g, GPU_SYM_k_write, m.p, PAGE, PAGES, 100, NULL));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct gpu own;

		_exit(!pages_hold(&m, 100) || gpu_open(&own) ||
		      gpu_over(&own, GPU_SYM_k_add, m.p, PAGE, PAGES, 100, NULL));
	}
	ASSERT_EQ(0, wait_exit(pid));
	EXPECT_TRUE(pages_hold(&m, 200));
	ASSERT_OK(gpu_over(&g, GPU_SYM_k_add, m.p + 7 * PAGE, PAGE, 1, 1, &out));
	EXPECT_EQ(207, out.value);
	gpu_close(&g);
	mem_put(&m);
}

/*
 * Equal pages are merged; the GPU, which could write both, then changes one of
 * them, and the other stays.
 */
TEST(ksm)
{
	struct gpu g;
	struct mem m;
	bool merged = false;

	ASSERT_OK(mem_get(&m, MEM_ANON, LEAF));
	if (madvise(m.p, 64 * PAGE, MADV_MERGEABLE))
		SKIP(return, "no KSM");
	ASSERT_OK(gpu_open(&g));
	for (int i = 0; i < 64; i++)
		memset(m.p + i * PAGE, 0x77, PAGE);
	/* Writable mappings of all in the GPU. */
	ASSERT_OK(gpu_over(&g, GPU_SYM_k_write, m.p, PAGE, 64, 0, NULL));
	for (int i = 0; i < 64; i++)
		*word_at(m.p, i * PAGE) = 0x7777777777777777;
	ASSERT_OK(ksm_start());
	for (int i = 0; i < 600 && !merged; i++) {
		usleep(50000);
		merged = mem_kpageflags(m.p) & KPF_KSM &&
			 mem_pfn(m.p) == mem_pfn(m.p + PAGE);
	}
	EXPECT_TRUE(merged);
	EXPECT_EQ(0x7777777777777777, gpu_peek(&g, m.p + PAGE));
	/* The GPU breaks half of them out. */
	EXPECT_OK(gpu_over(&g, GPU_SYM_k_write, m.p, 2 * PAGE, 32, 1, NULL));
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(i & 1 ? 0x7777777777777777 : 1 + i / 2, *word_at(m.p, i * PAGE));
	}
	ASSERT_OK(ksm_split());
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(i & 1 ? 0x7777777777777777 : 1 + i / 2, gpu_peek(&g, m.p + i * PAGE));
	}
	ksm_stop();
	gpu_close(&g);
	mem_put(&m);
}

TEST_HARNESS_MAIN
