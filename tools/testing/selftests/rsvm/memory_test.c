// SPDX-License-Identifier: GPL-2.0
/* Every kind of memory is read and written by the GPU through its pointer. */
#include <sys/stat.h>

#include "lib/rsvm_test.h"

#define SIZE (3 * LEAF)
#define PAGES (SIZE / PAGE)

FIXTURE(memory)
{
	struct gpu g;
	struct mem m;
	struct gpu_result *out;
};

FIXTURE_VARIANT(memory)
{
	enum mem_kind kind;
};

#define VARIANT(name, k) FIXTURE_VARIANT_ADD(memory, name) { .kind = k }
VARIANT(anon, MEM_ANON);
VARIANT(anon_shared, MEM_ANON_SHARED);
VARIANT(thp, MEM_THP);
VARIANT(thp_ptes, MEM_THP_PTES);
VARIANT(mthp, MEM_MTHP);
VARIANT(mix, MEM_MIX);
VARIANT(memfd, MEM_MEMFD);
VARIANT(memfd_thp, MEM_MEMFD_THP);
VARIANT(hugetlb, MEM_HUGETLB);
VARIANT(hugetlb_shared, MEM_HUGETLB_SHARED);
VARIANT(tmpfs_private, MEM_TMPFS_PRIVATE);
VARIANT(ext4, MEM_EXT4);
VARIANT(ext4_private, MEM_EXT4_PRIVATE);

FIXTURE_SETUP(memory)
{
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	ASSERT_OK(gpu_open(&self->g));
	self->out = calloc(PAGES, sizeof(*self->out));
	ASSERT_NE(NULL, self->out);
}

FIXTURE_TEARDOWN(memory)
{
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* A value that tells page and round. */
static uint64_t pattern(size_t page, unsigned int round)
{
	return 0x5a5a000000000000 | (uint64_t)round << 32 | page;
}

/* What the CPU wrote the GPU reads, in every page. */
TEST_F(memory, gpu_reads)
{
	for (size_t i = 0; i < PAGES; i++)
		*word_at(self->m.p, i * PAGE + 8) = pattern(i, 1);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p + 8, PAGE, PAGES, 0, self->out));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(pattern(i, 1), self->out[i].value);
	}
}

/* What the GPU writes first the CPU reads, and the other way round again. */
TEST_F(memory, gpu_writes)
{
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, PAGES, pattern(0, 2), NULL));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(pattern(i, 2), *word_at(self->m.p, i * PAGE));
		ASSERT_EQ(0, *word_at(self->m.p, i * PAGE + 8));
		*word_at(self->m.p, i * PAGE) = pattern(i, 3);
	}
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, self->m.p, PAGE, PAGES, 1, self->out));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(pattern(i, 3), self->out[i].value);
		ASSERT_EQ(pattern(i, 3) + 1, *word_at(self->m.p, i * PAGE));
	}
}

/* Memory that nobody touched reads as zero on the GPU; then it is written. */
TEST_F(memory, first_touch_by_gpu)
{
	/* Every third page, then all. */
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_read, self->m.p, 3 * PAGE, PAGES / 3, 0, self->out));
	for (size_t i = 0; i < PAGES / 3; i++) {
		ASSERT_EQ(0, self->out[i].value);
	}
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, self->m.p, PAGE, PAGES, 9, self->out));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(0, self->out[i].value);
		ASSERT_EQ(9, *word_at(self->m.p, i * PAGE));
	}
}

/*
 * Windows at odd places and of odd sizes: the GPU changes its words and not one
 * byte more.
 */
TEST_F(memory, any_alignment)
{
	static const struct {
		size_t start, end;	/* in bytes */
	} windows[] = {
		{ 0, 8 },
		{ PAGE - 8, PAGE + 8 },
		{ 15 * PAGE, 17 * PAGE },
		{ 0x10000 - 24, 0x20000 + 40 },
		{ LEAF - 8, LEAF + 8 },
		{ LEAF - 3 * PAGE, LEAF + 5 * PAGE + 16 },
		{ 7 * PAGE + 8, 2 * LEAF - 7 * PAGE },
		{ 2 * LEAF + 336 * 1024 + 8, 2 * LEAF + 848 * 1024 },
		{ SIZE - PAGE - 8, SIZE },
	};
	char *copy = malloc(SIZE);

	ASSERT_NE(NULL, copy);
	for (size_t off = 0; off < SIZE; off += 8)
		*word_at(self->m.p, off) = ~off;
	memcpy(copy, self->m.p, SIZE);
	for (size_t w = 0; w < ARRAY_SIZE(windows); w++) {
		size_t size = windows[w].end - windows[w].start;
		/* All words of a small window, a spread of a large one. */
		size_t stride = size > 64 * PAGE ? 1032 : 8;
		size_t n = size / stride;

		ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p + windows[w].start,
				   stride, n, w << 56, NULL));
		for (size_t i = 0; i < n; i++)
			*word_at(copy, windows[w].start + i * stride) = (w << 56) + i;
		ASSERT_EQ(0, memcmp(copy, self->m.p, SIZE)) TH_LOG("window %zu", w);
	}
}

