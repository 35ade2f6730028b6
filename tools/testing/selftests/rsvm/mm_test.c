// SPDX-License-Identifier: GPL-2.0
/*
 * The mm changes under the GPU: munmap, mprotect, mremap, MADV_DONTNEED and
 * mappings replaced while a kernel runs on them.
 *
 * These hold the flush on invalidate: TLBs of the virtual GPU forget nothing by
 * themselves, so without one the probe reads the old page.
 */
#include "lib/rsvm_test.h"

#define SIZE (2 * LEAF)
#define RUNNERS 64

FIXTURE(mm)
{
	struct gpu g;		/* runs all the time */
	struct gpu probe;	/* asks in between */
	struct mem m;
	struct gpu_args args;
	struct gpu_result out[RUNNERS];
	volatile uint64_t stop;
};

FIXTURE_VARIANT(mm)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(mm, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(mm, thp) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(mm, thp_ptes) { .kind = MEM_THP_PTES };
FIXTURE_VARIANT_ADD(mm, mthp) { .kind = MEM_MTHP };
FIXTURE_VARIANT_ADD(mm, memfd) { .kind = MEM_MEMFD };
FIXTURE_VARIANT_ADD(mm, memfd_thp) { .kind = MEM_MEMFD_THP };

FIXTURE_SETUP(mm)
{
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(gpu_open_queue(&self->probe, &self->g));
}

FIXTURE_TEARDOWN(mm)
{
	gpu_close(&self->probe);
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* Starts @kernel on word 0 of the first RUNNERS pages; runs until stop(). */
static int start(FIXTURE_DATA(mm) *self, uint64_t kernel, uint64_t value)
{
	self->stop = 0;
	self->args = (struct gpu_args){
		.addr = (uintptr_t)self->m.p,
		.stride = PAGE,
		.value = value,
		.stop = &self->stop,
		.out = self->out,
	};
	return gpu_launch(&self->g, kernel, &self->args, RUNNERS);
}

static int stop(FIXTURE_DATA(mm) *self)
{
	self->stop = 1;
	return gpu_wait(&self->g);
}

/* Whether none of the runners saw an error. */
static bool clean(FIXTURE_DATA(mm) *self)
{
	for (int i = 0; i < RUNNERS; i++)
		if (self->out[i].errors)
			return false;
	return true;
}

/* New memory appears under a running kernel, again and again. */
TEST_F(mm, replaced_under_running_kernel)
{
	const uint64_t rounds = scaled(40);
	char *p = self->m.p;

	if (self->m.fd < 0) {
		for (int i = 0; i < RUNNERS; i++)
			*word_at(p, i * PAGE) = 1;
	} else {
		ASSERT_OK(gpu_over(&self->probe, GPU_SYM_k_add, p, PAGE, RUNNERS, 1, NULL));
	}
	ASSERT_OK(start(self, GPU_SYM_k_monotonic, 0));
	for (uint64_t r = 2; r <= rounds; r++) {
		int page = r * 7 % RUNNERS;
		char *fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		ASSERT_NE(MAP_FAILED, fresh);
		*word_at(fresh, 0) = r;
		/* In one step, so that the runners never meet a hole. */
		ASSERT_EQ(p + page * PAGE, mremap(fresh, PAGE, PAGE,
						  MREMAP_MAYMOVE | MREMAP_FIXED,
						  p + page * PAGE));
		ASSERT_EQ(r, gpu_peek(&self->probe, p + page * PAGE));
	}
	ASSERT_OK(stop(self));
	EXPECT_TRUE(clean(self));
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(*word_at(p, i * PAGE), self->out[i].value);
	}
}

/* A kernel that waits for a value sees it, though its page is another by then. */
TEST_F(mm, awaits_in_replaced_mapping)
{
	char *p = self->m.p;

	ASSERT_EQ(0, gpu_peek(&self->probe, p));
	ASSERT_OK(start(self, GPU_SYM_k_await, 5));
	for (int i = 0; i < RUNNERS; i++) {
		char *fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		ASSERT_NE(MAP_FAILED, fresh);
		*word_at(fresh, 0) = 5;
		ASSERT_NE(MAP_FAILED, mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
					     p + i * PAGE));
	}
	ASSERT_OK(gpu_wait(&self->g));
	EXPECT_TRUE(clean(self));
}

