// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <unistd.h>

#include "mem.h"
#include "stats.h"
#include "svm.h"

int svm_set(struct gpu *g, void *p, size_t len, uint32_t type, uint64_t value)
{
	struct drm_rsvm_svm_attr attr = { .type = type, .value = value };
	struct drm_rsvm_svm_set_attr s = {
		.vm_id = g->vm,
		.addr = (uintptr_t)p,
		.len = len,
		.attrs = (uintptr_t)&attr,
		.count = 1,
		.stride = sizeof(attr),
	};

	return rsvm_ioctl(g->fd, DRM_IOCTL_RSVM_SVM_SET_ATTR, &s);
}

int svm_look(struct gpu *g, void *p, size_t len, struct drm_rsvm_svm_get_attr *a,
	     uint8_t *pages)
{
	*a = (struct drm_rsvm_svm_get_attr){
		.vm_id = g->vm,
		.addr = (uintptr_t)p,
		.len = len,
		.pages = (uintptr_t)pages,
	};
	return rsvm_ioctl(g->fd, DRM_IOCTL_RSVM_SVM_GET_ATTR, a);
}

int64_t svm_get(struct gpu *g, void *p, uint32_t type)
{
	struct drm_rsvm_svm_attr attr = { .type = type };
	struct drm_rsvm_svm_get_attr a = {
		.vm_id = g->vm,
		.addr = (uintptr_t)p,
		.len = PAGE,
		.attrs = (uintptr_t)&attr,
		.count = 1,
		.stride = sizeof(attr),
	};
	int ret = rsvm_ioctl(g->fd, DRM_IOCTL_RSVM_SVM_GET_ATTR, &a);

	return ret ? ret : (int64_t)attr.value;
}

size_t svm_in_vram(struct gpu *g, void *p, size_t len)
{
	struct drm_rsvm_svm_get_attr a;

	return svm_look(g, p, len, &a, NULL) ? ~0ul : a.vram;
}

size_t svm_in_system(struct gpu *g, void *p, size_t len)
{
	struct drm_rsvm_svm_get_attr a;

	return svm_look(g, p, len, &a, NULL) ? ~0ul : a.system;
}

int svm_migrate_start(struct gpu *g, void *p, size_t len, uint32_t location,
		      volatile uint64_t *fence, uint64_t value)
{
	struct drm_rsvm_svm_range range = { .addr = (uintptr_t)p, .len = len };
	struct drm_rsvm_svm_migrate m = {
		.vm_id = g->vm,
		.location = location,
		.num_ranges = 1,
		.ranges = (uintptr_t)&range,
		.fence_addr = (uintptr_t)fence,
		.fence_value = value,
	};

	return rsvm_ioctl(g->fd, DRM_IOCTL_RSVM_SVM_MIGRATE, &m);
}

int svm_migrate(struct gpu *g, void *p, size_t len, uint32_t location)
{
	volatile uint64_t fence = 0;
	struct drm_rsvm_wait_user_fence w = {
		.queue_id = g->queue,
		.op = DRM_RSVM_FENCE_EQ,
		.addr = (uintptr_t)&fence,
		.value = 1,
		.mask = ~0ull,
	};
	int ret = svm_migrate_start(g, p, len, location, &fence, 1);

	return ret ? ret : gpu_wait_fence(g, &w);
}

static uint64_t query(int fd, uint32_t param)
{
	uint64_t value;

	return rsvm_query(fd, param, &value) ? 0 : value;
}

uint64_t vram_free(int fd)
{
	return query(fd, DRM_RSVM_PARAM_VRAM_FREE);
}

uint64_t vram_total(int fd)
{
	return query(fd, DRM_RSVM_PARAM_VRAM_TOTAL);
}

int vram_await_free(int fd, uint64_t bytes)
{
	struct guard guard = {};

	while (vram_free(fd) < bytes)
		if (guard_over(&guard))
			return -ETIME;
		else
			usleep(1000);
	return 0;
}

int await_stat(const char *name, long long value)
{
	struct guard guard = {};

	while (device_stat(name) != value)
		if (guard_over(&guard))
			return -ETIME;
		else
			usleep(1000);
	return 0;
}

void pattern_fill(void *p, size_t len, uint64_t round)
{
	volatile uint64_t *word = p;

	for (size_t i = 0; i < len / sizeof(*word); i++)
		word[i] = word_stamp(round, (uintptr_t)&word[i]);
}

size_t pattern_errors(const void *p, size_t len, uint64_t round)
{
	const volatile uint64_t *word = p;
	size_t errors = 0;

	for (size_t i = 0; i < len / sizeof(*word); i++)
		errors += word[i] != word_stamp(round, (uintptr_t)&word[i]);
	return errors;
}

uint64_t stamp_origin(uint64_t value, const void *p, uint32_t *round)
{
	/* The factors' inverses modulo 2^32. */
	const uint32_t of_round = 0x8e8b2f51, of_address = 0x41444c71;
	uint64_t address = (uintptr_t)p >> 32 << 32 | (uint32_t)value * of_address;

	*round = (uint32_t)((value ^ word_stamp(0, address)) >> 32) * of_round;
	return address;
}
