// SPDX-License-Identifier: GPL-2.0
/*
 * Buffer objects: their bytes are the same for CPU and GPU wherever they lie,
 * bindings hide the memory of the process exactly as long as they exist, and
 * buffers that do not fit all at once take turns in device memory.
 */
#include "lib/rsvm_test.h"
#include "lib/bo.h"

#define SIZE (2 * LEAF)

FIXTURE(bo)
{
	struct gpu g;
	struct bo bo;
	struct mem m;		/* under the bindings */
	uint64_t vram;
};

FIXTURE_SETUP(bo)
{
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_VRAM_TOTAL, &self->vram));
	ASSERT_OK(mem_get(&self->m, MEM_ANON, SIZE));
	ASSERT_OK(bo_create(&self->bo, self->g.fd, SIZE));
	ASSERT_OK(bo_map(&self->bo));
}

FIXTURE_TEARDOWN(bo)
{
	bo_put(&self->bo);
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* Binds a piece of the buffer of the fixture over its memory, at the same offset. */
#define BIND(off, size) \
	bo_bind(&self->bo, self->g.vm, self->m.p + (off), size, off, 0)
#define UNBIND(off, size) \
	bo_unbind(self->g.fd, self->g.vm, self->m.p + (off), size)

/* One word of each page of the first @size bytes: value + number of the page. */
static int gpu_mark(struct gpu *g, void *p, size_t size, uint64_t value)
{
	return gpu_over(g, GPU_SYM_k_write, p, PAGE, size / PAGE, value, NULL);
}

/* How many pages have another mark than that as the GPU sees it; -1: not at all. */
static long gpu_unmarked(struct gpu *g, void *p, size_t size, uint64_t value)
{
	size_t pages = size / PAGE;
	struct gpu_result *out = calloc(pages, sizeof(*out));
	long wrong = 0;

	if (!out || gpu_over(g, GPU_SYM_k_read, p, PAGE, pages, 0, out)) {
		free(out);
		return -1;
	}
	for (size_t i = 0; i < pages; i++)
		wrong += out[i].value != value + i;
	free(out);
	return wrong;
}

static long cpu_unmarked(void *p, size_t size, uint64_t value)
{
	long wrong = 0;

	for (size_t i = 0; i < size / PAGE; i++)
		wrong += *word_at(p, i * PAGE) != value + i;
	return wrong;
}

static size_t not_zero(const char *p, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < size; i += 8)
		n += *word_at((void *)p, i) != 0;
	return n;
}

TEST_F(bo, zero_for_the_cpu)
{
	EXPECT_EQ(0, not_zero(self->bo.cpu, SIZE));
}

/* Holds: zeroing before first use. All of device memory has been used before. */
TEST_F(bo, zero_after_somebody_else)
{
	size_t most = self->vram / 2;
	char *va = mmap(NULL, most, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct bo big;

	ASSERT_NE(MAP_FAILED, va);
	for (int round = 0; round < 2; round++) {
		ASSERT_OK(bo_create(&big, self->g.fd, most));
		ASSERT_OK(bo_bind(&big, self->g.vm, va, most, 0, 0));
		struct gpu_result *out = calloc(most / PAGE, sizeof(*out));
		size_t old = 0;

		ASSERT_NE(NULL, out);
		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, va, PAGE, most / PAGE, 0, out));
		for (size_t i = 0; i < most / PAGE; i++)
			old += out[i].value != 0;
		EXPECT_EQ(0, old);
		free(out);
		ASSERT_OK(gpu_mark(&self->g, va, most, ~0ull << 20));
		ASSERT_OK(bo_unbind(self->g.fd, self->g.vm, va, most));
		bo_put(&big);
	}
	munmap(va, most);
}

TEST_F(bo, cpu_and_gpu_see_the_same)
{
	ASSERT_OK(BIND(0, SIZE));
	for (size_t i = 0; i < SIZE / PAGE; i++)
		*word_at(self->bo.cpu, i * PAGE) = 1000 + i;
	EXPECT_EQ(0, gpu_unmarked(&self->g, self->m.p, SIZE, 1000));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 5000));
	EXPECT_EQ(0, cpu_unmarked(self->bo.cpu, SIZE, 5000));
}

/* Holds: a binding over what the GPU has mapped revokes it; the end gives it back. */
TEST_F(bo, hides_memory_while_bound)
{
	for (size_t i = 0; i < SIZE / PAGE; i++)
		*word_at(self->m.p, i * PAGE) = 100 + i;
	EXPECT_EQ(0, gpu_unmarked(&self->g, self->m.p, SIZE, 100));
	ASSERT_OK(BIND(0, SIZE));
	EXPECT_EQ(0, gpu_peek(&self->g, self->m.p));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 9000));
	EXPECT_EQ(0, cpu_unmarked(self->m.p, SIZE, 100));
	EXPECT_EQ(0, cpu_unmarked(self->bo.cpu, SIZE, 9000));
	ASSERT_OK(UNBIND(0, SIZE));
	EXPECT_EQ(0, gpu_unmarked(&self->g, self->m.p, SIZE, 100));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 200));
	EXPECT_EQ(0, cpu_unmarked(self->m.p, SIZE, 200));
	EXPECT_EQ(0, cpu_unmarked(self->bo.cpu, SIZE, 9000));
}

