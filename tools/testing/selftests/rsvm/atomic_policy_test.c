// SPDX-License-Identifier: GPL-2.0
/*
 * What atomics may do where: the mode of a range, memory that cannot be had
 * exclusively, and what the driver says of it beforehand.
 */
#include <poll.h>
#include <sys/mman.h>

#include "lib/crowd.h"
#include "lib/rsvm_test.h"

#define MODE	DRM_RSVM_SVM_ATTR_ATOMIC_MODE
#define AUTO	DRM_RSVM_SVM_ATOMIC_AUTO
#define SYSTEM	DRM_RSVM_SVM_ATOMIC_SYSTEM
#define VRAM	DRM_RSVM_SVM_ATOMIC_VRAM
#define DEVICE	DRM_RSVM_SVM_ATOMIC_DEVICE

FIXTURE(modes)
{
	struct gpu g;
	struct mem m;
	long long lost;
};

FIXTURE_SETUP(modes)
{
	ASSERT_OK(gpu_open(&self->g));
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	self->lost = device_stat("lost_updates");
}

FIXTURE_TEARDOWN(modes)
{
	inject("vram_residency_ms", 50);
	mem_let_khugepaged(true);
	EXPECT_EQ(self->lost, device_stat("lost_updates"));
	gpu_close(&self->g);
	mem_put(&self->m);
}

static uint8_t state(struct gpu *g, void *p)
{
	struct drm_rsvm_svm_get_attr a;
	uint8_t page = 0;

	return svm_look(g, p, PAGE, &a, &page) ? 0 : page;
}

/* @harts add 1 to the word at @p. */
static int adds(struct gpu *g, void *p, uint64_t harts)
{
	return gpu_over(g, GPU_SYM_k_atomic, p, 0, harts, 1, NULL);
}

/* Modes are told as they were set; there are no others. */
TEST_F(modes, values)
{
	for (uint64_t mode = AUTO; mode <= DEVICE; mode++) {
		ASSERT_OK(svm_set(&self->g, self->m.p, PAGE, MODE, mode));
		EXPECT_EQ(mode, svm_get(&self->g, self->m.p, MODE));
		EXPECT_EQ(AUTO, svm_get(&self->g, self->m.p + PAGE, MODE));
	}
	EXPECT_EQ(-EINVAL, svm_set(&self->g, self->m.p, PAGE, MODE, DEVICE + 1));
	EXPECT_EQ(-EINVAL, svm_set(&self->g, self->m.p, PAGE, MODE, ~0ull));
	EXPECT_EQ(DEVICE, svm_get(&self->g, self->m.p, MODE));
}

/* What QUERY promises. */
TEST_F(modes, query)
{
	uint64_t atomics;

	ASSERT_OK(rsvm_query(self->g.fd, DRM_RSVM_PARAM_ATOMICS, &atomics));
	EXPECT_EQ(DRM_RSVM_ATOMICS_SYSTEM | DRM_RSVM_ATOMICS_VRAM, atomics);
}

/*
 * Memory that core gives to nobody exclusively: an error with address, access and
 * reason, of which SVM_GET_ATTR tells before; nothing is changed. With device scope
 * it works.
 */
TEST_F(modes, refused_memory)
{
	static const enum mem_kind kinds[] = {
		MEM_ANON_SHARED, MEM_MEMFD, MEM_MEMFD_THP, MEM_EXT4, MEM_HUGETLB,
		MEM_HUGETLB_SHARED,
	};
	int tried = 0;

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		char *p;

		mem_put(&self->m);
		if (mem_get(&self->m, kinds[k], LEAF))
			continue;
		tried++;
		p = self->m.p + 3 * PAGE;
		*word_at(p, 64) = 5;
		for (uint64_t mode = AUTO; mode <= VRAM; mode++) {
			struct gpu doomed;

			ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, MODE, mode));
			EXPECT_NE(0, state(&self->g, p) & DRM_RSVM_SVM_PAGE_NO_ATOMIC) {
				TH_LOG("kind %d, mode %lu", kinds[k], mode);
			}
			ASSERT_OK(gpu_open_queue(&doomed, &self->g));
			EXPECT_EQ(-EIO, adds(&doomed, p + 64, 1)) {
				TH_LOG("kind %d, mode %lu", kinds[k], mode);
			}
			EXPECT_EQ((uintptr_t)p, doomed.fault_addr & -PAGE);
			EXPECT_EQ(DRM_RSVM_FAULT_ATOMIC, doomed.fault_reason);
			EXPECT_EQ(DRM_RSVM_ACCESS_ATOMIC, doomed.fault_access);
			EXPECT_EQ(5, *word_at(p, 64));
			gpu_close(&doomed);
		}
		ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, MODE, DEVICE));
		EXPECT_EQ(0, state(&self->g, p) & DRM_RSVM_SVM_PAGE_NO_ATOMIC);
		EXPECT_OK(adds(&self->g, p + 64, 64)) TH_LOG("kind %d", kinds[k]);
		EXPECT_EQ(69, *word_at(p, 64)) TH_LOG("kind %d", kinds[k]);
		/* Back to system scope: what is mapped for atomics now does not stay so. */
		ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, MODE, AUTO));
		EXPECT_EQ(0, state(&self->g, p) & DRM_RSVM_SVM_PAGE_ATOMIC);
	}
	EXPECT_GE(tried, 3);
}

