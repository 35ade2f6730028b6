// SPDX-License-Identifier: GPL-2.0
/*
 * What only the GPU wrote survives reclaim. A page of tmpfs that the CPU just
 * read is mapped writable and clean, so nothing but the driver's own mark, made
 * when it gives the page back, tells the kernel that the page must be kept.
 * Holds: the dirty mark.
 */
#include <sys/stat.h>

#include "lib/rsvm_test.h"

#define SIZE LEAF
#define PAGES (SIZE / PAGE)
#define CGROUP "/sys/fs/cgroup/rsvm_dirty"

FIXTURE(dirty)
{
	struct gpu g;
	struct mem m;
};

FIXTURE_VARIANT(dirty)
{
	bool cgroup;		/* memory.reclaim rather than MADV_PAGEOUT */
	bool unmap;		/* the mapping goes first, then the file is read */
};

FIXTURE_VARIANT_ADD(dirty, pageout) { .cgroup = false };
FIXTURE_VARIANT_ADD(dirty, reclaim) { .cgroup = true };
FIXTURE_VARIANT_ADD(dirty, munmap_then_reclaim) { .cgroup = true, .unmap = true };

FIXTURE_SETUP(dirty)
{
	char pid[16];

	if (variant->cgroup) {
		snprintf(pid, sizeof(pid), "%d", getpid());
		sys_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
		mkdir(CGROUP, 0755);
		if (sys_write(CGROUP "/cgroup.procs", pid) ||
		    access(CGROUP "/memory.reclaim", W_OK))
			SKIP(return, "no memory cgroup");
	}
	ASSERT_OK(mem_get(&self->m, MEM_MEMFD, SIZE));
	ASSERT_OK(gpu_open(&self->g));
}

FIXTURE_TEARDOWN(dirty)
{
	gpu_close(&self->g);
	mem_put(&self->m);
	sys_write("/sys/fs/cgroup/cgroup.procs", "0");
	rmdir(CGROUP);
}

/* Pages of the file that are in memory, though not mapped any more. */
static size_t cached(int fd)
{
	unsigned char vec[PAGES];
	size_t n = 0;
	void *p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED || mincore(p, SIZE, vec))
		return PAGES;
	munmap(p, SIZE);
	for (size_t i = 0; i < PAGES; i++)
		n += vec[i] & 1;
	return n;
}

/* Pages that were not reclaimed yet. */
static size_t left(const FIXTURE_VARIANT(dirty) *variant, struct mem *m)
{
	return variant->unmap ? cached(m->fd) : mem_present(m->p, SIZE);
}

/*
 * Until most are gone, since otherwise nothing is tested. One call may only age
 * the pages, begin to write them, or meet one that is in use for a moment.
 */
static void reclaim(const FIXTURE_VARIANT(dirty) *variant, struct mem *m)
{
	while (left(variant, m) >= PAGES / 2) {
		if (variant->cgroup)
			sys_write(CGROUP "/memory.reclaim", "64M");
		else
			madvise(m->p, SIZE, MADV_PAGEOUT);
		usleep(20000);
	}
}

TEST_F(dirty, gpu_write_survives)
{
	volatile uint64_t sum = 0;
	uint64_t v;

	for (size_t i = 0; i < PAGES; i++)
		sum += *word_at(self->m.p, i * PAGE);
	ASSERT_EQ(0, sum);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, PAGES, 1000, NULL));
	if (variant->unmap) {
		ASSERT_OK(munmap(self->m.p, SIZE));
	}
	reclaim(variant, &self->m);
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(sizeof(v), pread(self->m.fd, &v, sizeof(v), i * PAGE));
		ASSERT_EQ(1000 + i, v) TH_LOG("page %zu was lost", i);
	}
}

/* And again: what came back clean is written once more. */
TEST(second_write_survives)
{
	struct gpu g;
	struct mem m;
	uint64_t v;

	ASSERT_OK(mem_get(&m, MEM_MEMFD, SIZE));
	ASSERT_OK(gpu_open(&g));
	for (uint64_t r = 1; r <= 3; r++) {
		for (size_t i = 0; i < PAGES; i++)
			(void)*word_at(m.p, i * PAGE);
		ASSERT_OK(gpu_over(&g, GPU_SYM_k_write, m.p, PAGE, PAGES, r * 1000, NULL));
		while (mem_present(m.p, SIZE) >= PAGES / 2) {
			ASSERT_OK(madvise(m.p, SIZE, MADV_PAGEOUT));
			usleep(20000);
		}
		for (size_t i = 0; i < PAGES; i++) {
			ASSERT_EQ(sizeof(v), pread(m.fd, &v, sizeof(v), i * PAGE));
			ASSERT_EQ(r * 1000 + i, v) TH_LOG("round %lu, page %zu", r, i);
		}
	}
	gpu_close(&g);
	mem_put(&m);
}

/* A page that the GPU may only read is not marked when it goes. */
TEST(read_only_stays_clean)
{
	struct gpu_result out[16];
	struct gpu g;
	struct mem m;
	char *p;

	ASSERT_OK(mem_get(&m, MEM_MEMFD, SIZE));
	ASSERT_OK(gpu_open(&g));
	p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, m.fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	for (int i = 0; i < 16; i++)
		(void)*word_at(p, i * PAGE);
	ASSERT_OK(gpu_over(&g, GPU_SYM_k_read, p, PAGE, 16, 0, out));
	ASSERT_OK(munmap(p, SIZE));
	for (int i = 0; i < 16; i++) {
		(void)*word_at(m.p, i * PAGE);
		EXPECT_EQ(0, mem_kpageflags(m.p + i * PAGE) & KPF_DIRTY);
	}
	gpu_close(&g);
	mem_put(&m);
}

TEST_HARNESS_MAIN
