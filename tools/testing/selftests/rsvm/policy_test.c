// SPDX-License-Identifier: GPL-2.0
/* Where pages go: what users ask for by range, what happens by default, and bouncing. */
#include "lib/rsvm_test.h"

#define SIZE (4 * LEAF)

FIXTURE(policy)
{
	struct gpu g;
	struct mem m;
	struct gpu_result out[1024];
	volatile uint64_t stop;
	struct gpu_args args;
};

FIXTURE_SETUP(policy)
{
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(mem_get(&self->m, MEM_ANON, SIZE));
}

FIXTURE_TEARDOWN(policy)
{
	self->stop = 1;
	inject("vram_residency_ms", 50);
	gpu_close(&self->g);
	mem_put(&self->m);
}

#define PREFERRED	DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION
#define GRANULARITY	DRM_RSVM_SVM_ATTR_GRANULARITY
#define NO_MIGRATE	DRM_RSVM_SVM_ATTR_NO_MIGRATE

/* The values are as documented, and come back as they were set, for just their range. */
TEST_F(policy, attributes)
{
	char *p = self->m.p;

	EXPECT_EQ(DRM_RSVM_SVM_LOCATION_ANY, svm_get(&self->g, p, PREFERRED));
	EXPECT_EQ(DRM_RSVM_SVM_ATOMIC_AUTO, svm_get(&self->g, p, DRM_RSVM_SVM_ATTR_ATOMIC_MODE));
	EXPECT_EQ(64 << 10, svm_get(&self->g, p, GRANULARITY));
	EXPECT_EQ(0, svm_get(&self->g, p, NO_MIGRATE));
	ASSERT_OK(svm_set(&self->g, p + LEAF, LEAF, PREFERRED, TO_VRAM));
	ASSERT_OK(svm_set(&self->g, p + LEAF, LEAF, GRANULARITY, 2 << 20));
	ASSERT_OK(svm_set(&self->g, p + LEAF + PAGE, PAGE, NO_MIGRATE, 1));
	EXPECT_EQ(DRM_RSVM_SVM_LOCATION_ANY, svm_get(&self->g, p + LEAF - PAGE, PREFERRED));
	EXPECT_EQ(TO_VRAM, svm_get(&self->g, p + LEAF, PREFERRED));
	EXPECT_EQ(TO_VRAM, svm_get(&self->g, p + LEAF + PAGE, PREFERRED));
	EXPECT_EQ(1, svm_get(&self->g, p + LEAF + PAGE, NO_MIGRATE));
	EXPECT_EQ(0, svm_get(&self->g, p + LEAF + 2 * PAGE, NO_MIGRATE));
	EXPECT_EQ(2 << 20, svm_get(&self->g, p + 2 * LEAF - PAGE, GRANULARITY));
	EXPECT_EQ(64 << 10, svm_get(&self->g, p + 2 * LEAF, GRANULARITY));
	/* They belong to addresses, not to what is mapped there. */
	ASSERT_EQ(p, mmap(p, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			  -1, 0));
	EXPECT_EQ(1, svm_get(&self->g, p + LEAF + PAGE, NO_MIGRATE));
}

/* Ranges split and merge: same_len tells how far one goes. */
TEST_F(policy, split_and_merge)
{
	struct drm_rsvm_svm_get_attr a;
	char *p = self->m.p;

	ASSERT_OK(svm_look(&self->g, p, SIZE, &a, NULL));
	EXPECT_EQ(SIZE, a.same_len);
	ASSERT_OK(svm_set(&self->g, p + 10 * PAGE, 10 * PAGE, NO_MIGRATE, 1));
	ASSERT_OK(svm_look(&self->g, p, SIZE, &a, NULL));
	EXPECT_EQ(10 * PAGE, a.same_len);
	ASSERT_OK(svm_look(&self->g, p + 12 * PAGE, LEAF, &a, NULL));
	EXPECT_EQ(8 * PAGE, a.same_len);
	ASSERT_OK(svm_set(&self->g, p + 15 * PAGE, PAGE, NO_MIGRATE, 0));
	ASSERT_OK(svm_look(&self->g, p + 10 * PAGE, LEAF, &a, NULL));
	EXPECT_EQ(5 * PAGE, a.same_len);
	ASSERT_OK(svm_set(&self->g, p + 15 * PAGE, PAGE, NO_MIGRATE, 1));
	ASSERT_OK(svm_look(&self->g, p + 10 * PAGE, LEAF, &a, NULL));
	EXPECT_EQ(10 * PAGE, a.same_len);
	ASSERT_OK(svm_set(&self->g, p, SIZE, NO_MIGRATE, 0));
	ASSERT_OK(svm_look(&self->g, p, SIZE, &a, NULL));
	EXPECT_EQ(SIZE, a.same_len);
}

