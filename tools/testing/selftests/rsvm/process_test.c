// SPDX-License-Identifier: GPL-2.0
/* Processes: many, forked, exec'ed, killed, and files closed in every order. */
#include <sys/ioctl.h>
#include <sys/time.h>

#include "lib/rsvm_test.h"

/* The device still works, and no queue was lost on the way. */
#define DEVICE_INTACT() do { \
	struct gpu __g; \
	uint64_t __max, __word = 0; \
	uint32_t __q; \
	ASSERT_OK(gpu_open(&__g)); \
	ASSERT_OK(gpu_poke(&__g, &__word, 42)); \
	ASSERT_EQ(42, __word); \
	ASSERT_OK(rsvm_query(__g.fd, DRM_RSVM_PARAM_MAX_QUEUES, &__max)); \
	for (uint64_t __i = 1; __i < __max; __i++) \
		ASSERT_OK(rsvm_queue_create(__g.fd, __g.vm, &__q)); \
	gpu_close(&__g); \
} while (0)

/* Adds to pages of its own, at addresses that all of its siblings use too. */
static int adder(uint64_t seed)
{
	const size_t pages = 256;
	struct gpu_result *out = calloc(pages, sizeof(*out));
	struct gpu g;
	struct mem m;

	if (!out || mem_get(&m, MEM_ANON, LEAF) || gpu_open(&g))
		return 1;
	for (size_t i = 0; i < pages; i++)
		*word_at(m.p, i * PAGE) = seed + i;
	for (uint64_t r = 0; r < 5; r++) {
		if (gpu_over(&g, GPU_SYM_k_add, m.p, PAGE, pages, seed, out))
			return 2;
		for (size_t i = 0; i < pages; i++)
			if (out[i].value != seed + i + 2 * r * seed)
				return 3;
		/* The CPU in between, on a part that moves to new pages. */
		for (size_t i = 0; i < pages; i++)
			*word_at(m.p, i * PAGE) += seed;
	}
	return 0;
}

TEST(sixteen_processes)
{
	pid_t pids[16];

	for (int i = 0; i < 16; i++) {
		pids[i] = fork();
		ASSERT_GE(pids[i], 0);
		if (!pids[i])
			_exit(adder(1000003ull * (i + 1)));
	}
	for (int i = 0; i < 16; i++) {
		EXPECT_EQ(0, wait_exit(pids[i]));
	}
	DEVICE_INTACT();
}

/* Several mirrors of one process do not disturb each other. */
TEST(several_mirrors)
{
	struct gpu g[4];
	uint64_t word = 0;

	for (int i = 0; i < 4; i++) {
		ASSERT_OK(gpu_open(&g[i]));
	}
	for (int i = 0; i < 16; i++) {
		ASSERT_OK(gpu_over(&g[i % 4], GPU_SYM_k_add, &word, 0, 1, 1, NULL));
	}
	EXPECT_EQ(16, word);
	gpu_close(&g[2]);
	ASSERT_OK(gpu_over(&g[3], GPU_SYM_k_add, &word, 0, 1, 1, NULL));
	EXPECT_EQ(17, word);
	for (int i = 0; i < 4; i++)
		if (i != 2)
			gpu_close(&g[i]);
}

/* A child may not use its parent's mirror, and does it no harm by closing. */
TEST(child_is_refused)
{
	uint64_t word = 0;
	struct gpu g;
	pid_t pid;

	ASSERT_OK(gpu_open(&g));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		uint32_t id;

		if (rsvm_exec(g.fd, g.queue, NULL, 0, &word, 1) != -EPERM)
			_exit(1);
		if (rsvm_queue_create(g.fd, g.vm, &id) != -EPERM)
			_exit(2);
		if (gpu_wait_until(&g, 0) != -EPERM)
			_exit(3);
		if (word)
			_exit(4);
		/* A mirror of its own in the inherited file is fine. */
		if (rsvm_vm_create(g.fd, &id))
			_exit(5);
		close(g.fd);
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
	ASSERT_OK(gpu_poke(&g, &word, 1));
	EXPECT_EQ(1, word);
	gpu_close(&g);
	DEVICE_INTACT();
}

/* exec() under a running kernel, with the file closed by it or kept. */
TEST(exec_while_running)
{
	for (int keep = 0; keep < 2; keep++) {
		pid_t pid = fork();

		ASSERT_GE(pid, 0);
		if (!pid) {
			static struct gpu_args args = { .rounds = 256, .other = PAGE };
			struct gpu g;
			struct mem m;

			if (gpu_open(&g) || mem_get(&m, MEM_ANON, LEAF))
				_exit(1);
			args.addr = (uintptr_t)m.p;
			if (gpu_launch(&g, GPU_SYM_k_walk, &args, 32))
				_exit(2);
			if (keep)
				fcntl(g.fd, F_SETFD, 0);
			execl("/bin/busybox", "true", NULL);
			_exit(3);
		}
		EXPECT_EQ(0, wait_exit(pid));
	}
	DEVICE_INTACT();
}

