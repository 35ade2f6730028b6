// SPDX-License-Identifier: GPL-2.0
/* Core dumps have what is in device memory, 2 MiB entries included. */
#include <elf.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "lib/dmirror.h"

#define PATTERN "/proc/sys/kernel/core_pattern"

FIXTURE(core_dump)
{
	uint64_t *p;
	char pattern[256];
	char path[64];
};

static int set_pattern(const char *pattern)
{
	int fd = open(PATTERN, O_WRONLY | O_CLOEXEC);
	int ret = fd < 0 || write(fd, pattern, strlen(pattern)) < 0 ? -errno : 0;

	close(fd);
	return ret;
}

FIXTURE_SETUP(core_dump)
{
	int fd = open(PATTERN, O_RDONLY | O_CLOEXEC);

	ASSERT_GE(fd, 0);
	ASSERT_GT(read(fd, self->pattern, sizeof(self->pattern) - 1), 0);
	close(fd);
	ASSERT_EQ(0, set_pattern("/tmp/core-gup-test.%p"));
	self->p = huge_map();
	ASSERT_NE(NULL, self->p);
}

FIXTURE_TEARDOWN(core_dump)
{
	set_pattern(self->pattern);
	unlink(self->path);
}

/* Dumps core with the page in the device; returns at which step that failed. */
static int dump_core(uint64_t *p)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	int fd = dmirror_open();

	if (fd < 0)
		return 1;
	if (huge_to_device(fd, p) || dmirror_prot(fd, p) != IN_DEVICE_PMD)
		return 2;
	if (setrlimit(RLIMIT_CORE, &all))
		return 3;
	signal(SIGABRT, SIG_DFL);
	abort();
}

/* Counts wrong words of the 2 MiB at @p in a core file; -1 if they are not there. */
static long core_errors(const char *path, const uint64_t *p)
{
	uint64_t start = (uintptr_t)p, word[PAGE / 8];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	long errors = -1;
	Elf64_Ehdr eh;

	if (fd < 0 || pread(fd, &eh, sizeof(eh), 0) != sizeof(eh))
		return -1;
	for (int i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		if (pread(fd, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph)) != sizeof(ph))
			return -1;
		if (ph.p_type != PT_LOAD || start < ph.p_vaddr ||
		    start + HUGE_PAGE > ph.p_vaddr + ph.p_filesz)
			continue;
		errors = 0;
		for (size_t off = 0; off < HUGE_PAGE; off += sizeof(word)) {
			if (pread(fd, word, sizeof(word), ph.p_offset + start - ph.p_vaddr + off) !=
			    sizeof(word))
				return -1;
			for (size_t k = 0; k < ARRAY_SIZE(word); k++)
				errors += word[k] != off / 8 + k + 1;
		}
	}
	close(fd);
	return errors;
}

TEST_F(core_dump, device_private_pmd)
{
	pid_t pid = fork();
	int status;

	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(dump_core(self->p));
	snprintf(self->path, sizeof(self->path), "/tmp/core-gup-test.%d", pid);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSIGNALED(status) && WCOREDUMP(status)) TH_LOG("status %#x", status);
	EXPECT_EQ(0, core_errors(self->path, self->p));
}

TEST_HARNESS_MAIN
