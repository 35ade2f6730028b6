// SPDX-License-Identifier: GPL-2.0
/*
 * Many threads change the address space around a running GPU. Each owns pages
 * interleaved with those of the others, in the same leaves, and knows what each
 * of its pages holds.
 */
#include "lib/rsvm_test.h"

#define THREADS 6
/* Where pages move, most of a round is the CPU bringing them back. */
#define ROUNDS scaled(getenv("RSVM_STAY") ? 12 : 6)
#define PAGES (3 * LEAF / PAGE)
#define OWN (PAGES / THREADS)

struct worker {
	struct gpu g;
	struct mem *m;
	unsigned int index;
	unsigned int seed;
	uint64_t want[OWN];
	struct gpu_result out[OWN];
	const char *error;
	int ret;		/* of the GPU */
	unsigned int round;
};

static unsigned int rnd(struct worker *w, unsigned int below)
{
	w->seed = w->seed * 1103515245 + 12345;
	return w->seed / 65536 % below;
}

static char *page_of(struct worker *w, unsigned int i)
{
	return w->m->p + ((size_t)i * THREADS + w->index) * PAGE;
}

/* One change of the mm to page @i, which keeps @want true. */
static const char *change(struct worker *w, unsigned int i)
{
	char *p = page_of(w, i);

	switch (rnd(w, 6)) {
	case 0:
		if (madvise(p, PAGE, MADV_DONTNEED))
			return "MADV_DONTNEED";
		w->want[i] = 0;
		break;
	case 1:
		if (mmap(p, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
			return "mmap";
		w->want[i] = 0;
		break;
	case 2: {
		char *fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (fresh == MAP_FAILED)
			return "mmap for mremap";
		w->want[i] = rnd(w, 1u << 15);
		*word_at(fresh, 0) = w->want[i];
		if (mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p) != p)
			return "mremap";
		break;
	}
	case 3:
		if (mprotect(p, PAGE, PROT_READ) || mprotect(p, PAGE, PROT_READ | PROT_WRITE))
			return "mprotect";
		break;
	case 4:
		if (madvise(p, PAGE, MADV_PAGEOUT))
			return "MADV_PAGEOUT";
		break;
	case 5:
		w->want[i] = rnd(w, 1u << 15);
		*word_at(p, 0) = w->want[i];
		break;
	}
	return NULL;
}

/* The GPU adds to all own pages; before, between and after, pages change. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct gpu_args args = {
		.addr = (uintptr_t)page_of(w, 0),
		.stride = THREADS * PAGE,
		.value = 1,
		.out = w->out,
	};

	for (w->round = 0; w->round < ROUNDS && !w->error; w->round++) {
		for (int k = 0; k < 24 && !w->error; k++)
			w->error = change(w, rnd(w, OWN));
		if (w->error)
			break;
		w->ret = gpu_run(&w->g, GPU_SYM_k_add, &args, OWN);
		if (w->ret) {
			w->error = "the GPU failed";
			break;
		}
		for (unsigned int i = 0; i < OWN && !w->error; i++) {
			if (w->out[i].value != w->want[i])
				w->error = "the GPU read something else";
			w->want[i]++;
			if (*word_at(page_of(w, i), 0) != w->want[i])
				w->error = "the CPU read something else";
		}
	}
	return NULL;
}

FIXTURE(stress)
{
	struct gpu g;
	struct mem m;
	struct worker *w;
};

FIXTURE_VARIANT(stress)
{
	enum mem_kind kind;
	bool forks;		/* the process forks all the time as well */
	bool mirrors;		/* each thread has a mirror of its own */
};

FIXTURE_VARIANT_ADD(stress, anon) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(stress, thp) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(stress, mthp) { .kind = MEM_MTHP };
FIXTURE_VARIANT_ADD(stress, anon_forks) { .kind = MEM_ANON, .forks = true };
FIXTURE_VARIANT_ADD(stress, thp_forks) { .kind = MEM_THP, .forks = true };
FIXTURE_VARIANT_ADD(stress, mirrors) { .kind = MEM_ANON, .mirrors = true };

