/* SPDX-License-Identifier: MIT */
/*
 * rsvm: the whole address space of a process, used by a GPU.
 *
 * A render node is opened, VM_CREATE mirrors the caller's address space, and
 * QUEUE_CREATE makes a queue in that mirror. EXEC pushes methods to a queue;
 * every pointer in them is an ordinary pointer of the process. Completion is a
 * *user fence*: a 64-bit value that the device writes to memory, because a job
 * that can take page faults must never be behind a dma-fence.
 *
 * Rules for all ioctls:
 *  - unknown flags and padding that is not zero: -EINVAL, nothing changed;
 *  - an id that does not exist: -ENOENT;
 *  - a mirror of another process's address space (after fork): -EPERM;
 *  - a device that was unbound: -ENODEV; one that no longer obeys: -EIO.
 *
 * New meaning comes by flag bits and query parameters; numbers and layouts
 * never change.
 */
#ifndef _UAPI_RSVM_DRM_H_
#define _UAPI_RSVM_DRM_H_

#include "drm.h"

#if defined(__cplusplus)
extern "C" {
#endif

#define DRM_RSVM_QUERY			0x00
#define DRM_RSVM_VM_CREATE		0x01
#define DRM_RSVM_VM_DESTROY		0x02
#define DRM_RSVM_QUEUE_CREATE		0x03
#define DRM_RSVM_QUEUE_DESTROY		0x04
#define DRM_RSVM_EXEC			0x05
#define DRM_RSVM_WAIT_USER_FENCE	0x06
#define DRM_RSVM_EVENT_OPEN		0x07

/* Parameters of DRM_IOCTL_RSVM_QUERY. An unknown one is -EINVAL. */
/* Width of a GPU virtual address in bits; a process's pointers all fit. */
#define DRM_RSVM_PARAM_VA_BITS		0x00
/* Page-table format: 2 or 3. */
#define DRM_RSVM_PARAM_MMU_VERSION	0x01
/* Leaf sizes the page tables can hold, as a sum of sizes in bytes. */
#define DRM_RSVM_PARAM_PAGE_SIZES	0x02
/* DRM_RSVM_ATOMICS_* */
#define DRM_RSVM_PARAM_ATOMICS		0x03
/* Device memory in bytes: all of it, and what is free now. */
#define DRM_RSVM_PARAM_VRAM_TOTAL	0x04
#define DRM_RSVM_PARAM_VRAM_FREE	0x05
/* How many queues the device can hold at once, over all processes. */
#define DRM_RSVM_PARAM_MAX_QUEUES	0x06
/* Largest num_dwords of one EXEC. */
#define DRM_RSVM_PARAM_MAX_PUSH_DWORDS	0x07
/* Class id of the compute engine, for SET_OBJECT. */
#define DRM_RSVM_PARAM_COMPUTE_CLASS	0x08

/*
 * Which atomics the device can do where. A bit that is not set means that such
 * an access ends in a fatal fault with DRM_RSVM_FAULT_ATOMIC, never in a
 * silently lost update.
 */
#define DRM_RSVM_ATOMICS_SYSTEM		(1 << 0) /* on system memory, against the CPU */
#define DRM_RSVM_ATOMICS_VRAM		(1 << 1) /* on device memory */

/**
 * struct drm_rsvm_query - one property of the device.
 * @param: DRM_RSVM_PARAM_*.
 * @pad: must be zero.
 * @value: returned.
 */
struct drm_rsvm_query {
	__u32 param;
	__u32 pad;
	__u64 value;
};

/**
 * struct drm_rsvm_vm_create - mirror the caller's address space.
 * @flags: must be zero.
 * @vm_id: returned, never zero.
 *
 * The mirror follows every later change of the address space. It holds the
 * address space's structure, not its memory: a process exits as usual.
 */
struct drm_rsvm_vm_create {
	__u32 flags;
	__u32 vm_id;
};

/**
 * struct drm_rsvm_vm_destroy - give a mirror back, with all of its queues.
 * @vm_id: from VM_CREATE.
 * @pad: must be zero.
 *
 * Work that still runs is killed. Returns when the device no longer reaches the
 * address space.
 */
struct drm_rsvm_vm_destroy {
	__u32 vm_id;
	__u32 pad;
};

/**
 * struct drm_rsvm_queue_create - make a queue to the compute engine.
 * @vm_id: the mirror in which the queue's pointers live.
 * @flags: must be zero.
 * @queue_id: returned, never zero.
 * @pad: must be zero.
 *
 * -EBUSY: the device holds DRM_RSVM_PARAM_MAX_QUEUES queues already.
 */
struct drm_rsvm_queue_create {
	__u32 vm_id;
	__u32 flags;
	__u32 queue_id;
	__u32 pad;
};

/**
 * struct drm_rsvm_queue_destroy - kill what runs on a queue and free it.
 * @queue_id: from QUEUE_CREATE.
 * @pad: must be zero.
 */
struct drm_rsvm_queue_destroy {
	__u32 queue_id;
	__u32 pad;
};

/**
 * struct drm_rsvm_exec - push methods, then release a user fence.
 * @queue_id: from QUEUE_CREATE.
 * @flags: must be zero.
 * @push: pointer to method dwords, copied before the ioctl returns.
 * @num_dwords: how many; at most DRM_RSVM_PARAM_MAX_PUSH_DWORDS; 0 pushes
 *	nothing but the fence.
 * @pad: must be zero.
 * @fence_addr: where @fence_value is written when everything pushed so far has
 *	finished: a pointer, 8-byte aligned, or 0 for no fence. The memory need
 *	not be present; the device's write faults it in.
 * @fence_value: what to write.
 *
 * The queue has no privilege: physical addresses and MEM_OP methods kill it.
 * -EIO: the queue was killed by a fault; WAIT_USER_FENCE tells which.
 * Sleeps, killably, while the queue's ring is full.
 */
struct drm_rsvm_exec {
	__u32 queue_id;
	__u32 flags;
	__u64 push;
	__u32 num_dwords;
	__u32 pad;
	__u64 fence_addr;
	__u64 fence_value;
};

/* How WAIT_USER_FENCE compares: (*addr & mask) OP (value & mask), unsigned. */
#define DRM_RSVM_FENCE_EQ		0
#define DRM_RSVM_FENCE_NE		1
#define DRM_RSVM_FENCE_GE		2
#define DRM_RSVM_FENCE_GT		3
#define DRM_RSVM_FENCE_LE		4
#define DRM_RSVM_FENCE_LT		5

/* Why a queue was killed. */
#define DRM_RSVM_FAULT_NONE		0
#define DRM_RSVM_FAULT_NO_MAPPING	1 /* no mapping at the address */
#define DRM_RSVM_FAULT_PROTECTION	2 /* the mapping does not allow the access */
#define DRM_RSVM_FAULT_ATOMIC		3 /* an atomic that cannot be done right there */
#define DRM_RSVM_FAULT_NO_MEMORY	4 /* out of memory; oom or cgroup limit */
#define DRM_RSVM_FAULT_IO		5 /* the backing file could not be read, or poison */
#define DRM_RSVM_FAULT_BAD_ADDRESS	6 /* beyond the process's address space */
#define DRM_RSVM_FAULT_EXCEPTION	7 /* illegal instruction and the like; address is the pc */
#define DRM_RSVM_FAULT_METHOD		8 /* a method that is unknown or not allowed */
#define DRM_RSVM_FAULT_EXITED		9 /* the process that owned the memory is gone */
#define DRM_RSVM_FAULT_KILLED		10 /* destroyed while it ran */

#define DRM_RSVM_ACCESS_READ		0
#define DRM_RSVM_ACCESS_WRITE		1
#define DRM_RSVM_ACCESS_ATOMIC		2
#define DRM_RSVM_ACCESS_EXECUTE		3

/**
 * struct drm_rsvm_wait_user_fence - sleep until memory holds a value.
 * @queue_id: the queue that is to write it.
 * @op: DRM_RSVM_FENCE_*.
 * @addr: pointer to 64 bits, 8-byte aligned.
 * @value: what to compare with.
 * @mask: which bits count.
 * @deadline_ns: absolute CLOCK_MONOTONIC time; a time in the past polls, a
 *	negative one is -EINVAL, INT64_MAX waits for ever.
 * @fault_addr: returned with -EIO: the address that could not be served.
 * @fault_reason: returned with -EIO: DRM_RSVM_FAULT_*.
 * @fault_access: returned with -EIO: DRM_RSVM_ACCESS_*.
 *
 * -ETIME: not reached by the deadline. -EIO: the queue was killed and the value
 * was not reached. -EFAULT: @addr is not readable. Interruptible; after a signal
 * the same call with the same deadline goes on.
 */
struct drm_rsvm_wait_user_fence {
	__u32 queue_id;
	__u32 op;
	__u64 addr;
	__u64 value;
	__u64 mask;
	__s64 deadline_ns;
	__u64 fault_addr;
	__u32 fault_reason;
	__u32 fault_access;
};

/* Event types, as numbers and as bits (1 << type) of an event mask. */
#define DRM_RSVM_EVENT_FAULT		0 /* a fault was served */
#define DRM_RSVM_EVENT_FATAL_FAULT	1 /* a queue was killed */

/**
 * struct drm_rsvm_event_open - make a file that tells what happens in a mirror.
 * @vm_id: from VM_CREATE.
 * @flags: must be zero.
 * @mask: bits (1 << DRM_RSVM_EVENT_*); an unknown one is -EINVAL.
 * @fd: returned; O_CLOEXEC. read() gives whole struct drm_rsvm_event records,
 *	poll() is readable when there is one. The reader that falls behind loses
 *	records, and the next one it reads says how many.
 */
struct drm_rsvm_event_open {
	__u32 vm_id;
	__u32 flags;
	__u32 mask;
	__s32 fd;
};

/**
 * struct drm_rsvm_event - one record read from an event file.
 * @type: DRM_RSVM_EVENT_*.
 * @size: of this record in bytes; skip what you do not know.
 * @time_ns: CLOCK_MONOTONIC.
 * @addr: first byte concerned.
 * @len: bytes mapped (FAULT), 0 (FATAL_FAULT).
 * @queue_id: the queue killed (FATAL_FAULT), 0 (FAULT).
 * @access: DRM_RSVM_ACCESS_*.
 * @reason: DRM_RSVM_FAULT_*.
 * @dropped: records lost before this one.
 */
struct drm_rsvm_event {
	__u32 type;
	__u32 size;
	__u64 time_ns;
	__u64 addr;
	__u64 len;
	__u32 queue_id;
	__u32 access;
	__u32 reason;
	__u32 dropped;
};

/* An enum rather than macros, so that bindings in other languages get the values. */
enum {
	DRM_IOCTL_RSVM_QUERY =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_QUERY, struct drm_rsvm_query),
	DRM_IOCTL_RSVM_VM_CREATE =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_VM_CREATE, struct drm_rsvm_vm_create),
	DRM_IOCTL_RSVM_VM_DESTROY =
		DRM_IOW(DRM_COMMAND_BASE + DRM_RSVM_VM_DESTROY, struct drm_rsvm_vm_destroy),
	DRM_IOCTL_RSVM_QUEUE_CREATE =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_QUEUE_CREATE, struct drm_rsvm_queue_create),
	DRM_IOCTL_RSVM_QUEUE_DESTROY =
		DRM_IOW(DRM_COMMAND_BASE + DRM_RSVM_QUEUE_DESTROY, struct drm_rsvm_queue_destroy),
	DRM_IOCTL_RSVM_EXEC =
		DRM_IOW(DRM_COMMAND_BASE + DRM_RSVM_EXEC, struct drm_rsvm_exec),
	DRM_IOCTL_RSVM_WAIT_USER_FENCE =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_WAIT_USER_FENCE, struct drm_rsvm_wait_user_fence),
	DRM_IOCTL_RSVM_EVENT_OPEN =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_EVENT_OPEN, struct drm_rsvm_event_open),
};

#if defined(__cplusplus)
}
#endif

#endif /* _UAPI_RSVM_DRM_H_ */
