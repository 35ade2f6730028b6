/* SPDX-License-Identifier: GPL-2.0 */
/* Where pages are, and getting them there. Sizes are bytes, errors are -errno. */
#ifndef RSVM_LIB_SVM_H
#define RSVM_LIB_SVM_H

#include <stdbool.h>
#include <sys/types.h>

#include "gpu.h"

#define TO_SYSTEM	DRM_RSVM_SVM_LOCATION_SYSTEM
#define TO_VRAM		DRM_RSVM_SVM_LOCATION_VRAM

/* Sets one attribute (DRM_RSVM_SVM_ATTR_*) of a range. */
int svm_set(struct gpu *g, void *p, size_t len, uint32_t type, uint64_t value);
/* One attribute of the page at @p; -errno as a negative number. */
int64_t svm_get(struct gpu *g, void *p, uint32_t type);
/* The whole answer about a range; @pages may be NULL. */
int svm_look(struct gpu *g, void *p, size_t len, struct drm_rsvm_svm_get_attr *a,
	     uint8_t *pages);
/* Bytes of the range in VRAM, in system memory; ~0 on an error. */
size_t svm_in_vram(struct gpu *g, void *p, size_t len);
size_t svm_in_system(struct gpu *g, void *p, size_t len);

/* Asks for a move; @fence gets @value when all was tried. */
int svm_migrate_start(struct gpu *g, void *p, size_t len, uint32_t location,
		      volatile uint64_t *fence, uint64_t value);
/* Moves and waits; what could not move is no error. */
int svm_migrate(struct gpu *g, void *p, size_t len, uint32_t location);

/* Free bytes of device memory. */
uint64_t vram_free(int fd);
uint64_t vram_total(int fd);
/*
 * Waits until @bytes are free: a worker gives blocks back. -ETIME if nothing
 * moves any more.
 */
int vram_await_free(int fd, uint64_t bytes);
/* The same for a figure of debugfs that is to become @value. */
int await_stat(const char *name, long long value);

/* Fills with, and counts the words that differ from, what word_stamp() gives. */
void pattern_fill(void *p, size_t len, uint64_t round);
size_t pattern_errors(const void *p, size_t len, uint64_t round);
/*
 * Where @value, found near @p, is from: its address, and the round in which it
 * was written, for messages. Makes sense for what word_stamp() gave.
 */
uint64_t stamp_origin(uint64_t value, const void *p, uint32_t *round);

#endif /* RSVM_LIB_SVM_H */