/* By default whole 64 KiB that are there move when the device uses them, others do not. */
TEST_F(policy, default_moves_granules)
{
	memset(self->m.p, 1, 32 * PAGE);
	memset(self->m.p + 40 * PAGE, 1, PAGE);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p + 3 * PAGE, 0, 1, 0, self->out));
	EXPECT_EQ(16 * PAGE, svm_in_vram(&self->g, self->m.p, 16 * PAGE));
	EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p + 16 * PAGE, 16 * PAGE));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p + 40 * PAGE, 0, 1, 0, self->out));
	EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p + 32 * PAGE, 16 * PAGE));
	EXPECT_EQ(PAGE, svm_in_system(&self->g, self->m.p + 32 * PAGE, 16 * PAGE));
}

/* Granularity is how much moves at once. */
TEST_F(policy, granularity)
{
	ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, GRANULARITY, PAGE));
	ASSERT_OK(svm_set(&self->g, self->m.p + LEAF, LEAF, GRANULARITY, 256 << 10));
	memset(self->m.p, 1, 2 * LEAF);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p + 5 * PAGE, LEAF, 2, 0, self->out));
	EXPECT_EQ(PAGE, svm_in_vram(&self->g, self->m.p, LEAF));
	EXPECT_EQ(256 << 10, svm_in_vram(&self->g, self->m.p + LEAF, LEAF));
}

/* Preferred: system memory is used where it is; VRAM gets what is not even backed. */
TEST_F(policy, preferred_location)
{
	memset(self->m.p, 1, LEAF);
	ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, PREFERRED, TO_SYSTEM));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 512, 7, NULL));
	EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p, LEAF));
	EXPECT_EQ(7 + 100, *word_at(self->m.p, 100 * PAGE));
	/* Still moved by who asks for it. */
	ASSERT_OK(svm_migrate(&self->g, self->m.p, LEAF, TO_VRAM));
	EXPECT_EQ(LEAF, svm_in_vram(&self->g, self->m.p, LEAF));

	ASSERT_OK(svm_set(&self->g, self->m.p + LEAF, LEAF, PREFERRED, TO_VRAM));
	ASSERT_OK(gpu_poke(&self->g, self->m.p + LEAF + 3 * PAGE, 9));
	EXPECT_EQ(64 << 10, svm_in_vram(&self->g, self->m.p + LEAF, LEAF));
	EXPECT_EQ(9, *word_at(self->m.p + LEAF, 3 * PAGE));
	EXPECT_EQ(0, *word_at(self->m.p + LEAF, 4 * PAGE));
}

/* No-migrate holds against faults and requests; the device uses the page remotely. */
TEST_F(policy, no_migrate)
{
	memset(self->m.p, 1, LEAF);
	ASSERT_OK(svm_set(&self->g, self->m.p + 16 * PAGE, 16 * PAGE, NO_MIGRATE, 1));
	ASSERT_OK(svm_migrate(&self->g, self->m.p, LEAF, TO_VRAM));
	EXPECT_EQ(LEAF - 16 * PAGE, svm_in_vram(&self->g, self->m.p, LEAF));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 512, 3, NULL));
	EXPECT_EQ(16 * PAGE, svm_in_system(&self->g, self->m.p, LEAF));
	for (int i = 0; i < 512; i++) {
		ASSERT_EQ(3 + i, *word_at(self->m.p, i * PAGE));
	}
}

