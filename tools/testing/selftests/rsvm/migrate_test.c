// SPDX-License-Identifier: GPL-2.0
/* Pages move to device memory and back, and nothing of them is lost. */
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#include "lib/rsvm_test.h"
#include "lib/svm.h"

#define SIZE (2 * LEAF)
#define PAGES (SIZE / PAGE)

FIXTURE(migrate)
{
	struct gpu g;
	struct mem m;
	struct gpu_result *out;
	uint8_t *where;
};

FIXTURE_VARIANT(migrate)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(migrate, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(migrate, thp) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(migrate, mthp) { .kind = MEM_MTHP };

FIXTURE_SETUP(migrate)
{
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	ASSERT_OK(gpu_open(&self->g));
	self->out = calloc(PAGES, sizeof(*self->out));
	self->where = calloc(PAGES, 1);
	ASSERT_NE(NULL, self->out);
	ASSERT_NE(NULL, self->where);
	/* What the fixture has of its own stays where the CPU looks at it. */
	ASSERT_OK(svm_set(&self->g, (void *)((uintptr_t)self->out & ~(PAGE - 1)), PAGE,
			  DRM_RSVM_SVM_ATTR_NO_MIGRATE, 1));
}

FIXTURE_TEARDOWN(migrate)
{
	gpu_close(&self->g);
	mem_put(&self->m);
	free(self->out);
	free(self->where);
}

static uint64_t mark(size_t page, unsigned int word, unsigned int round)
{
	return (uint64_t)round << 56 | (uint64_t)page << 16 | word | 0x5a00;
}

/* Every page gets another first, middle and last word. */
static void fill(char *p, size_t pages, unsigned int round)
{
	for (size_t i = 0; i < pages; i++) {
		*word_at(p, i * PAGE) = mark(i, 0, round);
		*word_at(p, i * PAGE + 2048) = mark(i, 1, round);
		*word_at(p, i * PAGE + PAGE - 8) = mark(i, 2, round);
	}
}

/* How many pages are not as fill() left them. */
static size_t wrong(char *p, size_t pages, unsigned int round)
{
	size_t n = 0;

	for (size_t i = 0; i < pages; i++)
		n += *word_at(p, i * PAGE) != mark(i, 0, round) ||
		     *word_at(p, i * PAGE + 8) != 0 ||
		     *word_at(p, i * PAGE + 2048) != mark(i, 1, round) ||
		     *word_at(p, i * PAGE + PAGE - 8) != mark(i, 2, round);
	return n;
}

/* The same, as the GPU sees the words @off bytes into each page. */
static size_t gpu_wrong(struct gpu *g, char *p, struct gpu_result *out, size_t off,
			unsigned int word, unsigned int round)
{
	size_t n = 0;

	if (gpu_over(g, GPU_SYM_k_read, p + off, PAGE, PAGES, 0, out))
		return ~0ul;
	for (size_t i = 0; i < PAGES; i++)
		n += out[i].value != mark(i, word, round);
	return n;
}

/* There by prefetch, seen by the GPU, and back by prefetch and by the CPU. */
TEST_F(migrate, there_and_back)
{
	struct drm_rsvm_svm_get_attr where;

	for (unsigned int round = 1; round < 4; round++) {
		fill(self->m.p, PAGES, round);
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		ASSERT_OK(svm_look(&self->g, self->m.p, SIZE, &where, self->where));
		ASSERT_EQ(SIZE, where.vram);
		ASSERT_EQ(0, where.system);
		/* The prefetch maps, too. */
		ASSERT_EQ(SIZE, where.mapped_write);
		for (size_t i = 0; i < PAGES; i++)
			ASSERT_EQ(DRM_RSVM_SVM_PAGE_VRAM | DRM_RSVM_SVM_PAGE_READ |
				  DRM_RSVM_SVM_PAGE_WRITE, self->where[i]);
		ASSERT_EQ(0, gpu_wrong(&self->g, self->m.p, self->out, 0, 0, round));
		ASSERT_EQ(0, gpu_wrong(&self->g, self->m.p, self->out, PAGE - 8, 2, round));
		if (round == 1) {
			ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM));
			ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
		}
		ASSERT_EQ(0, wrong(self->m.p, PAGES, round));
		ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	}
}

