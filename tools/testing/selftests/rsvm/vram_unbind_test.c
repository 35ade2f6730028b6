// SPDX-License-Identifier: GPL-2.0
/*
 * The device goes while memory is in VRAM: by unbind all comes home, by surprise
 * removal it is lost and the process is told. Needs root and the device for
 * itself; the last test leaves no device behind.
 */
#include <setjmp.h>

#include "lib/device.h"
#include "lib/rsvm_test.h"

#define SIZE (4 * LEAF)

FIXTURE(vram_unbind)
{
	struct device d;
	struct gpu g;
	struct mem m;
};

FIXTURE_VARIANT(vram_unbind)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(vram_unbind, small) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(vram_unbind, huge) { .kind = MEM_THP };

FIXTURE_SETUP(vram_unbind)
{
	if (getuid())
		SKIP(return, "needs root");
	if (device_find(&self->d))
		SKIP(return, "the device is gone");
	ASSERT_OK(gpu_open(&self->g));
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	pattern_fill(self->m.p, SIZE, 1);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
}

FIXTURE_TEARDOWN(vram_unbind)
{
	hold_release(false);
	gpu_close(&self->g);
	mem_put(&self->m);
	/* Whatever went wrong, the next test finds a device. */
	if (access("/sys/module/rsvm", F_OK))
		driver_load();
	if (self->d.bar0)
		device_bind(&self->d);
	device_put(&self->d);
}

static sigjmp_buf back;

static void on_bus_error(int sig)
{
	siglongjmp(back, sig);
}

/* The word at @p, or SIGBUS as told by the return value. */
static int peek(char *p, uint64_t *value)
{
	struct sigaction act = { .sa_handler = on_bus_error, .sa_flags = SA_NODEFER }, old;
	int sig;

	sigaction(SIGBUS, &act, &old);
	sig = sigsetjmp(back, 1);
	if (!sig)
		*value = *word_at(p, 0);
	sigaction(SIGBUS, &old, NULL);
	return sig;
}

/* Unbind brings all home; bound again, the device works, and VRAM is as free as ever. */
TEST_F(vram_unbind, unbind_brings_home)
{
	uint64_t total = vram_total(self->g.fd);
	struct gpu g;

	ASSERT_OK(device_unbind(&self->d));
	EXPECT_EQ(0, mem_device_pfn(self->m.p));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, 1));
	ASSERT_OK(device_bind(&self->d));
	ASSERT_OK(device_works());
	ASSERT_OK(gpu_open(&g));
	EXPECT_EQ(total, vram_free(g.fd));
	ASSERT_OK(svm_migrate(&g, self->m.p, SIZE, TO_VRAM));
	EXPECT_EQ(SIZE, svm_in_vram(&g, self->m.p, SIZE));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, 1));
	gpu_close(&g);
}

/* So it does while CPU and GPU fight for the pages, and for a child after its parent. */
TEST_F(vram_unbind, unbind_under_load)
{
	static struct gpu_args args = { .rounds = SIZE / PAGE, .other = PAGE };
	int ready[2], go[2];
	pid_t pid;
	char c = 0;

	ASSERT_OK(pipe(ready));
	ASSERT_OK(pipe(go));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		size_t errors = 0;

		close(go[1]);
		fcntl(go[0], F_SETFL, O_NONBLOCK);
		(void)!write(ready[1], &c, 1);
		while (read(go[0], &c, 1) < 0)
			errors += pattern_errors(self->m.p, SIZE, 1);
		_exit(errors + pattern_errors(self->m.p, SIZE, 1) != 0);
	}
	close(go[0]);
	args.addr = (uintptr_t)self->m.p;
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_walk, &args, 8));
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_OK(device_unbind(&self->d));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, 1));
	close(go[1]);
	EXPECT_EQ(0, wait_exit(pid));
	ASSERT_OK(device_bind(&self->d));
	EXPECT_OK(device_works());
}

static void *release_later(void *arg)
{
	usleep(1000000);
	hold_release(false);
	return arg;
}

/* A folio is locked for a second: unbind tries again, and it comes home too. */
TEST_F(vram_unbind, unbind_waits_for_a_lock)
{
	pthread_t thread;

	HOLD_OR_SKIP();
	ASSERT_OK(hold_folio(mem_device_pfn(self->m.p + LEAF), true));
	ASSERT_OK(pthread_create(&thread, NULL, release_later, NULL));
	ASSERT_OK(device_unbind(&self->d));
	pthread_join(thread, NULL);
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, 1));
	ASSERT_OK(device_bind(&self->d));
	EXPECT_OK(device_works());
}

