/* SPDX-License-Identifier: GPL-2.0 */
/* The harness and what all tests need on top of it. */
#ifndef RSVM_LIB_TEST_H
#define RSVM_LIB_TEST_H

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "kselftest_harness.h"
#include "gpu.h"
#include "mem.h"
#include "stats.h"
#include "svm.h"

/* None: how long a test takes depends on the host. Who runs it looks for progress. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT -1

#define MS 1000000ll

#define ASSERT_OK(expr) ASSERT_EQ(0, (expr))
#define EXPECT_OK(expr) EXPECT_EQ(0, (expr))

/* Memory of @kind, or the test is skipped. */
#define MEM_OR_SKIP(m, kind, size) do { \
	int __ret = mem_get(m, kind, size); \
	if (__ret == -ENOTSUP) \
		SKIP(return, "%s", (m)->why); \
	ASSERT_EQ(0, __ret); \
} while (0)

/* @n repetitions, or fewer on a slow kernel, by the environment's RSVM_SCALE. */
static inline int scaled(int n)
{
	int scale = atoi(getenv("RSVM_SCALE") ?: "1");

	return scale < 1 || n < 1 ? n : n < scale ? 1 : n / scale;
}

/* One word at @off bytes from @p. */
static inline volatile uint64_t *word_at(void *p, size_t off)
{
	return (volatile uint64_t *)((char *)p + off);
}

/* Runs a kernel over one word at a time, @n of them @stride bytes apart. */
static inline int gpu_over(struct gpu *g, uint64_t kernel, void *p, uint64_t stride,
			   uint64_t n, uint64_t value, struct gpu_result *out)
{
	struct gpu_args args = {
		.addr = (uintptr_t)p,
		.stride = stride,
		.value = value,
		.other = value,
		.rounds = 1,
		.out = out,
	};

	return gpu_run(g, kernel, &args, n);
}

/* What the GPU reads at @p, or ~0 when it cannot. */
static inline uint64_t gpu_peek(struct gpu *g, void *p)
{
	struct gpu_result r = { .value = ~0ull };

	return gpu_over(g, GPU_SYM_k_read, p, 0, 1, 0, &r) ? ~0ull : r.value;
}

static inline int gpu_poke(struct gpu *g, void *p, uint64_t value)
{
	return gpu_over(g, GPU_SYM_k_write, p, 0, 1, value, NULL);
}

/* Waits until @word is no longer @old: another thread or the GPU got there. */
static inline int await_change(volatile uint64_t *word, uint64_t old)
{
	struct guard guard = {};

	while (*word == old)
		if (guard_over(&guard))
			return -ETIME;
		else
			sched_yield();
	return 0;
}

/* Waits for @pid; its exit status, or 128 + the signal that ended it. */
static inline int wait_exit(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#endif /* RSVM_LIB_TEST_H */