/* What the GPU writes in device memory the CPU reads. */
TEST_F(migrate, gpu_writes)
{
	fill(self->m.p, PAGES, 7);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, self->m.p + 8, PAGE, PAGES, 3, NULL));
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(3, *word_at(self->m.p, i * PAGE + 8));
		*word_at(self->m.p, i * PAGE + 8) = 0;
	}
	ASSERT_EQ(0, wrong(self->m.p, PAGES, 7));
}

/*
 * Pages move there and back while the GPU writes to them all the time. Holds: its
 * entries go before a page is copied, also for moves of the driver's own.
 */
TEST_F(migrate, under_a_running_kernel)
{
	const size_t words = 32, stride = SIZE / words;
	volatile uint64_t stop = 0;
	struct gpu_args args = {
		.addr = (uintptr_t)self->m.p, .stride = stride, .stop = &stop, .out = self->out,
	};

	ASSERT_OK(svm_set(&self->g, self->m.p, SIZE, DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION,
			  TO_SYSTEM));
	memset(self->m.p, 0, SIZE);
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_count, &args, words));
	for (int round = 0; round < scaled(30); round++) {
		/* All are entered. */
		for (size_t i = 0; i < words; i++) {
			volatile uint64_t *word = word_at(self->m.p, i * stride);

			ASSERT_OK(await_change(word, *word));
		}
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM));
	}
	stop = 1;
	ASSERT_OK(gpu_wait(&self->g));
	for (size_t i = 0; i < words; i++) {
		EXPECT_EQ(0, self->out[i].errors);
		EXPECT_EQ(*word_at(self->m.p, i * stride), self->out[i].value);
	}
}

/* A CPU fault brings a neighbourhood back, not a page and not everything. */
TEST_F(migrate, cpu_fault_neighbourhood)
{
	long long before, after;

	fill(self->m.p, PAGES, 1);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	before = svm_in_vram(&self->g, self->m.p, SIZE);
	ASSERT_EQ(SIZE, before);
	ASSERT_EQ(mark(100, 0, 1), *word_at(self->m.p, 100 * PAGE));
	after = svm_in_vram(&self->g, self->m.p, SIZE);
	EXPECT_GE(before - 16 * (long long)PAGE, after);
	EXPECT_LE(before - (long long)LEAF, after);
	ASSERT_EQ(0, wrong(self->m.p, PAGES, 1));
}

/*
 * A leaf of many mappings moves there and back as a whole. Holds: what lies behind
 * the end of a mapping has its turn.
 */
TEST_F(migrate, many_mappings)
{
	struct drm_rsvm_svm_get_attr where;
	const size_t step = 64 << 10;

	fill(self->m.p, PAGES, 1);
	for (size_t at = 0; at < SIZE; at += 2 * step)
		ASSERT_EQ(0, madvise(self->m.p + at, step, MADV_DONTFORK));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_OK(svm_look(&self->g, self->m.p, SIZE, &where, self->where));
	EXPECT_EQ(SIZE, where.vram);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM));
	ASSERT_OK(svm_look(&self->g, self->m.p, SIZE, &where, self->where));
	EXPECT_EQ(SIZE, where.system);
	EXPECT_EQ(0, wrong(self->m.p, PAGES, 1));
}

/*
 * What comes back lies side by side: 64 KiB are copied in one piece, whatever its
 * folios. Holds: system memory is taken in blocks where there are some.
 */
TEST_F(migrate, back_in_few_pieces)
{
	const long long most = SIZE / (64 << 10);
	long long pieces;

	fill(self->m.p, PAGES, 1);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	pieces = device_stat("copy_ops");
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM));
	pieces = device_stat("copy_ops") - pieces;
	/* Memory may be scattered here and there. */
	EXPECT_LE(pieces, 4 * most);
	EXPECT_EQ(0, wrong(self->m.p, PAGES, 1));
}

/*
 * One leaf at a time, which its caller's thread brings back. Holds: that does not
 * wait for the memory of the fence, which may be absent, on the device, on its way
 * itself or read-only; it is written all the same, if it can be.
 */
