// SPDX-License-Identifier: GPL-2.0
/*
 * Faults that cannot be served: an error with the address to whoever waits, and
 * nothing to anybody else. Then faults in number.
 */
#include "lib/rsvm_test.h"

FIXTURE(fault)
{
	struct gpu g;		/* makes the mistake */
	struct gpu other;	/* a queue of the same mirror, at work meanwhile */
	struct mem m;
	struct gpu_args args;
	struct gpu_result out[64];
	volatile uint64_t stop;
	pid_t neighbour;	/* another process, at work meanwhile */
	int pipe[2];
};

/* Counts until the pipe closes; exits with the number of wrong counts. */
static void neighbour(int fd)
{
	static struct gpu_result out[64];
	static volatile uint64_t stop;
	static uint64_t words[64];
	static struct gpu_args args = { .stride = 8, .stop = &stop, .out = out };
	struct gpu g;
	char c;

	args.addr = (uintptr_t)words;
	if (gpu_open(&g) || gpu_launch(&g, GPU_SYM_k_count, &args, 64))
		_exit(100);
	(void)!read(fd, &c, 1);
	stop = 1;
	if (gpu_wait(&g))
		_exit(101);
	for (int i = 0; i < 64; i++)
		if (out[i].errors || out[i].value != words[i])
			_exit(102);
	_exit(0);
}

FIXTURE_SETUP(fault)
{
	ASSERT_OK(pipe2(self->pipe, O_CLOEXEC));
	self->neighbour = fork();
	ASSERT_GE(self->neighbour, 0);
	if (!self->neighbour) {
		close(self->pipe[1]);
		neighbour(self->pipe[0]);
	}
	close(self->pipe[0]);
	ASSERT_OK(mem_get(&self->m, MEM_ANON, 2 * LEAF));
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(gpu_open_queue(&self->other, &self->g));
	self->args = (struct gpu_args){
		.addr = (uintptr_t)self->m.p + LEAF,
		.stride = PAGE,
		.stop = &self->stop,
		.out = self->out,
	};
	ASSERT_OK(gpu_launch(&self->other, GPU_SYM_k_count, &self->args, 64));
}

/* The queue beside and the process beside noticed nothing. */
FIXTURE_TEARDOWN(fault)
{
	self->stop = 1;
	EXPECT_OK(gpu_wait(&self->other));
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(0, self->out[i].errors);
		EXPECT_EQ(*word_at(self->m.p, LEAF + i * PAGE), self->out[i].value);
	}
	close(self->pipe[1]);
	EXPECT_EQ(0, wait_exit(self->neighbour));
	gpu_close(&self->other);
	gpu_close(&self->g);
	mem_put(&self->m);
}

#define EXPECT_FATAL(run, addr, reason, access) do { \
	EXPECT_EQ(-EIO, (run)); \
	EXPECT_EQ((uintptr_t)(addr), self->g.fault_addr); \
	EXPECT_EQ(DRM_RSVM_FAULT_##reason, self->g.fault_reason); \
	EXPECT_EQ(DRM_RSVM_ACCESS_##access, self->g.fault_access); \
} while (0)

static int peek(struct gpu *g, void *p)
{
	return gpu_over(g, GPU_SYM_k_read, p, 0, 1, 0, NULL);
}

TEST_F(fault, read_of_no_mapping)
{
	char *p = self->m.p + 5 * PAGE;

	ASSERT_OK(munmap(p, PAGE));
	EXPECT_FATAL(peek(&self->g, p), p, NO_MAPPING, READ);
}

TEST_F(fault, write_to_no_mapping)
{
	char *p = self->m.p + 5 * PAGE;

	ASSERT_OK(munmap(p, PAGE));
	EXPECT_FATAL(gpu_poke(&self->g, p, 1), p, NO_MAPPING, WRITE);
}

TEST_F(fault, null_pointer)
{
	EXPECT_FATAL(gpu_poke(&self->g, NULL, 1), 0, NO_MAPPING, WRITE);
}

TEST_F(fault, prot_none)
{
	char *p = self->m.p + 6 * PAGE;

	*word_at(p, 0) = 1;
	ASSERT_OK(mprotect(p, PAGE, PROT_NONE));
	EXPECT_FATAL(peek(&self->g, p), p, PROTECTION, READ);
}

/* Holds: RO is not ignored. */
TEST_F(fault, write_to_read_only)
{
	char *p = self->m.p + 7 * PAGE;

	*word_at(p, 0) = 1;
	ASSERT_OK(mprotect(p, PAGE, PROT_READ));
	EXPECT_OK(peek(&self->g, p));
	EXPECT_FATAL(gpu_poke(&self->g, p, 2), p, PROTECTION, WRITE);
	EXPECT_EQ(1, *word_at(p, 0));
}

TEST_F(fault, write_to_read_only_file)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	char *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_FATAL(gpu_poke(&self->g, p, 2), p, PROTECTION, WRITE);
	EXPECT_EQ(0, memcmp(p, "\177ELF", 4));
}