/*
 * The CPU has the page at @p for itself once it used it. A report of the device that
 * comes late takes it away once more, and the CPU back.
 */
static bool is_taken_back(struct gpu *g, char *p)
{
	for (int i = 0; i < 100; i++) {
		(void)*word_at(p, 0);
		if (!(state(g, p) & DRM_RSVM_SVM_PAGE_ATOMIC))
			return true;
		usleep(10000);
	}
	return false;
}

/* Private memory is not told to be unfit, whatever its state. */
TEST_F(modes, fit_memory)
{
	static const enum mem_kind kinds[] = { MEM_ANON, MEM_THP, MEM_TMPFS_PRIVATE };

	/* It would take the page back, too. */
	mem_let_khugepaged(false);
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		mem_put(&self->m);
		if (mem_get(&self->m, kinds[k], LEAF))
			continue;
		*word_at(self->m.p, 0) = 0;
		EXPECT_EQ(0, state(&self->g, self->m.p) & DRM_RSVM_SVM_PAGE_NO_ATOMIC);
		EXPECT_OK(adds(&self->g, self->m.p, 64));
		EXPECT_NE(0, state(&self->g, self->m.p) & DRM_RSVM_SVM_PAGE_ATOMIC);
		EXPECT_EQ(0, mem_pfn(self->m.p)) TH_LOG("kind %d", kinds[k]);
		EXPECT_EQ(64, *word_at(self->m.p, 0));
		EXPECT_TRUE(is_taken_back(&self->g, self->m.p));
		/* Untouched: only read by the CPU, or by nobody. */
		EXPECT_EQ(0, *word_at(self->m.p, 9 * PAGE));
		EXPECT_OK(adds(&self->g, self->m.p + 9 * PAGE, 3));
		EXPECT_OK(adds(&self->g, self->m.p + 10 * PAGE, 4));
		EXPECT_EQ(3, *word_at(self->m.p, 9 * PAGE));
		EXPECT_EQ(4, *word_at(self->m.p, 10 * PAGE));
	}
}

/* System scope in place: nothing moves, though faults move pages here. */
TEST_F(modes, system_never_moves)
{
	memset(self->m.p, 0, LEAF);
	ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, MODE, SYSTEM));
	for (int r = 0; r < 20; r++) {
		ASSERT_OK(adds(&self->g, self->m.p + 3 * PAGE, 64));
		EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p + 3 * PAGE, PAGE));
		usleep(10000);
	}
	EXPECT_EQ(20 * 64, *word_at(self->m.p, 3 * PAGE));
}

/* System scope by moving, though faults do not move pages here. */
TEST_F(modes, vram_moves)
{
	memset(self->m.p, 0, LEAF);
	ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, MODE, VRAM));
	ASSERT_OK(adds(&self->g, self->m.p + 3 * PAGE, 64));
	EXPECT_EQ(PAGE, svm_in_vram(&self->g, self->m.p + 3 * PAGE, PAGE));
	EXPECT_EQ(64, *word_at(self->m.p, 3 * PAGE));
	EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p + 3 * PAGE, PAGE));
	/* What cannot move is exclusive. */
	ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, DRM_RSVM_SVM_ATTR_NO_MIGRATE, 1));
	ASSERT_OK(adds(&self->g, self->m.p + 30 * PAGE, 64));
	EXPECT_EQ(0, svm_in_vram(&self->g, self->m.p + 30 * PAGE, PAGE));
	EXPECT_EQ(64, *word_at(self->m.p, 30 * PAGE));
}