TEST_F(bo, pieces)
{
	/* Ends inside of a leaf, and not where large pages do. */
	const size_t from = 3 * PAGE, to = LEAF + 21 * PAGE, hole = 40 * PAGE;

	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 100));
	ASSERT_OK(BIND(from, to - from));
	ASSERT_OK(UNBIND(hole, PAGE));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 5000));
	for (size_t at = 0; at < SIZE; at += PAGE) {
		bool bound = at >= from && at < to && at != hole;

		ASSERT_EQ(bound ? 5000 + at / PAGE : 0, *word_at(self->bo.cpu, at));
		ASSERT_EQ((bound ? 100 : 5000) + at / PAGE, *word_at(self->m.p, at));
	}
	/* What replaces the middle of a binding leaves its ends. */
	ASSERT_OK(bo_bind(&self->bo, self->g.vm, self->m.p + 8 * PAGE, PAGE, hole, 0));
	EXPECT_EQ(0, gpu_peek(&self->g, self->m.p + 8 * PAGE));
	EXPECT_EQ(5007, gpu_peek(&self->g, self->m.p + 7 * PAGE));
	EXPECT_EQ(5009, gpu_peek(&self->g, self->m.p + 9 * PAGE));
}

TEST_F(bo, two_addresses)
{
	ASSERT_OK(BIND(0, LEAF));
	ASSERT_OK(bo_bind(&self->bo, self->g.vm, self->m.p + LEAF, LEAF, 0, 0));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, LEAF, 1));
	EXPECT_EQ(0, gpu_unmarked(&self->g, self->m.p + LEAF, LEAF, 1));
}

TEST_F(bo, read_only)
{
	*word_at(self->bo.cpu, PAGE) = 77;
	ASSERT_OK(bo_bind(&self->bo, self->g.vm, self->m.p, SIZE, 0, DRM_RSVM_BIND_READ_ONLY));
	EXPECT_EQ(77, gpu_peek(&self->g, self->m.p + PAGE));
	EXPECT_EQ(-EIO, gpu_poke(&self->g, self->m.p + PAGE, 78));
	EXPECT_EQ((uintptr_t)self->m.p + PAGE, self->g.fault_addr);
	EXPECT_EQ(DRM_RSVM_FAULT_PROTECTION, self->g.fault_reason);
	EXPECT_EQ(DRM_RSVM_ACCESS_WRITE, self->g.fault_access);
	EXPECT_EQ(77, *word_at(self->bo.cpu, PAGE));
}

/* Holds: VM_BIND returns when nothing uses the old meaning any more. */
TEST_F(bo, rebound_under_running_kernel)
{
	volatile uint64_t stop = 0;
	struct gpu_args args = {
		.addr = (uintptr_t)self->m.p, .stride = PAGE, .value = 7, .stop = &stop,
	};
	volatile uint64_t *memory = word_at(self->m.p, 0), *buffer = word_at(self->bo.cpu, 0);

	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_store, &args, 1));
	ASSERT_OK(await_change(memory, 0));
	for (int i = 0; i < 20; i++) {
		*buffer = 0;
		ASSERT_OK(BIND(0, SIZE));
		*memory = 0;
		ASSERT_OK(await_change(buffer, 0));
		EXPECT_EQ(0, *memory);
		ASSERT_OK(UNBIND(0, SIZE));
		*buffer = 0;
		ASSERT_OK(await_change(memory, 0));
		EXPECT_EQ(0, *buffer);
	}
	stop = 1;
	EXPECT_OK(gpu_wait(&self->g));
}

/* Changes of the process's memory are none of the binding's business. */
TEST_F(bo, memory_below_goes)
{
	ASSERT_OK(BIND(0, SIZE));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 30));
	ASSERT_OK(munmap(self->m.p, LEAF));
	ASSERT_OK(mprotect(self->m.p + LEAF, LEAF, PROT_NONE));
	EXPECT_EQ(0, gpu_unmarked(&self->g, self->m.p, SIZE, 30));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 40));
	EXPECT_EQ(0, cpu_unmarked(self->bo.cpu, SIZE, 40));
}

