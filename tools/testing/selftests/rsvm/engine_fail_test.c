// SPDX-License-Identifier: GPL-2.0
/*
 * The copy engine fails, or memory is short, at each point of a migration: no
 * data is lost and nothing is mapped that was not copied. Needs root.
 */
#include <dirent.h>

#include "lib/device.h"
#include "lib/rsvm_test.h"

#define SIZE LEAF
#define PAGES (SIZE / PAGE)
/* No path needs as many copies. */
#define MANY 2000

FIXTURE(engine)
{
	struct device d;
	struct gpu g;
	struct mem m;
	struct gpu_result out[PAGES];
	uint64_t round;
};

FIXTURE_VARIANT(engine)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(engine, small) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(engine, huge) { .kind = MEM_THP };
FIXTURE_VARIANT_ADD(engine, mix) { .kind = MEM_MIX };

FIXTURE_SETUP(engine)
{
	if (getuid())
		SKIP(return, "needs root");
	ASSERT_OK(device_find(&self->d));
	ASSERT_OK(gpu_open(&self->g));
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	pattern_fill(self->m.p, SIZE, 0);
	self->round = 0;
}

FIXTURE_TEARDOWN(engine)
{
	if (self->d.bar0) {
		device_write(&self->d, FAIL_NEXT_COPY, 0);
		device_write(&self->d, FAIL_EVERY_COPY, 0);
	}
	mem_put(&self->m);
	gpu_close(&self->g);
	device_put(&self->d);
}

/* The GPU finds all bytes as they were left, and leaves them for the next round. */
static uint64_t gpu_round(struct gpu *g, char *p, struct gpu_result *out, uint64_t *round)
{
	struct gpu_args args = {
		.addr = (uintptr_t)p, .stride = PAGE, .value = *round, .other = PAGE, .out = out,
	};
	uint64_t errors = 0;

	if (gpu_run(g, GPU_SYM_k_pattern, &args, PAGES))
		return ~0ull;
	++*round;
	for (size_t i = 0; i < PAGES; i++)
		errors += out[i].errors;
	return errors;
}

/* The n-th copy fails, for each n; true as long as there was an n-th. */
static bool failed(struct device *d)
{
	bool hit = !device_read(d, FAIL_NEXT_COPY);

	device_write(d, FAIL_NEXT_COPY, 0);
	return hit;
}

/* On the way to VRAM: pages stay where they were. */
TEST_F(engine, to_vram)
{
	int n;

	for (n = 1; n < MANY; n += 1 + n / 8) {
		bool hit;

		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM));
		ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
		device_write(&self->d, FAIL_NEXT_COPY, n);
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		hit = failed(&self->d);
		ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round))
			TH_LOG("copy %d", n);
		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round)) TH_LOG("copy %d", n);
		if (!hit)
			break;
	}
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	EXPECT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
	/* At least one was there to fail. */
	EXPECT_GT(n, 1);
	EXPECT_LT(n, MANY);
}

/* On a fault of the GPU that moves pages: it finds the data, wherever. */
TEST_F(engine, gpu_fault)
{
	int n;

	for (n = 1; n < MANY; n += 1 + n / 8) {
		bool hit;

		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round));
		/* No longer held back for having bounced. */
		usleep(20000);
		ASSERT_TRUE(inject("vram_residency_ms", 0));
		device_write(&self->d, FAIL_NEXT_COPY, n);
		ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round))
			TH_LOG("copy %d", n);
		hit = failed(&self->d);
		inject("vram_residency_ms", 50);
		if (!hit)
			break;
	}
	EXPECT_GT(n, 1);
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, self->round));
}

/* On the way back for a CPU's fault. */
TEST_F(engine, cpu_fault)
{
	int n;

	for (n = 1; n < MANY; n += 1 + n / 8) {
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		ASSERT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
		device_write(&self->d, FAIL_NEXT_COPY, n);
		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, 0)) TH_LOG("copy %d", n);
		if (!failed(&self->d))
			break;
	}
	EXPECT_GT(n, 1);
	EXPECT_LT(n, MANY);
}

/* On the way back because somebody asks for it. */
TEST_F(engine, to_system)
{
	int n;

	for (n = 1; n < MANY; n += 1 + n / 8) {
		bool hit;

		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		device_write(&self->d, FAIL_NEXT_COPY, n);
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_SYSTEM));
		hit = failed(&self->d);
		ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round))
			TH_LOG("copy %d", n);
		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round)) TH_LOG("copy %d", n);
		if (!hit)
			break;
	}
	EXPECT_GT(n, 1);
}

/* No copy works any more: pages in VRAM come home all the same, others stay. */
TEST_F(engine, every_copy_fails)
{
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
	device_write(&self->d, FAIL_EVERY_COPY, 1);
	ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round));
	ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round));
	ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round));
	device_write(&self->d, FAIL_EVERY_COPY, 0);
	/* And the engine recovers. */
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	EXPECT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
	ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, self->round));
}