/*
 * A folio stays locked until unbind has ended without it. The process is told that
 * it is lost, all others are there; its last user lets the module go.
 */
TEST_F(vram_unbind, unbind_does_not_wait_for_ever)
{
	size_t lost = 0;

	HOLD_OR_SKIP();
	ASSERT_OK(hold_folio(mem_device_pfn(self->m.p + LEAF), true));
	ASSERT_OK(device_unbind(&self->d));
	ASSERT_OK(hold_release(false));
	for (size_t off = 0; off < SIZE; off += PAGE) {
		uint64_t value = 0;

		if (peek(self->m.p + off, &value)) {
			lost++;
			ASSERT_TRUE(off >= LEAF && off < 2 * LEAF);
		} else {
			ASSERT_EQ(word_stamp(1, (uintptr_t)self->m.p + off), value);
		}
	}
	EXPECT_TRUE(lost == 1 || lost == LEAF / PAGE) TH_LOG("%zu lost", lost);
	/* A new pagemap beside the old one, which still holds the module. */
	ASSERT_OK(device_bind(&self->d));
	ASSERT_OK(device_works());
	gpu_close(&self->g);
	mem_put(&self->m);
	ASSERT_OK(driver_unload());
	ASSERT_OK(driver_load());
	EXPECT_OK(device_works());
}

/* The module goes while pages are in VRAM of a process that closed the device long ago. */
TEST_F(vram_unbind, rmmod_brings_home)
{
	for (int r = 0; r < 3; r++) {
		gpu_close(&self->g);
		ASSERT_NE(0, mem_device_pfn(self->m.p));
		ASSERT_OK(driver_unload());
		EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, 1));
		ASSERT_OK(driver_load());
		ASSERT_OK(gpu_open(&self->g));
		ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
		ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
	}
}

/*
 * Pulled out: what was in VRAM is lost, and said to be; what was not is there; all
 * calls end. RSVM_REMOVE=1, for this device does not come back.
 */
TEST(zz_surprise_removal)
{
	static struct gpu_args args = { .rounds = 512, .other = PAGE };
	struct mem m, home;
	uint64_t value = 0;
	struct device d;
	struct gpu g;
	int ret;

	if (!getenv("RSVM_REMOVE"))
		SKIP(return, "would leave no device (RSVM_REMOVE=1)");
	ASSERT_OK(device_find(&d));
	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(mem_get(&m, MEM_ANON, SIZE));
	ASSERT_OK(mem_get(&home, MEM_ANON, LEAF));
	pattern_fill(m.p, SIZE, 1);
	pattern_fill(home.p, LEAF, 1);
	ASSERT_OK(svm_migrate(&g, m.p, SIZE, TO_VRAM));
	ASSERT_EQ(SIZE, svm_in_vram(&g, m.p, SIZE));
	/* Some of it is home already. */
	ASSERT_EQ(0, pattern_errors(m.p, LEAF, 1));
	args.addr = (uintptr_t)m.p + LEAF;
	ASSERT_OK(gpu_launch(&g, GPU_SYM_k_walk, &args, 8));
	device_write(&d, REMOVE_AT_READ, 1);
	EXPECT_EQ(~0u, device_read(&d, COPIES_BEGUN));

	EXPECT_EQ(SIGBUS, peek(m.p + 3 * LEAF, &value));
	EXPECT_EQ(SIGBUS, peek(m.p + 3 * LEAF + 9 * PAGE, &value));
	EXPECT_EQ(0, pattern_errors(m.p, LEAF, 1));
	EXPECT_EQ(0, pattern_errors(home.p, LEAF, 1));
	ret = gpu_wait(&g);
	EXPECT_TRUE(ret == -EIO || ret == -ENODEV) TH_LOG("%d", ret);
	/* Lost memory can be replaced and works like any other. */
	ASSERT_OK(madvise(m.p + LEAF, LEAF, MADV_DONTNEED));
	EXPECT_EQ(0, peek(m.p + LEAF, &value));
	EXPECT_EQ(0, value);
	ASSERT_OK(device_unbind(&d));
	EXPECT_EQ(SIGBUS, peek(m.p + 3 * LEAF, &value));
	mem_put(&m);
	mem_put(&home);
	gpu_close(&g);
	device_put(&d);
	EXPECT_OK(driver_unload());
}

TEST_HARNESS_MAIN
