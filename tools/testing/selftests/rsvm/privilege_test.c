// SPDX-License-Identifier: GPL-2.0
/*
 * A user queue pushes what only the kernel may: the queue dies, with
 * DRM_RSVM_FAULT_METHOD, and nothing else happens to anybody.
 */
#include "lib/rsvm_test.h"

#define COPY_CLASS 0xc5b5

/* Host methods. */
#define MEM_OP_A	0x28
#define SEM_ADDR_LO	0x5c
#define CLEAR_FAULTED	0x84

FIXTURE(privilege)
{
	struct gpu victim;	/* a mirror of its own, at work */
	struct gpu other;	/* a queue beside the bad one */
	struct gpu g;		/* the bad one */
	struct mem m;
	struct gpu_args args, other_args;
	struct gpu_result out[64];
	volatile uint64_t stop;
};

FIXTURE_SETUP(privilege)
{
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	ASSERT_OK(gpu_open(&self->victim));
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(gpu_open_queue(&self->other, &self->g));
	self->args = (struct gpu_args){
		.addr = (uintptr_t)self->m.p, .stride = PAGE, .stop = &self->stop,
		.out = self->out,
	};
	self->other_args = self->args;
	self->other_args.addr += 32 * PAGE;
	self->other_args.out += 32;
	ASSERT_OK(gpu_launch(&self->victim, GPU_SYM_k_count, &self->args, 32));
	ASSERT_OK(gpu_launch(&self->other, GPU_SYM_k_count, &self->other_args, 32));
	ASSERT_OK(await_change(word_at(self->m.p, 0), 0));
	ASSERT_OK(await_change(word_at(self->m.p, 32 * PAGE), 0));
}

FIXTURE_TEARDOWN(privilege)
{
	self->stop = 1;
	EXPECT_OK(gpu_wait(&self->victim));
	EXPECT_OK(gpu_wait(&self->other));
	for (int i = 0; i < 64; i++) {
		EXPECT_EQ(0, self->out[i].errors);
		EXPECT_EQ(*word_at(self->m.p, i * PAGE), self->out[i].value);
	}
	gpu_close(&self->other);
	gpu_close(&self->g);
	gpu_close(&self->victim);
	mem_put(&self->m);
}

/* Pushes @dwords with a fence behind them and returns what a wait says. */
static int push(struct gpu *g, const uint32_t *dwords, size_t n)
{
	int ret = rsvm_exec(g->fd, g->queue, dwords, n, g->fence, ++g->launched);

	return ret ? ret : gpu_wait(g);
}