TEST_F(migrate, fence_is_anywhere)
{
	char *p = self->m.p;
	char *absent = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	volatile uint64_t *fences[] = {
		word_at(absent, 0), word_at(p, LEAF + 8), word_at(p, 8), word_at(absent, PAGE),
	};
	struct drm_rsvm_wait_user_fence w = {
		.queue_id = self->g.queue,
		.op = DRM_RSVM_FENCE_EQ,
		.value = 1,
		.mask = ~0ull,
	};

	ASSERT_NE(MAP_FAILED, absent);
	ASSERT_OK(mprotect(absent + PAGE, PAGE, PROT_READ));
	for (size_t i = 0; i < ARRAY_SIZE(fences); i++) {
		fill(p, PAGES, 1);
		ASSERT_OK(svm_migrate(&self->g, p, SIZE, TO_VRAM));
		ASSERT_OK(svm_migrate_start(&self->g, p, LEAF, TO_SYSTEM, fences[i], 1));
		w.addr = (uintptr_t)fences[i];
		if (i + 1 < ARRAY_SIZE(fences)) {
			ASSERT_OK(gpu_wait_fence(&self->g, &w));
			*fences[i] = 0;
		}
		/* This is behind it in any case. */
		EXPECT_EQ(LEAF, svm_in_system(&self->g, p, LEAF));
		EXPECT_EQ(0, wrong(p, PAGES, 1));
	}
	munmap(absent, 2 * PAGE);
}

/*
 * Pages without memory among those that come back stay without. Holds: a CPU
 * never gets a page that nothing was copied to; it would hold what its last
 * owner left there.
 */
TEST_F(migrate, cpu_fault_leaves_holes)
{
	fill(self->m.p, PAGES, 1);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	for (size_t i = 96; i < 112; i += 2)
		ASSERT_OK(madvise(self->m.p + i * PAGE, PAGE, MADV_DONTNEED));
	ASSERT_EQ(mark(97, 0, 1), *word_at(self->m.p, 97 * PAGE));
	for (size_t i = 96; i < 112; i += 2) {
		ASSERT_EQ(0, mem_pfn(self->m.p + i * PAGE)) TH_LOG("page %zu", i);
		ASSERT_EQ(0, *word_at(self->m.p, i * PAGE));
		ASSERT_EQ(mark(i + 1, 2, 1), *word_at(self->m.p, (i + 2) * PAGE - 8));
	}
}

/* A fault of the GPU moves a granule that is there, by the default policy. */
TEST_F(migrate, on_fault)
{
	struct drm_rsvm_svm_get_attr where;

	fill(self->m.p, PAGES, 2);
	ASSERT_EQ(mark(33, 0, 2), gpu_peek(&self->g, self->m.p + 33 * PAGE));
	ASSERT_OK(svm_look(&self->g, self->m.p, SIZE, &where, self->where));
	EXPECT_LE(16 * PAGE, where.vram);
	EXPECT_GE(LEAF, where.vram);
	EXPECT_TRUE(self->where[33] & DRM_RSVM_SVM_PAGE_VRAM);
	ASSERT_EQ(0, wrong(self->m.p, PAGES, 2));
}

/* Not if the user does not want it. */
TEST_F(migrate, no_migrate)
{
	fill(self->m.p, PAGES, 3);
	ASSERT_OK(svm_set(&self->g, self->m.p, SIZE, DRM_RSVM_SVM_ATTR_NO_MIGRATE, 1));
	ASSERT_EQ(0, gpu_wrong(&self->g, self->m.p, self->out, 0, 0, 3));
	ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));

	ASSERT_OK(svm_set(&self->g, self->m.p, SIZE, DRM_RSVM_SVM_ATTR_NO_MIGRATE, 0));
	ASSERT_OK(svm_set(&self->g, self->m.p, SIZE, DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION,
			  TO_SYSTEM));
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_DONTNEED));
	fill(self->m.p, PAGES, 4);
	ASSERT_EQ(0, gpu_wrong(&self->g, self->m.p, self->out, 0, 0, 4));
	ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	/* But on request. */
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
	ASSERT_EQ(0, wrong(self->m.p, PAGES, 4));
}

/*
 * Memory that nobody touched is allocated in device memory and reads as zero,
 * every byte, also where device memory was used before.
 */
