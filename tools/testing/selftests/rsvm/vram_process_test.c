// SPDX-License-Identifier: GPL-2.0
/*
 * Pages in VRAM are memory of a process like any other: for its children, its
 * debuggers, the core dump, the OOM killer and everything that changes mappings.
 */
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "lib/device.h"
#include "lib/rsvm_test.h"

#define SIZE (2 * LEAF)
#define ROUND 7

FIXTURE(vram)
{
	struct gpu g;
	struct mem m;
	long long pages;	/* of VRAM in use before */
	uint64_t free;
};

FIXTURE_VARIANT(vram)
{
	enum mem_kind kind;
};

FIXTURE_VARIANT_ADD(vram, small) { .kind = MEM_ANON };
FIXTURE_VARIANT_ADD(vram, huge) { .kind = MEM_THP };

FIXTURE_SETUP(vram)
{
	ASSERT_OK(gpu_open(&self->g));
	self->pages = device_stat("vram_pages");
	self->free = vram_free(self->g.fd);
	MEM_OR_SKIP(&self->m, variant->kind, SIZE);
	pattern_fill(self->m.p, SIZE, ROUND);
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
}

FIXTURE_TEARDOWN(vram)
{
	mem_put(&self->m);
	gpu_close(&self->g);
}

/* Parent and child read the same and write each its own. */
TEST_F(vram, child_reads_and_writes)
{
	pid_t pid = fork();

	ASSERT_GE(pid, 0);
	if (!pid) {
		if (pattern_errors(self->m.p, SIZE, ROUND))
			_exit(1);
		pattern_fill(self->m.p, SIZE / 2, ROUND + 1);
		if (pattern_errors(self->m.p, SIZE / 2, ROUND + 1) ||
		    pattern_errors(self->m.p + SIZE / 2, SIZE / 2, ROUND))
			_exit(2);
		_exit(0);
	}
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND));
}

/* The GPU goes on writing after fork(): the child sees nothing of it. */
TEST_F(vram, gpu_writes_after_fork)
{
	struct gpu_args args = {
		.addr = (uintptr_t)self->m.p, .stride = PAGE, .value = ROUND, .other = PAGE,
	};
	int go[2];
	pid_t pid;
	char c;

	ASSERT_OK(pipe(go));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(go[1]);
		(void)!read(go[0], &c, 1);
		_exit(pattern_errors(self->m.p, SIZE, ROUND) != 0);
	}
	ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_pattern, &args, SIZE / PAGE));
	close(go[1]);
	close(go[0]);
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND + 1));
}

enum { END_DESTROY, END_CLOSE, END_EXIT, END_KILL };

/* A process makes the memory, forks and goes, all its device with it: the child's data stays. */
static int outlive(enum mem_kind kind, int end)
{
	/* Its write end is open as long as the parent lives; the second one tells the result. */
	int parent[2], result[2];
	char c = 'x';
	pid_t pid;

	if (pipe(parent) || pipe(result))
		return -errno;
	pid = fork();
	if (!pid) {
		struct gpu g;
		struct mem m;

		if (gpu_open(&g) || mem_get(&m, kind, SIZE))
			_exit(1);
		pattern_fill(m.p, SIZE, ROUND);
		if (svm_migrate(&g, m.p, SIZE, TO_VRAM) || svm_in_vram(&g, m.p, SIZE) != SIZE)
			_exit(2);
		pid = fork();
		if (!pid) {
			close(g.fd);
			close(parent[1]);
			if (read(parent[0], &c, 1))
				_exit(1);
			c = pattern_errors(m.p, SIZE, ROUND) ? 'b' : 'g';
			_exit(write(result[1], &c, 1) != 1);
		}
		if (end == END_DESTROY && rsvm_vm_destroy(g.fd, g.vm))
			_exit(3);
		if (end == END_CLOSE)
			close(g.fd);
		if (end == END_KILL)
			kill(getpid(), SIGKILL);
		_exit(0);
	}
	close(parent[0]);
	close(parent[1]);
	close(result[1]);
	if (wait_exit(pid) != (end == END_KILL ? 128 + SIGKILL : 0))
		return -ECHILD;
	if (read(result[0], &c, 1) != 1)
		return -EPIPE;
	close(result[0]);
	return c == 'g' ? 0 : -EIO;
}

