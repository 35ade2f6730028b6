/* SPDX-License-Identifier: GPL-2.0 */
/* Tests that begin with memory that has a pattern and lies in VRAM, small pages or large. */
#ifndef RSVM_LIB_VRAM_FIXTURE_H
#define RSVM_LIB_VRAM_FIXTURE_H

#include "rsvm_test.h"

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

#endif /* RSVM_LIB_VRAM_FIXTURE_H */
