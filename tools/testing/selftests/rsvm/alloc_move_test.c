// SPDX-License-Identifier: GPL-2.0
/*
 * Allocations fail in each of the ways that pages and buffers move. What could not
 * be moved stays where it was, with its data; nothing hangs, and all of the device
 * memory comes back. For a debug kernel and a device with little VRAM (--vram 16M).
 */
#include <limits.h>

#include "lib/bo.h"
#include "lib/device.h"
#include "lib/fail.h"
#include "lib/rsvm_test.h"

#define SIZE (2 * LEAF)
#define MAX_VRAM (64ul << 20)
#define PREFERRED DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION
/* Each way is gone until so many allocations failed, or for so long. */
#define ENOUGH 10
#define LIMIT_NS (30000 * MS)

FIXTURE(alloc_move)
{
	struct gpu g;
	struct mem m;		/* what is to survive */
	struct mem other;	/* what drives it out */
	struct bo bo;
	size_t vram;
	uint64_t round;
	long failed;
};

FIXTURE_VARIANT(alloc_move)
{
	const char *injector;
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(alloc_move, slab) { .injector = FAIL_SLAB, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(alloc_move, slab_thp) { .injector = FAIL_SLAB, .kind = MEM_THP };
FIXTURE_VARIANT_ADD(alloc_move, pages) { .injector = FAIL_PAGES, .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(alloc_move, pages_thp) { .injector = FAIL_PAGES, .kind = MEM_THP };

static void put_all(FIXTURE_DATA(alloc_move) *self)
{
	bo_put(&self->bo);
	gpu_close(&self->g);
	mem_put(&self->other);
	mem_put(&self->m);
}

FIXTURE_SETUP(alloc_move)
{
	int fd = rsvm_open();

	self->g.fd = -1;
	self->m.fd = -1;
	self->other.fd = -1;
	ASSERT_GE(fd, 0);
	self->vram = vram_total(fd);
	close(fd);
	if (!fail_possible(variant->injector))
		SKIP(return, "no fault injection (a debug kernel has it)");
	if (!self->vram || self->vram > MAX_VRAM)
		SKIP(return, "needs little VRAM (--vram 16M)");
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	mem_put(&self->m);
}

FIXTURE_TEARDOWN(alloc_move)
{
	fail_stop(variant->injector);
	put_all(self);
}

typedef int step(FIXTURE_DATA(alloc_move) *self);

static int all_to_vram(FIXTURE_DATA(alloc_move) *self)
{
	int ret = svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM);

	return ret ?: svm_in_vram(&self->g, self->m.p, SIZE) == SIZE ? 0 : -ENOSPC;
}

static int move_to_vram(FIXTURE_DATA(alloc_move) *self)
{
	return svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM);
}

static int move_to_system(FIXTURE_DATA(alloc_move) *self)
{
	return svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM);
}

/* As much as the device has, which comes into it and drives all else out. */
static int get_other(FIXTURE_DATA(alloc_move) *self)
{
	int ret = mem_get(&self->other, MEM_ANON, self->vram);

	if (!ret)
		pattern_fill(self->other.p, self->vram, self->round);
	return ret;
}

static int move_other(FIXTURE_DATA(alloc_move) *self)
{
	return svm_migrate(&self->g, self->other.p, self->vram, TO_VRAM);
}

static size_t errors_in_both(FIXTURE_DATA(alloc_move) *self)
{
	size_t n = pattern_errors(self->m.p, SIZE, self->round);

	return self->other.p ? n + pattern_errors(self->other.p, self->vram, self->round) : n;
}

/*
 * Rounds of @prepare, @move while allocations fail, and a look at what is there,
 * which is to be without @errors.
 */
static void fight(struct __test_metadata *_metadata, FIXTURE_DATA(alloc_move) *self,
		  const FIXTURE_VARIANT(alloc_move) *variant, step *prepare, step *move,
		  size_t (*errors)(FIXTURE_DATA(alloc_move) *self))
{
	/* Few, so that the way is gone to its end; many; the first ones that are asked for. */
	static const struct {
		unsigned int percent;
		int most;
	} turns[] = { { 5, 1000 }, { 40, 1000 }, { 100, 4 } };
	int64_t end = now_ns() + LIMIT_NS;
	long n;
	int ret;

	do {
		const size_t turn = self->round++ % ARRAY_SIZE(turns);

		ASSERT_OK(mem_get(&self->m, variant->kind, SIZE));
		pattern_fill(self->m.p, SIZE, self->round);
		ASSERT_OK(gpu_open(&self->g));
		ASSERT_OK(prepare(self));
		ASSERT_OK(fail_start(variant->injector, turns[turn].percent, turns[turn].most));
		ret = move(self);
		n = fail_stop(variant->injector);
		ASSERT_GE(n, 0);
		self->failed += n;
		ASSERT_TRUE(!ret || ret == -ENOMEM ||
			    (ret == -EIO && self->g.fault_reason == DRM_RSVM_FAULT_NO_MEMORY))
			TH_LOG("round %lu: %d, reason %u", self->round, ret, self->g.fault_reason);
		ASSERT_EQ(0, errors(self))
			TH_LOG("round %lu, %ld allocations failed", self->round, n);
		put_all(self);
	} while (self->round < ARRAY_SIZE(turns) || (self->failed < ENOUGH && now_ns() < end));
	TH_LOG("%lu rounds, %ld allocations failed", self->round, self->failed);
	if (!self->failed)
		SKIP(return, "nothing is allocated on this way");
}

#define FIGHT(prepare, move, errors) fight(_metadata, self, variant, prepare, move, errors)

static int nothing(FIXTURE_DATA(alloc_move) *self)
{
	return self->g.fd < 0 ? -EBADF : 0;
}