TEST_F(vram, child_outlives_parent)
{
	for (int end = END_DESTROY; end <= END_KILL; end++) {
		EXPECT_OK(outlive(variant->kind, end)) TH_LOG("way %d", end);
	}
}

/* A child that waits for a byte, then ends as told: its copy of the memory stays in VRAM. */
static pid_t sleeper(int go[2], void (*end)(void))
{
	char c;
	pid_t pid;

	if (pipe(go))
		return -1;
	pid = fork();
	if (!pid) {
		close(go[1]);
		(void)!read(go[0], &c, 1);
		end();
		_exit(0);
	}
	close(go[0]);
	return pid;
}

static void just_exit(void)
{
}

/* Another process looks at and changes VRAM pages, by each way there is. */
TEST_F(vram, debugger)
{
	char *p = self->m.p, path[40];
	uint64_t buf[1024], word;
	struct iovec mine = { buf, sizeof(buf) }, theirs = { p + 3 * PAGE, sizeof(buf) };
	int go[2], fd, status;
	pid_t pid = sleeper(go, just_exit);

	ASSERT_GE(pid, 0);
	/* No page is touched by anybody else before. */
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, p, SIZE));
	ASSERT_EQ(sizeof(buf), process_vm_readv(pid, &mine, 1, &theirs, 1, 0));
	for (size_t i = 0; i < ARRAY_SIZE(buf); i++) {
		ASSERT_EQ(word_stamp(ROUND, (uintptr_t)p + 3 * PAGE + 8 * i), buf[i]);
	}
	theirs.iov_base = p + 100 * PAGE;
	ASSERT_EQ(sizeof(buf), process_vm_writev(pid, &mine, 1, &theirs, 1, 0));

	ASSERT_OK(ptrace(PTRACE_ATTACH, pid, NULL, NULL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	errno = 0;
	word = ptrace(PTRACE_PEEKDATA, pid, p + LEAF + 8 * PAGE, NULL);
	EXPECT_EQ(0, errno);
	EXPECT_EQ(word_stamp(ROUND, (uintptr_t)p + LEAF + 8 * PAGE), word);
	ASSERT_OK(ptrace(PTRACE_POKEDATA, pid, p + LEAF + 40 * PAGE, (void *)0x1234));
	errno = 0;
	EXPECT_EQ(0x1234, ptrace(PTRACE_PEEKDATA, pid, p + LEAF + 40 * PAGE, NULL));
	ASSERT_OK(ptrace(PTRACE_DETACH, pid, NULL, NULL));

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(sizeof(word), pread(fd, &word, sizeof(word), (uintptr_t)p + 300 * PAGE));
	EXPECT_EQ(word_stamp(ROUND, (uintptr_t)p + 300 * PAGE), word);
	ASSERT_EQ(sizeof(buf), pread(fd, buf, sizeof(buf), (uintptr_t)p + 100 * PAGE));
	for (size_t i = 0; i < ARRAY_SIZE(buf); i++) {
		ASSERT_EQ(word_stamp(ROUND, (uintptr_t)p + 3 * PAGE + 8 * i), buf[i]);
	}
	close(fd);
	close(go[1]);
	EXPECT_EQ(0, wait_exit(pid));
	/* What was changed there is not changed here. */
	EXPECT_EQ(0, pattern_errors(p, SIZE, ROUND));
}

/* Counts wrong words of the range at @p in an ELF core file; -1 if it is not there. */
static long core_errors(const char *path, const char *p, size_t size)
{
	long errors = -1;
	Elf64_Ehdr eh;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	if (pread(fd, &eh, sizeof(eh), 0) != sizeof(eh))
		eh.e_phnum = 0;
	for (int i = 0; i < eh.e_phnum; i++) {
		uint64_t start = (uintptr_t)p, buf[512];
		Elf64_Phdr ph;

		if (pread(fd, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph)) != sizeof(ph))
			break;
		if (ph.p_type != PT_LOAD || start < ph.p_vaddr ||
		    start + size > ph.p_vaddr + ph.p_filesz)
			continue;
		errors = 0;
		for (size_t off = 0; off < size; off += sizeof(buf)) {
			if (pread(fd, buf, sizeof(buf), ph.p_offset + start - ph.p_vaddr + off) !=
			    sizeof(buf))
				return -1;
			for (size_t k = 0; k < ARRAY_SIZE(buf); k++)
				errors += buf[k] != word_stamp(ROUND, start + off + 8 * k);
		}
	}
	close(fd);
	return errors;
}

