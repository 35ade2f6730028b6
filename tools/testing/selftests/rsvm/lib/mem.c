// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "mem.h"

#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << MAP_HUGE_SHIFT)
#endif

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

int sys_write(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, value, strlen(value));
	n = n < 0 ? -errno : 0;
	close(fd);
	return n;
}

#define KSM_DIR "/sys/kernel/mm/ksm/"

int ksm_start(void)
{
	int ret = sys_write(KSM_DIR "pages_to_scan", "10000");

	if (!ret)
		ret = sys_write(KSM_DIR "sleep_millisecs", "1");
	return ret ? ret : sys_write(KSM_DIR "run", "1");
}

int ksm_split(void)
{
	return sys_write(KSM_DIR "run", "2");
}

void ksm_stop(void)
{
	sys_write(KSM_DIR "run", "0");
}

long long sys_read(const char *path)
{
	char buf[64] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;

	if (fd >= 0) {
		n = read(fd, buf, sizeof(buf) - 1);
		close(fd);
	}
	return n > 0 ? strtoll(buf, NULL, 0) : -1;
}

/* Entry of a file that holds one 64-bit word per page, by page number. */
static uint64_t entry(const char *path, uint64_t index)
{
	uint64_t v = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &v, sizeof(v), index * sizeof(v)) != sizeof(v))
		v = 0;
	close(fd);
	return v;
}

static uint64_t pagemap(const void *p)
{
	return entry("/proc/self/pagemap", (uintptr_t)p / PAGE);
}

uint64_t mem_pfn(const void *p)
{
	uint64_t e = pagemap(p);

	return e >> 63 ? e & ((1ull << 55) - 1) : 0;
}

uint64_t mem_kpageflags(const void *p)
{
	uint64_t pfn = mem_pfn(p);

	return pfn ? entry("/proc/kpageflags", pfn) : 0;
}

bool mem_swapped(const void *p)
{
	return pagemap(p) >> 62 & 1;
}

size_t mem_present(const void *p, size_t size)
{
	size_t n = 0;

	for (size_t off = 0; off < size; off += PAGE)
		n += pagemap((const char *)p + off) >> 63;
	return n;
}

bool mem_contiguous(const void *p, size_t size)
{
	uint64_t first = mem_pfn(p);

	for (size_t off = 0; off < size; off += PAGE)
		if (!first || mem_pfn((const char *)p + off) != first + off / PAGE)
			return false;
	return true;
}

void mem_let_khugepaged(bool run)
{
	sys_write(THP_DIR "khugepaged/scan_sleep_millisecs", run ? "10000" : "100000000");
}

/* A field in KiB of the mapping in smaps that holds @p. */
static size_t smaps_kib(const void *p, const char *field)
{
	char line[256];
	bool here = false;
	size_t value = 0;
	FILE *f = fopen("/proc/self/smaps", "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (uintptr_t)p && (uintptr_t)p < end;
		else if (here && !strncmp(line, field, strlen(field)))
			value = strtoul(line + strlen(field), NULL, 10);
	}
	fclose(f);
	return value;
}

bool mem_is_pmd(const void *p)
{
	/* One leaf per mapping is what the tests ask about. */
	return smaps_kib(p, "AnonHugePages:") + smaps_kib(p, "ShmemPmdMapped:") >=
	       LEAF / 1024;
}

