// SPDX-License-Identifier: GPL-2.0
/* One fault of the CPU brings one page of a split 2 MiB folio back from a device. */
#include <sys/resource.h>

#include "lib/dmirror.h"

FIXTURE(split)
{
	int fd;
	uint64_t *p;
};

FIXTURE_SETUP(split)
{
	ASSERT_EQ(0, huge_in_device(&self->fd, &self->p));
	ASSERT_EQ(IN_DEVICE_PMD, dmirror_prot(self->fd, self->p));
	/* A change of one page splits the PMD, not the folio. */
	ASSERT_EQ(0, mprotect(self->p, PAGE, PROT_READ));
	ASSERT_EQ(0, mprotect(self->p, PAGE, PROT_READ | PROT_WRITE));
}

FIXTURE_TEARDOWN(split)
{
	close(self->fd);
}

static long faults(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return r.ru_minflt + r.ru_majflt;
}

TEST_F(split, one_fault_for_any_page)
{
	volatile uint64_t *word = self->p + 7 * PAGE / 8;
	uint64_t value;
	long before;

	ASSERT_EQ(IN_DEVICE, dmirror_prot(self->fd, (void *)word));
	/* Once without the page, for the faults of the code itself. */
	faults();
	before = faults();
	value = *word;
	EXPECT_EQ(before + 1, faults());
	EXPECT_EQ(7 * PAGE / 8 + 1, value);
	EXPECT_EQ(HMM_DMIRROR_PROT_WRITE, dmirror_prot(self->fd, (void *)word));
	for (size_t i = 0; i < HUGE_PAGE / 8; i++) {
		ASSERT_EQ(i + 1, self->p[i]);
	}
}

TEST_HARNESS_MAIN
