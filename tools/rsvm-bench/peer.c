// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The kernel's test driver for HMM, whose device is a copy in kernel memory. */
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <linux/types.h>
#include "test_hmm_uapi.h"

static int fd = -1;

bool peer_open(void)
{
	if (fd < 0)
		fd = open("/dev/hmm_dmirror0", O_RDWR | O_CLOEXEC);
	return fd >= 0;
}

static void command(unsigned long request, void *p, size_t size, void *mirror)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)p,
		.ptr = (uintptr_t)mirror,
		.npages = size / PAGE,
	};

	while (ioctl(fd, request, &cmd))
		if (errno != EINTR && errno != EBUSY)
			fail("test_hmm");
}

void peer_to_device(void *p, size_t size, void *mirror)
{
	command(HMM_DMIRROR_MIGRATE_TO_DEV, p, size, mirror);
}

void peer_to_system(void *p, size_t size, void *mirror)
{
	command(HMM_DMIRROR_MIGRATE_TO_SYS, p, size, mirror);
}

void peer_write(void *p, size_t size, void *mirror)
{
	command(HMM_DMIRROR_WRITE, p, size, mirror);
}

void peer_exclusive(void *p, size_t size, void *mirror)
{
	command(HMM_DMIRROR_EXCLUSIVE, p, size, mirror);
}
