// SPDX-License-Identifier: GPL-2.0
/*
 * Eviction goes on whatever the owners of the pages do and however little memory
 * there is to evict to; where it cannot, who waits for it can be killed. For a
 * device with little VRAM (--vram 16M); what is to be filled scales with it.
 */
#include "lib/device.h"
#include "lib/rsvm_test.h"

#define MAX_VRAM (64ul << 20)

FIXTURE(obstacle)
{
	struct gpu g;
	struct mem m;
	size_t vram;		/* bytes of VRAM */
	uint64_t free;
	pid_t owner;
	int go[2];
};

FIXTURE_SETUP(obstacle)
{
	self->owner = 0;
	ASSERT_OK(gpu_open(&self->g));
	self->vram = vram_total(self->g.fd);
	if (!self->vram || self->vram > MAX_VRAM)
		SKIP(return, "needs little VRAM (--vram 16M)");
	self->free = vram_free(self->g.fd);
}

FIXTURE_TEARDOWN(obstacle)
{
	hold_release(false);
	if (self->owner > 0) {
		kill(self->owner, SIGKILL);
		wait_exit(self->owner);
	}
	mem_put(&self->m);
	if (self->free)
		EXPECT_OK(vram_await_free(self->g.fd, self->free));
	gpu_close(&self->g);
}

/*
 * Another process fills VRAM with @size bytes of @kind and sleeps; when @go is
 * closed it checks them and exits with 0. @lock: what of it is in VRAM is locked.
 */
static int start_owner(struct __test_metadata *_metadata, pid_t *owner, int go[2],
		       enum mem_kind kind, size_t size, bool lock)
{
	int ready[2];

	if (pipe(ready) || pipe(go))
		return -errno;
	*owner = fork();
	if (!*owner) {
		struct gpu g;
		struct mem m;
		char c;

		close(go[1]);
		if (gpu_open(&g) || mem_get(&m, kind, size))
			_exit(1);
		pattern_fill(m.p, size, 1);
		if (svm_migrate(&g, m.p, size, TO_VRAM))
			_exit(2);
		if (svm_in_vram(&g, m.p, size) < size / 2)
			_exit(3);
		/* For who wants to hold some of it: where it is. */
		for (size_t off = 0; off < size; off += LEAF) {
			uint64_t pfn = mem_device_pfn(m.p + off);

			if (write(ready[1], &pfn, sizeof(pfn)) != sizeof(pfn))
				_exit(4);
		}
		(void)!read(go[0], &c, 1);
		_exit(pattern_errors(m.p, size, 1) ? 5 : 0);
	}
	close(go[0]);
	close(ready[1]);
	for (size_t off = 0; off < size; off += LEAF) {
		uint64_t pfn;

		if (read(ready[0], &pfn, sizeof(pfn)) != sizeof(pfn)) {
			TH_LOG("owner: %d", wait_exit(*owner));
			*owner = 0;
			return -EIO;
		}
		if (lock && pfn && hold_folio(pfn, true))
			return -EBUSY;
	}
	close(ready[0]);
	return 0;
}

/* Eviction does not wait for the owner's mmap_lock, which is let go after it. */
TEST_F(obstacle, while_mmap_lock_is_held)
{
	long long evictions;

	HOLD_OR_SKIP();
	ASSERT_OK(start_owner(_metadata, &self->owner, self->go, MEM_ANON, self->vram, false));
	evictions = device_stat("vram_evictions");
	ASSERT_OK(mem_get(&self->m, MEM_ANON, self->vram / 2));
	pattern_fill(self->m.p, self->m.size, 2);
	ASSERT_OK(hold_mmap_lock(self->owner));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, self->m.size, TO_VRAM));
	ASSERT_OK(hold_release(false));
	EXPECT_GT(device_stat("vram_evictions"), evictions);
	EXPECT_EQ(self->m.size, svm_in_vram(&self->g, self->m.p, self->m.size));
	close(self->go[1]);
	EXPECT_EQ(0, wait_exit(self->owner));
	self->owner = 0;
	EXPECT_EQ(0, pattern_errors(self->m.p, self->m.size, 2));
}

/*
 * Takes all 2 MiB pages there are, and those that compaction makes, and keeps
 * them. False if @max are too few.
 */
