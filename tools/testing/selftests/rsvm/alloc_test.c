// SPDX-License-Identifier: GPL-2.0
/*
 * Allocations fail wherever code of the module is on the stack: in its ioctls,
 * in the worker that serves faults, in what mm does on its behalf, in probe.
 * Errors may come back. Nothing may hang, and afterwards all is as before; what
 * would leak is found by kmemleak and DMA-API debugging at the end of the VM.
 */
#include "lib/rsvm_test.h"

#define SIZE (2 * LEAF)
#define ROUNDS 60
#define DRIVER "/sys/bus/pci/drivers/rsvm/"
#define DEBUGFS "/sys/kernel/debug/"

static int set(const char *injector, const char *file, const char *value)
{
	char path[96];

	snprintf(path, sizeof(path), DEBUGFS "%s/%s", injector, file);
	return sys_write(path, value);
}

/* Where the code of the module is, as text. */
static int module_range(char start[24], char end[24])
{
	unsigned long size, addr;
	char line[256];
	int ret = -ENOENT;
	FILE *f = fopen("/proc/modules", "re");

	if (!f)
		return -errno;
	while (ret && fgets(line, sizeof(line), f))
		if (sscanf(line, "rsvm %lu %*s %*s %*s %lx", &size, &addr) == 2 && addr) {
			snprintf(start, 24, "0x%lx", addr);
			snprintf(end, 24, "0x%lx", addr + size);
			ret = 0;
		}
	fclose(f);
	return ret;
}

/* Makes one in 100 / @percent allocations of the module fail; 0 ends that. */
static int fail(const char *injector, const char *percent)
{
	const char *const knobs[][2] = {
		{ "task-filter", "N" }, { "verbose", "0" }, { "interval", "1" },
		{ "times", "-1" }, { "space", "0" }, { "stacktrace-depth", "64" },
		{ "ignore-gfp-wait", "N" },
	};
	char start[24], end[24];
	int ret = module_range(start, end);

	for (int i = 0; !ret && i < ARRAY_SIZE(knobs); i++)
		ret = set(injector, knobs[i][0], knobs[i][1]);
	if (!ret && !strcmp(injector, "fail_page_alloc"))
		ret = set(injector, "min-order", "0");
	if (!ret)
		ret = set(injector, "require-start", start);
	if (!ret)
		ret = set(injector, "require-end", end);
	return ret ?: set(injector, "probability", percent);
}

FIXTURE(alloc)
{
	struct mem m;
};

FIXTURE_VARIANT(alloc)
{
	const char *injector;
	const char *percent;
};

FIXTURE_VARIANT_ADD(alloc, slab_rare) { .injector = "failslab", .percent = "1" };
FIXTURE_VARIANT_ADD(alloc, slab_often) { .injector = "failslab", .percent = "10" };
FIXTURE_VARIANT_ADD(alloc, pages_rare) { .injector = "fail_page_alloc", .percent = "1" };
FIXTURE_VARIANT_ADD(alloc, pages_often) { .injector = "fail_page_alloc", .percent = "10" };

FIXTURE_SETUP(alloc)
{
	char path[96];

	snprintf(path, sizeof(path), DEBUGFS "%s/require-start", variant->injector);
	if (access(path, W_OK))
		SKIP(return, "no fault injection (a debug kernel has it)");
	ASSERT_OK(mem_get(&self->m, MEM_ANON, SIZE));
}

FIXTURE_TEARDOWN(alloc)
{
	EXPECT_OK(set(variant->injector, "probability", "0"));
	mem_put(&self->m);
}

/* Whether @ret is what lack of memory may lead to. */
static bool is_allowed(struct gpu *g, int ret)
{
	return !ret || ret == -ENOMEM ||
	       (ret == -EIO && g->fault_reason == DRM_RSVM_FAULT_NO_MEMORY);
}

/* All that a process does with the device; what fails first ends it. */
static int use(struct gpu *g, struct mem *m, uint64_t value)
{
	struct gpu second = { .fd = -1 };
	int event, ret;

	event = rsvm_event_open(g->fd, g->vm, 3);
	if (event < 0)
		return event;
	ret = gpu_over(g, GPU_SYM_k_write, m->p, PAGE, SIZE / PAGE, value, NULL);
	if (!ret)
		ret = madvise(m->p + LEAF / 2, LEAF, MADV_DONTNEED);
	if (!ret)
		ret = gpu_over(g, GPU_SYM_k_add, m->p, 3 * PAGE, 128, 1, NULL);
	if (!ret)
		ret = gpu_open_queue(&second, g);
	if (!ret) {
		ret = gpu_over(&second, GPU_SYM_k_write, m->p, PAGE, 64, value, NULL);
		g->fault_reason = second.fault_reason;
		gpu_close(&second);
	}
	close(event);
	return ret;
}

/* Nothing of it is broken. */
static int works(struct mem *m)
{
	struct gpu g;
	int ret = gpu_open(&g);

	if (ret)
		return ret;
	ret = gpu_over(&g, GPU_SYM_k_write, m->p, PAGE, SIZE / PAGE, 7000, NULL);
	for (size_t i = 0; i < SIZE / PAGE; i++)
		if (*word_at(m->p, i * PAGE) != 7000 + i)
			ret = ret ?: -EINVAL;
	gpu_close(&g);
	return ret;
}

TEST_F(alloc, in_use)
{
	int failed = 0;

	ASSERT_OK(works(&self->m));
	ASSERT_OK(fail(variant->injector, variant->percent));
	/* As long as it takes until something did fail. */
	for (uint64_t r = 0; r < ROUNDS || !failed; r++) {
		struct gpu g;
		/* No node can be opened, which looks as if there was none. */
		int ret = gpu_open(&g);

		if (ret) {
			ASSERT_TRUE(ret == -ENOMEM || ret == -ENODEV) TH_LOG("open: %d", ret);
		} else {
			ret = use(&g, &self->m, r << 32);
			ASSERT_TRUE(is_allowed(&g, ret))
				TH_LOG("round %lu: %d, reason %u", r, ret, g.fault_reason);
			gpu_close(&g);
		}
		failed += !!ret;
		ASSERT_OK(madvise(self->m.p, SIZE, MADV_DONTNEED));
	}
	ASSERT_OK(set(variant->injector, "probability", "0"));
	EXPECT_OK(works(&self->m));
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

TEST_F(alloc, in_probe)
{
	char bdf[64];
	int failed = 0;

	ASSERT_OK(find_device(bdf, sizeof(bdf)));
	ASSERT_OK(sys_write(DRIVER "unbind", bdf));
	ASSERT_OK(fail(variant->injector, variant->percent));
	for (int r = 0; r < ROUNDS || !failed; r++) {
		if (sys_write(DRIVER "bind", bdf))
			failed++;
		else
			ASSERT_OK(sys_write(DRIVER "unbind", bdf));
	}
	ASSERT_OK(set(variant->injector, "probability", "0"));
	ASSERT_OK(sys_write(DRIVER "bind", bdf));
	EXPECT_OK(works(&self->m));
}

TEST_HARNESS_MAIN
