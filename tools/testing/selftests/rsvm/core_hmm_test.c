// SPDX-License-Identifier: GPL-2.0
/* hmm_range_fault() reports each page of a 2 MiB device-private entry as itself. */
#include "lib/dmirror.h"

FIXTURE(hmm_pmd)
{
	int fd;
	uint64_t *p;
};

FIXTURE_SETUP(hmm_pmd)
{
	ASSERT_EQ(0, huge_in_device(&self->fd, &self->p));
	/* The device forgets what the migration mapped, and asks HMM. */
	ASSERT_EQ(0, mprotect(self->p, HUGE_PAGE, PROT_READ));
	ASSERT_EQ(0, mprotect(self->p, HUGE_PAGE, PROT_READ | PROT_WRITE));
	ASSERT_EQ(HMM_DMIRROR_PROT_PMD, dmirror_prot(self->fd, self->p) & HMM_DMIRROR_PROT_PMD);
}

FIXTURE_TEARDOWN(hmm_pmd)
{
	close(self->fd);
}

TEST_F(hmm_pmd, walk_from_the_middle)
{
	static const size_t pages[] = { 0, 1, 5, 256, HUGE_PAGE / PAGE - 1 };

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		size_t word = pages[i] * PAGE / 8;
		uint64_t got[PAGE / 8];

		ASSERT_EQ(0, dmirror(self->fd, HMM_DMIRROR_READ, self->p + word, 1, got));
		EXPECT_EQ(word + 1, got[0]) TH_LOG("page %zu", pages[i]);
		EXPECT_EQ(word + PAGE / 8, got[PAGE / 8 - 1]);
	}
}

TEST_HARNESS_MAIN
