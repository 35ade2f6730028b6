/* SPDX-License-Identifier: GPL-2.0 */
/* Memory of every kind, and what the kernel says about it. */
#ifndef RSVM_LIB_MEM_H
#define RSVM_LIB_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE	4096ul
#define LEAF	(2ul << 20)

enum mem_kind {
	MEM_ANON,		/* 4 KiB pages, private */
	MEM_ANON_SHARED,
	MEM_THP,		/* transparent huge pages, each mapped by one PMD */
	MEM_THP_PTES,		/* the same, each mapped by 512 PTEs */
	MEM_MTHP,		/* anonymous folios of 64 KiB */
	MEM_MIX,		/* 4 KiB, 64 KiB and 2 MiB folios at odd offsets */
	MEM_MEMFD,		/* tmpfs, shared */
	MEM_MEMFD_THP,		/* tmpfs, shared, huge pages */
	MEM_HUGETLB,		/* 2 MiB, private */
	MEM_HUGETLB_SHARED,
	MEM_TMPFS_PRIVATE,	/* private mapping of a file on tmpfs */
	MEM_EXT4,		/* shared mapping of a file on ext4 */
	MEM_EXT4_PRIVATE,
};

/* @size bytes at @p, aligned to 2 MiB, inside a mapping of its own. */
struct mem {
	char *p;
	size_t size;
	char *map;
	size_t map_size;
	int fd;			/* of the file behind it, or -1 */
	const char *why;	/* what is missing, with -ENOTSUP */
};

/*
 * Maps @size bytes (a multiple of 2 MiB) of @kind, zeroed, readable and
 * writable. Huge kinds are populated, others are not. -ENOTSUP if this system
 * cannot give such memory.
 */
int mem_get(struct mem *m, enum mem_kind kind, size_t size);
void mem_put(struct mem *m);

/* Frame number of the page at @p; 0 when it is not present. Needs root. */
uint64_t mem_pfn(const void *p);
/* Bits of /proc/kpageflags of the page at @p. */
uint64_t mem_kpageflags(const void *p);
#define KPF_DIRTY	(1ull << 4)
#define KPF_KSM		(1ull << 21)
#define KPF_THP		(1ull << 22)
/* Whether the page at @p is in swap. */
bool mem_swapped(const void *p);
/* How many of the pages of the range are present. */
size_t mem_present(const void *p, size_t size);
/* Whether the 2 MiB at @p are one folio mapped by one PMD. */
bool mem_is_pmd(const void *p);
/* Whether the frames of the range follow each other. */
bool mem_contiguous(const void *p, size_t size);
/* Whether khugepaged makes huge pages of what it finds, which moves it; for root. */
void mem_let_khugepaged(bool run);
/* Bytes of this process's swap use, from /proc/self/status. */
size_t mem_swap_used(void);

/* Writes @value to the file at @path; -errno. */
int sys_write(const char *path, const char *value);
/* Has KSM scan what is advised to be merged as fast as it can. */
int ksm_start(void);
/* Splits what was merged. */
int ksm_split(void);
/* What was merged stays. */
void ksm_stop(void);

/* Reads a number from the file at @path; -1 if it cannot be read. */
long long sys_read(const char *path);

#endif /* RSVM_LIB_MEM_H */
