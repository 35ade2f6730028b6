// SPDX-License-Identifier: GPL-2.0
/*
 * More memory than VRAM: all of it takes turns there, and no byte is lost. For a
 * device with little VRAM (--vram 16M); what is to be filled scales with it.
 * RSVM_SECONDS is how long the test of alternate halves goes on.
 */
#include <sys/ioctl.h>

#include "lib/rsvm_test.h"

#define MAX_VRAM (64ul << 20)
#define CPU_THREADS 8

FIXTURE(evict)
{
	struct gpu g;
	struct mem m;
	size_t vram;		/* bytes of VRAM */
	uint64_t free;
	struct gpu_result *out;
};

FIXTURE_SETUP(evict)
{
	ASSERT_OK(gpu_open(&self->g));
	self->vram = vram_total(self->g.fd);
	if (!self->vram || self->vram > MAX_VRAM)
		SKIP(return, "needs little VRAM (--vram 16M)");
	self->free = vram_free(self->g.fd);
	self->out = calloc(4 * MAX_VRAM / PAGE, sizeof(*self->out));
	ASSERT_NE(NULL, self->out);
}

FIXTURE_TEARDOWN(evict)
{
	free(self->out);
	mem_put(&self->m);
	if (self->free)
		EXPECT_OK(vram_await_free(self->g.fd, self->free));
	gpu_close(&self->g);
}

static uint64_t errors_of(const struct gpu_result *out, size_t n)
{
	uint64_t errors = 0;

	for (size_t i = 0; i < n; i++)
		errors += out[i].errors;
	return errors;
}

/* Tells what was found instead, of the first wrong pages; the number of wrong words. */
static uint64_t wrong_words(struct __test_metadata *_metadata, const char *p,
			    const struct gpu_result *out, size_t pages)
{
	uint64_t errors = errors_of(out, pages);
	int told = 0;

	for (size_t i = 0; errors && i < pages && told < 8; i++) {
		uint64_t from;
		uint32_t round;

		if (!out[i].errors)
			continue;
		from = stamp_origin(out[i].value, p, &round);
		TH_LOG("page %zu (%p): %llu words, one was %llx: round %u of page %lld", i,
		       p + i * PAGE, (unsigned long long)out[i].errors,
		       (unsigned long long)out[i].value, round,
		       ((long long)from - (long long)(uintptr_t)p) / (long long)PAGE);
		told++;
	}
	return errors;
}

/* All pages, each checked and changed by the GPU. */
static int gpu_pattern(struct gpu *g, char *p, size_t size, uint64_t round,
		       struct gpu_result *out, uint64_t *errors)
{
	struct gpu_args args = {
		.addr = (uintptr_t)p, .stride = PAGE, .value = round, .other = PAGE, .out = out,
	};
	int ret = gpu_run(g, GPU_SYM_k_pattern, &args, size / PAGE);

	*errors = errors_of(out, size / PAGE);
	return ret;
}

FIXTURE(kinds)
{
	struct gpu g;
	struct mem m;
	struct gpu_result *out;
};

FIXTURE_VARIANT(kinds)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(kinds, small) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(kinds, huge) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(kinds, mix) { .kind = MEM_MIX };

FIXTURE_SETUP(kinds)
{
	ASSERT_OK(gpu_open(&self->g));
	if (vram_total(self->g.fd) > MAX_VRAM)
		SKIP(return, "needs little VRAM (--vram 16M)");
	self->out = calloc(4 * MAX_VRAM / PAGE, sizeof(*self->out));
	ASSERT_NE(NULL, self->out);
}

FIXTURE_TEARDOWN(kinds)
{
	free(self->out);
	mem_put(&self->m);
	gpu_close(&self->g);
}

