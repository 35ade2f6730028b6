// SPDX-License-Identifier: GPL-2.0
/*
 * Atomics of harts and of CPU threads on the same words, of every kind, in every
 * kind of memory that the device can have to itself. Holds: no update is lost,
 * neither by the totals nor by the virtual GPU's own count.
 */
#include <sys/mman.h>

#include "lib/crowd.h"
#include "lib/rsvm_test.h"

/*
 * Cells: without CPU threads, with one, with eight; one word and many. A variant
 * runs one of them, so that any two of memory, operation, width and cell meet in
 * some variant; all with RSVM_ALL, and where few variants are to meet them.
 */
#define CELLS 6
#define EVERY CELLS

enum kind {
	ANON,
	THP,
	VRAM,
	FORKED,			/* each page is shared with a child before */
	PRIVATE_FILE,		/* each page is the file's before */
};

FIXTURE(atomic)
{
	struct gpu g;
	struct mem m;
	pid_t child;
	int pipe[2];
	long long lost;
};

FIXTURE_VARIANT(atomic)
{
	enum kind kind;
	const char *op;
	unsigned int many;	/* operations of each side; 0: a thousand */
	unsigned int cell;
};

#define ADD(kind, op, n, cell) \
	FIXTURE_VARIANT_ADD(atomic, kind##_##op) { kind, #op, n, cell };
/* Of the five kinds of memory, each width leaves another cell out. */
#define ADD_BOTH(kind, op, n, first) \
	ADD(kind, op##_32, n, ((first) + (kind)) % CELLS) \
	ADD(kind, op##_64, n, ((first) + (kind) + 1) % CELLS)
#define ADD_ALL(kind, n) \
	ADD_BOTH(kind, add, n, 0) ADD_BOTH(kind, cas, n, 1) \
	ADD_BOTH(kind, xchg, 0, 2) ADD_BOTH(kind, and, 0, 3) \
	ADD_BOTH(kind, or, 0, 4) ADD_BOTH(kind, xor, 0, 5) \
	ADD_BOTH(kind, min, 0, 0) ADD_BOTH(kind, max, 0, 1) \
	ADD_BOTH(kind, minu, 0, 2) ADD_BOTH(kind, maxu, 0, 3)

ADD_ALL(ANON, 100000)
ADD_ALL(THP, 100000)
ADD_ALL(VRAM, 0)
ADD_ALL(FORKED, 0)
ADD_ALL(PRIVATE_FILE, 0)
/* By LR/SC around the word they are in, where neighbours count as well. */
ADD(ANON, add_8, 0, EVERY)
ADD(ANON, add_16, 0, EVERY)
ADD(ANON, xchg_8, 0, EVERY)
ADD(ANON, xchg_16, 0, EVERY)
ADD(ANON, cas_8, 0, EVERY)
ADD(ANON, cas_16, 0, EVERY)

FIXTURE_SETUP(atomic)
{
	static const enum mem_kind kinds[] = {
		MEM_ANON, MEM_THP, MEM_ANON, MEM_ANON, MEM_TMPFS_PRIVATE,
	};

	self->child = -1;
	ASSERT_OK(gpu_open(&self->g));
	MEM_OR_SKIP(&self->m, kinds[variant->kind], LEAF);
	if (variant->kind == VRAM) {
		ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, DRM_RSVM_SVM_ATTR_ATOMIC_MODE,
				  DRM_RSVM_SVM_ATOMIC_VRAM));
	}
	self->lost = device_stat("lost_updates");
}

FIXTURE_TEARDOWN(atomic)
{
	EXPECT_EQ(self->lost, device_stat("lost_updates"));
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* Puts the first values into the cell's page, in the state that is asked for. */
static int prepare(FIXTURE_DATA(atomic) *self, const FIXTURE_VARIANT(atomic) *variant,
		   struct crowd *c)
{
	char page[PAGE] = {}, *words = c->words, byte;
	off_t at = words - self->m.p;

	if (variant->kind == PRIVATE_FILE) {
		/* As the file has them; looked at, so that its page is mapped. */
		c->words = page;
		crowd_prepare(c);
		c->words = words;
		if (pwrite(self->m.fd, page, PAGE, at) != PAGE)
			return -errno;
		return memcmp(words, page, PAGE) ? -EIO : 0;
	}
	crowd_prepare(c);
	if (variant->kind != FORKED)
		return 0;
	/* The child looks after its copy when everything is over. */
	memcpy(page, words, PAGE);
	if (pipe2(self->pipe, O_CLOEXEC))
		return -errno;
	self->child = fork();
	if (self->child)
		return self->child < 0 ? -errno : 0;
	close(self->pipe[1]);
	(void)!read(self->pipe[0], &byte, 1);
	_exit(memcmp(words, page, PAGE) != 0);
}

/* What the page was shared with has not changed. */
static int others_kept(FIXTURE_DATA(atomic) *self, const FIXTURE_VARIANT(atomic) *variant,
		       struct crowd *c)
{
	char page[PAGE], first[PAGE] = {}, *words = c->words;

	if (variant->kind == FORKED) {
		close(self->pipe[0]);
		close(self->pipe[1]);
		return wait_exit(self->child);
	}
	if (variant->kind != PRIVATE_FILE)
		return 0;
	c->words = first;
	crowd_prepare(c);
	c->words = words;
	if (pread(self->m.fd, page, PAGE, words - self->m.p) != PAGE)
		return -errno;
	return memcmp(page, first, PAGE) != 0;
}

/*
 * Goes on until both sides have done their part and, where both are at it, the
 * page has changed hands some times.
 */
static int run_out(const FIXTURE_VARIANT(atomic) *variant, struct crowd *c, uint64_t many)
{
	long long grabs = device_stat("exclusive_grabs") + (variant->kind == VRAM ? 0 : 4);
	struct guard guard = {};

	while (crowd_done_by_gpu(c) < many ||
	       (c->threads && (crowd_done_by_cpu(c) < many ||
			       device_stat("exclusive_grabs") < grabs))) {
		if (guard_over(&guard))
			return -ETIME;
		usleep(200);
	}
	return 0;
}

TEST_F(atomic, exact)
{
	uint64_t many = scaled(variant->many ?: 1000);
	bool all = variant->cell == EVERY || getenv("RSVM_ALL");

	for (int cell = all ? 0 : variant->cell; cell < (all ? CELLS : variant->cell + 1); cell++) {
		static const int threads[] = { 0, 1, 8 };
		const struct crowd_op *op = crowd_op(variant->op);
		struct crowd c = {
			.g = &self->g,
			.op = op,
			.words = self->m.p + (3 * cell + 1) * PAGE,
			/* Neighbours in a word of LR/SC, or a cache line apart. */
			.stride = cell % 2 ? (op->bits < 32 ? op->bits / 8 : 64) : 0,
			.harts = CROWD_HARTS,
			.threads = threads[cell / 2],
			.endless = true,
		};

		ASSERT_OK(prepare(self, variant, &c)) TH_LOG("cell %d", cell);
		ASSERT_OK(crowd_start(&c));
		EXPECT_OK(run_out(variant, &c, many)) {
			TH_LOG("cell %d: %lu by the GPU, %lu by the CPU", cell,
			       crowd_done_by_gpu(&c), crowd_done_by_cpu(&c));
		}
		if (variant->kind == VRAM && !c.threads) {
			EXPECT_EQ(PAGE, svm_in_vram(&self->g, c.words, PAGE));
		}
		ASSERT_OK(crowd_end(&c));
		EXPECT_EQ(0, crowd_errors(&c)) TH_LOG("cell %d", cell);
		EXPECT_EQ(0, others_kept(self, variant, &c)) TH_LOG("cell %d", cell);
	}
}

TEST_HARNESS_MAIN