/* GET_ATTR tells of each page where it is and what the device may do. */
TEST_F(policy, pages_are_told)
{
	struct drm_rsvm_svm_get_attr a;
	uint8_t pages[64];

	memset(self->m.p, 1, 32 * PAGE);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, 16 * PAGE, TO_VRAM));
	ASSERT_OK(svm_set(&self->g, self->m.p + 16 * PAGE, 48 * PAGE, PREFERRED, TO_SYSTEM));
	ASSERT_OK(mprotect(self->m.p + 20 * PAGE, PAGE, PROT_READ));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p + 18 * PAGE, 0, 1, 5, NULL));
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p + 20 * PAGE, 0, 1, 5, self->out));
	ASSERT_OK(svm_look(&self->g, self->m.p, 64 * PAGE, &a, pages));
	for (int i = 0; i < 64; i++) {
		uint8_t where = i < 16 ? DRM_RSVM_SVM_PAGE_VRAM :
				i < 32 ? DRM_RSVM_SVM_PAGE_SYSTEM : 0;

		EXPECT_EQ(where, pages[i] & (DRM_RSVM_SVM_PAGE_VRAM | DRM_RSVM_SVM_PAGE_SYSTEM))
			TH_LOG("page %d: %x", i, pages[i]);
	}
	EXPECT_EQ(DRM_RSVM_SVM_PAGE_READ | DRM_RSVM_SVM_PAGE_WRITE,
		  pages[18] & (DRM_RSVM_SVM_PAGE_READ | DRM_RSVM_SVM_PAGE_WRITE));
	EXPECT_EQ(DRM_RSVM_SVM_PAGE_READ,
		  pages[20] & (DRM_RSVM_SVM_PAGE_READ | DRM_RSVM_SVM_PAGE_WRITE));
	EXPECT_EQ(16 * PAGE, a.vram);
	EXPECT_EQ(16 * PAGE, a.system);
	EXPECT_GE(a.mapped_read, a.mapped_write + PAGE);
}

/* Nothing odd is taken, and it changes nothing. */
TEST_F(policy, set_attr_bad_input)
{
	struct drm_rsvm_svm_attr good[2] = {
		{ .type = NO_MIGRATE, .value = 1 }, { .type = PREFERRED, .value = TO_VRAM },
	};
	const uint64_t addr = (uintptr_t)self->m.p;
	const struct drm_rsvm_svm_set_attr base = {
		.vm_id = self->g.vm, .addr = addr, .len = LEAF, .attrs = (uintptr_t)good,
		.count = 2, .stride = sizeof(good[0]),
	};
	static const struct drm_rsvm_svm_attr bad[] = {
		{ .type = 4 }, { .type = ~0u }, { .type = PREFERRED, .value = 3 },
		{ .type = PREFERRED, .pad = 1 }, { .type = GRANULARITY, .value = 0 },
		{ .type = GRANULARITY, .value = 2048 }, { .type = GRANULARITY, .value = 12288 },
		{ .type = GRANULARITY, .value = 4 << 20 }, { .type = NO_MIGRATE, .value = 2 },
		{ .type = DRM_RSVM_SVM_ATTR_ATOMIC_MODE, .value = 1ull << 40 },
	};
	struct {
		const char *what;
		struct drm_rsvm_svm_set_attr s;
		int ret;
	} cases[] = {
		{ "flags", base, -EINVAL }, { "vm", base, -ENOENT }, { "address", base, -EINVAL },
		{ "length", base, -EINVAL }, { "no length", base, -EINVAL },
		{ "wraps", base, -EINVAL }, { "no attributes", base, -EINVAL },
		{ "too many", base, -EINVAL }, { "short stride", base, -EINVAL },
		{ "odd stride", base, -EINVAL }, { "pointer", base, -EFAULT },
		{ "kernel addresses", base, -EINVAL },
	};

	cases[0].s.flags = 1;
	cases[1].s.vm_id = 12345;
	cases[2].s.addr += 8;
	cases[3].s.len += 8;
	cases[4].s.len = 0;
	cases[5].s.len = ~0ull & ~(PAGE - 1);
	cases[6].s.count = 0;
	cases[7].s.count = DRM_RSVM_SVM_MAX_ATTRS + 1;
	cases[8].s.stride = 8;
	cases[9].s.stride = 20;
	cases[10].s.attrs = 8;
	cases[11].s.addr = 1ull << 63;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		EXPECT_EQ(cases[i].ret, rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_SVM_SET_ATTR,
						   &cases[i].s)) TH_LOG("%s", cases[i].what);
	}
	/* The first one is good, and has no effect either. */
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct drm_rsvm_svm_set_attr s = base;

		good[1] = bad[i];
		EXPECT_EQ(-EINVAL, rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_SVM_SET_ATTR, &s))
			TH_LOG("attribute %zu", i);
	}
	EXPECT_EQ(0, svm_get(&self->g, self->m.p, NO_MIGRATE));
}