/* The GPU computes right with four times as much memory as there is VRAM, and evicts for it. */
TEST_F(kinds, four_times_vram)
{
	size_t size = 4 * vram_total(self->g.fd);
	uint64_t free = vram_free(self->g.fd), errors;
	long long evictions = device_stat("vram_evictions");

	MEM_OR_SKIP(&self->m, variant->kind, size);
	pattern_fill(self->m.p, size, 0);
	for (uint64_t round = 0; round < 3; round++) {
		/* Whether a fault's page finds room in time is another matter. */
		for (size_t off = 0; round && off < size; off += size / 8)
			ASSERT_OK(svm_migrate(&self->g, self->m.p + off, size / 16, TO_VRAM));
		ASSERT_OK(gpu_pattern(&self->g, self->m.p, size, round, self->out, &errors));
		ASSERT_EQ(0, wrong_words(_metadata, self->m.p, self->out, size / PAGE));
	}
	EXPECT_GT(device_stat("vram_evictions"), evictions);
	EXPECT_EQ(0, pattern_errors(self->m.p, size, 3));
	mem_put(&self->m);
	EXPECT_OK(vram_await_free(self->g.fd, free));
}

/* Several processes, each with more than there is, all at the same addresses. */
TEST_F(kinds, processes_evict_each_other)
{
	size_t size = vram_total(self->g.fd);
	uint64_t free = vram_free(self->g.fd);
	pid_t pids[4];

	gpu_close(&self->g);
	for (int i = 0; i < 4; i++) {
		pids[i] = fork();
		ASSERT_GE(pids[i], 0);
		if (!pids[i]) {
			uint64_t errors, base = 1000 * (i + 1);

			if (gpu_open(&self->g) || mem_get(&self->m, variant->kind, size))
				_exit(1);
			pattern_fill(self->m.p, size, base);
			for (uint64_t r = base; r < base + 3; r++)
				if (gpu_pattern(&self->g, self->m.p, size, r, self->out, &errors))
					_exit(2);
				else if (wrong_words(_metadata, self->m.p, self->out, size / PAGE))
					_exit(3);
			_exit(pattern_errors(self->m.p, size, base + 3) ? 4 : 0);
		}
	}
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(0, wait_exit(pids[i]));
	}
	ASSERT_OK(gpu_open(&self->g));
	EXPECT_OK(vram_await_free(self->g.fd, free));
}

/*
 * CPU and GPU change alternate halves of all pages at the same time, each first
 * checks all bytes of what the other one left, with four times VRAM.
 */
TEST_F(evict, alternate_halves)
{
	const size_t size = 4 * self->vram, pages = size / PAGE, half = PAGE / 2;
	int64_t end = now_ns() + 1000 * MS * atoi(getenv("RSVM_SECONDS") ?: "5");
	uint64_t round, cpu_errors = 0;

	ASSERT_OK(mem_get(&self->m, MEM_MIX, size));
	pattern_fill(self->m.p, size, 0);
	for (round = 0; round < 2 || now_ns() < end; round++) {
		size_t gpus = round % 2 * half;
		struct gpu_args args = {
			.addr = (uintptr_t)self->m.p + gpus,
			.stride = PAGE,
			.value = round,
			.other = half,
			.out = self->out,
		};

		ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_pattern, &args, pages));
		for (size_t i = 0; i < pages; i++) {
			char *p = self->m.p + i * PAGE + (half - gpus);

			cpu_errors += pattern_errors(p, half, round);
			pattern_fill(p, half, round + 1);
		}
		ASSERT_OK(gpu_wait(&self->g));
		ASSERT_EQ(0, cpu_errors) TH_LOG("round %llu", (unsigned long long)round);
		ASSERT_EQ(0, wrong_words(_metadata, self->m.p, self->out, pages));
	}
	EXPECT_EQ(0, pattern_errors(self->m.p, size, round));
	TH_LOG("%llu rounds of %zu MiB, all bytes right", (unsigned long long)round, size >> 20);
}

