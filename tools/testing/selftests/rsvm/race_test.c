// SPDX-License-Identifier: GPL-2.0
/*
 * Faults are served while the mm changes the very same memory. Delays injected
 * into the driver (debugfs) make each race happen rather than perhaps; without
 * them the tests still hold, only less sharply.
 */
#include "lib/rsvm_test.h"

FIXTURE(race)
{
	struct gpu g;
	struct gpu probe;
	struct mem m;
	struct gpu_args args;
	struct gpu_result out[64];
	volatile uint64_t stop;
};

FIXTURE_SETUP(race)
{
	ASSERT_OK(mem_get(&self->m, MEM_ANON, 3 * LEAF));
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(gpu_open_queue(&self->probe, &self->g));
}

FIXTURE_TEARDOWN(race)
{
	inject("inject_commit_delay_us", 0);
	inject("inject_replay_delay_us", 0);
	inject("inject_collision", 0);
	gpu_close(&self->probe);
	gpu_close(&self->g);
	mem_put(&self->m);
}

static void pause_us(unsigned int us)
{
	int64_t end = now_ns() + us * 1000ll;

	while (now_ns() < end)
		;
}

/* A fresh page with @value at @p, in one step. */
static void *replace(void *p, uint64_t value)
{
	void *fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (fresh == MAP_FAILED)
		return NULL;
	*word_at(fresh, 0) = value;
	return mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p);
}

/*
 * The page is replaced between the snapshot and its commit. Holds: read_retry
 * under the page-table lock; a commit without it leaves the old page in reach,
 * and nothing would ever take it away.
 */
TEST_F(race, replaced_before_commit)
{
	inject("inject_commit_delay_us", 3000);
	for (uint64_t r = 1; r <= 60; r++) {
		char *p = self->m.p + r * 3 * PAGE;

		*word_at(p, 0) = r;
		self->args = (struct gpu_args){ .addr = (uintptr_t)p, .out = self->out };
		ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_read, &self->args, 1));
		/* Anywhere from before the fault to after the commit. */
		pause_us(r * 211 % 6000);
		ASSERT_EQ(p, replace(p, r + 1000));
		ASSERT_OK(gpu_wait(&self->g));
		ASSERT_TRUE(self->out[0].value == r || self->out[0].value == r + 1000);
		ASSERT_EQ(r + 1000, gpu_peek(&self->probe, p)) TH_LOG("round %lu", r);
	}
}

/* The same with rights: what became read-only meanwhile is not written. */
TEST_F(race, protected_before_commit)
{
	inject("inject_commit_delay_us", 3000);
	for (uint64_t r = 1; r <= 30; r++) {
		char *p = self->m.p + r * 3 * PAGE;
		uint64_t seen;
		int ret;

		*word_at(p, 0) = r;
		self->args = (struct gpu_args){ .addr = (uintptr_t)p, .value = r + 1000 };
		ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_write, &self->args, 1));
		pause_us(r * 317 % 6000);
		ASSERT_OK(mprotect(p, PAGE, PROT_READ));
		/* From here on the word must not change any more. */
		seen = *word_at(p, 0);
		ret = gpu_wait(&self->g);
		ASSERT_EQ(seen, *word_at(p, 0)) TH_LOG("round %lu", r);
		ASSERT_EQ(seen == r ? -EIO : 0, ret);
		if (!ret)
			continue;
		ASSERT_EQ(DRM_RSVM_FAULT_PROTECTION, self->g.fault_reason);
		gpu_close(&self->probe);
		gpu_close(&self->g);
		ASSERT_OK(gpu_open(&self->g));
		ASSERT_OK(gpu_open_queue(&self->probe, &self->g));
	}
}

/*
 * While a write is being served, another mirror's replay has it reported a second
 * time. That report is looked at when the write is long done and its page has
 * become read-only. Holds: an access is cancelled only if it surely still waits.
 */