#define EXPECT_REFUSED(...) do { \
	const uint32_t __push[] = { __VA_ARGS__ }; \
	struct gpu __g; \
	ASSERT_OK(gpu_open_queue(&__g, &self->g)); \
	EXPECT_EQ(-EIO, push(&__g, __push, ARRAY_SIZE(__push))) TH_LOG("%s", #__VA_ARGS__); \
	EXPECT_EQ(DRM_RSVM_FAULT_METHOD, __g.fault_reason) TH_LOG("%s", #__VA_ARGS__); \
	EXPECT_EQ(0, *__g.fence); \
	gpu_close(&__g); \
} while (0)

/* A copy by physical addresses, to and from, in system memory and VRAM. */
TEST_F(privilege, physical_copy)
{
	for (uint32_t mode = 0; mode < 2; mode++)
		for (uint32_t launch = 1; launch < 4; launch++) {
			EXPECT_REFUSED(gpu_method(4, 0, 1), COPY_CLASS,
				       gpu_method(4, 0x260, 2), mode, mode,
				       gpu_method(4, 0x400, 4), 0, 0x1000, 0, 0x2000,
				       gpu_method(4, 0x418, 2), 4096, 1,
				       gpu_method(4, 0x300, 1), 2 | 3 << 7 | launch << 12);
		}
}

/* Invalidate and cancel in every space's page directory that it may guess. */
TEST_F(privilege, mem_op)
{
	static const uint32_t c[] = {
		0 << 0 | 1 << 10,		/* one PDB, at address 0 of system memory */
		1 << 0,				/* all PDBs */
		2 << 10 | 5 << 2 | 0x100000,	/* a cancel in a guessed PDB */
		1 << 0 | 4 << 2,		/* cancel everything */
	};

	for (size_t i = 0; i < ARRAY_SIZE(c); i++)
		for (uint32_t op = 9; op <= 10; op++) {
			EXPECT_REFUSED(gpu_method(0, MEM_OP_A, 4), 0, 0, c[i], op << 27);
		}
	/* A membar, and clearing the access counters. */
	EXPECT_REFUSED(gpu_method(0, MEM_OP_A, 4), 0, 0, 0, 5u << 27);
	EXPECT_REFUSED(gpu_method(0, MEM_OP_A, 4), 0, 0, 0, 0x16u << 27);
}

TEST_F(privilege, unknown_class_and_methods)
{
	EXPECT_REFUSED(gpu_method(1, 0, 1), 0xdead);
	EXPECT_REFUSED(gpu_method(2, 0, 1), 0);
	EXPECT_REFUSED(gpu_method(1, 0, 1), self->g.class, gpu_method(1, 0x3f0, 1), 1);
	EXPECT_REFUSED(gpu_method(1, 0, 1), self->g.class, gpu_method(1, 0x1ffc, 1), 1);
	/* A method of a subchannel that nothing is bound to. */
	EXPECT_REFUSED(gpu_method(3, 0x200, 1), 1);
	/* Host methods that do not exist. */
	EXPECT_REFUSED(gpu_method(0, 0x3c, 1), 1);
	EXPECT_REFUSED(gpu_method(0, 0xfc, 1), 1);
}

/* No such opcode of a header. */
TEST_F(privilege, bad_headers)
{
	EXPECT_REFUSED(2u << 29 | 1 << 16, 0);
	EXPECT_REFUSED(6u << 29 | 1 << 16, 0);
	EXPECT_REFUSED(7u << 29 | 1 << 16, 0);
}

/*
 * Host semaphores live in a low address space that the kernel owns: writing
 * there must not change a pushbuffer or a GP entry of anybody.
 */
TEST_F(privilege, host_semaphore)
{
	static const uint32_t addrs[] = { 0, 0x1000, 0x10000, 0x100000, 0x10000000 };

	for (size_t i = 0; i < ARRAY_SIZE(addrs); i++) {
		const uint32_t dwords[] = {
			gpu_method(0, SEM_ADDR_LO, 5), addrs[i], 0, 0xffffffff, 0, 1,
		};
		struct gpu g;

		ASSERT_OK(gpu_open_queue(&g, &self->g));
		EXPECT_EQ(-EIO, push(&g, dwords, ARRAY_SIZE(dwords)))
			TH_LOG("release at %#x", addrs[i]);
		gpu_close(&g);
	}
}

/* Clearing the fault of another channel. */
TEST_F(privilege, clear_faulted)
{
	for (uint32_t chid = 0; chid < 8; chid++) {
		const uint32_t dwords[] = {
			gpu_method(0, CLEAR_FAULTED, 1), chid | (chid & 1 ? 1u << 31 : 0),
		};
		struct gpu g;

		ASSERT_OK(gpu_open_queue(&g, &self->g));
		EXPECT_EQ(-EIO, push(&g, dwords, ARRAY_SIZE(dwords)));
		gpu_close(&g);
	}
}

/*
 * A header that promises more than is pushed swallows what the driver pushes
 * behind it. That is the queue's own loss: it goes like any other.
 */
TEST_F(privilege, truncated_push)
{
	const uint32_t dwords[] = {
		gpu_method(1, 0, 1), self->g.class, gpu_method(1, 0x200, 8), 1,
	};
	struct gpu g;
	int ret;

	ASSERT_OK(gpu_open_queue(&g, &self->g));
	ASSERT_OK(rsvm_exec(g.fd, g.queue, dwords, ARRAY_SIZE(dwords), g.fence, ++g.launched));
	ret = gpu_wait_until(&g, now_ns() + 1000 * MS);
	EXPECT_TRUE(ret == -EIO || ret == -ETIME) TH_LOG("%d", ret);
	EXPECT_OK(rsvm_queue_destroy(g.fd, g.queue));
}

/* Random dwords: whatever they mean, others do not notice. */
TEST_F(privilege, noise)
{
	uint32_t seed = 1;

	for (int r = 0; r < 40; r++) {
		uint32_t dwords[64];
		struct gpu g;

		for (size_t i = 0; i < ARRAY_SIZE(dwords); i++) {
			seed = seed * 1664525 + 1013904223;
			/* Mostly headers of few dwords, so that many are met. */
			dwords[i] = i & 1 ? seed >> 8 : (seed & 0xe0000fff) | 1 << 16 |
							(seed >> 12 & 7) << 13;
		}
		ASSERT_OK(gpu_open_queue(&g, &self->g));
		if (!rsvm_exec(g.fd, g.queue, dwords, ARRAY_SIZE(dwords), g.fence, ++g.launched))
			gpu_wait_until(&g, now_ns() + 200 * MS);
		gpu_close(&g);
	}
	ASSERT_OK(gpu_poke(&self->g, self->m.p + 100 * PAGE, 1));
}

TEST_HARNESS_MAIN