/*
 * Device scope: atomic among harts, no page is taken from the CPU, which sees the
 * sum when they are through.
 */
TEST_F(modes, device_scope)
{
	long long grabs = device_stat("exclusive_grabs");

	memset(self->m.p, 0, LEAF);
	ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, MODE, DEVICE));
	ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, DRM_RSVM_SVM_ATTR_NO_MIGRATE, 1));
	for (int r = 1; r <= 20; r++) {
		ASSERT_OK(adds(&self->g, self->m.p + 3 * PAGE, 512));
		ASSERT_EQ(512 * r, *word_at(self->m.p, 3 * PAGE));
		ASSERT_NE(0, mem_pfn(self->m.p + 3 * PAGE));
	}
	EXPECT_EQ(grabs, device_stat("exclusive_grabs"));
	/* Read-only memory stays so. */
	ASSERT_OK(mprotect(self->m.p, PAGE, PROT_READ));
	EXPECT_EQ(-EIO, adds(&self->g, self->m.p, 1));
	EXPECT_EQ(DRM_RSVM_FAULT_PROTECTION, self->g.fault_reason);
}

/* A mode that is set while the device has the page in the old one holds from then on. */
TEST_F(modes, changed_while_in_use)
{
	struct crowd c = {
		.g = &self->g, .op = crowd_op("add_64"), .words = self->m.p + 3 * PAGE,
		.harts = 16, .threads = 1, .endless = true,
	};
	static const uint64_t modes[] = { SYSTEM, VRAM, AUTO };

	crowd_prepare(&c);
	ASSERT_OK(crowd_start(&c));
	for (int r = 0; r < scaled(60); r++) {
		ASSERT_OK(svm_set(&self->g, self->m.p, LEAF, MODE, modes[r % 3]));
		usleep(5000);
	}
	ASSERT_OK(crowd_end(&c));
	EXPECT_EQ(0, crowd_errors(&c));
}

/*
 * By itself: exclusive at first, in device memory when it is only the device that
 * wants the pages around, back when the CPU does, which is thrashing if that is at
 * once; and if both want them they stay where both reach them.
 */
TEST_F(modes, automatic)
{
	char *group = self->m.p + (64 << 10);
	struct pollfd events = { .events = POLLIN };
	struct drm_rsvm_event event;
	int moved = 0, thrashed = 0, r;

	/* However slow this machine is, the CPU comes before that. */
	ASSERT_TRUE(inject("vram_residency_ms", 60000));
	memset(self->m.p, 0, LEAF);
	events.fd = rsvm_event_open(self->g.fd, self->g.vm,
				    1 << DRM_RSVM_EVENT_MIGRATE | 1 << DRM_RSVM_EVENT_THRASH);
	ASSERT_GE(events.fd, 0);
	ASSERT_OK(adds(&self->g, group, 16));
	EXPECT_EQ(0, svm_in_vram(&self->g, group, 64 << 10));
	for (r = 1; r < 16 && !svm_in_vram(&self->g, group, 64 << 10); r++)
		ASSERT_OK(adds(&self->g, group + r * PAGE, 16));
	EXPECT_GT(svm_in_vram(&self->g, group, 64 << 10), 0);
	for (int i = 0; i < r; i++) {
		EXPECT_EQ(16, *word_at(group, i * PAGE));
	}
	EXPECT_EQ(0, svm_in_vram(&self->g, group, 64 << 10));
	/* Now both. */
	for (r = 1; r <= 50; r++) {
		for (int i = 1; i < 8; i++) {
			ASSERT_OK(adds(&self->g, group + i * PAGE + 8, 16));
			ASSERT_EQ(r * 16, *word_at(group, i * PAGE + 8));
		}
	}
	while (poll(&events, 1, 0) == 1 && read(events.fd, &event, sizeof(event)) > 0) {
		moved += event.type == DRM_RSVM_EVENT_MIGRATE;
		thrashed += event.type == DRM_RSVM_EVENT_THRASH;
	}
	EXPECT_GT(moved, 0);
	EXPECT_GT(thrashed, 0);
	/* It did not move each time. */
	EXPECT_LT(moved, 50);
	close(events.fd);
}

TEST_HARNESS_MAIN
