/* SPDX-License-Identifier: GPL-2.0 */
/* Buffer objects. Errors are -errno. */
#ifndef RSVM_LIB_BO_H
#define RSVM_LIB_BO_H

#include <stddef.h>
#include <stdint.h>

/* A buffer object and, after bo_map(), where the CPU sees it. */
struct bo {
	int fd;
	uint32_t handle;
	size_t size;
	char *cpu;
};

int bo_create(struct bo *bo, int fd, size_t size);
/* Maps all of it to the CPU, readable and writable. */
int bo_map(struct bo *bo);
/* Closes the handle; the mapping and bindings stay. */
int bo_close(struct bo *bo);
/* Unmaps and closes what is left of it. */
void bo_put(struct bo *bo);

/* Binds @size bytes of @bo from @offset on to @addr; @flags are DRM_RSVM_BIND_*. */
int bo_bind(struct bo *bo, uint32_t vm, void *addr, size_t size, uint64_t offset,
	    uint32_t flags);
int bo_unbind(int fd, uint32_t vm, void *addr, size_t size);

#endif /* RSVM_LIB_BO_H */