/* The n-th copy of evictions and of what they make room for; needs little VRAM. */
TEST_F(engine, eviction)
{
	size_t total = vram_total(self->g.fd), size = 2 * total;
	struct gpu_result *out;
	long long evictions;
	struct mem big;

	if (total > 64 << 20)
		SKIP(return, "needs little VRAM (--vram 16M)");
	out = calloc(size / PAGE, sizeof(*out));
	ASSERT_NE(NULL, out);
	MEM_OR_SKIP(&big, variant->kind, size);
	pattern_fill(big.p, size, 0);
	/* With copies that fail there may never be enough in VRAM to be evicted. */
	for (size_t off = 0; off < size; off += LEAF)
		ASSERT_OK(svm_migrate(&self->g, big.p + off, LEAF, TO_VRAM));
	evictions = device_stat("vram_evictions");
	device_write(&self->d, FAIL_EVERY_COPY, 5);
	for (uint64_t round = 0; round < 3; round++) {
		struct gpu_args args = {
			.addr = (uintptr_t)big.p, .stride = PAGE, .value = round, .other = PAGE,
			.out = out,
		};
		uint64_t errors = 0;

		for (size_t off = 0; off < size; off += LEAF)
			ASSERT_OK(svm_migrate(&self->g, big.p + off, LEAF, TO_VRAM));
		ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_pattern, &args, size / PAGE));
		for (size_t i = 0; i < size / PAGE; i++)
			errors += out[i].errors;
		ASSERT_EQ(0, errors) TH_LOG("round %llu", (unsigned long long)round);
		device_write(&self->d, FAIL_EVERY_COPY, 2 + round);
	}
	device_write(&self->d, FAIL_EVERY_COPY, 0);
	EXPECT_GT(device_stat("vram_evictions"), evictions);
	EXPECT_EQ(0, pattern_errors(big.p, size, 3));
	mem_put(&big);
	free(out);
}

/* Marks the threads whose allocations are to fail: this one and kernel workers. */
static void mark(const char *value)
{
	DIR *dir = opendir("/proc");
	struct dirent *e;
	char path[300];

	while (dir && (e = readdir(dir))) {
		char comm[32] = "";
		int fd;

		snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (read(fd, comm, sizeof(comm) - 1) > 0 && !strncmp(comm, "kworker/u", 9)) {
			snprintf(path, sizeof(path), "/proc/%s/make-it-fail", e->d_name);
			sys_write(path, value);
		}
		close(fd);
	}
	if (dir)
		closedir(dir);
	sys_write("/proc/self/make-it-fail", value);
}

/* One of @interval allocations of the marked threads fails from now on; 0: none. */
static int fail_allocations(unsigned int interval)
{
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	static const char *const settings[][2] = {
		{ "verbose", "0" }, { "task-filter", "Y" }, { "times", "-1" },
		{ "probability", "100" }, { "ignore-gfp-wait", "N" },
		{ "ignore-gfp-highmem", "N" }, { "min-order", "0" },
	};
	char path[96], text[16];

	mark(interval ? "1" : "0");
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/interval", kinds[k]);
		snprintf(text, sizeof(text), "%u", interval ?: 1);
		if (sys_write(path, text))
			return -ENOTSUP;
		for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
			bool on = strcmp(settings[i][0], "probability") || interval;

			snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", kinds[k],
				 settings[i][0]);
			sys_write(path, on ? settings[i][1] : "0");
		}
	}
	return 0;
}

/* Memory runs short in each migration path: both ways, on faults and on request. */
TEST_F(engine, allocation_failures)
{
	static const unsigned int intervals[] = { 2, 3, 5, 7, 11, 23, 51 };

	if (fail_allocations(0))
		SKIP(return, "no fault injection in this kernel (KERNEL=debug has it)");
	for (size_t i = 0; i < ARRAY_SIZE(intervals); i++) {
		/* What cannot be served at all kills a queue, which is allowed: a new one. */
		struct gpu g;
		bool killed;
		int ret;

		ASSERT_OK(gpu_open_queue(&g, &self->g));
		fail_allocations(intervals[i]);
		svm_migrate(&g, self->m.p, SIZE, TO_VRAM);
		svm_migrate(&g, self->m.p, SIZE / 2, TO_SYSTEM);
		ret = gpu_over(&g, GPU_SYM_k_read, self->m.p, PAGE, PAGES, 0, self->out);
		killed = ret == -EIO && g.fault_reason == DRM_RSVM_FAULT_NO_MEMORY;
		/* Of a CPU's fault: core tries again. */
		(void)*word_at(self->m.p, 9 * PAGE);
		fail_allocations(0);
		EXPECT_TRUE(!ret || killed) TH_LOG("%d, reason %d", ret, g.fault_reason);
		gpu_close(&g);
		ASSERT_EQ(0, gpu_round(&self->g, self->m.p, self->out, &self->round));
		ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, self->round))
			TH_LOG("every %u", intervals[i]);
	}
}

/* The n-th allocation of a CPU's fault fails, for each n. */
TEST_F(engine, allocation_failure_in_cpu_fault)
{
	char path[64], text[16];
	int n, fd;

	if (fail_allocations(0))
		SKIP(return, "no fault injection in this kernel (KERNEL=debug has it)");
	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", gettid());
	for (n = 1; n < 200; n++) {
		char left[16] = "";

		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		ASSERT_GT(svm_in_vram(&self->g, self->m.p, SIZE), 0);
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
	EXPECT_GT(n, 1);
}

TEST_HARNESS_MAIN