static void dump_core(void)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

	setrlimit(RLIMIT_CORE, &all);
	signal(SIGABRT, SIG_DFL);
	abort();
}

/* A core dump has what is in VRAM. */
TEST_F(vram, core_dump)
{
	char old[128] = "", path[64];
	int go[2], status, fd;
	pid_t pid;

	fd = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, old, sizeof(old) - 1) < 0 ||
	    sys_write("/proc/sys/kernel/core_pattern", "/tmp/rsvm-core.%p"))
		SKIP(return, "no core dumps");
	close(fd);
	pid = sleeper(go, dump_core);
	ASSERT_GE(pid, 0);
	ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
	close(go[1]);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	sys_write("/proc/sys/kernel/core_pattern", old);
	ASSERT_TRUE(WIFSIGNALED(status) && WCOREDUMP(status));
	snprintf(path, sizeof(path), "/tmp/rsvm-core.%d", pid);
	EXPECT_EQ(0, core_errors(path, self->m.p, SIZE));
	unlink(path);
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND));
}

/* Every way to give a part of the memory back gives its VRAM back. */
static int drop(char *p, size_t len, int way)
{
	switch (way) {
	case 0:
		return munmap(p, len) ? -errno : 0;
	case 1:
		return madvise(p, len, MADV_DONTNEED) ? -errno : 0;
	default:
		return mmap(p, len, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p ? 0 : -errno;
	}
}

TEST_F(vram, part_is_given_back)
{
	for (int way = 0; way < 3; way++) {
		char *p;

		if (way) {
			mem_put(&self->m);
			ASSERT_OK(mem_get(&self->m, variant->kind, SIZE));
			pattern_fill(self->m.p, SIZE, ROUND);
			ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
			ASSERT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
		}
		p = self->m.p;
		ASSERT_OK(await_stat("vram_pages", self->pages + SIZE / PAGE));
		ASSERT_OK(drop(p + 100 * PAGE, 200 * PAGE, way));
		EXPECT_OK(await_stat("vram_pages", self->pages + SIZE / PAGE - 200))
			TH_LOG("way %d: %lld", way, device_stat("vram_pages"));
		/* The rest is as it was. */
		EXPECT_EQ(0, pattern_errors(p, 100 * PAGE, ROUND));
		EXPECT_EQ(0, pattern_errors(p + 300 * PAGE, SIZE - 300 * PAGE, ROUND));
		ASSERT_OK(drop(p, SIZE, way));
		EXPECT_OK(await_stat("vram_pages", self->pages));
		EXPECT_OK(vram_await_free(self->g.fd, self->free));
	}
}

/* Pages that move to other addresses, whole or in part, keep their data. */
TEST_F(vram, mremap)
{
	char *p = self->m.p, *to = mmap(NULL, SIZE + LEAF, PROT_NONE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *aligned = (char *)(((uintptr_t)to + LEAF - 1) & ~(LEAF - 1));
	size_t errors = 0;

	ASSERT_NE(MAP_FAILED, to);
	ASSERT_EQ(aligned, mremap(p, LEAF, LEAF, MREMAP_MAYMOVE | MREMAP_FIXED, aligned));
	EXPECT_EQ(LEAF, svm_in_vram(&self->g, aligned, LEAF));
	/* A part of the second, to an address that is aligned to pages only. */
	ASSERT_EQ(aligned + LEAF + 3 * PAGE,
		  mremap(p + LEAF + 64 * PAGE, 128 * PAGE, 128 * PAGE,
			 MREMAP_MAYMOVE | MREMAP_FIXED, aligned + LEAF + 3 * PAGE));
	/* The GPU first, then the CPU; what is gone is gone. */
	EXPECT_EQ(word_stamp(ROUND, (uintptr_t)p + 9 * PAGE),
		  gpu_peek(&self->g, aligned + 9 * PAGE));
	for (size_t off = 0; off < LEAF; off += 8)
		errors += *word_at(aligned, off) != word_stamp(ROUND, (uintptr_t)p + off);
	for (size_t off = 0; off < 128 * PAGE; off += 8)
		errors += *word_at(aligned + LEAF + 3 * PAGE, off) !=
			  word_stamp(ROUND, (uintptr_t)p + LEAF + 64 * PAGE + off);
	EXPECT_EQ(0, errors);
	EXPECT_EQ(-EIO, gpu_poke(&self->g, p, 1));
	munmap(to, SIZE + LEAF);
	mem_put(&self->m);
	EXPECT_OK(vram_await_free(self->g.fd, self->free));
}

/* Advice to reclaim does no harm to what reclaim cannot reach. */
TEST_F(vram, advice)
{
	static const int advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_FREE };

	for (size_t i = 0; i < ARRAY_SIZE(advice) - 1; i++) {
		ASSERT_OK(madvise(self->m.p, SIZE, advice[i]));
		/* A page of each 64 KiB, so that others stay there. */
		ASSERT_EQ(word_stamp(ROUND, (uintptr_t)self->m.p + i * PAGE),
			  *word_at(self->m.p, i * PAGE));
	}
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND));
	/* Data of memory given free may go, but only to zeros. */
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_FREE));
	for (size_t off = 0; off < SIZE; off += PAGE) {
		uint64_t v = *word_at(self->m.p, off);

		ASSERT_TRUE(!v || v == word_stamp(ROUND, (uintptr_t)self->m.p + off));
	}
}

