// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kselftest.h"
#include "fail.h"
#include "mem.h"

#define DEBUGFS "/sys/kernel/debug/"

/* What "times" was set to. */
static int limit;

static int set(const char *injector, const char *file, const char *value)
{
	char path[96];

	snprintf(path, sizeof(path), DEBUGFS "%s/%s", injector, file);
	return sys_write(path, value);
}

/* Where the code of the module is, as text. */
static int module_range(char start[24], char end[24])
{
	unsigned long size, addr;
	char line[256];
	int ret = -ENOENT;
	FILE *f = fopen("/proc/modules", "re");

	if (!f)
		return -errno;
	while (ret && fgets(line, sizeof(line), f))
		if (sscanf(line, "rsvm %lu %*s %*s %*s %lx", &size, &addr) == 2 && addr) {
			snprintf(start, 24, "0x%lx", addr);
			snprintf(end, 24, "0x%lx", addr + size);
			ret = 0;
		}
	fclose(f);
	return ret;
}

/*
 * Where add_pages() is, which answers the lack of memory for a memory map with
 * a warning: not that of the driver, and a test fails for it.
 */
static int reject_range(char start[24], char end[24])
{
	char line[256], name[128];
	unsigned long addr;
	int ret = -ENOENT;
	FILE *f = fopen("/proc/kallsyms", "re");

	if (!f)
		return -errno;
	while (ret && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx %*c %127s", &addr, name) == 2 &&
		    !strcmp(name, "add_pages") && fgets(line, sizeof(line), f)) {
			snprintf(start, 24, "0x%lx", addr);
			/* They are sorted by address. */
			snprintf(end, 24, "0x%lx", strtoul(line, NULL, 16));
			ret = 0;
		}
	fclose(f);
	return ret;
}

/* What kmalloc() hands out may fail; the caches of debugging aids may not. */
static int mark_caches(void)
{
	int marked = 0;
	glob_t g;

	if (glob("/sys/kernel/slab/kmalloc-*/failslab", 0, NULL, &g))
		return -ENOENT;
	for (size_t i = 0; i < g.gl_pathc; i++)
		marked += !sys_write(g.gl_pathv[i], "1");
	globfree(&g);
	return marked ? 0 : -ENOENT;
}

bool fail_possible(const char *injector)
{
	char path[96];

	snprintf(path, sizeof(path), DEBUGFS "%s/require-start", injector);
	return !access(path, W_OK);
}

int fail_start(const char *injector, unsigned int percent, int most)
{
	const bool pages = !strcmp(injector, FAIL_PAGES);
	char start[24], end[24], warns[24], warned[24], times[12], probability[12];
	const char *const knobs[][2] = {
		{ "task-filter", "N" }, { "verbose", "0" }, { "interval", "1" },
		{ "times", times }, { "space", "0" }, { "ignore-gfp-wait", "N" },
		/* A slab that an aid needs is further from the caller than a page. */
		{ "stacktrace-depth", pages ? "10" : "32" },
		{ pages ? "ignore-gfp-highmem" : "cache-filter", pages ? "N" : "Y" },
		{ "require-start", start }, { "require-end", end },
		{ "reject-start", warns }, { "reject-end", warned },
		{ "probability", probability },
	};
	int ret = module_range(start, end) ?: reject_range(warns, warned);

	limit = most;
	snprintf(times, sizeof(times), "%d", most);
	snprintf(probability, sizeof(probability), "%u", percent);
	if (!ret && pages)
		ret = set(injector, "min-order", "0");
	else if (!ret)
		ret = mark_caches();
	for (size_t i = 0; !ret && i < ARRAY_SIZE(knobs); i++)
		ret = set(injector, knobs[i][0], knobs[i][1]);
	return ret;
}

long fail_stop(const char *injector)
{
	char path[96];
	int ret = set(injector, "probability", "0");

	snprintf(path, sizeof(path), DEBUGFS "%s/times", injector);
	return ret ?: limit - sys_read(path);
}
