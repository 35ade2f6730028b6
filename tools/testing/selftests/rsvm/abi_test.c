// SPDX-License-Identifier: GPL-2.0
/* Every ioctl with bad input: the right errno, and nothing changed. */
#include "lib/rsvm_test.h"

#define NO_ID 0x7ffffff0u

FIXTURE(abi)
{
	struct gpu g;
	uint64_t max_dwords;
};

FIXTURE_SETUP(abi)
{
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_MAX_PUSH_DWORDS, &self->max_dwords));
}

FIXTURE_TEARDOWN(abi)
{
	gpu_close(&self->g);
}

/* One bad call: @arg, of @size bytes, must give @error and stay as it is. */
#define REJECT(error, request, type, ...) do { \
	type __arg = { __VA_ARGS__ }, __before = __arg; \
	EXPECT_EQ(-(error), rsvm_ioctl(self->g.fd, request, &__arg)) \
		TH_LOG("%s { %s }", #request, #__VA_ARGS__); \
	EXPECT_EQ(0, memcmp(&__arg, &__before, sizeof(__arg))) \
		TH_LOG("%s { %s } wrote to its argument", #request, #__VA_ARGS__); \
} while (0)

/* The queue of the fixture works as before. */
#define STILL_WORKS() do { \
	uint64_t __word = 0; \
	ASSERT_OK(gpu_poke(&self->g, &__word, 42)); \
	ASSERT_EQ(42, __word); \
} while (0)

TEST_F(abi, query)
{
	uint64_t v;

	REJECT(EINVAL, DRM_IOCTL_RSVM_QUERY, struct drm_rsvm_query, .param = 0x1000);
	REJECT(EINVAL, DRM_IOCTL_RSVM_QUERY, struct drm_rsvm_query, .param = ~0u);
	REJECT(EINVAL, DRM_IOCTL_RSVM_QUERY, struct drm_rsvm_query,
	       .param = DRM_RSVM_PARAM_VA_BITS, .pad = 1);

	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_VA_BITS, &v));
	EXPECT_GE(v, 47);
	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_MMU_VERSION, &v));
	EXPECT_TRUE(v == 2 || v == 3);
	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_PAGE_SIZES, &v));
	EXPECT_EQ((4 << 10) | (64 << 10) | (2 << 20), v);
	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_ATOMICS, &v));
	EXPECT_EQ(0, v & ~(uint64_t)(DRM_RSVM_ATOMICS_SYSTEM | DRM_RSVM_ATOMICS_VRAM));
	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_VRAM_TOTAL, &v));
	EXPECT_GT(v, 0);
	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_VRAM_FREE, &v));
	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_MAX_QUEUES, &v));
	EXPECT_GE(v, 16);
	EXPECT_GE(self->max_dwords, 16);
}

TEST_F(abi, vm)
{
	uint32_t vm;

	REJECT(EINVAL, DRM_IOCTL_RSVM_VM_CREATE, struct drm_rsvm_vm_create, .flags = 1);
	REJECT(EINVAL, DRM_IOCTL_RSVM_VM_CREATE, struct drm_rsvm_vm_create, .flags = 1u << 31);
	REJECT(ENOENT, DRM_IOCTL_RSVM_VM_DESTROY, struct drm_rsvm_vm_destroy, .vm_id = 0);
	REJECT(ENOENT, DRM_IOCTL_RSVM_VM_DESTROY, struct drm_rsvm_vm_destroy, .vm_id = NO_ID);
	REJECT(EINVAL, DRM_IOCTL_RSVM_VM_DESTROY, struct drm_rsvm_vm_destroy,
	       .vm_id = self->g.vm, .pad = 1);
	STILL_WORKS();

	ASSERT_OK(rsvm_vm_create(self->g.fd, &vm));
	ASSERT_NE(0, vm);
	ASSERT_NE(self->g.vm, vm);
	ASSERT_OK(rsvm_vm_destroy(self->g.fd, vm));
	ASSERT_EQ(-ENOENT, rsvm_vm_destroy(self->g.fd, vm));
	STILL_WORKS();
}