FIXTURE_SETUP(stress)
{
	MEM_OR_SKIP(&self->m, variant->kind, 3 * LEAF);
	ASSERT_OK(gpu_open(&self->g));
	self->w = calloc(THREADS, sizeof(*self->w));
	ASSERT_NE(NULL, self->w);
	for (int t = 0; t < THREADS; t++) {
		struct worker *w = &self->w[t];

		w->index = t;
		w->seed = 77 + t;
		w->m = &self->m;
		if (variant->mirrors) {
			ASSERT_OK(gpu_open(&w->g));
		} else {
			ASSERT_OK(gpu_open_queue(&w->g, &self->g));
		}
	}
}

FIXTURE_TEARDOWN(stress)
{
	for (int t = 0; self->w && t < THREADS; t++)
		gpu_close(&self->w[t].g);
	gpu_close(&self->g);
	mem_put(&self->m);
	free(self->w);
}

TEST_F(stress, change_and_add)
{
	pthread_t threads[THREADS];

	for (int t = 0; t < THREADS; t++) {
		ASSERT_OK(pthread_create(&threads[t], NULL, work, &self->w[t]));
	}
	for (int r = 0; variant->forks && r < scaled(12); r++) {
		pid_t pid = fork();

		ASSERT_GE(pid, 0);
		if (!pid) {
			/*
			 * Some copying on both sides; a page may be read-only, and
			 * there may be no memory to make it writable again.
			 */
			if (mprotect(self->m.p, self->m.size, PROT_READ | PROT_WRITE))
				_exit(errno == ENOMEM ? 0 : errno);
			for (size_t i = 0; i < PAGES; i += 3)
				*word_at(self->m.p, i * PAGE) = ~0ull;
			_exit(0);
		}
		ASSERT_EQ(0, wait_exit(pid));
	}
	for (int t = 0; t < THREADS; t++) {
		ASSERT_OK(pthread_join(threads[t], NULL));
		EXPECT_EQ(NULL, self->w[t].error)
			TH_LOG("thread %d, round %u: %s (%d, reason %u at %#lx, memory at %p)",
			       t, self->w[t].round, self->w[t].error, self->w[t].ret,
			       self->w[t].g.fault_reason,
			       (unsigned long)self->w[t].g.fault_addr, self->m.p);
	}
}

/* Threads start and stop queues of one mirror while the others compute. */
static void *queues(void *arg)
{
	struct worker *w = arg;

	for (w->round = 0; w->round < ROUNDS && !w->error; w->round++) {
		struct gpu g;

		if (gpu_open_queue(&g, w->g.parent)) {
			w->error = "no queue";
			break;
		}
		if (gpu_over(&g, GPU_SYM_k_add, page_of(w, 0), THREADS * PAGE, OWN, 1, NULL))
			w->error = "the GPU failed";
		gpu_close(&g);
	}
	return NULL;
}

TEST(queues_come_and_go)
{
	static struct worker w[THREADS];
	pthread_t threads[THREADS];
	struct gpu g;
	struct mem m;

	ASSERT_OK(mem_get(&m, MEM_ANON, 3 * LEAF));
	ASSERT_OK(gpu_open(&g));
	for (int t = 0; t < THREADS; t++) {
		w[t] = (struct worker){ .index = t, .m = &m, .g.parent = &g };
		ASSERT_OK(pthread_create(&threads[t], NULL, queues, &w[t]));
	}
	for (int t = 0; t < THREADS; t++) {
		ASSERT_OK(pthread_join(threads[t], NULL));
		EXPECT_EQ(NULL, w[t].error)
			TH_LOG("thread %d, round %u: %s", t, w[t].round, w[t].error);
		for (unsigned int i = 0; i < OWN; i++) {
			ASSERT_EQ(ROUNDS, *word_at(page_of(&w[t], i), 0));
		}
	}
	gpu_close(&g);
	mem_put(&m);
}

TEST_HARNESS_MAIN
