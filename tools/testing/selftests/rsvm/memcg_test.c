// SPDX-License-Identifier: GPL-2.0
/*
 * Who VRAM is charged to: the dmem cgroup that the process is in, limited and back to
 * zero; the memory cgroup keeps the charge of pages wherever they are. Root.
 */
#include <sys/stat.h>

#include "lib/bo.h"
#include "lib/rsvm_test.h"

#define ROOT "/sys/fs/cgroup/"
#define GROUP ROOT "rsvm-test"
#define OTHER ROOT "rsvm-test-other"
#define SIZE (8 * LEAF)

FIXTURE(memcg)
{
	char region[160];
};

/* The figure of the device's region in a dmem file; -1 without one. */
static long long dmem(const char *file, char *region, size_t region_size)
{
	char line[160];
	long long value = -1;
	FILE *f = fopen(file, "re");

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		char *space = strchr(line, ' ');

		if (!space || !strstr(line, "drm/"))
			continue;
		*space = 0;
		if (region)
			snprintf(region, region_size, "%s", line);
		value = strncmp(space + 1, "max", 3) ? strtoll(space + 1, NULL, 0) : 1ll << 62;
	}
	fclose(f);
	return value;
}

FIXTURE_SETUP(memcg)
{
	if (sys_write(ROOT "cgroup.subtree_control", "+memory +dmem"))
		SKIP(return, "no memory and dmem cgroups");
	if (dmem(ROOT "dmem.capacity", self->region, sizeof(self->region)) < 0)
		SKIP(return, "the device has no dmem region");
	ASSERT_TRUE(!mkdir(GROUP, 0755) || errno == EEXIST);
	ASSERT_TRUE(!mkdir(OTHER, 0755) || errno == EEXIST);
}

FIXTURE_TEARDOWN(memcg)
{
	static const char *const groups[] = { GROUP, OTHER };

	/* The last process may be a moment behind. */
	for (int n = 0; n < 2; n++) {
		for (int i = 0; i < 1000 && rmdir(groups[n]) && errno == EBUSY; i++)
			usleep(10000);
		EXPECT_NE(0, access(groups[n], F_OK));
	}
}

static int join(void)
{
	return sys_write(GROUP "/cgroup.procs", "0");
}

static long long charged_in(const char *group)
{
	char path[80];

	snprintf(path, sizeof(path), "%s/dmem.current", group);
	return dmem(path, NULL, 0);
}

static long long charged(void)
{
	return charged_in(GROUP);
}

static int await_charge(long long value)
{
	struct guard guard = {};

	while (charged() != value)
		if (guard_over(&guard))
			return -ETIME;
		else
			usleep(1000);
	return 0;
}

/* The region is as large as the device's memory. */
TEST_F(memcg, capacity)
{
	int fd = rsvm_open();

	ASSERT_GE(fd, 0);
	EXPECT_EQ(vram_total(fd), dmem(ROOT "dmem.capacity", NULL, 0));
	close(fd);
}

/* Pages and buffer objects are charged while they are in VRAM, and no longer. */
TEST_F(memcg, charge_comes_and_goes)
{
	int total[2];
	pid_t pid;
	long long n;

	ASSERT_OK(pipe(total));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct gpu g;
		struct mem m;

		if (join() || gpu_open(&g) || mem_get(&m, MEM_ANON, SIZE))
			_exit(1);
		if (charged() > 0)
			_exit(2);
		memset(m.p, 1, SIZE);
		if (svm_migrate(&g, m.p, SIZE, TO_VRAM))
			_exit(3);
		n = charged();
		(void)!write(total[1], &n, sizeof(n));
		/* The CPU takes all of it back. */
		for (size_t off = 0; off < SIZE; off += PAGE)
			if (*word_at(m.p, off) != 0x0101010101010101)
				_exit(4);
		if (await_charge(0))
			_exit(5);
		if (svm_migrate(&g, m.p, SIZE, TO_VRAM) || charged() < (long long)SIZE)
			_exit(6);
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
	ASSERT_EQ(sizeof(n), read(total[0], &n, sizeof(n)));
	EXPECT_GE(n, SIZE);
	EXPECT_OK(await_charge(0));
}

