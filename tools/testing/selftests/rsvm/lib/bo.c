// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <sys/mman.h>

#include "bo.h"
#include "gpu.h"

int bo_create(struct bo *bo, int fd, size_t size)
{
	struct drm_rsvm_gem_create c = { .size = size };
	int ret = rsvm_ioctl(fd, DRM_IOCTL_RSVM_GEM_CREATE, &c);

	*bo = (struct bo){ .fd = fd, .handle = c.handle, .size = size };
	return ret;
}

int bo_map(struct bo *bo)
{
	struct drm_rsvm_gem_mmap_offset o = { .handle = bo->handle };
	int ret = rsvm_ioctl(bo->fd, DRM_IOCTL_RSVM_GEM_MMAP_OFFSET, &o);
	void *p;

	if (ret)
		return ret;
	p = mmap(NULL, bo->size, PROT_READ | PROT_WRITE, MAP_SHARED, bo->fd, o.offset);
	if (p == MAP_FAILED)
		return -errno;
	bo->cpu = p;
	return 0;
}

int bo_close(struct bo *bo)
{
	struct drm_gem_close c = { .handle = bo->handle };

	bo->handle = 0;
	return rsvm_ioctl(bo->fd, DRM_IOCTL_GEM_CLOSE, &c);
}

void bo_put(struct bo *bo)
{
	if (bo->cpu)
		munmap(bo->cpu, bo->size);
	if (bo->handle)
		bo_close(bo);
	bo->cpu = NULL;
}

int bo_bind(struct bo *bo, uint32_t vm, void *addr, size_t size, uint64_t offset,
	    uint32_t flags)
{
	struct drm_rsvm_vm_bind b = {
		.vm_id = vm,
		.op = DRM_RSVM_BIND_OP_MAP,
		.handle = bo->handle,
		.flags = flags,
		.addr = (uintptr_t)addr,
		.range = size,
		.offset = offset,
	};

	return rsvm_ioctl(bo->fd, DRM_IOCTL_RSVM_VM_BIND, &b);
}

int bo_unbind(int fd, uint32_t vm, void *addr, size_t size)
{
	struct drm_rsvm_vm_bind b = {
		.vm_id = vm,
		.op = DRM_RSVM_BIND_OP_UNMAP,
		.addr = (uintptr_t)addr,
		.range = size,
	};

	return rsvm_ioctl(fd, DRM_IOCTL_RSVM_VM_BIND, &b);
}