/* Protection counts for both sides, with the pages where they are. */
TEST_F(vram, mprotect)
{
	struct gpu second;

	ASSERT_OK(gpu_open_queue(&second, &self->g));
	ASSERT_OK(mprotect(self->m.p + PAGE, SIZE - PAGE, PROT_READ));
	EXPECT_EQ(word_stamp(ROUND, (uintptr_t)self->m.p + 5 * PAGE),
		  gpu_peek(&self->g, self->m.p + 5 * PAGE));
	EXPECT_EQ(-EIO, gpu_poke(&second, self->m.p + 5 * PAGE, 1));
	EXPECT_EQ(DRM_RSVM_FAULT_PROTECTION, second.fault_reason);
	gpu_close(&second);
	ASSERT_OK(mprotect(self->m.p, SIZE, PROT_READ | PROT_WRITE));
	ASSERT_OK(gpu_poke(&self->g, self->m.p + 5 * PAGE,
			   word_stamp(ROUND, (uintptr_t)self->m.p + 5 * PAGE)));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND));
}

/* What came home is swapped as ever, and goes to VRAM again from swap. */
TEST_F(vram, swap_after_coming_home)
{
	size_t before = mem_swap_used();

	ASSERT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND));
	ASSERT_EQ(0, svm_in_vram(&self->g, self->m.p, SIZE));
	ASSERT_OK(madvise(self->m.p, SIZE, MADV_PAGEOUT));
	if (mem_swap_used() < before + SIZE / 4)
		SKIP(return, "no swap is on (run.sh does that)");
	ASSERT_OK(svm_migrate(&self->g, self->m.p, SIZE, TO_VRAM));
	struct gpu_args args = {
		.addr = (uintptr_t)self->m.p, .stride = PAGE, .value = ROUND, .other = PAGE,
	};
	ASSERT_OK(gpu_run(&self->g, GPU_SYM_k_pattern, &args, SIZE / PAGE));
	EXPECT_EQ(0, pattern_errors(self->m.p, SIZE, ROUND + 1));
}

/* Unbacked memory that goes to VRAM is zero, whatever was in VRAM before. */
TEST_F(vram, fresh_memory_is_zero)
{
	struct mem fresh;
	size_t errors = 0;

	mem_put(&self->m);
	ASSERT_OK(vram_await_free(self->g.fd, self->free));
	for (int i = 0; i < 4; i++) {
		ASSERT_OK(mem_get(&fresh, MEM_ANON, 4 * LEAF));
		if (variant->kind == MEM_THP)
			madvise(fresh.p, 4 * LEAF, MADV_HUGEPAGE);
		ASSERT_OK(svm_migrate(&self->g, fresh.p, 4 * LEAF, TO_VRAM));
		ASSERT_EQ(4 * LEAF, svm_in_vram(&self->g, fresh.p, 4 * LEAF));
		for (size_t off = 0; off < 4 * LEAF; off += 8)
			errors += *word_at(fresh.p, off) != 0;
		/* Rubbish for the next one to find. */
		memset(fresh.p, 0xa5, 4 * LEAF);
		ASSERT_OK(svm_migrate(&self->g, fresh.p, 4 * LEAF, TO_VRAM));
		mem_put(&fresh);
	}
	EXPECT_EQ(0, errors);
}

