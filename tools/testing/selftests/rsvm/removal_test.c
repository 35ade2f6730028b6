// SPDX-License-Identifier: GPL-2.0
/*
 * The device vanishes from the bus while it is in use: registers read as ones
 * and nothing happens any more. For a virtual GPU that was started with
 * --remove-at-fault or --remove-at-doorbell; run by name, not with the others.
 */
#include <sys/syscall.h>

#include "lib/rsvm_test.h"

#define DRIVER "/sys/bus/pci/drivers/rsvm/"

static bool is_gone(int ret)
{
	return ret == -EIO || ret == -ENODEV;
}

/* Pushes without ever waiting: the ring gets full. */
static int push_on(void)
{
	struct gpu_args args = { .rounds = 1ull << 40 };
	struct gpu g;
	int ret = gpu_open(&g);

	while (!ret)
		ret = gpu_launch(&g, GPU_SYM_k_spin, &args, 1);
	return is_gone(ret) ? 0 : 1;
}

/* Waits for a kernel that never ends. */
static int wait_on(void)
{
	struct gpu_args args = {};
	struct gpu g;
	int ret = gpu_open(&g);

	if (!ret)
		ret = gpu_launch(&g, GPU_SYM_k_spin, &args, 1);
	if (!ret)
		ret = gpu_wait_until(&g, INT64_MAX);
	return is_gone(ret) ? 0 : 1;
}

/* The name of the device that the driver is bound to. */
static int find_device(char *bdf, size_t size)
{
	FILE *f = popen("cd " DRIVER " && echo *:*", "r");
	int ret = -ENODEV;

	if (f && fgets(bdf, size, f) && bdf[0] != '*') {
		bdf[strcspn(bdf, "\n")] = 0;
		ret = 0;
	}
	if (f)
		pclose(f);
	return ret;
}

/*
 * All who use the device get an error, by themselves; memory can be unmapped;
 * the driver is unbound and the module unloaded, with a file open until then.
 */
TEST(vanishes_in_use)
{
	int (*const others[])(void) = { push_on, wait_on };
	pid_t pids[2];
	uint64_t value;
	struct gpu g;
	struct mem m;
	uint32_t id;
	char bdf[64];
	int ret = 0;

	ASSERT_OK(find_device(bdf, sizeof(bdf)));
	ASSERT_OK(mem_get(&m, MEM_ANON, LEAF));
	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(gpu_poke(&g, m.p, 1));
	for (int i = 0; i < 2; i++) {
		pids[i] = fork();
		ASSERT_GE(pids[i], 0);
		if (!pids[i])
			_exit(others[i]());
	}
	/* Faults and doorbells without end, until that was the one. */
	while (!ret) {
		ASSERT_OK(madvise(m.p, LEAF, MADV_DONTNEED));
		ret = gpu_over(&g, GPU_SYM_k_write, m.p, PAGE, LEAF / PAGE, 1, NULL);
	}
	EXPECT_TRUE(is_gone(ret)) TH_LOG("%d", ret);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, wait_exit(pids[i])) TH_LOG("process %d", i);
	}
	EXPECT_TRUE(is_gone(rsvm_query(g.fd, DRM_RSVM_PARAM_VA_BITS, &value)));
	EXPECT_TRUE(is_gone(rsvm_vm_create(g.fd, &id)));
	EXPECT_TRUE(is_gone(rsvm_queue_create(g.fd, g.vm, &id)));
	EXPECT_TRUE(is_gone(gpu_poke(&g, m.p, 1)));
	ASSERT_OK(madvise(m.p, LEAF, MADV_DONTNEED));
	EXPECT_EQ(0, *word_at(m.p, 0));

	ASSERT_OK(sys_write(DRIVER "unbind", bdf));
	EXPECT_EQ(-ENODEV, rsvm_query(g.fd, DRM_RSVM_PARAM_VA_BITS, &value));
	gpu_close(&g);
	/* The very last put of a file may be a moment behind close(). */
	while (syscall(__NR_delete_module, "rsvm", O_NONBLOCK)) {
		ASSERT_TRUE(errno == EAGAIN || errno == EBUSY);
		sched_yield();
	}
	mem_put(&m);
}

TEST_HARNESS_MAIN