TEST_F(bo, outlives_its_handle)
{
	ASSERT_OK(BIND(0, SIZE));
	ASSERT_OK(bo_close(&self->bo));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 60));
	EXPECT_EQ(0, cpu_unmarked(self->bo.cpu, SIZE, 60));
	ASSERT_OK(UNBIND(0, SIZE));
	EXPECT_EQ(0, cpu_unmarked(self->bo.cpu, SIZE, 60));
}

TEST_F(bo, shared_with_a_child)
{
	pid_t pid;

	*word_at(self->bo.cpu, 0) = 1;
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (*word_at(self->bo.cpu, 0) != 1)
			_exit(1);
		*word_at(self->bo.cpu, SIZE - PAGE) = 2;
		/* The mirror is of another process. */
		_exit(BIND(0, SIZE) == -EPERM ? 0 : 2);
	}
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_EQ(2, *word_at(self->bo.cpu, SIZE - PAGE));
}

static void *use_all(void *p)
{
	char *cpu = p;
	uint64_t wrong = 0;

	/* Each word counts; a store that is lost shows. */
	for (uint64_t round = 0; round < 200; round++)
		for (size_t at = 0; at < SIZE; at += 16 * PAGE) {
			wrong += *word_at(cpu, at) != round;
			*word_at(cpu, at) = round + 1;
		}
	return (void *)wrong;
}

/* A buffer that needs the room of all others, again and again. */
static int push_out(struct gpu *g, uint64_t vram, int times)
{
	size_t most = vram / 4 * 3;
	char *va = mmap(NULL, most, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct bo a, b;
	int ret;

	if (va == MAP_FAILED)
		return -errno;
	ret = bo_create(&a, g->fd, most) ?: bo_create(&b, g->fd, most);
	for (int i = 0; i < times && !ret; i++) {
		ret = bo_bind(&a, g->vm, va, most, 0, 0) ?: gpu_poke(g, va, 1) ?:
		      bo_bind(&b, g->vm, va, most, 0, 0) ?: gpu_poke(g, va, 1);
	}
	bo_unbind(g->fd, g->vm, va, most);
	bo_put(&a);
	bo_put(&b);
	munmap(va, most);
	return ret;
}

/* Holds: CPU mappings are zapped before a buffer moves, and follow it. */
TEST_F(bo, cpu_mapping_follows)
{
	pthread_t thread;
	void *wrong;

	ASSERT_OK(BIND(0, SIZE));
	ASSERT_EQ(0, pthread_create(&thread, NULL, use_all, self->bo.cpu));
	for (int i = 0; i < 3; i++) {
		EXPECT_OK(push_out(&self->g, self->vram, 1));
		/* The GPU's access brings it back. */
		EXPECT_NE(~0ull, gpu_peek(&self->g, self->m.p + PAGE));
	}
	ASSERT_EQ(0, pthread_join(thread, &wrong));
	EXPECT_EQ(NULL, wrong);
}

/* Twice as much as there is, all of it right in the end. */
TEST_F(bo, more_than_fits)
{
	enum { COUNT = 8 };
	size_t each = self->vram / 4;
	char *va = mmap(NULL, COUNT * each, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct bo bo[COUNT];

	ASSERT_NE(MAP_FAILED, va);
	for (int i = 0; i < COUNT; i++) {
		ASSERT_OK(bo_create(&bo[i], self->g.fd, each));
		ASSERT_OK(bo_bind(&bo[i], self->g.vm, va + i * each, each, 0, 0));
		ASSERT_OK(gpu_mark(&self->g, va + i * each, each, (i + 1) << 20));
	}
	for (int i = 0; i < COUNT; i++)
		EXPECT_EQ(0, gpu_unmarked(&self->g, va + i * each, each, (i + 1) << 20));
	for (int i = 0; i < COUNT; i++) {
		ASSERT_OK(bo_map(&bo[i]));
		EXPECT_EQ(0, cpu_unmarked(bo[i].cpu, each, (i + 1) << 20));
		bo_put(&bo[i]);
	}
	ASSERT_OK(bo_unbind(self->g.fd, self->g.vm, va, COUNT * each));
	munmap(va, COUNT * each);
}

/* Both of two processes get on although only one buffer fits at a time. */
TEST_F(bo, two_processes_take_turns)
{
	pid_t pid = fork();

	ASSERT_GE(pid, 0);
	if (!pid) {
		struct gpu g;
		int ret = gpu_open(&g);

		ret = ret ?: push_out(&g, self->vram, 3);
		_exit(ret ? 1 : 0);
	}
	EXPECT_OK(push_out(&self->g, self->vram, 3));
	EXPECT_EQ(0, wait_exit(pid));
}

/* A process dies with all of it in use; nothing stays. */
TEST_F(bo, killed)
{
	uint64_t before, after;
	pid_t pid;

	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_VRAM_FREE, &before));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct gpu g;

		if (gpu_open(&g))
			_exit(1);
		for (;;)
			if (push_out(&g, self->vram, 100))
				_exit(2);
	}
	usleep(500000);
	ASSERT_OK(kill(pid, SIGKILL));
	EXPECT_EQ(128 + SIGKILL, wait_exit(pid));
	for (int i = 0; i < 100; i++) {
		ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_VRAM_FREE, &after));
		if (after >= before)
			break;
		usleep(100000);
	}
	EXPECT_GE(after, before);
}