TEST_F(abi, queue)
{
	uint32_t queue;

	REJECT(ENOENT, DRM_IOCTL_RSVM_QUEUE_CREATE, struct drm_rsvm_queue_create, .vm_id = NO_ID);
	REJECT(EINVAL, DRM_IOCTL_RSVM_QUEUE_CREATE, struct drm_rsvm_queue_create,
	       .vm_id = self->g.vm, .flags = 1);
	REJECT(EINVAL, DRM_IOCTL_RSVM_QUEUE_CREATE, struct drm_rsvm_queue_create,
	       .vm_id = self->g.vm, .pad = 1);
	REJECT(ENOENT, DRM_IOCTL_RSVM_QUEUE_DESTROY, struct drm_rsvm_queue_destroy,
	       .queue_id = NO_ID);
	REJECT(EINVAL, DRM_IOCTL_RSVM_QUEUE_DESTROY, struct drm_rsvm_queue_destroy,
	       .queue_id = self->g.queue, .pad = 1);
	STILL_WORKS();

	ASSERT_OK(rsvm_queue_create(self->g.fd, self->g.vm, &queue));
	ASSERT_NE(0, queue);
	ASSERT_OK(rsvm_queue_destroy(self->g.fd, queue));
	ASSERT_EQ(-ENOENT, rsvm_queue_destroy(self->g.fd, queue));
	ASSERT_EQ(-ENOENT, rsvm_exec(self->g.fd, queue, NULL, 0, NULL, 0));
	STILL_WORKS();
}

TEST_F(abi, exec)
{
	uint64_t word = 0;
	uint32_t push[2] = { gpu_method(1, 0, 1), self->g.class };

#define EXEC(error, ...) \
	REJECT(error, DRM_IOCTL_RSVM_EXEC, struct drm_rsvm_exec, __VA_ARGS__)
	EXEC(ENOENT, .queue_id = NO_ID);
	EXEC(EINVAL, .queue_id = self->g.queue, .flags = 1);
	EXEC(EINVAL, .queue_id = self->g.queue, .pad = 1);
	EXEC(EINVAL, .queue_id = self->g.queue, .push = (uintptr_t)push,
	     .num_dwords = self->max_dwords + 1);
	EXEC(EINVAL, .queue_id = self->g.queue, .push = (uintptr_t)push, .num_dwords = ~0u);
	EXEC(EFAULT, .queue_id = self->g.queue, .push = 0, .num_dwords = 1);
	EXEC(EFAULT, .queue_id = self->g.queue, .push = ~0ull << 20, .num_dwords = 2);
	for (int off = 1; off < 8; off++)
		EXEC(EINVAL, .queue_id = self->g.queue, .fence_value = 1,
		     .fence_addr = (uintptr_t)&word + off);
	ASSERT_EQ(0, word);
	STILL_WORKS();

	/* Nothing at all, and nothing but a fence. */
	ASSERT_OK(rsvm_exec(self->g.fd, self->g.queue, NULL, 0, NULL, 0));
	ASSERT_OK(rsvm_exec(self->g.fd, self->g.queue, push, 2, &word, 7));
	ASSERT_OK(await_change(&word, 0));
	ASSERT_EQ(7, word);
}

