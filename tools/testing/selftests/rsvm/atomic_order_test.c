// SPDX-License-Identifier: GPL-2.0
/*
 * The order in which CPU and GPU see each other's writes, and locks that both
 * take. Holds: accesses of either side are seen in the order that release,
 * acquire and fences ask for, also when the page changes hands between them.
 */
#include "lib/rsvm_test.h"
#include "gpu/order.h"

FIXTURE(order)
{
	struct gpu g;
	struct mem m;
	struct gpu_args args;
	long long lost;
};

FIXTURE_VARIANT(order)
{
	bool apart;		/* each word on a page of its own */
};

FIXTURE_VARIANT_ADD(order, one_page) { .apart = false };
FIXTURE_VARIANT_ADD(order, many_pages) { .apart = true };

FIXTURE_SETUP(order)
{
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	ASSERT_OK(gpu_open(&self->g));
	self->lost = device_stat("lost_updates");
}

FIXTURE_TEARDOWN(order)
{
	EXPECT_EQ(self->lost, device_stat("lost_updates"));
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* Word @k of those that are shared. */
static uint64_t *shared(FIXTURE_DATA(order) *self, const FIXTURE_VARIANT(order) *variant, int k)
{
	return (uint64_t *)(self->m.p + k * (variant->apart ? PAGE : 64));
}

static int launch(FIXTURE_DATA(order) *self, uint64_t kernel, void *what, void *nodes, int n)
{
	self->args = (struct gpu_args){
		.addr = (uintptr_t)nodes,
		.stride = PAGE,
		.other = (uintptr_t)what,
	};
	return gpu_launch(&self->g, kernel, &self->args, n);
}

static const char *const flavours[] = { "release", "fence", "read-modify-write" };

/* What was written before the flag is there for who has seen the flag. */
TEST_F(order, message_passing)
{
	for (int way = 0; way < 2; way++) {
		for (uint64_t flavour = 0; flavour <= BY_RMW; flavour++) {
			struct message *m = (void *)(self->m.p + 32 * PAGE);

			memset(self->m.p, 0, 4 * PAGE);
			*m = (struct message){
				.data = shared(self, variant, 0),
				.words = 16,
				.flag = shared(self, variant, 2),
				.answer = shared(self, variant, 3),
				.rounds = scaled(flavour == BY_RMW ? 100 : 2000),
				.flavour = flavour,
			};
			ASSERT_OK(launch(self, way ? GPU_SYM_k_message_write :
					 GPU_SYM_k_message_read, m, NULL, 1));
			(way ? message_read : message_write)(m);
			ASSERT_OK(gpu_wait(&self->g));
			EXPECT_EQ(0, m->errors) {
				TH_LOG("%s, %s", way ? "from the GPU" : "to the GPU",
				       flavours[flavour]);
			}
		}
	}
}

/* Both write, then read what the other wrote: one of them sees it. */
TEST_F(order, store_buffering)
{
	for (uint64_t flavour = BY_FENCE; flavour <= BY_RMW; flavour++) {
		const uint64_t rounds = scaled(flavour == BY_RMW ? 100 : 4000);
		struct buffering *side = (void *)(self->m.p + 32 * PAGE);
		uint64_t unseen = 0;

		memset(self->m.p, 0, 4 * PAGE);
		for (int k = 0; k < 2; k++)
			side[k] = (struct buffering){
				.mine = shared(self, variant, k),
				.theirs = shared(self, variant, !k),
				.ready = shared(self, variant, 2 + k),
				.their_ready = shared(self, variant, 2 + !k),
				.seen = (uint64_t *)(self->m.p + (64 + 64 * k) * PAGE),
				.rounds = rounds,
				.flavour = flavour,
			};
		ASSERT_OK(launch(self, GPU_SYM_k_buffering, &side[0], NULL, 1));
		buffering_run(&side[1]);
		ASSERT_OK(gpu_wait(&self->g));
		for (uint64_t k = 0; k < rounds; k++) {
			unseen += side[0].seen[k] <= k && side[1].seen[k] <= k;
			/* Nor is anything seen of a round that cannot have begun. */
			unseen += side[0].seen[k] > k + 1 || side[1].seen[k] > k + 1;
		}
		EXPECT_EQ(0, unseen) TH_LOG("%s", flavours[flavour]);
	}
}

#define HARTS	8
#define THREADS	4

struct locker {
	struct guarded *guarded;
	struct mcs_node *node;
	void (*run)(struct guarded *g, struct mcs_node *me);
};

static void *locker(void *arg)
{
	struct locker *l = arg;

	l->run(l->guarded, l->node);
	return NULL;
}

static void locked(struct __test_metadata *_metadata, FIXTURE_DATA(order) *self,
		   const FIXTURE_VARIANT(order) *variant, uint64_t kernel,
		   void (*run)(struct guarded *g, struct mcs_node *me))
{
	struct guarded *g = (void *)(self->m.p + 31 * PAGE);
	char *nodes = self->m.p + 32 * PAGE;
	struct locker lockers[THREADS];
	pthread_t threads[THREADS];

	*g = (struct guarded){
		.spin = (uint32_t *)shared(self, variant, 0),
		.tail = shared(self, variant, 0),
		.words = shared(self, variant, 1),
		.stride = variant->apart ? PAGE : 64,
		.rounds = scaled(100),
	};
	for (int k = 0; k < HARTS + THREADS; k++)
		memset(nodes + k * PAGE, 0, sizeof(struct mcs_node));
	ASSERT_OK(launch(self, kernel, g, nodes, HARTS));
	for (int k = 0; k < THREADS; k++) {
		lockers[k] = (struct locker){ g, (void *)(nodes + (HARTS + k) * PAGE), run };
		ASSERT_OK(pthread_create(&threads[k], NULL, locker, &lockers[k]));
	}
	for (int k = 0; k < THREADS; k++)
		ASSERT_OK(pthread_join(threads[k], NULL));
	ASSERT_OK(gpu_wait(&self->g));
	for (int k = 0; k < HARTS + THREADS; k++) {
		EXPECT_EQ(0, ((struct mcs_node *)(nodes + k * PAGE))->errors) TH_LOG("of %d", k);
	}
	for (int k = 0; k < GUARDED; k++) {
		EXPECT_EQ((HARTS + THREADS) * g->rounds, *shared(self, variant, 1 + k));
	}
	EXPECT_EQ(0, *shared(self, variant, 0));
}

/* A lock that everybody spins on. */
TEST_F(order, spinlock)
{
	locked(_metadata, self, variant, GPU_SYM_k_spin_locked, spin_locked);
}

/* A queue of waiters, harts and threads mixed, each of which spins on its own word. */
TEST_F(order, mcs_lock)
{
	locked(_metadata, self, variant, GPU_SYM_k_mcs_locked, mcs_locked);
}

TEST_HARNESS_MAIN