/* dmem.max is not exceeded; what does not fit stays in system memory, and works. */
TEST_F(memcg, limit_is_kept)
{
	char line[200];
	int total[2];
	long long n;
	pid_t pid;

	snprintf(line, sizeof(line), "%s %lu", self->region, SIZE / 2);
	ASSERT_OK(sys_write(GROUP "/dmem.max", line));
	EXPECT_EQ(SIZE / 2, dmem(GROUP "/dmem.max", NULL, 0));
	ASSERT_OK(pipe(total));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct gpu_args args = { .stride = PAGE, .value = 1, .other = PAGE };
		static struct gpu_result out[SIZE / PAGE];
		struct gpu g;
		struct mem m;

		if (join() || gpu_open(&g) || mem_get(&m, MEM_ANON, SIZE))
			_exit(1);
		pattern_fill(m.p, SIZE, 1);
		if (svm_migrate(&g, m.p, SIZE, TO_VRAM))
			_exit(2);
		n = charged();
		(void)!write(total[1], &n, sizeof(n));
		args.addr = (uintptr_t)m.p;
		args.out = out;
		if (gpu_run(&g, GPU_SYM_k_pattern, &args, SIZE / PAGE))
			_exit(3);
		n = charged();
		(void)!write(total[1], &n, sizeof(n));
		for (size_t i = 0; i < SIZE / PAGE; i++)
			if (out[i].errors)
				_exit(4);
		_exit(pattern_errors(m.p, SIZE, 2) ? 5 : 0);
	}
	EXPECT_EQ(0, wait_exit(pid));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(sizeof(n), read(total[0], &n, sizeof(n)));
		EXPECT_LE(n, SIZE / 2);
		/* Some of it is there. */
		EXPECT_GT(n, 0);
	}
	EXPECT_OK(await_charge(0));
}

/* Holds: a buffer that no eviction can make fit fails its queue alone, and soon. */
TEST_F(memcg, limit_less_than_a_buffer)
{
	char line[200];
	pid_t pid;

	snprintf(line, sizeof(line), "%s %lu", self->region, LEAF);
	ASSERT_OK(sys_write(GROUP "/dmem.max", line));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct gpu g, second;
		struct bo bo;
		struct mem m;

		if (join() || gpu_open(&g) || gpu_open(&second) || mem_get(&m, MEM_ANON, 2 * LEAF))
			_exit(1);
		if (bo_create(&bo, g.fd, 2 * LEAF) || bo_bind(&bo, g.vm, m.p, 2 * LEAF, 0, 0))
			_exit(2);
		if (gpu_poke(&g, m.p, 1) != -EIO || g.fault_reason != DRM_RSVM_FAULT_NO_MEMORY)
			_exit(3);
		if (gpu_poke(&second, m.p, 2) || *word_at(m.p, 0) != 2)
			_exit(4);
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_OK(await_charge(0));
}