TEST_F(abi, wait)
{
	uint64_t *word = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t addr = (uintptr_t)word;
	uint32_t q = self->g.queue;

	ASSERT_NE(MAP_FAILED, word);
	ASSERT_OK(munmap((char *)word + PAGE, PAGE));
#define WAIT(error, ...) \
	REJECT(error, DRM_IOCTL_RSVM_WAIT_USER_FENCE, struct drm_rsvm_wait_user_fence, \
	       __VA_ARGS__)
	WAIT(ENOENT, .queue_id = NO_ID, .addr = addr);
	WAIT(EINVAL, .queue_id = q, .addr = addr, .op = DRM_RSVM_FENCE_LT + 1);
	WAIT(EINVAL, .queue_id = q, .addr = addr, .op = ~0u);
	WAIT(EINVAL, .queue_id = q, .addr = addr + 4);
	WAIT(EINVAL, .queue_id = q, .addr = addr + 1);
	WAIT(EINVAL, .queue_id = q, .addr = addr, .deadline_ns = -1);
	WAIT(EINVAL, .queue_id = q, .addr = addr, .deadline_ns = INT64_MIN);
	WAIT(EFAULT, .queue_id = q, .addr = addr + PAGE, .mask = ~0ull);
	WAIT(EFAULT, .queue_id = q, .addr = 0, .mask = ~0ull);
	WAIT(EFAULT, .queue_id = q, .addr = ~0ull << 20, .mask = ~0ull);
	/* Not reached: both by a poll and by a short sleep. */
	WAIT(ETIME, .queue_id = q, .addr = addr, .value = 1, .mask = ~0ull);
	WAIT(ETIME, .queue_id = q, .addr = addr, .value = 1, .mask = ~0ull,
	     .deadline_ns = now_ns() + 5 * MS);
	STILL_WORKS();
}

TEST_F(abi, wait_compares)
{
	static const struct {
		uint32_t op;
		uint64_t value, mask;
		int ret;
	} cases[] = {
		{ DRM_RSVM_FENCE_EQ, 0x1234, ~0ull, 0 },
		{ DRM_RSVM_FENCE_EQ, 0x1235, ~0ull, -ETIME },
		{ DRM_RSVM_FENCE_EQ, 0xff34, 0xff, 0 },
		{ DRM_RSVM_FENCE_EQ, 0xff34, 0, 0 },
		{ DRM_RSVM_FENCE_NE, 0x1234, ~0ull, -ETIME },
		{ DRM_RSVM_FENCE_NE, 0x1235, ~0ull, 0 },
		{ DRM_RSVM_FENCE_GE, 0x1234, ~0ull, 0 },
		{ DRM_RSVM_FENCE_GE, 0x1235, ~0ull, -ETIME },
		/* Unsigned: all ones is large. */
		{ DRM_RSVM_FENCE_GE, ~0ull, ~0ull, -ETIME },
		{ DRM_RSVM_FENCE_LT, ~0ull, ~0ull, 0 },
		{ DRM_RSVM_FENCE_GT, 0x1233, ~0ull, 0 },
		{ DRM_RSVM_FENCE_GT, 0x1234, ~0ull, -ETIME },
		{ DRM_RSVM_FENCE_LE, 0x1234, ~0ull, 0 },
		{ DRM_RSVM_FENCE_LE, 0x1233, ~0ull, -ETIME },
		{ DRM_RSVM_FENCE_LT, 0x1234, ~0ull, -ETIME },
		{ DRM_RSVM_FENCE_LT, 0x1235, ~0ull, 0 },
	};
	uint64_t word = 0x1234;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct drm_rsvm_wait_user_fence w = {
			.queue_id = self->g.queue,
			.op = cases[i].op,
			.addr = (uintptr_t)&word,
			.value = cases[i].value,
			.mask = cases[i].mask,
		};

		EXPECT_EQ(cases[i].ret,
			  rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_WAIT_USER_FENCE, &w))
			TH_LOG("case %zu", i);
	}
}

