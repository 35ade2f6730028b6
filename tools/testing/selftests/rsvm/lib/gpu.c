// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"
#include "gpu.h"
#include "mem.h"
#include "stats.h"
#include "svm.h"

extern const char rsvm_gpu_code[], rsvm_gpu_code_end[];

/* Methods of the compute class, Documentation/gpu/rsvm/virtual-gpu.rst. */
#define SET_OBJECT	0x0000
#define COMPUTE_PC	0x0200
#define SUBCHANNEL	1

int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

int rsvm_ioctl(int fd, unsigned long request, void *arg)
{
	int ret;

	do {
		ret = ioctl(fd, request, arg);
	} while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
}

int rsvm_open_device(int n)
{
	for (int minor = 128; minor < 192; minor++) {
		char path[32], name[16] = "";
		struct drm_version version = { .name = name, .name_len = sizeof(name) - 1 };
		int fd;

		snprintf(path, sizeof(path), "/dev/dri/renderD%d", minor);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (!rsvm_ioctl(fd, DRM_IOCTL_VERSION, &version) && !strcmp(name, "rsvm") && !n--)
			return fd;
		close(fd);
	}
	return -ENODEV;
}

int rsvm_open(void)
{
	return rsvm_open_device(0);
}

int rsvm_query(int fd, uint32_t param, uint64_t *value)
{
	struct drm_rsvm_query q = { .param = param };
	int ret = rsvm_ioctl(fd, DRM_IOCTL_RSVM_QUERY, &q);

	*value = q.value;
	return ret;
}

int rsvm_vm_create(int fd, uint32_t *vm)
{
	struct drm_rsvm_vm_create c = {};
	int ret = rsvm_ioctl(fd, DRM_IOCTL_RSVM_VM_CREATE, &c);

	*vm = c.vm_id;
	return ret;
}

int rsvm_vm_destroy(int fd, uint32_t vm)
{
	struct drm_rsvm_vm_destroy d = { .vm_id = vm };

	return rsvm_ioctl(fd, DRM_IOCTL_RSVM_VM_DESTROY, &d);
}

int rsvm_queue_create(int fd, uint32_t vm, uint32_t *queue)
{
	struct drm_rsvm_queue_create c = { .vm_id = vm };
	int ret = rsvm_ioctl(fd, DRM_IOCTL_RSVM_QUEUE_CREATE, &c);

	*queue = c.queue_id;
	return ret;
}

int rsvm_queue_destroy(int fd, uint32_t queue)
{
	struct drm_rsvm_queue_destroy d = { .queue_id = queue };

	return rsvm_ioctl(fd, DRM_IOCTL_RSVM_QUEUE_DESTROY, &d);
}

int rsvm_event_open(int fd, uint32_t vm, uint32_t mask)
{
	struct drm_rsvm_event_open e = { .vm_id = vm, .mask = mask };
	int ret = rsvm_ioctl(fd, DRM_IOCTL_RSVM_EVENT_OPEN, &e);

	return ret ? ret : e.fd;
}

int rsvm_exec(int fd, uint32_t queue, const uint32_t *push, uint32_t dwords,
	      volatile uint64_t *fence, uint64_t value)
{
	struct drm_rsvm_exec e = {
		.queue_id = queue,
		.push = (uintptr_t)push,
		.num_dwords = dwords,
		.fence_addr = (uintptr_t)fence,
		.fence_value = value,
	};

	return rsvm_ioctl(fd, DRM_IOCTL_RSVM_EXEC, &e);
}