/* Sets a limit without making room for it. */
static int limit_later(const char *region, long long limit)
{
	int fd = open(GROUP "/dmem.max", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	int ret = fd < 0 || dprintf(fd, "%s %lld", region, limit) < 0 ? -errno : 0;

	close(fd);
	return ret;
}

/* A group above its limit takes processes in, and what they need drives others out. */
TEST_F(memcg, join_above_limit)
{
	int ready[2], leave[2];
	pid_t first, second;
	char c = 0;

	ASSERT_OK(pipe(ready));
	ASSERT_OK(pipe(leave));
	first = fork();
	ASSERT_GE(first, 0);
	if (!first) {
		struct gpu g;
		struct mem m;

		close(ready[0]);
		close(leave[1]);
		if (join() || gpu_open(&g) || mem_get(&m, MEM_ANON, SIZE))
			_exit(1);
		pattern_fill(m.p, SIZE, 1);
		if (svm_migrate(&g, m.p, SIZE, TO_VRAM))
			_exit(2);
		(void)!write(ready[1], &c, 1);
		(void)!read(leave[0], &c, 1);
		_exit(pattern_errors(m.p, SIZE, 1) ? 3 : 0);
	}
	close(ready[1]);
	close(leave[0]);
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_OK(limit_later(self->region, SIZE / 2));
	ASSERT_GT(charged(), SIZE / 2);
	second = fork();
	ASSERT_GE(second, 0);
	if (!second) {
		struct gpu g;
		struct mem m;

		if (join())
			_exit(1);
		if (gpu_open(&g))
			_exit(2);
		if (mem_get(&m, MEM_ANON, LEAF))
			_exit(3);
		pattern_fill(m.p, LEAF, 2);
		if (svm_migrate(&g, m.p, LEAF, TO_VRAM) || svm_in_vram(&g, m.p, LEAF) != LEAF)
			_exit(4);
		if (charged() > (long long)SIZE / 2)
			_exit(5);
		_exit(pattern_errors(m.p, LEAF, 2) ? 6 : 0);
	}
	EXPECT_EQ(0, wait_exit(second));
	close(leave[1]);
	EXPECT_EQ(0, wait_exit(first));
	EXPECT_OK(await_charge(0));
}

/* What a process needs after it went to another group is charged there. */
TEST_F(memcg, charge_goes_with_the_process)
{
	pid_t pid = fork();

	ASSERT_GE(pid, 0);
	if (!pid) {
		struct mem before, after, window;
		long long left, pages;
		struct gpu g;
		struct bo bo;

		if (join() || gpu_open(&g) || bo_create(&bo, g.fd, LEAF))
			_exit(1);
		if (mem_get(&before, MEM_ANON, LEAF) || mem_get(&after, MEM_ANON, LEAF) ||
		    mem_get(&window, MEM_ANON, LEAF))
			_exit(1);
		memset(before.p, 1, LEAF);
		if (svm_migrate(&g, before.p, LEAF, TO_VRAM))
			_exit(2);
		left = charged();
		if (left < (long long)LEAF)
			_exit(3);
		if (sys_write(OTHER "/cgroup.procs", "0") || charged_in(OTHER) > 0)
			_exit(4);
		memset(after.p, 2, LEAF);
		if (svm_migrate(&g, after.p, LEAF, TO_VRAM) || gpu_poke(&g, after.p, 3))
			_exit(5);
		pages = charged_in(OTHER);
		if (pages < (long long)LEAF)
			_exit(6);
		/* The device brings the buffer, which was made before. */
		if (bo_bind(&bo, g.vm, window.p, LEAF, 0, 0) || gpu_poke(&g, window.p, 4))
			_exit(7);
		if (charged_in(OTHER) < pages + (long long)LEAF)
			_exit(8);
		_exit(charged() > left ? 9 : 0);
	}
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_OK(await_charge(0));
}

/* A page stays charged to its memory cgroup in VRAM, and is charged once. */
TEST_F(memcg, memory_charge_stays)
{
	pid_t pid = fork();

	ASSERT_GE(pid, 0);
	if (!pid) {
		long long home, away, back, slack = 2 * LEAF;
		struct gpu g;
		struct mem m;

		if (join() || gpu_open(&g) || mem_get(&m, MEM_ANON, SIZE))
			_exit(1);
		memset(m.p, 1, SIZE);
		home = sys_read(GROUP "/memory.current");
		if (svm_migrate(&g, m.p, SIZE, TO_VRAM) || svm_in_vram(&g, m.p, SIZE) != SIZE)
			_exit(2);
		away = sys_read(GROUP "/memory.current");
		memset(m.p, 2, SIZE);
		back = sys_read(GROUP "/memory.current");
		if (home < (long long)SIZE)
			_exit(3);
		if (away < home - slack || away > home + slack)
			_exit(4);
		if (back < home - slack || back > home + slack)
			_exit(5);
		munmap(m.p, SIZE);
		_exit(sys_read(GROUP "/memory.current") > home - (long long)SIZE + slack ? 6 : 0);
	}
	EXPECT_EQ(0, wait_exit(pid));
}

TEST_HARNESS_MAIN