TEST_F(abi, event)
{
	struct drm_rsvm_event event;
	int fd;

	REJECT(ENOENT, DRM_IOCTL_RSVM_EVENT_OPEN, struct drm_rsvm_event_open,
	       .vm_id = NO_ID, .mask = 1);
	REJECT(EINVAL, DRM_IOCTL_RSVM_EVENT_OPEN, struct drm_rsvm_event_open,
	       .vm_id = self->g.vm, .mask = 1, .flags = 1);
	REJECT(EINVAL, DRM_IOCTL_RSVM_EVENT_OPEN, struct drm_rsvm_event_open,
	       .vm_id = self->g.vm, .mask = 1u << 31);
	STILL_WORKS();

	fd = rsvm_event_open(self->g.fd, self->g.vm, 1 << DRM_RSVM_EVENT_FATAL_FAULT);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	ASSERT_OK(fcntl(fd, F_SETFL, O_NONBLOCK));
	EXPECT_EQ(-1, read(fd, &event, sizeof(event)));
	EXPECT_EQ(EAGAIN, errno);
	/* Less than one record is no reading at all. */
	EXPECT_EQ(-1, read(fd, &event, sizeof(event) - 1));
	EXPECT_EQ(EINVAL, errno);
	close(fd);
}

/* Ids are of the file that made them. */
TEST_F(abi, ids_are_per_file)
{
	int other = rsvm_open();
	uint32_t queue;

	ASSERT_GE(other, 0);
	EXPECT_EQ(-ENOENT, rsvm_vm_destroy(other, self->g.vm));
	EXPECT_EQ(-ENOENT, rsvm_queue_create(other, self->g.vm, &queue));
	EXPECT_EQ(-ENOENT, rsvm_exec(other, self->g.queue, NULL, 0, NULL, 0));
	close(other);
	STILL_WORKS();
}

TEST_F(abi, no_such_ioctl)
{
	uint64_t arg[8] = {};

	for (unsigned int nr = DRM_RSVM_SVM_MIGRATE + 1; nr < 0x60; nr++) {
		unsigned long unknown = DRM_IOWR(DRM_COMMAND_BASE + nr, uint64_t[8]);

		EXPECT_EQ(-EINVAL, rsvm_ioctl(self->g.fd, unknown, arg));
	}
	EXPECT_EQ(-EFAULT, rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_QUERY, NULL));
}

/* All queues that the device promises can be had, as often as one likes. */
TEST_F(abi, all_queues)
{
	uint64_t max;
	uint32_t *ids, extra;

	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_MAX_QUEUES, &max));
	ids = calloc(max, sizeof(*ids));
	ASSERT_NE(NULL, ids);
	for (int round = 0; round < 2; round++) {
		for (uint64_t i = 0; i < max - 1; i++) {
			ASSERT_OK(rsvm_queue_create(self->g.fd, self->g.vm, &ids[i]))
				TH_LOG("queue %lu of %lu", i, max);
		}
		EXPECT_EQ(-EBUSY, rsvm_queue_create(self->g.fd, self->g.vm, &extra));
		STILL_WORKS();
		for (uint64_t i = 0; i < max - 1; i++) {
			ASSERT_OK(rsvm_queue_destroy(self->g.fd, ids[i]));
		}
	}
	STILL_WORKS();
}

/* More work than the ring holds: EXEC waits for room, the order is kept. */
TEST_F(abi, ring_full)
{
	const unsigned int launches = 3000;
	uint64_t word = 0;
	struct gpu_args args = { .addr = (uintptr_t)&word, .value = 1 };

	for (unsigned int i = 0; i < launches; i++) {
		ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_add, &args, 1));
	}
	ASSERT_OK(gpu_wait(&self->g));
	EXPECT_EQ(launches, word);
}

/* A push of the largest size works, and again. */
TEST_F(abi, largest_push)
{
	uint32_t *push = malloc(self->max_dwords * 4);
	uint64_t word = 0;

	ASSERT_NE(NULL, push);
	/* SET_OBJECT, over and over. */
	for (uint64_t i = 0; i + 1 < self->max_dwords; i += 2) {
		push[i] = gpu_method(1, 0, 1);
		push[i + 1] = self->g.class;
	}
	for (uint64_t i = 1; i <= 16; i++) {
		ASSERT_OK(rsvm_exec(self->g.fd, self->g.queue, push,
				    self->max_dwords & ~1ull, &word, i));
	}
	while (word != 16) {
		ASSERT_OK(await_change(&word, word));
	}
}

TEST_HARNESS_MAIN
