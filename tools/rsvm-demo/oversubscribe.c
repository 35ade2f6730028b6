// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A working set of four times the device's memory: pages come and go. */
#include "demo.h"
#include <drm/rsvm_drm.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#define TIMES 4
#define PASSES 3
#define INVOCATIONS 64
#define MIB (1ul << 20)

static const char *const counted[] = {
	"pages_to_vram", "pages_to_ram", "vram_evictions", "vram_splits", "cpu_faults",
};

#define COUNTED (sizeof(counted) / sizeof((counted)[0]))

/* What the device tells in debugfs, which only root sees; false if it does not. */
static bool read_counts(uint64_t *counts)
{
	char name[64];
	uint64_t value;
	glob_t found;
	FILE *file;

	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	memset(counts, 0, COUNTED * sizeof(*counts));
	if (glob("/sys/kernel/debug/rsvm-*/stats", 0, NULL, &found))
		return false;
	file = fopen(found.gl_pathv[0], "r");
	globfree(&found);
	if (!file)
		return false;
	while (fscanf(file, "%63s %" SCNu64, name, &value) == 2)
		for (size_t i = 0; i < COUNTED; i++)
			if (!strcmp(name, counted[i]))
				counts[i] = value;
	fclose(file);
	return true;
}

void demo_oversubscribe(struct demo *demo)
{
	uint64_t vram, before[COUNTED], after[COUNTED], wrong = 0;
	struct rsvm_residency where;
	struct mix mix;
	char *block;
	bool ran = true, told;

	if (rsvm_query(demo->context, DRM_RSVM_PARAM_VRAM_TOTAL, &vram)) {
		demo_check(demo, false, "device memory: %s", rsvm_error());
		return;
	}
	if (TIMES * vram > 512 * MIB) {
		printf("\nnot shown: %" PRIu64 " MiB of device memory are too many to fill\n",
		       vram / MIB);
		return;
	}
	block = demo_alloc(TIMES * vram + 2 * MIB);
	mix.data = (uint64_t *)(((uintptr_t)block + 2 * MIB - 1) & ~(2 * MIB - 1));
	mix.count = TIMES * vram / sizeof(uint64_t);
	for (uint64_t i = 0; i < mix.count; i += MIX_STRIDE)
		mix.data[i] = i;
	demo_begin(demo, "working set of four times the device's memory");
	printf("  %" PRIu64 " MiB of device memory, %" PRIu64 " MiB of data, %d passes\n",
	       vram / MIB, TIMES * vram / MIB, PASSES);
	told = read_counts(before);
	for (mix.pass = 1; ran && mix.pass <= PASSES; mix.pass++)
		ran = demo_run(demo, "mix", INVOCATIONS, &mix);
	if (ran && rsvm_where(demo->context, mix.data, TIMES * vram, &where) == 0)
		printf("  now %" PRIu64 " MiB of it are in device memory\n", where.vram / MIB);
	if (ran) {
		for (uint64_t i = 0; i < mix.count; i += MIX_STRIDE) {
			uint64_t value = i;

			for (uint64_t pass = 1; pass <= PASSES; pass++)
				value = mix_value(value, pass);
			wrong += mix.data[i] != value;
		}
		demo_check(demo, !wrong, "%" PRIu64 " words, %" PRIu64 " wrong",
			   mix.count / MIX_STRIDE, wrong);
	}
	if (told && read_counts(after)) {
		for (size_t i = 0; i < COUNTED; i++)
			after[i] -= before[i];
		printf("  %" PRIu64 " pages to device memory, %" PRIu64 " back; %" PRIu64
		       " evictions of 2 MiB, %" PRIu64 " large pages split, %" PRIu64
		       " CPU faults\n", after[0], after[1], after[2], after[3], after[4]);
		demo_check(demo, after[2] > 0 && after[0] * 4096 > vram,
			   "more moved than fits: something was evicted");
	}
	demo_end(demo);
	free(block);
}