TEST_F(migrate, holes_are_zero)
{
	/* Dirty a good part of device memory first, and give it back. */
	memset(self->m.p, 0xa5, SIZE);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
	for (int round = 0; round < 4; round++) {
		ASSERT_OK(madvise(self->m.p, SIZE, MADV_DONTNEED));
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p + 1024, PAGE, PAGES, 0,
				   self->out));
		for (size_t i = 0; i < PAGES; i++)
			ASSERT_EQ(0, self->out[i].value);
		for (size_t i = 0; i < SIZE; i += 8)
			ASSERT_EQ(0, *word_at(self->m.p, i));
		memset(self->m.p, 0xa5 + round, SIZE);
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	}
}

/* Holes between pages: each is zeroed, each page copied. */
TEST_F(migrate, holes_between)
{
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_DONTNEED));
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_NOHUGEPAGE));
	for (size_t i = 0; i < PAGES; i += 3)
		memset(self->m.p + i * PAGE, 0x80 | (i & 0x7f), PAGE);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
	for (size_t i = 0; i < SIZE; i += 8) {
		size_t page = i / PAGE;
		uint64_t byte = page % 3 ? 0 : 0x80 | (page & 0x7f);

		ASSERT_EQ(byte * 0x0101010101010101, *word_at(self->m.p, i));
	}
}

/* A child has the same pages, whoever writes first. */
TEST_F(migrate, fork)
{
	pid_t child;

	fill(self->m.p, PAGES, 5);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		if (wrong(self->m.p, PAGES, 5))
			_exit(1);
		fill(self->m.p, PAGES, 6);
		_exit(wrong(self->m.p, PAGES, 6) ? 2 : 0);
	}
	/* Meanwhile the GPU writes for the parent. */
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, self->m.p, PAGE, PAGES, 1, self->out));
	ASSERT_EQ(0, wait_exit(child));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(mark(i, 0, 5), self->out[i].value);
		ASSERT_EQ(mark(i, 0, 5) + 1, *word_at(self->m.p, i * PAGE));
		*word_at(self->m.p, i * PAGE) = mark(i, 0, 5);
	}
	ASSERT_EQ(0, wrong(self->m.p, PAGES, 5));
}

/* The child lives on after the parent and its mirror are gone. */
TEST_F(migrate, child_outlives_parent)
{
	int pipes[2];
	char ok = 0;
	pid_t parent;

	ASSERT_OK(pipe(pipes));
	parent = fork();
	ASSERT_LE(0, parent);
	if (!parent) {
		struct gpu g;
		pid_t self_pid = getpid();

		if (gpu_open(&g))
			_exit(1);
		fill(self->m.p, PAGES, 8);
		if (svm_migrate(&g, self->m.p, SIZE, TO_VRAM) ||
		    svm_in_vram(&g, self->m.p, SIZE) != SIZE)
			_exit(2);
		switch (fork()) {
		case -1:
			_exit(3);
		case 0:
			while (getppid() == self_pid)
				usleep(1000);
			ok = wrong(self->m.p, PAGES, 8) ? 'b' : 'g';
			_exit(write(pipes[1], &ok, 1) != 1);
		}
		_exit(0);
	}
	ASSERT_EQ(0, wait_exit(parent));
	close(pipes[1]);
	ASSERT_EQ(1, read(pipes[0], &ok, 1));
	EXPECT_EQ('g', ok);
	close(pipes[0]);
}

/* Parts are unmapped, given back, moved elsewhere. */
TEST_F(migrate, parts)
{
	char *to;

	fill(self->m.p, PAGES, 9);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	/* Three pages of the first leaf become zero. */
	ASSERT_OK(madvise(self->m.p + 20 * PAGE, 3 * PAGE, MADV_DONTNEED));
	for (size_t i = 20 * PAGE; i < 23 * PAGE; i += 8)
		ASSERT_EQ(0, *word_at(self->m.p, i));
	fill(self->m.p, PAGES, 9);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	/* The second leaf goes somewhere else. */
	to = mmap(NULL, 2 * LEAF, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, to);
	to = (char *)(((uintptr_t)to + LEAF - 1) & ~(LEAF - 1)) + 5 * PAGE;
	ASSERT_EQ(to, mremap(self->m.p + LEAF, LEAF - 8 * PAGE, LEAF - 8 * PAGE,
			     MREMAP_MAYMOVE | MREMAP_FIXED, to));
	ASSERT_EQ(mark(512, 0, 9), gpu_peek(&self->g, to));
	for (size_t i = 0; i < 504; i++) {
		ASSERT_EQ(mark(512 + i, 0, 9), *word_at(to, i * PAGE));
		ASSERT_EQ(mark(512 + i, 2, 9), *word_at(to, i * PAGE + PAGE - 8));
	}
	ASSERT_EQ(0, wrong(self->m.p, 512, 9));
	ASSERT_OK(munmap(to, LEAF - 8 * PAGE));
}