/* Buffer objects and pages of processes evict each other, and neither loses anything. */
TEST_F(evict, against_buffer_objects)
{
	const size_t size = self->vram / 4, count = 6;
	struct drm_rsvm_gem_create bo[count];
	uint64_t errors;
	char *reserved;

	reserved = mmap(NULL, count * size, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, reserved);
	ASSERT_OK(mem_get(&self->m, MEM_ANON, 2 * self->vram));
	pattern_fill(self->m.p, self->m.size, 0);
	for (size_t i = 0; i < count; i++) {
		struct drm_rsvm_vm_bind bind = {
			.vm_id = self->g.vm,
			.op = DRM_RSVM_BIND_OP_MAP,
			.addr = (uintptr_t)reserved + i * size,
			.range = size,
		};

		bo[i] = (struct drm_rsvm_gem_create){ .size = size };
		ASSERT_OK(rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_GEM_CREATE, &bo[i]));
		bind.handle = bo[i].handle;
		ASSERT_OK(rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_VM_BIND, &bind));
	}
	for (uint64_t round = 0; round < 3; round++) {
		ASSERT_OK(gpu_pattern(&self->g, self->m.p, self->m.size, round, self->out,
				      &errors));
		ASSERT_EQ(0, errors);
		/* Objects are zero at first. */
		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, reserved, PAGE, count * size / PAGE,
				   round + 1, self->out));
		for (size_t i = 0; i < count * size / PAGE; i++) {
			ASSERT_EQ(round * (round + 1) / 2, self->out[i].value);
		}
	}
	EXPECT_EQ(0, pattern_errors(self->m.p, self->m.size, 3));
	munmap(reserved, count * size);
	for (size_t i = 0; i < count; i++) {
		struct drm_gem_close c = { .handle = bo[i].handle };
		struct drm_rsvm_vm_bind bind = {
			.vm_id = self->g.vm,
			.op = DRM_RSVM_BIND_OP_UNMAP,
			.addr = (uintptr_t)reserved + i * size,
			.range = size,
		};

		ASSERT_OK(rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_VM_BIND, &bind));
		ASSERT_OK(rsvm_ioctl(self->g.fd, DRM_IOCTL_GEM_CLOSE, &c));
	}
}

struct racer {
	pthread_barrier_t *barrier;
	char *p;
	int number;
	int rounds;
	uint64_t errors;
};

static void *race(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < r->rounds; i++) {
		pthread_barrier_wait(r->barrier);
		if (*word_at(r->p, 8 * r->number) != (uint64_t)i)
			r->errors++;
		*word_at(r->p, 8 * r->number) = i + 1;
		pthread_barrier_wait(r->barrier);
	}
	return NULL;
}

/* Eight CPU threads fault on the same page in VRAM at the same time. */
TEST(threads_fault_on_one_page)
{
	static const enum mem_kind kinds[] = { MEM_ANON, MEM_THP };
	const int rounds = 30;
	struct gpu g;

	ASSERT_OK(gpu_open(&g));
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct racer racers[CPU_THREADS];
		pthread_t threads[CPU_THREADS];
		pthread_barrier_t barrier;
		int seen = 0;
		struct mem m;

		MEM_OR_SKIP(&m, kinds[k], LEAF);
		memset(m.p, 0, LEAF);
		ASSERT_OK(pthread_barrier_init(&barrier, NULL, CPU_THREADS + 1));
		for (int i = 0; i < CPU_THREADS; i++) {
			racers[i] = (struct racer){ &barrier, m.p + 77 * PAGE, i, rounds, 0 };
			ASSERT_OK(pthread_create(&threads[i], NULL, race, &racers[i]));
		}
		for (int i = 0; i < rounds; i++) {
			ASSERT_OK(svm_migrate(&g, m.p, LEAF, TO_VRAM));
			seen += svm_in_vram(&g, m.p + 77 * PAGE, PAGE) == PAGE;
			pthread_barrier_wait(&barrier);
			pthread_barrier_wait(&barrier);
		}
		for (int i = 0; i < CPU_THREADS; i++) {
			pthread_join(threads[i], NULL);
			EXPECT_EQ(0, racers[i].errors);
		}
		EXPECT_GT(seen, rounds / 2);
		mem_put(&m);
	}
	gpu_close(&g);
}

TEST_HARNESS_MAIN
