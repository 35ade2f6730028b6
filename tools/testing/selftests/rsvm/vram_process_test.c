// SPDX-License-Identifier: GPL-2.0
/*
 * Pages in VRAM are memory of a process like any other: for its children, its
 * debuggers, the core dump and the OOM killer.
 */
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "lib/rsvm_test.h"
#include "lib/vram_fixture.h"

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
