// SPDX-License-Identifier: GPL-2.0
/* Pages that KSM merged do not move to device memory, where it could not read them. */
#include "lib/dmirror.h"

#define KSM_RUN "/sys/kernel/mm/ksm/run"

FIXTURE(ksm)
{
	int fd;
	char *p;
};

static int ksm_run(const char *value)
{
	int fd = open(KSM_RUN, O_WRONLY | O_CLOEXEC);
	int ret = fd < 0 || write(fd, value, strlen(value)) < 0 ? -errno : 0;

	close(fd);
	return ret;
}

/* How many pages of this process are merged; -1 if that cannot be told. */
static int merged(void)
{
	char text[16] = "";
	int fd = open("/proc/self/ksm_merging_pages", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	return n > 0 ? atoi(text) : -1;
}

FIXTURE_SETUP(ksm)
{
	self->fd = dmirror_open();
	ASSERT_GE(self->fd, 0);
	self->p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	memset(self->p, 0x5a, 2 * PAGE);
	ASSERT_EQ(0, madvise(self->p, 2 * PAGE, MADV_MERGEABLE));
	ASSERT_EQ(0, ksm_run("1"));
	while (merged() != 2) {
		ASSERT_GE(merged(), 0);
		usleep(1000);
	}
	/* So that without the fix it does not look at what it cannot read. */
	ASSERT_EQ(0, ksm_run("0"));
}

FIXTURE_TEARDOWN(ksm)
{
	ksm_run("0");
	close(self->fd);
}

TEST_F(ksm, merged_page_stays)
{
	char buf[PAGE];

	ASSERT_EQ(HMM_DMIRROR_PROT_READ, dmirror_prot(self->fd, self->p));
	/* There is no page in the device that it could return. */
	EXPECT_EQ(-ENOENT, dmirror(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, self->p, 1, buf));
	EXPECT_EQ(HMM_DMIRROR_PROT_READ, dmirror_prot(self->fd, self->p));
	EXPECT_EQ(HMM_DMIRROR_PROT_READ, dmirror_prot(self->fd, self->p + PAGE));
	EXPECT_EQ(0x5a, self->p[0]);
	EXPECT_EQ(0x5a, self->p[PAGE]);
}

TEST_HARNESS_MAIN
