/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The test device of core mm, lib/test_hmm.c: it mirrors the process and has
 * device-private memory. Root only. Errors are -errno. Needs nothing of the other
 * files here, so that core_*_test can go to core mm with the patches they are for.
 */
#ifndef RSVM_LIB_DMIRROR_H
#define RSVM_LIB_DMIRROR_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <lib/test_hmm_uapi.h>

#include "kselftest_harness.h"

/* None: how long a test takes depends on the host. Who runs it looks for progress. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT -1

#define PAGE		4096ul
#define HUGE_PAGE	(2ul << 20)

/* In memory of the device, writable, 4 KiB or mapped by a PMD. */
#define IN_DEVICE	(HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL | HMM_DMIRROR_PROT_WRITE)
#define IN_DEVICE_PMD	(IN_DEVICE | HMM_DMIRROR_PROT_PMD)

/* Opens the device for this process; loads the module where the VM has it. */
static inline int dmirror_open(void)
{
	const char *dev = "/dev/hmm_dmirror0";
	int fd = open(dev, O_RDWR | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT) {
		int ko = open("/lib/modules/test_hmm.ko", O_RDONLY | O_CLOEXEC);

		syscall(__NR_finit_module, ko, "", 0);
		close(ko);
		fd = open(dev, O_RDWR | O_CLOEXEC);
	}
	return fd < 0 ? -errno : fd;
}

/* HMM_DMIRROR_@request for @pages pages from @p on, with @buf. */
static inline int dmirror(int fd, unsigned long request, const void *p, size_t pages, void *buf)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)p, .ptr = (uintptr_t)buf, .npages = pages,
	};

	return ioctl(fd, request, &cmd) ? -errno : 0;
}

/* What the device would map at @p now, HMM_DMIRROR_PROT_*, or -errno. */
static inline int dmirror_prot(int fd, const void *p)
{
	unsigned char prot;
	int ret = dmirror(fd, HMM_DMIRROR_SNAPSHOT, p, 1, &prot);

	return ret ?: prot;
}

/* Maps 2 MiB that can be one huge page, and nothing beside; NULL if it fails. */
static inline uint64_t *huge_map(void)
{
	char *map = mmap(NULL, 2 * HUGE_PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p = (char *)(((uintptr_t)map + HUGE_PAGE - 1) & -HUGE_PAGE);

	if (map == MAP_FAILED)
		return NULL;
	if (p > map)
		munmap(map, p - map);
	munmap(p + HUGE_PAGE, map + HUGE_PAGE - p);
	return (uint64_t *)p;
}

/* Makes the 2 MiB at @p one page of words 1, 2, ... and moves it to the device. */
static inline int huge_to_device(int fd, uint64_t *p)
{
	static char buf[HUGE_PAGE];

	for (size_t i = 0; i < HUGE_PAGE / sizeof(*p); i++)
		p[i] = i + 1;
	if (madvise(p, HUGE_PAGE, MADV_COLLAPSE))
		return -errno;
	return dmirror(fd, HMM_DMIRROR_MIGRATE_TO_DEV, p, HUGE_PAGE / PAGE, buf);
}

/* Opens the device and has 2 MiB of words 1, 2, ... at @p in its memory, by a PMD. */
static inline int huge_in_device(int *fd, uint64_t **p)
{
	*fd = dmirror_open();
	if (*fd < 0)
		return *fd;
	*p = huge_map();
	return *p ? huge_to_device(*fd, *p) : -ENOMEM;
}

#endif /* RSVM_LIB_DMIRROR_H */