/*
 * A mirror that has none of it mapped gets it one page at a time, as after
 * collisions, of which there are one more each time: each page is the right one.
 * Holds: hmm tells the right page where a walk begins inside a large page.
 */
TEST_F(vram, mapped_page_by_page)
{
	struct gpu_result out[16];
	struct gpu_args args = { .stride = PAGE, .value = ROUND, .other = PAGE, .out = out };
	long long temporary = device_stat("temporary_intervals");

	for (unsigned int collisions = 1; collisions <= 8; collisions++) {
		static uint64_t elsewhere;
		struct gpu fresh;
		int ret;

		/* Code, arguments and results are mapped first. */
		ASSERT_OK(gpu_open(&fresh));
		args.addr = (uintptr_t)&elsewhere;
		args.other = 0;
		ASSERT_OK(gpu_run(&fresh, GPU_SYM_k_pattern_check, &args, 1));
		args.addr = (uintptr_t)self->m.p + 7 * PAGE;
		args.other = PAGE;
		if (!inject("inject_collision", collisions))
			SKIP(return, "this driver has no inject_collision");
		ret = gpu_run(&fresh, GPU_SYM_k_pattern_check, &args, ARRAY_SIZE(out));
		inject("inject_collision", 0);
		ASSERT_OK(ret);
		for (size_t i = 0; i < ARRAY_SIZE(out); i++) {
			ASSERT_EQ(0, out[i].errors)
				TH_LOG("%u collisions, page %zu", collisions, i);
		}
		gpu_close(&fresh);
	}
	EXPECT_GT(device_stat("temporary_intervals"), temporary);
	EXPECT_EQ(SIZE, svm_in_vram(&self->g, self->m.p, SIZE));
}

/* The last reference goes where interrupts are off: the page is freed all the same. */
TEST_F(vram, last_put_with_interrupts_off)
{
	HOLD_OR_SKIP();
	for (size_t off = 0; off < SIZE; off += LEAF) {
		uint64_t pfn = mem_device_pfn(self->m.p + off);

		ASSERT_NE(0, pfn);
		ASSERT_OK(hold_folio(pfn, false));
	}
	mem_put(&self->m);
	usleep(50000);
	/* Held, or nothing is tested. */
	EXPECT_GT(device_stat("vram_pages"), self->pages);
	ASSERT_OK(hold_release(true));
	EXPECT_OK(await_stat("vram_pages", self->pages));
	EXPECT_OK(vram_await_free(self->g.fd, self->free));
}

/* A process whose memory is in VRAM is killed for want of memory: all VRAM comes back. */
TEST_F(vram, oom_kill)
{
	const char *group = "/sys/fs/cgroup/rsvm-oom";
	char path[96], pid_text[16];
	int go[2];
	pid_t pid;

	if (sys_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory") ||
	    (mkdir(group, 0755) && errno != EEXIST))
		SKIP(return, "no memory cgroup");
	mem_put(&self->m);
	ASSERT_OK(vram_await_free(self->g.fd, self->free));
	ASSERT_OK(pipe(go));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct gpu g;
		struct mem m;
		char c, *p;

		close(go[1]);
		(void)!read(go[0], &c, 1);
		if (gpu_open(&g) || mem_get(&m, variant->kind, SIZE))
			_exit(1);
		pattern_fill(m.p, SIZE, ROUND);
		if (svm_migrate(&g, m.p, SIZE, TO_VRAM) || svm_in_vram(&g, m.p, SIZE) != SIZE)
			_exit(2);
		p = mmap(NULL, 256 << 20, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		for (size_t off = 0; off < 256 << 20; off += PAGE)
			p[off] = 1;
		_exit(3);
	}
	snprintf(path, sizeof(path), "%s/memory.swap.max", group);
	sys_write(path, "0");
	snprintf(path, sizeof(path), "%s/memory.max", group);
	ASSERT_OK(sys_write(path, "33554432"));
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	snprintf(pid_text, sizeof(pid_text), "%d", pid);
	ASSERT_OK(sys_write(path, pid_text));
	close(go[1]);
	close(go[0]);
	EXPECT_EQ(128 + SIGKILL, wait_exit(pid));
	EXPECT_OK(vram_await_free(self->g.fd, self->free));
	EXPECT_OK(await_stat("vram_pages", self->pages));
	EXPECT_OK(rmdir(group));
}

TEST_HARNESS_MAIN
