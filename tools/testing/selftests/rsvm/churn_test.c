// SPDX-License-Identifier: GPL-2.0
/*
 * Threads that map and unmap around a GPU that runs. Hold: intervals are made on
 * demand and pruned, so that there are as many as memory in use needs, not as many
 * as there ever were mappings; close, unbind and unload wait for the last.
 */
#include <sys/mman.h>

#include "lib/device.h"
#include "lib/rsvm_test.h"

#define CHURNERS 4
#define RUNNERS 64

struct churner {
	struct gpu g;			/* a queue of its own */
	volatile uint64_t *stop;
	struct gpu_result out;
	struct gpu_args args;
	char *at;			/* where the next mapping is to be */
	uint64_t rounds;
	uint64_t errors;
	pthread_t thread;
};

FIXTURE(churn)
{
	struct gpu g;
	struct mem m;
	struct churner churners[CHURNERS] __attribute__((aligned(4096)));
	struct gpu_args args;
	struct gpu_result out[RUNNERS];
	volatile uint64_t stop;
};

FIXTURE_SETUP(churn)
{
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	for (int k = 0; k < CHURNERS; k++) {
		ASSERT_OK(gpu_open_queue(&self->churners[k].g, &self->g));
		self->churners[k].stop = &self->stop;
		self->churners[k].at = (char *)(1ul << 44) + ((uint64_t)k << 41);
	}
}

FIXTURE_TEARDOWN(churn)
{
	mem_put(&self->m);
}

/*
 * Maps a little memory, has the GPU do an atomic and a store in it, looks and
 * unmaps; addresses move on so that old intervals are of no use.
 */
static void *churn(void *arg)
{
	struct churner *c = arg;

	while (!*c->stop && !c->errors) {
		size_t size = (1 + c->rounds % 5) * LEAF;
		char *p = mmap(c->at, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		uint64_t value = c->rounds++ + 1;

		if (p == MAP_FAILED) {
			c->errors++;
			break;
		}
		*word_at(p, 0) = value;
		c->args = (struct gpu_args){ .addr = (uintptr_t)p, .stride = size - PAGE,
					     .value = value };
		if (gpu_run(&c->g, GPU_SYM_k_atomic, &c->args, 2) ||
		    *word_at(p, 0) != 2 * value || *word_at(p, size - PAGE) != value)
			c->errors++;
		munmap(p, size);
		c->at += 1ul << 30;
	}
	return NULL;
}

static int begin(FIXTURE_DATA(churn) *self)
{
	self->args = (struct gpu_args){
		.addr = (uintptr_t)self->m.p,
		.stride = PAGE,
		.stop = &self->stop,
		.out = self->out,
	};
	for (int k = 0; k < CHURNERS; k++)
		if (pthread_create(&self->churners[k].thread, NULL, churn, &self->churners[k]))
			return -EAGAIN;
	return gpu_launch(&self->g, GPU_SYM_k_count, &self->args, RUNNERS);
}

static void end(FIXTURE_DATA(churn) *self)
{
	self->stop = 1;
	for (int k = 0; k < CHURNERS; k++)
		pthread_join(self->churners[k].thread, NULL);
}

static long long intervals(void)
{
	return device_stat("intervals") - device_stat("pruned");
}

TEST_F(churn, intervals_are_bounded)
{
	long long first = device_stat("intervals"), there = intervals(), most = 0;
	struct guard guard = {};
	uint64_t rounds = 0, enough = scaled(200);

	ASSERT_OK(begin(self));
	while (device_stat("intervals") - first < enough && !guard_over(&guard)) {
		long long n = intervals() - there;

		most = n > most ? n : most;
		usleep(10000);
	}
	end(self);
	ASSERT_OK(gpu_wait(&self->g));
	for (int k = 0; k < CHURNERS; k++) {
		EXPECT_EQ(0, self->churners[k].errors);
		rounds += self->churners[k].rounds;
	}
	for (int i = 0; i < RUNNERS; i++) {
		EXPECT_EQ(0, self->out[i].errors);
		EXPECT_EQ(*word_at(self->m.p, i * PAGE), self->out[i].value);
	}
	TH_LOG("%lu mappings, %lld intervals made, at most %lld at once", rounds,
	       device_stat("intervals") - first, most);
	EXPECT_GE(device_stat("intervals") - first, enough);
	/* Two each in use, some on their way, and what code and stacks need. */
	EXPECT_LT(most, 16 + 8 * CHURNERS);
	gpu_close(&self->g);
}

/* The mirror goes in the middle of it. */
TEST_F(churn, destroyed_meanwhile)
{
	ASSERT_OK(begin(self));
	usleep(300000);
	EXPECT_OK(rsvm_vm_destroy(self->g.fd, self->g.vm));
	end(self);
	gpu_close(&self->g);
	EXPECT_OK(device_works());
}

/* The driver goes, and comes back; nothing of the process is in reach then. */
TEST_F(churn, unbound_meanwhile)
{
	struct device d;

	ASSERT_OK(device_find(&d));
	ASSERT_OK(begin(self));
	usleep(300000);
	EXPECT_OK(device_unbind(&d));
	end(self);
	memset(self->m.p, 7, LEAF);
	EXPECT_OK(device_bind(&d));
	EXPECT_OK(device_works());
	EXPECT_EQ(0x0707070707070707, *word_at(self->m.p, 0));
	device_put(&d);
	gpu_close(&self->g);
}

/* It is unloaded: its exit waits for all intervals that are being removed. */
TEST_F(churn, unloaded_meanwhile)
{
	struct device d;

	if (access(getenv("RSVM_KO") ?: "/lib/modules/rsvm.ko", R_OK))
		SKIP(return, "no rsvm.ko to load again");
	ASSERT_OK(device_find(&d));
	device_put(&d);
	ASSERT_OK(begin(self));
	usleep(300000);
	EXPECT_OK(device_unbind(&d));
	end(self);
	gpu_close(&self->g);
	EXPECT_OK(driver_unload());
	EXPECT_OK(driver_load());
	EXPECT_OK(device_works());
}

TEST_HARNESS_MAIN