TEST_F(race, old_report_kills_nobody)
{
	char *warm = self->m.p, *slow = warm + LEAF, *p = slow + LEAF;
	/* On one page, which all have mapped when it matters. */
	static struct gpu_args args[3] __attribute__((aligned(4096)));
	struct gpu_args *write = &args[0], *read = &args[1], *bad = &args[2];
	struct gpu other;

	for (int r = 1; r <= 5; r++) {
		ASSERT_OK(gpu_open(&other));
		ASSERT_OK(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
		for (int k = 0; k < 3; k++)
			args[k] = (struct gpu_args){ .addr = (uintptr_t)warm, .out = self->out };
		ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_write, write, 1));
		ASSERT_OK(gpu_run(&self->probe, GPU_SYM_k_read, read, 1));
		ASSERT_OK(gpu_run(&other, GPU_SYM_k_read, bad, 1));
		ASSERT_OK(madvise(slow, 2 * LEAF, MADV_DONTNEED));
		write->addr = (uintptr_t)p;
		write->value = r;
		read->addr = (uintptr_t)slow;
		bad->addr = 0x1000;

		inject("inject_commit_delay_us", 100000);
		ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_write, write, 1));
		pause_us(20000);
		/* Is served in the same turn as the second report, and before it. */
		ASSERT_OK(gpu_launch(&self->probe, GPU_SYM_k_read, read, 1));
		/* Replays at once, since there is nothing to map. */
		ASSERT_OK(gpu_launch(&other, GPU_SYM_k_read, bad, 1));
		ASSERT_OK(gpu_wait(&self->g));
		ASSERT_OK(mprotect(p, PAGE, PROT_READ));
		ASSERT_OK(gpu_wait(&self->probe));
		inject("inject_commit_delay_us", 0);
		ASSERT_EQ(-EIO, gpu_wait(&other));
		gpu_close(&other);
		ASSERT_EQ(r, gpu_peek(&self->g, p)) TH_LOG("round %d", r);
	}
}

/*
 * A page that the GPU writes all the time is given back and belongs to somebody
 * else at once. Holds: the flush is acknowledged before the page goes; else the
 * GPU's next store lands in the new owner.
 */
TEST_F(race, page_given_back_while_written)
{
	const uint64_t magic = 0xbad0bad0bad0bad0;
	unsigned int reused = 0;

	self->args = (struct gpu_args){
		.addr = (uintptr_t)self->m.p,
		.stride = 8,
		.value = magic,
		.stop = &self->stop,
	};
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_store, &self->args, 32));
	for (int r = 0; r < scaled(150); r++) {
		uint64_t pfn, *other;

		ASSERT_OK(await_change(word_at(self->m.p, 0), 0));
		pfn = mem_pfn(self->m.p);
		ASSERT_OK(madvise(self->m.p, PAGE, MADV_DONTNEED));
		other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, other);
		for (int i = 0; i < 32; i++)
			*(volatile uint64_t *)&other[i] = 1;
		reused += mem_pfn(other) == pfn;
		pause_us(2000);
		for (int i = 0; i < 32; i++) {
			ASSERT_EQ(1, *(volatile uint64_t *)&other[i]) TH_LOG("round %d", r);
		}
		ASSERT_OK(munmap(other, PAGE));
	}
	self->stop = 1;
	ASSERT_OK(gpu_wait(&self->g));
	/* Otherwise nothing was tested. */
	EXPECT_GT(reused, 0);
}

/*
 * Mappings come and go at one address while faults there are served. Holds:
 * read_retry, as in replaced_before_commit, here against munmap() and mmap().
 * (An interval that was emptied is dropped by the worker that commits, so that
 * here no commit meets a dead one; see destroyed_before_commit.)
 */