size_t mem_swap_used(void)
{
	char line[128];
	size_t kib = 0;
	FILE *f = fopen("/proc/self/status", "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, "VmSwap:", 7))
			kib = strtoul(line + 7, NULL, 10);
	fclose(f);
	return kib << 10;
}

static int missing(struct mem *m, const char *why)
{
	m->why = why;
	return -ENOTSUP;
}

/* Reserves address space, aligns it to 2 MiB and maps @size bytes there. */
static int map_aligned(struct mem *m, size_t size, int flags, int fd)
{
	int prot = PROT_READ | PROT_WRITE;
	char *p = mmap(NULL, size + LEAF, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	m->map = p;
	m->map_size = size + LEAF;
	m->size = size;
	m->p = (char *)(((uintptr_t)p + LEAF - 1) & ~(LEAF - 1));
	if (mmap(m->p, size, prot, flags | MAP_FIXED, fd, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

static void touch(char *p, size_t size)
{
	for (size_t off = 0; off < size; off += PAGE)
		*(volatile char *)(p + off) = 0;
}

/* Fills @size bytes with huge pages where the kernel has them. */
static int populate_thp(struct mem *m)
{
	if (madvise(m->p, m->size, MADV_HUGEPAGE))
		return missing(m, "no transparent huge pages");
	touch(m->p, m->size);
	for (size_t off = 0; off < m->size; off += LEAF)
		if (!(mem_kpageflags(m->p + off) & KPF_THP) ||
		    !mem_contiguous(m->p + off, LEAF))
			return missing(m, "no huge page was free");
	return 0;
}

static int mthp_enable(struct mem *m)
{
	if (sys_write(THP_DIR "hugepages-64kB/enabled", "madvise"))
		return missing(m, "no 64 KiB folios (mTHP)");
	return 0;
}

/*
 * In each 2 MiB: 64 KiB folios from an odd 64 KiB on, 4 KiB pages elsewhere,
 * holes that nobody touched; every third 2 MiB is one huge page.
 */
static int populate_mix(struct mem *m)
{
	int ret = mthp_enable(m);

	if (ret)
		return ret;
	for (size_t off = 0; off < m->size; off += LEAF) {
		char *p = m->p + off;

		if (off / LEAF % 3 == 2) {
			madvise(p, LEAF, MADV_HUGEPAGE);
			touch(p, LEAF);
			continue;
		}
		madvise(p, LEAF, MADV_NOHUGEPAGE);
		madvise(p + (336 << 10), 512 << 10, MADV_HUGEPAGE);
		touch(p + (64 << 10), 20 << 10);
		touch(p + (336 << 10), 512 << 10);
		touch(p + (1 << 20), 68 << 10);
	}
	return 0;
}

static int get_memfd(struct mem *m, size_t size, bool huge)
{
	int ret;

	if (huge && sys_write(THP_DIR "shmem_enabled", "advise"))
		return missing(m, "no huge pages on tmpfs");
	m->fd = memfd_create("rsvm", MFD_CLOEXEC);
	if (m->fd < 0 || ftruncate(m->fd, size))
		return -errno;
	ret = map_aligned(m, size, MAP_SHARED, m->fd);
	return ret || !huge ? ret : populate_thp(m);
}

static int get_hugetlb(struct mem *m, size_t size, int flags)
{
	char n[16];
	long long have = sys_read("/proc/sys/vm/nr_hugepages");

	snprintf(n, sizeof(n), "%zu", size / LEAF + 2);
	if (have < (long long)(size / LEAF) && sys_write("/proc/sys/vm/nr_hugepages", n))
		return missing(m, "no hugetlbfs");
	if (map_aligned(m, size, flags | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1))
		return missing(m, "no hugetlb page was free");
	return 0;
}

static int get_file(struct mem *m, size_t size, const char *dir, int magic, int flags)
{
	struct statfs st;
	char path[64];

	if (statfs(dir, &st) || st.f_type != magic)
		return missing(m, "no such file system is mounted (run.sh does)");
	snprintf(path, sizeof(path), "%s/rsvm.XXXXXX", dir);
	m->fd = mkostemp(path, O_CLOEXEC);
	if (m->fd < 0)
		return -errno;
	unlink(path);
	/* Allocated, or a hole in the file would make the mapping read-only. */
	if (posix_fallocate(m->fd, 0, size))
		return missing(m, "the file system is full");
	return map_aligned(m, size, flags, m->fd);
}

static int get(struct mem *m, enum mem_kind kind, size_t size)
{
	int ret;

	switch (kind) {
	case MEM_ANON:
		ret = map_aligned(m, size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		if (!ret)
			madvise(m->p, size, MADV_NOHUGEPAGE);
		return ret;
	case MEM_ANON_SHARED:
		return map_aligned(m, size, MAP_SHARED | MAP_ANONYMOUS, -1);
	case MEM_THP:
	case MEM_THP_PTES:
		ret = map_aligned(m, size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		if (!ret)
			ret = populate_thp(m);
		for (size_t off = 0; !ret && kind == MEM_THP_PTES && off < size; off += LEAF) {
			/* A change to one page splits the PMD, not the folio. */
			if (mprotect(m->p + off, PAGE, PROT_READ) ||
			    mprotect(m->p + off, PAGE, PROT_READ | PROT_WRITE))
				ret = -errno;
		}
		return ret;
	case MEM_MTHP:
		ret = mthp_enable(m);
		if (!ret)
			ret = map_aligned(m, size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		if (ret)
			return ret;
		/* Only 64 KiB at a time: a larger area would get huge pages. */
		for (size_t off = 0; off < size; off += LEAF) {
			madvise(m->p + off, LEAF, MADV_NOHUGEPAGE);
			madvise(m->p + off + 0x10000, LEAF - 0x10000, MADV_HUGEPAGE);
		}
		touch(m->p, size);
		return 0;
	case MEM_MIX:
		ret = map_aligned(m, size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		return ret ? ret : populate_mix(m);
	case MEM_MEMFD:
		return get_memfd(m, size, false);
	case MEM_MEMFD_THP:
		return get_memfd(m, size, true);
	case MEM_HUGETLB:
		return get_hugetlb(m, size, MAP_PRIVATE);
	case MEM_HUGETLB_SHARED:
		return get_hugetlb(m, size, MAP_SHARED);
	case MEM_TMPFS_PRIVATE:
		return get_file(m, size, "/tmp", TMPFS_MAGIC, MAP_PRIVATE);
	case MEM_EXT4:
		return get_file(m, size, "/mnt/rsvm", EXT4_SUPER_MAGIC, MAP_SHARED);
	case MEM_EXT4_PRIVATE:
		return get_file(m, size, "/mnt/rsvm", EXT4_SUPER_MAGIC, MAP_PRIVATE);
	}
	return -EINVAL;
}

int mem_get(struct mem *m, enum mem_kind kind, size_t size)
{
	int ret;

	*m = (struct mem){ .fd = -1, .why = "" };
	ret = get(m, kind, size);
	if (ret) {
		const char *why = m->why;

		mem_put(m);
		m->why = why;
	}
	return ret;
}

void mem_put(struct mem *m)
{
	if (m->map)
		munmap(m->map, m->map_size);
	if (m->fd >= 0)
		close(m->fd);
	*m = (struct mem){ .fd = -1, .why = "" };
}