enum { END_DESTROY_QUEUE, END_DESTROY_VM, END_CLOSE, END_EXIT, END_KILL };

FIXTURE(endless)
{
};

FIXTURE_VARIANT(endless)
{
	uint64_t kernel;
	int end;
};

#define ENDLESS(name, k, e) FIXTURE_VARIANT_ADD(endless, name) { .kernel = k, .end = e }
ENDLESS(spin_destroy_queue, GPU_SYM_k_spin, END_DESTROY_QUEUE);
ENDLESS(spin_destroy_vm, GPU_SYM_k_spin, END_DESTROY_VM);
ENDLESS(spin_close, GPU_SYM_k_spin, END_CLOSE);
ENDLESS(spin_exit, GPU_SYM_k_spin, END_EXIT);
ENDLESS(spin_kill, GPU_SYM_k_spin, END_KILL);
ENDLESS(walk_destroy_queue, GPU_SYM_k_walk, END_DESTROY_QUEUE);
ENDLESS(walk_destroy_vm, GPU_SYM_k_walk, END_DESTROY_VM);
ENDLESS(walk_close, GPU_SYM_k_walk, END_CLOSE);
ENDLESS(walk_exit, GPU_SYM_k_walk, END_EXIT);
ENDLESS(walk_kill, GPU_SYM_k_walk, END_KILL);

FIXTURE_SETUP(endless)
{
}

FIXTURE_TEARDOWN(endless)
{
}

/* A kernel without an end is ended, however its owner goes. */
TEST_F(endless, is_ended)
{
	for (int delay = 0; delay < 3; delay++) {
		pid_t pid = fork();

		ASSERT_GE(pid, 0);
		if (!pid) {
			static struct gpu_args args = { .rounds = 512, .other = PAGE };
			struct gpu g;
			struct mem m;

			if (gpu_open(&g) || mem_get(&m, MEM_ANON, LEAF))
				_exit(1);
			args.addr = (uintptr_t)m.p;
			if (gpu_launch(&g, variant->kernel, &args, 128))
				_exit(2);
			usleep(delay * 5000);
			if (variant->end == END_DESTROY_QUEUE &&
			    rsvm_queue_destroy(g.fd, g.queue))
				_exit(3);
			if (variant->end == END_DESTROY_VM && rsvm_vm_destroy(g.fd, g.vm))
				_exit(4);
			if (variant->end == END_CLOSE && close(g.fd))
				_exit(5);
			if (variant->end == END_KILL)
				kill(getpid(), SIGKILL);
			_exit(0);
		}
		EXPECT_EQ(variant->end == END_KILL ? 128 + SIGKILL : 0, wait_exit(pid));
	}
	DEVICE_INTACT();
}

/* kill -9 at any moment of a busy life. */
TEST(killed_at_random)
{
	unsigned int seed = 12345;

	for (int r = 0; r < scaled(60); r++) {
		pid_t pid = fork();

		ASSERT_GE(pid, 0);
		if (!pid) {
			static struct gpu_args args = { .rounds = 64, .other = PAGE };
			struct mem m;

			for (;;) {
				struct gpu g, second;

				if (mem_get(&m, MEM_ANON, LEAF) || gpu_open(&g) ||
				    gpu_open_queue(&second, &g))
					_exit(1);
				args.addr = (uintptr_t)m.p;
				gpu_launch(&g, GPU_SYM_k_walk, &args, 64);
				gpu_over(&second, GPU_SYM_k_write, m.p, PAGE, 512, 1, NULL);
				mem_put(&m);
				gpu_close(&second);
				gpu_close(&g);
			}
		}
		seed = seed * 1103515245 + 12345;
		usleep(seed / 65536 % 30000);
		ASSERT_OK(kill(pid, SIGKILL));
		ASSERT_EQ(128 + SIGKILL, wait_exit(pid));
	}
	DEVICE_INTACT();
}

/* Queue, mirror, event file, device file and memory go in each order. */
TEST(every_order)
{
	for (int order = 0; order < 120; order++) {
		int step[5] = { 0, 1, 2, 3, 4 }, left = order;
		struct gpu_args args = { .rounds = 128, .other = PAGE };
		struct gpu g;
		struct mem m;
		int event;

		/* The order-th permutation. */
		for (int i = 0; i < 4; i++) {
			int pick = i + left % (5 - i), tmp = step[i];

			left /= 5 - i;
			step[i] = step[pick];
			step[pick] = tmp;
		}
		ASSERT_OK(mem_get(&m, MEM_ANON, LEAF));
		ASSERT_OK(gpu_open(&g));
		event = rsvm_event_open(g.fd, g.vm, 3);
		ASSERT_GE(event, 0);
		args.addr = (uintptr_t)m.p;
		ASSERT_OK(gpu_launch(&g, GPU_SYM_k_walk, &args, 64));
		for (int i = 0; i < 5; i++) {
			bool open = g.fd >= 0;

			switch (step[i]) {
			case 0:
				/* Ids that went with their mirror are gone. */
				if (open)
					rsvm_queue_destroy(g.fd, g.queue);
				break;
			case 1:
				if (open) {
					ASSERT_OK(rsvm_vm_destroy(g.fd, g.vm));
				}
				break;
			case 2:
				ASSERT_OK(close(event));
				break;
			case 3:
				ASSERT_OK(close(g.fd));
				g.fd = -1;
				break;
			case 4:
				mem_put(&m);
				break;
			}
		}
		gpu_close(&g);
	}
	DEVICE_INTACT();
}