/* Accesses that are misaligned, also across a page and a leaf boundary. */
TEST_F(memory, misaligned)
{
	static const size_t starts[] = { 3, PAGE - 5, LEAF - 0x1003, SIZE - 4 * PAGE };
	const size_t n = 512;
	unsigned char *want = malloc(n * 8);
	struct mem from;

	ASSERT_NE(NULL, want);
	ASSERT_OK(mem_get(&from, MEM_ANON, LEAF));
	for (size_t i = 0; i < n * 8; i++)
		want[i] = i * 7 + (i >> 8);
	for (size_t s = 0; s < ARRAY_SIZE(starts); s++) {
		char *to = self->m.p + starts[s], *src = from.p + 5 + s * 2 * PAGE;
		struct gpu_args args = { .addr = (uintptr_t)to, .other = (uintptr_t)src };

		memcpy(src, want, n * 8);
		ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_copy, &args, n));
		ASSERT_EQ(0, memcmp(to, want, n * 8)) TH_LOG("at %#zx", starts[s]);
	}
	mem_put(&from);
}

/* Stores of 1, 2, 4 and 8 bytes touch just those bytes. */
TEST_F(memory, sizes)
{
	unsigned char want[16] = {
		0x11, 0xee, 0x22, 0x22, 0x33, 0x33, 0x33, 0x33,
		0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44,
	};

	memset(self->m.p, 0xee, PAGE);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_sizes, self->m.p, 16, PAGE / 16, 0, self->out));
	for (size_t i = 0; i < PAGE / 16; i++) {
		ASSERT_EQ(0, memcmp(self->m.p + i * 16, want, 16));
	}
}

FIXTURE(file)
{
	struct gpu g;
	struct mem m;
	struct gpu_result *out;
};

FIXTURE_VARIANT(file)
{
	enum mem_kind kind;
	bool shared;
};

FIXTURE_VARIANT_ADD(file, memfd) { .kind = MEM_MEMFD, .shared = true };
FIXTURE_VARIANT_ADD(file, memfd_thp) { .kind = MEM_MEMFD_THP, .shared = true };
FIXTURE_VARIANT_ADD(file, tmpfs_private) { .kind = MEM_TMPFS_PRIVATE };
FIXTURE_VARIANT_ADD(file, ext4) { .kind = MEM_EXT4, .shared = true };
FIXTURE_VARIANT_ADD(file, ext4_private) { .kind = MEM_EXT4_PRIVATE };

FIXTURE_SETUP(file)
{
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	ASSERT_OK(gpu_open(&self->g));
	self->out = calloc(PAGES, sizeof(*self->out));
	ASSERT_NE(NULL, self->out);
}

FIXTURE_TEARDOWN(file)
{
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* The GPU sees what write() wrote, and read() what the GPU wrote, if shared. */
TEST_F(file, read_and_write)
{
	uint64_t v;

	for (size_t i = 0; i < PAGES; i += 5) {
		v = pattern(i, 5);
		ASSERT_EQ(sizeof(v), pwrite(self->m.fd, &v, sizeof(v), i * PAGE));
	}
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_add, self->m.p, PAGE, PAGES, 1, self->out));
	ASSERT_OK(fsync(self->m.fd));
	for (size_t i = 0; i < PAGES; i++) {
		uint64_t before = i % 5 ? 0 : pattern(i, 5);

		ASSERT_EQ(before, self->out[i].value);
		ASSERT_EQ(before + 1, *word_at(self->m.p, i * PAGE));
		ASSERT_EQ(sizeof(v), pread(self->m.fd, &v, sizeof(v), i * PAGE));
		ASSERT_EQ(variant->shared ? before + 1 : before, v);
	}
}