TEST_F(fault, beyond_end_of_file)
{
	int fd = memfd_create("short", MFD_CLOEXEC);
	char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_OK(ftruncate(fd, PAGE));
	EXPECT_OK(gpu_poke(&self->g, p, 1));
	EXPECT_FATAL(gpu_poke(&self->g, p + PAGE, 1), p + PAGE, IO, WRITE);
}

/* Beyond what any process can map, with and without bits the GPU cannot hold. */
TEST_F(fault, beyond_the_address_space)
{
	static const uint64_t addrs[] = {
		1ull << 56, 1ull << 62, 0xffff888000000000ull, ~0ull - PAGE + 1,
	};

	for (size_t i = 0; i < ARRAY_SIZE(addrs); i++) {
		struct gpu g;

		ASSERT_OK(gpu_open_queue(&g, &self->g));
		EXPECT_EQ(-EIO, gpu_poke(&g, (void *)addrs[i], 1))
			TH_LOG("address %#lx", addrs[i]);
		EXPECT_EQ(DRM_RSVM_FAULT_BAD_ADDRESS, g.fault_reason)
			TH_LOG("address %#lx", addrs[i]);
		gpu_close(&g);
	}
}

TEST_F(fault, jump_to_no_mapping)
{
	char *p = self->m.p + 8 * PAGE;

	ASSERT_OK(munmap(p, PAGE));
	EXPECT_FATAL(gpu_over(&self->g, GPU_SYM_k_jump, p, 0, 1, 0, NULL), p, NO_MAPPING, EXECUTE);
}

TEST_F(fault, illegal_instruction)
{
	struct gpu_args args = {};
	uint64_t start = (uintptr_t)self->g.code + GPU_SYM_k_illegal;

	EXPECT_EQ(-EIO, gpu_run(&self->g, GPU_SYM_k_illegal, &args, 1));
	EXPECT_EQ(DRM_RSVM_FAULT_EXCEPTION, self->g.fault_reason);
	EXPECT_GE(self->g.fault_addr, start);
	EXPECT_LT(self->g.fault_addr, start + 16);
}

/*
 * An atomic works where a page can be had exclusively, and is refused elsewhere; no
 * update is lost silently.
 */
TEST_F(fault, atomic)
{
	char *p = self->m.p + 9 * PAGE;
	char *q = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, q);
	*word_at(p, 0) = 5;
	*word_at(q, 0) = 5;
	EXPECT_OK(gpu_over(&self->g, GPU_SYM_k_atomic, p, 0, 64, 1, NULL));
	EXPECT_EQ(69, *word_at(p, 0));
	EXPECT_FATAL(gpu_over(&self->g, GPU_SYM_k_atomic, q, 0, 64, 1, NULL), q, ATOMIC, ATOMIC);
	EXPECT_EQ(5, *word_at(q, 0));
	munmap(q, PAGE);
}