/* The file lives on in the parent when the process whose memory it is ends. */
TEST(mm_goes_file_stays)
{
	struct gpu g;
	int fd = rsvm_open();
	uint32_t *ids = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	ASSERT_GE(fd, 0);
	ASSERT_NE(MAP_FAILED, ids);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		static struct gpu_args args = { .rounds = 512, .other = PAGE };
		struct mem m;
		uint32_t push[16];

		if (mem_get(&m, MEM_ANON, LEAF) || gpu_open(&g))
			_exit(1);
		args.addr = (uintptr_t)m.p;
		if (rsvm_vm_create(fd, &ids[0]) || rsvm_queue_create(fd, ids[0], &ids[1]))
			_exit(2);
		if (rsvm_exec(fd, ids[1], push,
			      gpu_push_launch(push, g.class,
					      (uintptr_t)g.code + GPU_SYM_k_walk,
					      (uintptr_t)&args, 64), NULL, 0))
			_exit(3);
		usleep(10000);
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_EQ(-EPERM, rsvm_exec(fd, ids[1], NULL, 0, NULL, 0));
	EXPECT_EQ(0, close(fd));
	DEVICE_INTACT();
}

struct waiter {
	struct gpu *g;
	volatile int ret;
	volatile uint32_t reason;
};

static void *wait_for_ever(void *arg)
{
	struct waiter *w = arg;

	w->ret = gpu_wait_until(w->g, INT64_MAX);
	w->reason = w->g->fault_reason;
	return NULL;
}

/* Who waits for a queue that goes is told so. */
TEST(waiter_of_a_destroyed_queue)
{
	for (int vm = 0; vm < 2; vm++) {
		struct gpu_args args = {};
		struct waiter w;
		pthread_t thread;
		struct gpu g;

		ASSERT_OK(gpu_open(&g));
		w = (struct waiter){ .g = &g };
		ASSERT_OK(gpu_launch(&g, GPU_SYM_k_spin, &args, 4));
		ASSERT_OK(pthread_create(&thread, NULL, wait_for_ever, &w));
		usleep(20000);
		ASSERT_OK(vm ? rsvm_vm_destroy(g.fd, g.vm) : rsvm_queue_destroy(g.fd, g.queue));
		ASSERT_OK(pthread_join(thread, NULL));
		/* -ENOENT if the thread came too late. */
		EXPECT_TRUE(w.ret == -EIO || w.ret == -ENOENT) TH_LOG("%d", w.ret);
		if (w.ret == -EIO) {
			EXPECT_EQ(DRM_RSVM_FAULT_KILLED, w.reason);
		}
		gpu_close(&g);
	}
}

static void nothing(int sig)
{
	(void)sig;
}

/* A signal ends a wait; the same call with the same deadline goes on. */
TEST(wait_is_interruptible)
{
	struct sigaction act = { .sa_handler = nothing };
	struct drm_rsvm_wait_user_fence w = { .mask = ~0ull, .value = 1, .deadline_ns = INT64_MAX };
	struct itimerval timer = { .it_interval.tv_usec = 20000, .it_value.tv_usec = 20000 };
	uint64_t word = 0;
	struct gpu g;

	ASSERT_OK(gpu_open(&g));
	w.queue_id = g.queue;
	w.addr = (uintptr_t)&word;
	sigaction(SIGALRM, &act, NULL);
	ASSERT_OK(setitimer(ITIMER_REAL, &timer, NULL));
	EXPECT_EQ(-1, ioctl(g.fd, DRM_IOCTL_RSVM_WAIT_USER_FENCE, &w));
	EXPECT_EQ(EINTR, errno);
	memset(&timer, 0, sizeof(timer));
	ASSERT_OK(setitimer(ITIMER_REAL, &timer, NULL));
	ASSERT_OK(rsvm_exec(g.fd, g.queue, NULL, 0, &word, 1));
	EXPECT_OK(rsvm_ioctl(g.fd, DRM_IOCTL_RSVM_WAIT_USER_FENCE, &w));
	gpu_close(&g);
}

TEST_HARNESS_MAIN