/* After a write-back the GPU's next write makes the page dirty again. */
TEST(write_after_writeback)
{
	struct gpu g;
	struct mem m;
	uint64_t v;

	MEM_OR_SKIP(&m, MEM_EXT4, SIZE);
	ASSERT_OK(gpu_open(&g));
	for (uint64_t round = 1; round <= 4; round++) {
		ASSERT_OK(gpu_over(&g, GPU_SYM_k_write, m.p, PAGE, PAGES, round << 32, NULL));
		ASSERT_OK(fsync(m.fd));
	}
	/* Only what is on the disk counts now. */
	ASSERT_OK(munmap(m.p, SIZE));
	ASSERT_OK(posix_fadvise(m.fd, 0, 0, POSIX_FADV_DONTNEED));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(sizeof(v), pread(m.fd, &v, sizeof(v), i * PAGE));
		ASSERT_EQ((4ull << 32) + i, v);
	}
	gpu_close(&g);
	mem_put(&m);
}

/* Writeable data, zeroed data, constants, stack and heap of this program. */
static uint64_t in_data = 1, in_bss;
static const uint64_t in_rodata = 0x1122334455667788;

TEST(program_segments)
{
	volatile uint64_t on_stack = 3;
	uint64_t *on_heap = malloc(8);
	struct gpu g;

	ASSERT_NE(NULL, on_heap);
	*on_heap = 4;
	ASSERT_OK(gpu_open(&g));
	EXPECT_EQ(in_rodata, gpu_peek(&g, (void *)&in_rodata));
	EXPECT_EQ(1, gpu_peek(&g, &in_data));
	EXPECT_EQ(0, gpu_peek(&g, &in_bss));
	EXPECT_EQ(3, gpu_peek(&g, (void *)&on_stack));
	EXPECT_EQ(4, gpu_peek(&g, on_heap));
	ASSERT_OK(gpu_poke(&g, &in_data, 11));
	ASSERT_OK(gpu_poke(&g, &in_bss, 12));
	ASSERT_OK(gpu_poke(&g, (void *)&on_stack, 13));
	ASSERT_OK(gpu_poke(&g, on_heap, 14));
	EXPECT_EQ(11, in_data);
	EXPECT_EQ(12, in_bss);
	EXPECT_EQ(13, on_stack);
	EXPECT_EQ(14, *on_heap);
	gpu_close(&g);
}

/* GPU code runs where it lies: in the program's file, mapped read-only. */
TEST(code_in_file)
{
	extern const char rsvm_gpu_code[];
	uint64_t word = 0;
	struct gpu_args args = { .addr = (uintptr_t)&word, .value = 77 };
	void *copy;
	struct gpu g;

	ASSERT_OK(gpu_open(&g));
	copy = g.code;
	g.code = (void *)rsvm_gpu_code;
	ASSERT_OK(gpu_run(&g, GPU_SYM_k_write, &args, 1));
	g.code = copy;
	EXPECT_EQ(77, word);
	gpu_close(&g);
}

/* A read-only file mapping is read; the GPU needs no right to write. */
TEST(read_only_file)
{
	struct gpu_result out[16] = {};
	struct stat st;
	uint64_t *want, *p;
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct gpu g;

	ASSERT_GE(fd, 0);
	ASSERT_OK(fstat(fd, &st));
	ASSERT_GE(st.st_size, 16 * PAGE);
	want = malloc(16 * PAGE);
	ASSERT_EQ(16 * PAGE, pread(fd, want, 16 * PAGE, 0));
	p = mmap(NULL, 16 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(gpu_over(&g, GPU_SYM_k_read, p, PAGE, 16, 0, out));
	for (int i = 0; i < 16; i++) {
		EXPECT_EQ(want[i * PAGE / 8], out[i].value);
	}
	gpu_close(&g);
}

/* Floating point over memory that the CPU filled: the very same sum. */
TEST(float_sum)
{
	const size_t n = 4096;
	double *d = malloc(n * sizeof(*d)), want = 0, seen;
	struct gpu_result out;
	struct gpu_args args = { .addr = (uintptr_t)d, .rounds = n, .out = &out };
	struct gpu g;

	ASSERT_NE(NULL, d);
	for (size_t i = 0; i < n; i++) {
		d[i] = 1.0 / (i + 3) * (i & 1 ? -1e10 : 1);
		want += d[i];
	}
	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(gpu_run(&g, GPU_SYM_k_sum, &args, 1));
	memcpy(&seen, &out.value, sizeof(seen));
	EXPECT_EQ(0, memcmp(&want, &seen, sizeof(seen)));
	gpu_close(&g);
}

TEST_HARNESS_MAIN