TEST_F(policy, get_attr_bad_input)
{
	struct drm_rsvm_svm_attr attr = { .type = NO_MIGRATE };
	uint8_t pages[1];
	const struct drm_rsvm_svm_get_attr base = {
		.vm_id = self->g.vm, .addr = (uintptr_t)self->m.p, .len = PAGE,
		.attrs = (uintptr_t)&attr, .count = 1, .stride = sizeof(attr),
		.pages = (uintptr_t)pages,
	};
	struct {
		const char *what;
		struct drm_rsvm_svm_get_attr a;
		int ret;
	} cases[] = {
		{ "good", base, 0 }, { "flags", base, -EINVAL }, { "vm", base, -ENOENT },
		{ "address", base, -EINVAL }, { "length", base, -EINVAL },
		{ "too long", base, -EINVAL }, { "too many", base, -EINVAL },
		{ "stride without attributes", base, -EINVAL }, { "pages", base, -EFAULT },
		{ "nothing there", base, -ENOENT }, { "unknown type", base, -EINVAL },
	};

	cases[1].a.flags = 1;
	cases[2].a.vm_id = 12345;
	cases[3].a.addr += 1;
	cases[4].a.len = 100;
	cases[5].a.len = DRM_RSVM_SVM_MAX_GET_LEN + PAGE;
	cases[6].a.count = DRM_RSVM_SVM_MAX_ATTRS + 1;
	cases[7].a.count = 0;
	cases[8].a.pages = 8;
	cases[9].a.addr = 4096;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (i == ARRAY_SIZE(cases) - 1)
			attr.type = 77;
		EXPECT_EQ(cases[i].ret, rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_SVM_GET_ATTR,
						   &cases[i].a)) TH_LOG("%s", cases[i].what);
	}
}

TEST_F(policy, migrate_bad_input)
{
	struct drm_rsvm_svm_range range = { .addr = (uintptr_t)self->m.p, .len = LEAF };
	uint64_t fence[2] = {};
	const struct drm_rsvm_svm_migrate base = {
		.vm_id = self->g.vm, .location = TO_VRAM, .num_ranges = 1,
		.ranges = (uintptr_t)&range,
	};
	struct {
		const char *what;
		struct drm_rsvm_svm_migrate m;
		int ret;
	} cases[] = {
		{ "flags", base, -EINVAL }, { "vm", base, -ENOENT }, { "anywhere", base, -EINVAL },
		{ "location", base, -EINVAL }, { "no ranges", base, -EINVAL },
		{ "too many", base, -EINVAL }, { "pointer", base, -EFAULT },
		{ "odd fence", base, -EINVAL }, { "odd range", base, -EINVAL },
		{ "nothing there", base, -ENOENT },
	};

	cases[0].m.flags = 1;
	cases[1].m.vm_id = 12345;
	cases[2].m.location = DRM_RSVM_SVM_LOCATION_ANY;
	cases[3].m.location = 3;
	cases[4].m.num_ranges = 0;
	cases[5].m.num_ranges = DRM_RSVM_SVM_MAX_RANGES + 1;
	cases[6].m.ranges = 8;
	cases[7].m.fence_addr = (uintptr_t)fence + 4;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (i == 8)
			range.len = 100;
		if (i == 9)
			range = (struct drm_rsvm_svm_range){ .addr = 4096, .len = PAGE };
		EXPECT_EQ(cases[i].ret, rsvm_ioctl(self->g.fd, DRM_IOCTL_RSVM_SVM_MIGRATE,
						   &cases[i].m)) TH_LOG("%s", cases[i].what);
	}
	EXPECT_EQ(0, fence[0]);
}

