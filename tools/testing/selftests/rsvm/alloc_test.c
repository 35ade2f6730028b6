// SPDX-License-Identifier: GPL-2.0
/*
 * Allocations fail wherever code of the module is on the stack: in its ioctls,
 * in the worker that serves faults, in what mm does on its behalf, in probe.
 * Errors may come back. Nothing may hang, and afterwards all is as before; what
 * would leak is found by kmemleak and DMA-API debugging at the end of the VM.
 */
#include <limits.h>

#include "lib/fail.h"
#include "lib/rsvm_test.h"

#define SIZE (2 * LEAF)
#define ROUNDS 60
#define DRIVER "/sys/bus/pci/drivers/rsvm/"

FIXTURE(alloc)
{
	struct mem m;
};

FIXTURE_VARIANT(alloc)
{
	const char *injector;
	unsigned int percent;
};

FIXTURE_VARIANT_ADD(alloc, slab_rare) { .injector = FAIL_SLAB, .percent = 1 };
FIXTURE_VARIANT_ADD(alloc, slab_often) { .injector = FAIL_SLAB, .percent = 10 };
FIXTURE_VARIANT_ADD(alloc, pages_rare) { .injector = FAIL_PAGES, .percent = 1 };
FIXTURE_VARIANT_ADD(alloc, pages_often) { .injector = FAIL_PAGES, .percent = 10 };

FIXTURE_SETUP(alloc)
{
	if (!fail_possible(variant->injector))
		SKIP(return, "no fault injection (a debug kernel has it)");
	ASSERT_OK(mem_get(&self->m, MEM_ANON, SIZE));
}

FIXTURE_TEARDOWN(alloc)
{
	fail_stop(variant->injector);
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
	ASSERT_OK(fail_start(variant->injector, variant->percent, INT_MAX));
	/* As long as it takes until something did fail. */
	for (uint64_t r = 0; r < scaled(ROUNDS) || !failed; r++) {
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
	ASSERT_GT(fail_stop(variant->injector), 0);
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
	ASSERT_OK(fail_start(variant->injector, variant->percent, INT_MAX));
	for (int r = 0; r < scaled(ROUNDS) || !failed; r++) {
		if (sys_write(DRIVER "bind", bdf))
			failed++;
		else
			ASSERT_OK(sys_write(DRIVER "unbind", bdf));
	}
	ASSERT_GT(fail_stop(variant->injector), 0);
	ASSERT_OK(sys_write(DRIVER "bind", bdf));
	EXPECT_OK(works(&self->m));
}

TEST_HARNESS_MAIN