static bool soak_up(struct mem *soak, size_t *n, size_t max)
{
	for (int refused = 0; refused < 8;) {
		if (*n == max)
			return false;
		if (mem_get(&soak[*n], MEM_THP, LEAF)) {
			refused++;
			continue;
		}
		mlock(soak[(*n)++].p, LEAF);
		refused = 0;
	}
	return true;
}

/* RAM has no 2 MiB page: what is in one piece in VRAM is split, evicted, and right. */
TEST_F(obstacle, with_fragmented_ram)
{
	const size_t max = 4096, holes = 192ul << 20, piece = 8 * PAGE;
	struct mem *soak = calloc(max, sizeof(*soak));
	long long splits, evictions;
	size_t soaked = 0;
	char *p;

	/* Memory in small pieces to evict to: between pages that stay locked. */
	if (sys_write("/proc/sys/vm/compact_unevictable_allowed", "0"))
		SKIP(return, "no compaction");
	ASSERT_OK(start_owner(_metadata, &self->owner, self->go, MEM_THP, self->vram, false));
	p = mmap(NULL, holes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	madvise(p, holes, MADV_NOHUGEPAGE);
	ASSERT_OK(mlock(p, holes));
	for (size_t off = 0; off < holes; off += piece)
		ASSERT_OK(munlock(p + off, piece - PAGE));
	if (!soak_up(soak, &soaked, max))
		SKIP(return, "too much memory to take it all");
	for (size_t off = 0; off < holes; off += piece)
		ASSERT_OK(madvise(p + off, piece - PAGE, MADV_DONTNEED));
	ASSERT_TRUE(soak_up(soak, &soaked, max));
	splits = device_stat("vram_splits");
	evictions = device_stat("vram_evictions");
	ASSERT_OK(mem_get(&self->m, MEM_ANON, self->vram / 2));
	pattern_fill(self->m.p, self->m.size, 2);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, self->m.size, TO_VRAM));
	EXPECT_GT(device_stat("vram_evictions"), evictions);
	EXPECT_GT(device_stat("vram_splits"), splits);
	close(self->go[1]);
	EXPECT_EQ(0, wait_exit(self->owner));
	self->owner = 0;
	EXPECT_EQ(0, pattern_errors(self->m.p, self->m.size, 2));
	while (soaked)
		mem_put(&soak[--soaked]);
	munmap(p, holes);
	sys_write("/proc/sys/vm/compact_unevictable_allowed", "1");
}

/* Nothing can be evicted, somebody waits for VRAM, and is killed: it goes before that ends. */
TEST_F(obstacle, waiter_is_killable)
{
	HOLD_OR_SKIP();
	ASSERT_OK(start_owner(_metadata, &self->owner, self->go, MEM_THP, self->vram, true));
	/* What that left free is taken and locked too. */
	ASSERT_OK(mem_get(&self->m, MEM_THP, self->vram / 2));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, self->m.size, TO_VRAM));
	for (size_t off = 0; off < self->m.size; off += LEAF) {
		uint64_t pfn = mem_device_pfn(self->m.p + off);

		ASSERT_TRUE(!pfn || !hold_folio(pfn, true));
	}
	for (int fault = 0; fault < 2; fault++) {
		const char *stat = fault ? "faults" : "vram_waits";
		long long before = device_stat(stat);
		struct guard guard = {};
		pid_t pid = fork();

		ASSERT_GE(pid, 0);
		if (!pid) {
			struct gpu g;
			struct mem m;

			if (gpu_open(&g) || mem_get(&m, MEM_ANON, self->vram))
				_exit(1);
			memset(m.p, 1, m.size);
			for (;;)
				if (fault)
					gpu_over(&g, GPU_SYM_k_add, m.p, PAGE, 512, 1, NULL);
				else
					svm_migrate(&g, m.p, m.size, TO_VRAM);
		}
		while (device_stat(stat) == before && !guard_over(&guard))
			usleep(1000);
		EXPECT_GT(device_stat(stat), before);
		/* It may wait, or still be on the way there. */
		usleep(500000);
		ASSERT_OK(kill(pid, SIGKILL));
		EXPECT_EQ(128 + SIGKILL, wait_exit(pid));
	}
	ASSERT_OK(hold_release(false));
	close(self->go[1]);
	EXPECT_EQ(0, wait_exit(self->owner));
	self->owner = 0;
}

TEST_HARNESS_MAIN