#define REJECT(error, request, type, ...) do { \
	type __arg = { __VA_ARGS__ }, __before = __arg; \
	EXPECT_EQ(-(error), rsvm_ioctl(self->g.fd, request, &__arg)) \
		TH_LOG("%s { %s }", #request, #__VA_ARGS__); \
	EXPECT_EQ(0, memcmp(&__arg, &__before, sizeof(__arg))) \
		TH_LOG("%s { %s } wrote to its argument", #request, #__VA_ARGS__); \
} while (0)

#define CREATE(error, ...) \
	REJECT(error, DRM_IOCTL_RSVM_GEM_CREATE, struct drm_rsvm_gem_create, __VA_ARGS__)
#define OFFSET(error, ...) \
	REJECT(error, DRM_IOCTL_RSVM_GEM_MMAP_OFFSET, struct drm_rsvm_gem_mmap_offset, __VA_ARGS__)
#define VM_BIND(error, ...) \
	REJECT(error, DRM_IOCTL_RSVM_VM_BIND, struct drm_rsvm_vm_bind, __VA_ARGS__)

/* Holds: a buffer counts where it lies, from its first use to its end. */
TEST_F(bo, is_in_fdinfo)
{
	long long before = fdinfo(self->g.fd, "drm-resident-vram");

	ASSERT_GE(before, 0);
	ASSERT_OK(BIND(0, SIZE));
	ASSERT_OK(gpu_mark(&self->g, self->m.p, SIZE, 1));
	EXPECT_EQ(before + SIZE / 1024, fdinfo(self->g.fd, "drm-resident-vram"));
	ASSERT_OK(UNBIND(0, SIZE));
	bo_put(&self->bo);
	EXPECT_EQ(before, fdinfo(self->g.fd, "drm-resident-vram"));
}

TEST_F(bo, bad_input)
{
	const uint64_t addr = (uintptr_t)self->m.p;
	const uint32_t vm = self->g.vm, handle = self->bo.handle, none = 0x7ffffff0;

	CREATE(EINVAL, .size = 0);
	CREATE(EINVAL, .size = PAGE + 1);
	CREATE(EINVAL, .size = PAGE, .flags = 1);
	CREATE(EINVAL, .size = ~0ull);
	CREATE(ENOMEM, .size = self->vram + PAGE);
	CREATE(ENOMEM, .size = ~0ull << 12);

	OFFSET(ENOENT, .handle = 0);
	OFFSET(ENOENT, .handle = none);
	OFFSET(EINVAL, .handle = handle, .pad = 1);

	VM_BIND(ENOENT, .vm_id = none, .handle = handle, .addr = addr, .range = PAGE);
	VM_BIND(ENOENT, .vm_id = vm, .handle = none, .addr = addr, .range = PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .op = 2, .handle = handle, .addr = addr, .range = PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .flags = 2, .addr = addr, .range = PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = addr);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = addr + 8, .range = PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = addr, .range = PAGE + 8);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = addr, .range = PAGE, .offset = 8);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = addr, .range = SIZE + PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = addr, .range = PAGE,
		.offset = SIZE);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = addr, .range = 2 * PAGE,
		.offset = ~0ull << 12);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = ~0ull << 12, .range = PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .handle = handle, .addr = 1ull << 56, .range = PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .op = 1, .handle = handle, .addr = addr, .range = PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .op = 1, .flags = 1, .addr = addr, .range = PAGE);
	VM_BIND(EINVAL, .vm_id = vm, .op = 1, .offset = PAGE, .addr = addr, .range = PAGE);

	/* A copy of a page that may move would be an old one. */
	struct drm_rsvm_gem_mmap_offset o = { .handle = handle };

	ASSERT_OK(rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_GEM_MMAP_OFFSET, &o));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE,
				   self->g.fd, o.offset));
	EXPECT_EQ(EINVAL, errno);

	/* Nothing of that did anything. */
	EXPECT_OK(gpu_poke(&self->g, self->m.p, 42));
	EXPECT_EQ(42, *word_at(self->m.p, 0));
	EXPECT_EQ(0, *word_at(self->bo.cpu, 0));
	/* Where nothing is bound there is nothing to unbind, which is fine. */
	EXPECT_OK(UNBIND(0, SIZE));
}

TEST_HARNESS_MAIN
