/* SPDX-License-Identifier: GPL-2.0 */
/* The device as the tests use it: open, launch, wait. Errors are -errno. */
#ifndef RSVM_LIB_GPU_H
#define RSVM_LIB_GPU_H

#include <stddef.h>
#include <stdint.h>
#include <drm/rsvm_drm.h>

#include "../gpu/args.h"
#include "gpu_symbols.h"

/* How long a wait goes on while nothing moves: see struct guard. */
#define GPU_GUARD_NS	(100ll * 1000000000)

/*
 * One queue in a mirror of this process. @code is a private copy of the GPU code;
 * @fence, on a page of its own, counts the launches that have ended.
 */
struct gpu {
	int fd;
	uint32_t vm;
	uint32_t queue;
	uint32_t class;
	void *code;
	volatile uint64_t *fence;
	uint64_t launched;
	/* What WAIT_USER_FENCE last told with -EIO. */
	uint64_t fault_addr;
	uint32_t fault_reason;
	uint32_t fault_access;
	/* A second queue of the same mirror shares fd, vm and code. */
	struct gpu *parent;
};

/* Opens the first, or the @n-th, render node of the driver; -ENODEV if there is none. */
int rsvm_open(void);
int rsvm_open_device(int n);
/* ioctl() that returns -errno and goes on after a signal. */
int rsvm_ioctl(int fd, unsigned long request, void *arg);
int rsvm_query(int fd, uint32_t param, uint64_t *value);
int rsvm_vm_create(int fd, uint32_t *vm);
int rsvm_vm_destroy(int fd, uint32_t vm);
int rsvm_queue_create(int fd, uint32_t vm, uint32_t *queue);
int rsvm_queue_destroy(int fd, uint32_t queue);
int rsvm_event_open(int fd, uint32_t vm, uint32_t mask);
/* Pushes raw method dwords and, if @fence, its release. */
int rsvm_exec(int fd, uint32_t queue, const uint32_t *push, uint32_t dwords,
	      volatile uint64_t *fence, uint64_t value);

/* With RSVM_STAY in the environment no memory of the process goes to the device. */
int gpu_open(struct gpu *g);
/* On the @n-th device. */
int gpu_open_device(struct gpu *g, int n);
/* A further queue in the mirror of @parent. */
int gpu_open_queue(struct gpu *g, struct gpu *parent);
/* Kills what runs and gives all back. */
void gpu_close(struct gpu *g);

/*
 * Starts @n invocations of the kernel at @kernel (GPU_SYM_*). @args must live
 * until they have ended.
 */
int gpu_launch(struct gpu *g, uint64_t kernel, const struct gpu_args *args,
	       uint64_t n);
/* Waits until all that was launched has ended; -EIO fills fault_*. */
int gpu_wait(struct gpu *g);
int gpu_wait_until(struct gpu *g, int64_t deadline_ns);
/* DRM_IOCTL_RSVM_WAIT_USER_FENCE for as long as anything moves. */
int gpu_wait_fence(struct gpu *g, struct drm_rsvm_wait_user_fence *w);
/* Launch, then wait. */
int gpu_run(struct gpu *g, uint64_t kernel, const struct gpu_args *args,
	    uint64_t n);

/* Method dwords that launch a kernel; returns how many of the 11 were used. */
size_t gpu_push_launch(uint32_t *push, uint32_t class, uint64_t pc,
		       uint64_t arg, uint64_t n);
/* Header of @count incrementing methods from @method on. */
uint32_t gpu_method(uint32_t subchannel, uint32_t method, uint32_t count);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t now_ns(void);

#endif /* RSVM_LIB_GPU_H */