TEST_F(race, interval_comes_and_goes)
{
	const size_t size = 2 * LEAF;
	char *p = self->m.p;

	inject("inject_commit_delay_us", 2000);
	for (uint64_t r = 1; r <= 40; r++) {
		char *q = p + r % 7 * 64 * PAGE;

		ASSERT_OK(gpu_poke(&self->probe, q, r));
		ASSERT_OK(munmap(p, size));
		ASSERT_EQ(p, mmap(p, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		*word_at(q, 0) = r + 1000;
		self->args = (struct gpu_args){ .addr = (uintptr_t)q, .out = self->out };
		ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_read, &self->args, 1));
		pause_us(r * 173 % 4000);
		if (r & 1) {
			ASSERT_OK(munmap(p + LEAF, LEAF));
			ASSERT_EQ(p + LEAF, mmap(p + LEAF, LEAF, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		}
		ASSERT_OK(gpu_wait(&self->g));
		ASSERT_EQ(r + 1000, self->out[0].value);
		ASSERT_EQ(q, replace(q, r + 2000));
		ASSERT_EQ(r + 2000, gpu_peek(&self->probe, q)) TH_LOG("round %lu", r);
	}
}

/* Changes the neighbour and nothing else. */
static void *empty_neighbour(void *arg)
{
	FIXTURE_DATA(race) *self = arg;

	while (!self->stop)
		madvise(self->m.p + PAGE, PAGE, MADV_DONTNEED);
	return NULL;
}

/* Each time the mapping is split, core invalidates the 2 MiB around the split. */
static void *split_neighbour(void *arg)
{
	FIXTURE_DATA(race) *self = arg;
	char *p = self->m.p + PAGE;

	while (!self->stop) {
		mprotect(p, PAGE, PROT_READ);
		mprotect(p, PAGE, PROT_READ | PROT_WRITE);
	}
	return NULL;
}

/*
 * Pages are written by the GPU while another thread does @contend without a
 * pause, faster than any fault can be served. @stat counts the means by which
 * they get through; what waits for luck goes to the back of the queue again and
 * again.
 */
static void progress(struct __test_metadata *_metadata, FIXTURE_DATA(race) *self,
		     void *(*contend)(void *), const char *knob, const char *stat)
{
	long long before = device_stat(stat), requeued = device_stat("requeued");
	const int pages = 16;
	pthread_t thread;

	/* Both pages are there: nothing but the sequence stands in the way. */
	*word_at(self->m.p, 0) = 1;
	*word_at(self->m.p, PAGE) = 1;
	inject(knob, 5000);
	ASSERT_OK(pthread_create(&thread, NULL, contend, self));
	for (int i = 1; i <= pages; i++) {
		char *p = self->m.p + i * 9 * PAGE;

		ASSERT_OK(gpu_poke(&self->g, p, i));
		EXPECT_EQ(i, *word_at(p, 0));
	}
	self->stop = 1;
	ASSERT_OK(pthread_join(thread, NULL));
	if (before >= 0) {
		EXPECT_GT(device_stat(stat), before);
		EXPECT_LT(device_stat("requeued"), requeued + pages);
	}
}

/* Holds: the temporary interval of one page. */
TEST_F(race, progress_under_contention)
{
	progress(_metadata, self, empty_neighbour, "inject_commit_delay_us",
		 "temporary_intervals");
}

/*
 * Holds: mmap_lock from the last snapshot to its commit. The interval of one
 * page is in the 2 MiB that are invalidated.
 */
TEST_F(race, progress_under_splits)
{
	progress(_metadata, self, split_neighbour, "inject_commit_delay_us",
		 "locked_snapshots");
}

/*
 * What is mapped is taken away again before the device is told. Holds: such pages
 * are mapped with mmap_lock held until it is.
 */
TEST_F(race, progress_before_replay)
{
	progress(_metadata, self, split_neighbour, "inject_replay_delay_us",
		 "locked_snapshots");
}

/* Snapshots that are told they collided: taken again, and at last through. */
TEST_F(race, injected_collisions)
{
	long long collisions = device_stat("collisions");

	if (!inject("inject_collision", 50))
		SKIP(return, "this driver has no inject_collision");
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 512, 1, NULL));
	for (uint64_t i = 0; i < 512; i++) {
		ASSERT_EQ(i + 1, *word_at(self->m.p, i * PAGE));
	}
	EXPECT_GE(device_stat("collisions"), collisions + 50);
}

static void *churn(void *arg)
{
	FIXTURE_DATA(race) *self = arg;
	char *p = self->m.p + LEAF;

	while (!self->stop) {
		mprotect(p, LEAF, PROT_READ);
		mprotect(p, LEAF, PROT_READ | PROT_WRITE);
		madvise(p, LEAF, MADV_DONTNEED);
	}
	return NULL;
}

/*
 * Mirrors are destroyed while invalidations for their intervals are on the way.
 * No one line of the driver is known that breaks this alone: that removal waits
 * for what is under way is core's. It is for KASAN and lockdep to look at.
 */
TEST_F(race, destroyed_during_invalidations)
{
	pthread_t thread;

	ASSERT_OK(pthread_create(&thread, NULL, churn, self));
	for (int r = 0; r < scaled(16); r++) {
		struct gpu g;

		ASSERT_OK(gpu_open(&g));
		ASSERT_OK(gpu_over(&g, GPU_SYM_k_read, self->m.p + LEAF, PAGE, 64, 0, self->out));
		if (r & 1) {
			ASSERT_OK(rsvm_vm_destroy(g.fd, g.vm));
		}
		gpu_close(&g);
	}
	self->stop = 1;
	ASSERT_OK(pthread_join(thread, NULL));
	ASSERT_OK(gpu_poke(&self->g, self->m.p, 1));
}

/*
 * Mirrors are destroyed between a snapshot and its commit. Holds: nothing is
 * entered into a mirror that is gone, where nobody would take it away again;
 * the driver warns if it finds something left.
 */
TEST_F(race, destroyed_before_commit)
{
	inject("inject_commit_delay_us", 5000);
	for (unsigned int r = 0; r < 30; r++) {
		struct gpu g;

		self->args = (struct gpu_args){ .addr = (uintptr_t)self->m.p, .stride = PAGE };
		*word_at(self->m.p, 0) = r;
		ASSERT_OK(gpu_open(&g));
		ASSERT_OK(gpu_launch(&g, GPU_SYM_k_write, &self->args, 8));
		pause_us(r * 397 % 12000);
		ASSERT_OK(rsvm_vm_destroy(g.fd, g.vm));
		gpu_close(&g);
	}
	inject("inject_commit_delay_us", 0);
	ASSERT_OK(gpu_poke(&self->g, self->m.p, 1));
}

TEST_HARNESS_MAIN