TEST_F(alloc_move, to_vram)
{
	FIGHT(nothing, move_to_vram, errors_in_both);
}

static int make_holes(FIXTURE_DATA(alloc_move) *self)
{
	return madvise(self->m.p, SIZE, MADV_DONTNEED);
}

static size_t not_zero(FIXTURE_DATA(alloc_move) *self)
{
	size_t n = 0;

	for (size_t off = 0; off < SIZE; off += 8)
		n += *word_at(self->m.p, off) != 0;
	return n;
}

/* Holds: a hole is filled with zeros or stays one. */
TEST_F(alloc_move, holes)
{
	FIGHT(make_holes, move_to_vram, not_zero);
}

static int prefer_vram(FIXTURE_DATA(alloc_move) *self)
{
	return svm_set(&self->g, self->m.p, SIZE, PREFERRED, TO_VRAM);
}

static int fault_of_the_gpu(FIXTURE_DATA(alloc_move) *self)
{
	return gpu_over(&self->g, GPU_SYM_k_read, self->m.p, PAGE, SIZE / PAGE, 0, NULL);
}

TEST_F(alloc_move, fault_of_the_gpu)
{
	FIGHT(prefer_vram, fault_of_the_gpu, errors_in_both);
}

static int fault_of_the_cpu(FIXTURE_DATA(alloc_move) *self)
{
	return pattern_errors(self->m.p, SIZE, self->round) ? -EINVAL : 0;
}

/* Holds: a CPU that finds no memory asks again; it gets no SIGBUS. */
TEST_F(alloc_move, fault_of_the_cpu)
{
	FIGHT(all_to_vram, fault_of_the_cpu, errors_in_both);
}

/* The n-th allocation of one CPU fault fails, for each n there is. */
TEST_F(alloc_move, nth_of_a_cpu_fault)
{
	char path[64], text[16];
	int n;

	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(mem_get(&self->m, variant->kind, SIZE));
	pattern_fill(self->m.p, SIZE, 0);
	/* Which allocations count; none fails for that. */
	ASSERT_OK(fail_start(FAIL_SLAB, 0, INT_MAX));
	ASSERT_OK(fail_start(FAIL_PAGES, 0, INT_MAX));
	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", gettid());
	for (n = 1; n < 200; n++) {
		char left[16] = "";
		int fd;

		ASSERT_OK(all_to_vram(self));
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			SKIP(return, "no fail-nth");
		snprintf(text, sizeof(text), "%d", n);
		ASSERT_EQ(strlen(text), write(fd, text, strlen(text)));
		(void)*word_at(self->m.p, 9 * PAGE);
		ASSERT_GT(pread(fd, left, sizeof(left) - 1, 0), 0);
		ASSERT_EQ(1, write(fd, "0", 1));
		close(fd);
		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, 0)) TH_LOG("allocation %d", n);
		/* It still counts: there is no n-th. */
		if (atoi(left))
			break;
	}
	TH_LOG("%d allocations", n - 1);
	EXPECT_GT(n, 1);
	EXPECT_LT(n, 200);
}

TEST_F(alloc_move, to_system)
{
	FIGHT(all_to_vram, move_to_system, errors_in_both);
}

static int fill_vram(FIXTURE_DATA(alloc_move) *self)
{
	return all_to_vram(self) ?: get_other(self);
}

TEST_F(alloc_move, eviction)
{
	FIGHT(fill_vram, move_other, errors_in_both);
}

static int child_reads(FIXTURE_DATA(alloc_move) *self)
{
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (!pid)
		_exit(pattern_errors(self->m.p, SIZE, self->round) != 0);
	return wait_exit(pid) ? -EINVAL : 0;
}

TEST_F(alloc_move, fork)
{
	FIGHT(all_to_vram, child_reads, errors_in_both);
}

/* A bound buffer that has bytes, and does not lie in VRAM. */
static int evicted_buffer(FIXTURE_DATA(alloc_move) *self)
{
	int ret = bo_create(&self->bo, self->g.fd, SIZE);

	ret = ret ?: bo_map(&self->bo);
	if (ret)
		return ret;
	for (size_t off = 0; off < SIZE; off += 8)
		*word_at(self->bo.cpu, off) = word_stamp(self->round, off);
	ret = bo_bind(&self->bo, self->g.vm, self->m.p, SIZE, 0, 0);
	ret = ret ?: get_other(self);
	return ret ?: move_other(self);
}

static size_t errors_of_the_buffer(FIXTURE_DATA(alloc_move) *self)
{
	size_t n = errors_in_both(self);

	for (size_t off = 0; off < SIZE; off += 8)
		n += *word_at(self->bo.cpu, off) != word_stamp(self->round, off);
	return n;
}

TEST_F(alloc_move, buffer_comes)
{
	FIGHT(evicted_buffer, fault_of_the_gpu, errors_of_the_buffer);
}

static int resident_buffer(FIXTURE_DATA(alloc_move) *self)
{
	return evicted_buffer(self) ?: fault_of_the_gpu(self);
}

TEST_F(alloc_move, buffer_goes)
{
	FIGHT(resident_buffer, move_other, errors_of_the_buffer);
}

static int unbind(FIXTURE_DATA(alloc_move) *self)
{
	struct device d;
	int ret = device_find(&d);

	ret = ret ?: device_unbind(&d);
	fail_stop(FAIL_SLAB);
	fail_stop(FAIL_PAGES);
	ret = ret ?: device_bind(&d);
	device_put(&d);
	return ret ?: self->g.fd < 0 ? -EBADF : 0;
}

/* Holds: what an unbind brings back is brought back. */
TEST_F(alloc_move, unbind)
{
	FIGHT(all_to_vram, unbind, errors_in_both);
}

TEST_HARNESS_MAIN