static void *map_page(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static size_t code_size(void)
{
	return rsvm_gpu_code_end - rsvm_gpu_code;
}

/* Queue and fence of @g, whose fd, vm and code are there. */
static int open_queue(struct gpu *g)
{
	g->fence = map_page(4096);
	if (!g->fence)
		return -ENOMEM;
	g->launched = 0;
	return rsvm_queue_create(g->fd, g->vm, &g->queue);
}

int gpu_open_device(struct gpu *g, int n)
{
	uint64_t class;
	int ret;

	memset(g, 0, sizeof(*g));
	g->fd = rsvm_open_device(n);
	if (g->fd < 0)
		return g->fd;
	g->code = map_page(code_size());
	ret = g->code ? 0 : -ENOMEM;
	if (!ret) {
		memcpy(g->code, rsvm_gpu_code, code_size());
		ret = rsvm_query(g->fd, DRM_RSVM_PARAM_COMPUTE_CLASS, &class);
	}
	if (!ret) {
		g->class = class;
		ret = rsvm_vm_create(g->fd, &g->vm);
	}
	if (!ret && getenv("RSVM_STAY"))
		ret = svm_set(g, NULL, (1ull << 47) - PAGE, DRM_RSVM_SVM_ATTR_NO_MIGRATE, 1);
	if (!ret)
		ret = open_queue(g);
	if (ret)
		gpu_close(g);
	return ret;
}

int gpu_open(struct gpu *g)
{
	return gpu_open_device(g, 0);
}

int gpu_open_queue(struct gpu *g, struct gpu *parent)
{
	int ret;

	*g = (struct gpu){
		.fd = parent->fd,
		.vm = parent->vm,
		.class = parent->class,
		.code = parent->code,
		.parent = parent,
	};
	ret = open_queue(g);
	if (ret)
		gpu_close(g);
	return ret;
}

void gpu_close(struct gpu *g)
{
	if (g->parent) {
		if (g->queue)
			rsvm_queue_destroy(g->fd, g->queue);
	} else {
		if (g->fd >= 0)
			close(g->fd);
		if (g->code)
			munmap(g->code, code_size());
	}
	if (g->fence)
		munmap((void *)g->fence, 4096);
	memset(g, 0, sizeof(*g));
	g->fd = -1;
}

uint32_t gpu_method(uint32_t subchannel, uint32_t method, uint32_t count)
{
	return 1u << 29 | count << 16 | subchannel << 13 | method / 4;
}

size_t gpu_push_launch(uint32_t *push, uint32_t class, uint64_t pc,
		       uint64_t arg, uint64_t n)
{
	const uint32_t dwords[] = {
		gpu_method(SUBCHANNEL, SET_OBJECT, 1), class,
		gpu_method(SUBCHANNEL, COMPUTE_PC, 8),
		pc, pc >> 32, arg, arg >> 32, n, n >> 32,
		0,	/* group size: the largest */
		1,	/* LAUNCH */
	};

	memcpy(push, dwords, sizeof(dwords));
	return ARRAY_SIZE(dwords);
}

int gpu_launch(struct gpu *g, uint64_t kernel, const struct gpu_args *args,
	       uint64_t n)
{
	uint32_t push[16];
	size_t used = gpu_push_launch(push, g->class, (uintptr_t)g->code + kernel,
				      (uintptr_t)args, n);
	int ret = rsvm_exec(g->fd, g->queue, push, used, g->fence, g->launched + 1);

	if (!ret)
		g->launched++;
	return ret;
}

int gpu_wait_until(struct gpu *g, int64_t deadline_ns)
{
	struct drm_rsvm_wait_user_fence w = {
		.queue_id = g->queue,
		.op = DRM_RSVM_FENCE_GE,
		.addr = (uintptr_t)g->fence,
		.value = g->launched,
		.mask = ~0ull,
		.deadline_ns = deadline_ns,
	};
	int ret = rsvm_ioctl(g->fd, DRM_IOCTL_RSVM_WAIT_USER_FENCE, &w);

	g->fault_addr = w.fault_addr;
	g->fault_reason = w.fault_reason;
	g->fault_access = w.fault_access;
	return ret;
}

int gpu_wait(struct gpu *g)
{
	struct guard guard = {};
	int ret;

	do {
		ret = gpu_wait_until(g, now_ns() + GPU_GUARD_NS);
	} while (ret == -ETIME && !guard_over(&guard));
	return ret;
}

int gpu_wait_fence(struct gpu *g, struct drm_rsvm_wait_user_fence *w)
{
	struct guard guard = {};
	int ret;

	do {
		w->deadline_ns = now_ns() + GPU_GUARD_NS;
		ret = rsvm_ioctl(g->fd, DRM_IOCTL_RSVM_WAIT_USER_FENCE, w);
	} while (ret == -ETIME && !guard_over(&guard));
	return ret;
}

int gpu_run(struct gpu *g, uint64_t kernel, const struct gpu_args *args,
	    uint64_t n)
{
	int ret = gpu_launch(g, kernel, args, n);

	return ret ? ret : gpu_wait(g);
}