/* Records of @type waiting in the event file. */
static int count_events(int fd, uint32_t type)
{
	struct drm_rsvm_event e;
	int n = 0;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (read(fd, &e, sizeof(e)) == sizeof(e))
		n += e.type == type;
	return n;
}

/* CPU and GPU fight for the same pages: they stop bouncing, somebody is told, all counts. */
TEST_F(policy, thrashing_ends)
{
	int fd = rsvm_event_open(self->g.fd, self->g.vm, 1 << DRM_RSVM_EVENT_THRASH);
	struct drm_rsvm_svm_get_attr a;
	int thrashed = 0;
	int64_t end;
	long long moved;

	ASSERT_GE(fd, 0);
	ASSERT_TRUE(inject("vram_residency_ms", 20000));
	memset(self->m.p, 0, LEAF);
	moved = fdinfo(self->g.fd, "rsvm-to-vram");
	ASSERT_GE(moved, 0);
	self->args = (struct gpu_args){
		.addr = (uintptr_t)self->m.p, .stride = PAGE, .stop = &self->stop, .out = self->out,
	};
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_count, &self->args, 16));
	/* What the CPU takes before the device had it mapped has not bounced. */
	do {
		ASSERT_OK(svm_look(&self->g, self->m.p, 16 * PAGE, &a, NULL));
	} while (a.vram < 16 * PAGE || a.mapped_write < 16 * PAGE);
	/* The CPU writes other words of the same pages. */
	end = now_ns() + 5000 * MS;
	for (uint64_t k = 1; now_ns() < end || (!thrashed && k < 20000000); k++) {
		for (int i = 0; i < 16; i++) {
			ASSERT_EQ(k - 1, *word_at(self->m.p, i * PAGE + 64));
			*word_at(self->m.p, i * PAGE + 64) = k;
		}
		if (k % 1000 == 0)
			thrashed += count_events(fd, DRM_RSVM_EVENT_THRASH);
	}
	self->stop = 1;
	ASSERT_OK(gpu_wait(&self->g));
	for (int i = 0; i < 16; i++) {
		EXPECT_EQ(0, self->out[i].errors);
		EXPECT_EQ(*word_at(self->m.p, i * PAGE), self->out[i].value);
	}
	EXPECT_GT(thrashed + count_events(fd, DRM_RSVM_EVENT_THRASH), 0);
	/* Each time counts for 400 seconds: a few times at most, not hundreds of times. */
	moved = fdinfo(self->g.fd, "rsvm-to-vram") - moved;
	EXPECT_GT(moved, 0);
	EXPECT_LE(moved, 2 * 16) TH_LOG("%lld pages", moved);
	close(fd);
}

/* A move by a fault's policy and by request is told as an event, with where it went. */
TEST_F(policy, migrate_event)
{
	int fd = rsvm_event_open(self->g.fd, self->g.vm, 1 << DRM_RSVM_EVENT_MIGRATE);
	struct drm_rsvm_event e = {};

	ASSERT_GE(fd, 0);
	memset(self->m.p, 1, 16 * PAGE);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, 0, 1, 0, self->out));
	fcntl(fd, F_SETFL, O_NONBLOCK);
	ASSERT_EQ(sizeof(e), read(fd, &e, sizeof(e)));
	EXPECT_EQ(DRM_RSVM_EVENT_MIGRATE, e.type);
	EXPECT_EQ((uintptr_t)self->m.p, e.addr);
	EXPECT_EQ(16 * PAGE, e.len);
	EXPECT_EQ(TO_VRAM, e.reason);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, 16 * PAGE, TO_SYSTEM));
	ASSERT_EQ(sizeof(e), read(fd, &e, sizeof(e)));
	EXPECT_EQ(TO_SYSTEM, e.reason);
	close(fd);
}

TEST_HARNESS_MAIN