/* Device memory comes back when the memory is unmapped, in part or whole. */
TEST_F(migrate, memory_comes_back)
{
	long long before = device_stat("vram_pages"), now = 0;

	if (before < 0)
		SKIP(return, "no debugfs");
	fill(self->m.p, PAGES, 1);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(before + (long long)PAGES, device_stat("vram_pages"));
	ASSERT_OK(madvise(self->m.p + LEAF / 2, LEAF, MADV_DONTNEED));
	for (int i = 0; i < 1000; i++) {
		now = device_stat("vram_pages");
		if (now == before + (long long)PAGES / 2)
			break;
		usleep(10000);
	}
	ASSERT_EQ(before + (long long)PAGES / 2, now);
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_DONTNEED));
	ASSERT_EQ(before, device_stat("vram_pages"));
}

/* Others look at the memory by other ways. */
TEST_F(migrate, process_vm_readv)
{
	char *copy = malloc(SIZE);
	struct iovec local = { copy, SIZE }, remote = { self->m.p, SIZE };

	ASSERT_NE(NULL, copy);
	fill(self->m.p, PAGES, 2);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(SIZE, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_EQ(0, wrong(copy, PAGES, 2));
	free(copy);
}

/* Waits until KSM has merged the pages of a range, which are all the same. */
static bool merged(char *p, size_t pages)
{
	size_t n = 0;

	for (int i = 0; i < 1000 && n < pages; i++) {
		usleep(20000);
		n = 0;
		for (size_t k = 0; k < pages; k++)
			n += !!(mem_kpageflags(p + k * PAGE) & KPF_KSM);
	}
	return n == pages;
}

/*
 * Merged pages stay, since KSM reads them where they are when it looks for more of
 * the same; one that the device writes to is a page of its own, and moves. Holds:
 * what is no source of a migration. Else the kernel oopses in ksm_scan_thread().
 */
TEST_F(migrate, ksm)
{
	const size_t pages = 64;
	char *more = self->m.p + LEAF;

	if (madvise(self->m.p, SIZE, MADV_MERGEABLE))
		SKIP(return, "no KSM");
	memset(self->m.p, 0x77, pages * PAGE);
	ASSERT_OK(ksm_start());
	ASSERT_TRUE(merged(self->m.p, pages));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, pages * PAGE, TO_VRAM));
	EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p, pages * PAGE));
	memset(more, 0x77, pages * PAGE);
	EXPECT_TRUE(merged(more, pages));
	ASSERT_OK(gpu_poke(&self->g, self->m.p, 5));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, pages * PAGE, TO_VRAM));
	EXPECT_EQ(PAGE, svm_in_vram(&self->g, self->m.p, pages * PAGE));
	EXPECT_EQ(5, *word_at(self->m.p, 0));
	for (size_t i = 1; i < pages; i++) {
		EXPECT_EQ(0x7777777777777777, gpu_peek(&self->g, self->m.p + i * PAGE));
	}
	ASSERT_OK(ksm_split());
	ksm_stop();
}

/* Atomics work in device memory, and move what is elsewhere there if asked to. */
TEST_F(migrate, atomics)
{
	struct gpu_args args = { .addr = (uintptr_t)self->m.p, .value = 2, .rounds = 1 };
	uint64_t atomics;

	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_ATOMICS, &atomics));
	ASSERT_TRUE(atomics & DRM_RSVM_ATOMICS_VRAM);
	*word_at(self->m.p, 0) = 100;
	ASSERT_OK(svm_set(&self->g, self->m.p, SIZE, DRM_RSVM_SVM_ATTR_ATOMIC_MODE,
			  DRM_RSVM_SVM_ATOMIC_VRAM));
	ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_atomic, &args, 512));
	EXPECT_LT(0, svm_in_vram(&self->g, self->m.p, PAGE));
	EXPECT_EQ(100 + 2 * 512, *word_at(self->m.p, 0));
	EXPECT_EQ(0, device_stat("lost_updates"));
}

TEST_HARNESS_MAIN