/* MADV_DONTNEED gives zeros (or the file's pages) at once, to the GPU as well. */
TEST_F(mm, dontneed)
{
	bool file = self->m.fd >= 0;

	for (uint64_t r = 1; r <= 20; r++) {
		size_t off = r * 13 % 512 * PAGE;

		ASSERT_OK(gpu_poke(&self->probe, self->m.p + off, r));
		ASSERT_OK(madvise(self->m.p + off, PAGE, MADV_DONTNEED));
		ASSERT_EQ(file ? r : 0, gpu_peek(&self->probe, self->m.p + off));
		ASSERT_EQ(file ? r : 0, *word_at(self->m.p, off));
		*word_at(self->m.p, off) = r + 100;
		ASSERT_EQ(r + 100, gpu_peek(&self->probe, self->m.p + off));
	}
	ASSERT_OK(gpu_over(&self->probe, GPU_SYM_k_write, self->m.p, PAGE, SIZE / PAGE, 1, NULL));
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_DONTNEED));
	for (size_t off = 0; !file && off < SIZE; off += 37 * PAGE) {
		ASSERT_EQ(0, gpu_peek(&self->probe, self->m.p + off));
	}
}

/* Holes cut around running harts leave these alone, and only these. */
TEST_F(mm, partial_munmap)
{
	char *p = self->m.p;

	ASSERT_OK(start(self, GPU_SYM_k_count, 0));
	/* Map all, then cut single pages, a run across the leaf, and fill again. */
	ASSERT_OK(gpu_over(&self->probe, GPU_SYM_k_write, p + RUNNERS * PAGE, PAGE,
			   SIZE / PAGE - RUNNERS, 1, NULL));
	for (size_t i = RUNNERS; i < 512; i += 5) {
		ASSERT_OK(munmap(p + i * PAGE, PAGE));
	}
	ASSERT_OK(munmap(p + LEAF - 3 * PAGE, 9 * PAGE));
	for (size_t i = RUNNERS; i < 512; i += 15) {
		ASSERT_EQ(p + i * PAGE, mmap(p + i * PAGE, PAGE, PROT_READ | PROT_WRITE,
					     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	}
	for (size_t i = RUNNERS; i < 500; i += 15) {
		ASSERT_EQ(0, gpu_peek(&self->probe, p + i * PAGE));
		ASSERT_EQ(i + 1 - RUNNERS + 1, gpu_peek(&self->probe, p + (i + 1) * PAGE));
	}
	ASSERT_OK(stop(self));
	EXPECT_TRUE(clean(self));
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(*word_at(p, i * PAGE), self->out[i].value);
	}
	/* The cut pages are gone for the GPU as they are for the CPU. */
	ASSERT_EQ(-EIO, gpu_poke(&self->probe, p + LEAF, 1));
	EXPECT_EQ(DRM_RSVM_FAULT_NO_MAPPING, self->probe.fault_reason);
	EXPECT_EQ((uintptr_t)p + LEAF, self->probe.fault_addr);
}

/* Rights of the neighbours change under running harts. */
TEST_F(mm, mprotect_neighbours)
{
	ASSERT_OK(start(self, GPU_SYM_k_count, 0));
	for (int r = 0; r < scaled(40); r++) {
		char *p = self->m.p + (RUNNERS + r * 5) * PAGE;

		ASSERT_OK(mprotect(p, PAGE, r & 1 ? PROT_NONE : PROT_READ));
		ASSERT_OK(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	}
	ASSERT_OK(stop(self));
	EXPECT_TRUE(clean(self));
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(*word_at(self->m.p, i * PAGE), self->out[i].value);
	}
}

/* Readers go on while their pages become read-only and writable again. */
TEST_F(mm, mprotect_readers)
{
	for (int i = 0; i < RUNNERS; i++)
		*word_at(self->m.p, i * PAGE) = 1;
	ASSERT_OK(start(self, GPU_SYM_k_monotonic, 0));
	for (uint64_t r = 2; r < scaled(40); r++) {
		char *p = self->m.p + r % RUNNERS * PAGE;

		ASSERT_OK(mprotect(p, 2 * PAGE, PROT_READ));
		ASSERT_EQ(*word_at(p, 0), gpu_peek(&self->probe, p));
		ASSERT_OK(mprotect(p, 2 * PAGE, PROT_READ | PROT_WRITE));
		*word_at(p, 0) = r;
		ASSERT_EQ(r, gpu_peek(&self->probe, p));
	}
	ASSERT_OK(stop(self));
	EXPECT_TRUE(clean(self));
}

/*
 * A page that the GPU could write is made read-only: its next write is refused
 * and the data is as before. Holds: RO is not ignored.
 */
TEST_F(mm, mprotect_takes_the_right)
{
	char *p = self->m.p + 8 * PAGE;

	ASSERT_OK(gpu_poke(&self->probe, p, 1));
	ASSERT_OK(mprotect(p, PAGE, PROT_READ));
	ASSERT_EQ(1, gpu_peek(&self->probe, p));
	ASSERT_EQ(-EIO, gpu_poke(&self->probe, p, 2));
	EXPECT_EQ(DRM_RSVM_FAULT_PROTECTION, self->probe.fault_reason);
	EXPECT_EQ(DRM_RSVM_ACCESS_WRITE, self->probe.fault_access);
	EXPECT_EQ((uintptr_t)p, self->probe.fault_addr);
	EXPECT_EQ(1, *word_at(p, 0));
	/* The other queue is fine, also on that page. */
	EXPECT_EQ(1, gpu_peek(&self->g, p));
	ASSERT_OK(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	ASSERT_OK(gpu_poke(&self->g, p, 3));
	EXPECT_EQ(3, *word_at(p, 0));
}

/* Memory that moved is where it moved to, and no longer where it was. */
TEST_F(mm, mremap_moves)
{
	char *to = mmap(NULL, SIZE + LEAF, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const size_t pages = SIZE / PAGE;

	ASSERT_NE(MAP_FAILED, to);
	to = (char *)(((uintptr_t)to + LEAF - 1) & ~(LEAF - 1));
	ASSERT_OK(gpu_over(&self->probe, GPU_SYM_k_write, self->m.p, PAGE, pages, 10, NULL));
	ASSERT_EQ(to, mremap(self->m.p, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, to, PAGE, pages, 1, NULL));
	for (size_t i = 0; i < pages; i++) {
		ASSERT_EQ(11 + i, *word_at(to, i * PAGE));
	}
	ASSERT_EQ(-EIO, gpu_poke(&self->probe, self->m.p + 5 * PAGE, 1));
	EXPECT_EQ((uintptr_t)self->m.p + 5 * PAGE, self->probe.fault_addr);

	/* Shrunk: the tail is gone, the head stays. */
	ASSERT_EQ(to, mremap(to, SIZE, SIZE - 3 * PAGE, 0));
	EXPECT_EQ(11, gpu_peek(&self->g, to));
	ASSERT_EQ(-EIO, gpu_poke(&self->g, to + SIZE - PAGE, 1));
}

/* Like gpu_peek(), but the GPU touches nothing on the stack. */
static uint64_t peek_off_stack(struct gpu *g, void *p)
{
	static struct gpu_result out;
	static struct gpu_args args;

	args = (struct gpu_args){ .addr = (uintptr_t)p, .rounds = 1, .out = &out };
	return gpu_run(g, GPU_SYM_k_read, &args, 1) ? ~0ull : out.value;
}

/*
 * Memory at the highest address that the GPU knows is unmapped, and the driver
 * forgets what was there: exactly that. What lies below is still the GPU's, and
 * still watched, so that the GPU follows when it changes.
 */
TEST(unmap_forgets_nothing_else)
{
	/* Further apart than any node is large. */
	const size_t size = 1ul << 30;
	static struct gpu g;
	long long pruned;
	char *low, *high;

	ASSERT_OK(gpu_open(&g));
	low = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, low);
	/* Above all else that the GPU uses: libraries and the stack it does not. */
	high = low > (char *)g.fence ? low : (char *)g.fence;
	high = mmap(high + (4ul << 30), PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, high);
	for (uint64_t r = 1; r <= 3; r++) {
		*word_at(low, 0) = r;
		*word_at(high, 0) = 10 + r;
		EXPECT_EQ(r, peek_off_stack(&g, low));
		EXPECT_EQ(10 + r, peek_off_stack(&g, high));
		pruned = device_stat("pruned");
		if (pruned < 0)
			SKIP(gpu_close(&g); return, "no debugfs");
		ASSERT_OK(munmap(high, PAGE));
		while (device_stat("pruned") == pruned)
			sched_yield();
		ASSERT_OK(madvise(low, PAGE, MADV_DONTNEED));
		*word_at(low, 0) = 100 + r;
		EXPECT_EQ(100 + r, peek_off_stack(&g, low));
		ASSERT_EQ(high, mmap(high, PAGE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	}
	ASSERT_OK(munmap(high, PAGE));
	ASSERT_OK(munmap(low, size));
	gpu_close(&g);
}

TEST_HARNESS_MAIN