/* A killed queue stays so and says why; it goes, and a new one works. */
TEST_F(fault, queue_after_fault)
{
	char *p = self->m.p + 10 * PAGE;
	struct gpu again;

	ASSERT_OK(munmap(p, PAGE));
	EXPECT_FATAL(gpu_poke(&self->g, p, 1), p, NO_MAPPING, WRITE);
	EXPECT_EQ(-EIO, gpu_poke(&self->g, self->m.p, 1));
	EXPECT_EQ(-EIO, rsvm_exec(self->g.fd, self->g.queue, NULL, 0, self->g.fence, 99));
	EXPECT_FATAL(gpu_wait_until(&self->g, INT64_MAX), p, NO_MAPPING, WRITE);
	EXPECT_OK(rsvm_queue_destroy(self->g.fd, self->g.queue));
	ASSERT_OK(gpu_open_queue(&again, &self->g));
	EXPECT_OK(gpu_poke(&again, self->m.p, 3));
	EXPECT_EQ(3, *word_at(self->m.p, 0));
	gpu_close(&again);
}

/* All harts of a grid fault at once, fatally, at many addresses. */
TEST_F(fault, many_fatal_at_once)
{
	char *p = mmap(NULL, 512 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-EIO, gpu_over(&self->g, GPU_SYM_k_write, p, PAGE, 512, 1, NULL));
	EXPECT_EQ(DRM_RSVM_FAULT_PROTECTION, self->g.fault_reason);
	EXPECT_GE(self->g.fault_addr, (uintptr_t)p);
	EXPECT_LT(self->g.fault_addr, (uintptr_t)p + 512 * PAGE);
}

/* A fence in memory that nobody ever touched; and where it cannot be written. */
TEST_F(fault, fence_in_untouched_memory)
{
	char *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct drm_rsvm_wait_user_fence w = {
		.queue_id = self->g.queue,
		.addr = (uintptr_t)p + 64,
		.value = 0x123456789abcdef0,
		.mask = ~0ull,
	};

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_OK(rsvm_exec(self->g.fd, self->g.queue, NULL, 0, word_at(p, 64), w.value));
	ASSERT_OK(gpu_wait_fence(&self->g, &w));
	EXPECT_EQ(w.value, *word_at(p, 64));

	ASSERT_OK(mprotect(p + PAGE, PAGE, PROT_READ));
	self->g.launched++;
	ASSERT_OK(rsvm_exec(self->g.fd, self->g.queue, NULL, 0, word_at(p, PAGE), 1));
	EXPECT_FATAL(gpu_wait(&self->g), p + PAGE, PROTECTION, WRITE);
	EXPECT_EQ(0, *word_at(p, PAGE));
}

/*
 * Many more faults at once than the fault buffer holds or the device has harts,
 * each in a leaf of its own: every one is served.
 */
TEST_F(fault, storm)
{
	const size_t n = 3000, stride = LEAF + PAGE;
	char *p = mmap(NULL, n * stride, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct gpu_result *out = calloc(n, sizeof(*out));

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(NULL, out);
	ASSERT_OK(madvise(p, n * stride, MADV_NOHUGEPAGE));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, p, stride, n, 7, NULL));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, p, stride, n, 1, out));
	for (size_t i = 0; i < n; i++) {
		ASSERT_EQ(7 + i, out[i].value);
		ASSERT_EQ(8 + i, *word_at(p, i * stride));
	}
	ASSERT_OK(munmap(p, n * stride));
}

/* All harts on the same page: duplicates of one fault. */
TEST_F(fault, all_on_one_page)
{
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p + 64 * PAGE, 8, 512, 1, NULL));
	for (int i = 0; i < 512; i++) {
		ASSERT_EQ(1 + i, *word_at(self->m.p, 64 * PAGE + i * 8));
	}
}

TEST_HARNESS_MAIN
