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
#define DRM_RSVM_GEM_CREATE		0x08
#define DRM_RSVM_GEM_MMAP_OFFSET	0x09
#define DRM_RSVM_VM_BIND		0x0a
#define DRM_RSVM_SVM_SET_ATTR		0x0b
#define DRM_RSVM_SVM_GET_ATTR		0x0c
#define DRM_RSVM_SVM_MIGRATE		0x0d

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
#define DRM_RSVM_EVENT_MIGRATE		2 /* pages moved, by a fault's policy or SVM_MIGRATE */
#define DRM_RSVM_EVENT_EVICT		3 /* pages left device memory to make room */
#define DRM_RSVM_EVENT_THRASH		4 /* pages stay in system memory for a while */

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
 * @addr: first byte concerned; 0 (EVICT, which does not know where in the mirror
 *	the pages are).
 * @len: bytes mapped (FAULT), moved (MIGRATE, EVICT), kept away from device
 *	memory (THRASH), 0 (FATAL_FAULT).
 * @queue_id: the queue killed (FATAL_FAULT), else 0.
 * @access: DRM_RSVM_ACCESS_* (FAULT, FATAL_FAULT), else 0.
 * @reason: DRM_RSVM_FAULT_* (FATAL_FAULT), DRM_RSVM_SVM_LOCATION_* of where the
 *	pages are now (MIGRATE), else 0.
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

/**
 * struct drm_rsvm_gem_create - make a buffer object.
 * @size: in bytes, whole pages.
 * @flags: must be zero.
 * @handle: returned; DRM_IOCTL_GEM_CLOSE gives it back.
 *
 * Its bytes are zero. It lies in device memory whenever the device uses it, and
 * in system memory when that had to make room for something else, so it may be
 * larger than what is free, but not than DRM_RSVM_PARAM_VRAM_TOTAL (-ENOMEM).
 */
struct drm_rsvm_gem_create {
	__u64 size;
	__u32 flags;
	__u32 handle;
};

/**
 * struct drm_rsvm_gem_mmap_offset - where to mmap() a buffer object.
 * @handle: from GEM_CREATE.
 * @pad: must be zero.
 * @offset: returned: for mmap() of the device's file with MAP_SHARED. All of
 *	the object is mapped at once.
 *
 * The mapping stays as it is wherever the object moves.
 */
struct drm_rsvm_gem_mmap_offset {
	__u32 handle;
	__u32 pad;
	__u64 offset;
};

/* What VM_BIND does. */
#define DRM_RSVM_BIND_OP_MAP		0 /* bind a buffer object */
#define DRM_RSVM_BIND_OP_UNMAP		1 /* unbind whatever is bound */

#define DRM_RSVM_BIND_READ_ONLY		(1 << 0) /* MAP: writes are fatal faults */

/**
 * struct drm_rsvm_vm_bind - bind a buffer object to addresses of a mirror.
 * @vm_id: from VM_CREATE.
 * @op: DRM_RSVM_BIND_OP_*.
 * @handle: MAP: from GEM_CREATE; else zero.
 * @flags: MAP: DRM_RSVM_BIND_*; else zero.
 * @addr: first byte, a multiple of the page size.
 * @range: in bytes, whole pages.
 * @offset: MAP: the byte of the object at @addr, a multiple of the page size;
 *	else zero.
 *
 * In a bound range the device sees the object, whatever the process has at
 * these addresses, which are best reserved with mmap(PROT_NONE). What was bound
 * there before is replaced. Where nothing is bound any more the device sees the
 * memory of the process again. A binding keeps the object alive.
 *
 * When this returns no access of the device by the old meaning of the range is
 * under way. Work that uses the range meanwhile sees either.
 */
struct drm_rsvm_vm_bind {
	__u32 vm_id;
	__u32 op;
	__u32 handle;
	__u32 flags;
	__u64 addr;
	__u64 range;
	__u64 offset;
};

/*
 * Attributes of ranges of a mirror. They belong to addresses, whatever is mapped
 * there, and stay until they are set again or the mirror is destroyed.
 */
/*
 * Where pages are to be: DRM_RSVM_SVM_LOCATION_*. ANY: they move to device memory
 * when the device uses them, if a granule of them is there to be moved. VRAM:
 * all of a granule moves when the device uses some of it, and what is not backed
 * yet is allocated there. SYSTEM: they stay, the device reaches them on the bus.
 */
#define DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION	0
/* What atomics of the device need: DRM_RSVM_SVM_ATOMIC_*. */
#define DRM_RSVM_SVM_ATTR_ATOMIC_MODE		1
/* How much moves at once: bytes, a power of two from 4 KiB to 2 MiB. */
#define DRM_RSVM_SVM_ATTR_GRANULARITY		2
/* 1: pages never move to device memory, not even by SVM_MIGRATE; 0: they may. */
#define DRM_RSVM_SVM_ATTR_NO_MIGRATE		3

#define DRM_RSVM_SVM_LOCATION_ANY		0 /* the default */
#define DRM_RSVM_SVM_LOCATION_SYSTEM		1
#define DRM_RSVM_SVM_LOCATION_VRAM		2

/*
 * On system memory an atomic of the device is a load and a store on the bus. So that
 * no CPU writes in between, the page is first taken away from all CPUs; one that
 * touches it gets it back, and then it is the device's turn again some milliseconds
 * later. Core allows that for private memory that is neither device registers nor
 * hugetlbfs; elsewhere atomics end in DRM_RSVM_FAULT_ATOMIC.
 *
 * AUTO: as SYSTEM; where faults move pages at all, those that only the device uses
 * atomics on move to device memory. VRAM: pages move to device memory when the device
 * uses atomics there, whatever the preferred location; what cannot move is used as
 * with SYSTEM. DEVICE: the device's atomics are atomic for its own threads only, and
 * stores of CPUs to the same word may be lost; faster, and for all kinds of memory.
 */
#define DRM_RSVM_SVM_ATOMIC_AUTO		0 /* the default */
#define DRM_RSVM_SVM_ATOMIC_SYSTEM		1
#define DRM_RSVM_SVM_ATOMIC_VRAM		2
#define DRM_RSVM_SVM_ATOMIC_DEVICE		3

/**
 * struct drm_rsvm_svm_attr - one attribute.
 * @type: DRM_RSVM_SVM_ATTR_*; an unknown one is -EINVAL.
 * @pad: must be zero.
 * @value: of the attribute.
 */
struct drm_rsvm_svm_attr {
	__u32 type;
	__u32 pad;
	__u64 value;
};

/* Most attributes in one call. */
#define DRM_RSVM_SVM_MAX_ATTRS		64

/**
 * struct drm_rsvm_svm_set_attr - set attributes of a range.
 * @vm_id: from VM_CREATE.
 * @flags: must be zero.
 * @addr: first byte, a multiple of the page size.
 * @len: in bytes, whole pages. Nothing has to be mapped there yet.
 * @attrs: pointer to an array of struct drm_rsvm_svm_attr.
 * @count: how many, 1 to DRM_RSVM_SVM_MAX_ATTRS; of the same type the last holds.
 * @stride: bytes from one to the next: a multiple of 8, and at least their size.
 *	Bytes between them must be zero.
 *
 * What they ask for happens when the device uses the pages next; nothing moves
 * now. -ENOSPC: the mirror has too many ranges that differ. On error nothing
 * changed.
 */
struct drm_rsvm_svm_set_attr {
	__u32 vm_id;
	__u32 flags;
	__u64 addr;
	__u64 len;
	__u64 attrs;
	__u32 count;
	__u32 stride;
};

/* Where a page is and what the device may do with it, one byte for each page. */
#define DRM_RSVM_SVM_PAGE_SYSTEM	(1 << 0) /* in system memory */
#define DRM_RSVM_SVM_PAGE_VRAM		(1 << 1) /* in memory of this device */
#define DRM_RSVM_SVM_PAGE_READ		(1 << 2) /* mapped by the device */
#define DRM_RSVM_SVM_PAGE_WRITE		(1 << 3) /* mapped by the device for writing */
/* in system memory, mapped for atomics; in device memory WRITE is enough */
#define DRM_RSVM_SVM_PAGE_ATOMIC	(1 << 4)
#define DRM_RSVM_SVM_PAGE_NO_ATOMIC	(1 << 5) /* atomics end in DRM_RSVM_FAULT_ATOMIC */

/**
 * struct drm_rsvm_svm_get_attr - tell attributes, and where the pages are.
 * @vm_id: from VM_CREATE.
 * @flags: must be zero.
 * @addr: first byte, a multiple of the page size.
 * @len: in bytes, whole pages, at most DRM_RSVM_SVM_MAX_GET_LEN.
 * @attrs: pointer to an array of struct drm_rsvm_svm_attr whose types are filled
 *	in; the values, of the page at @addr, are returned.
 * @pages: pointer to @len / 4096 bytes, which get DRM_RSVM_SVM_PAGE_* of each
 *	page, or 0.
 * @count: of attributes, 0 to DRM_RSVM_SVM_MAX_ATTRS.
 * @stride: as for SVM_SET_ATTR; 0 if @count is.
 * @same_len: returned: for how many bytes from @addr on, at most @len, all
 *	attributes are the same.
 * @system: returned: bytes in system memory.
 * @vram: returned: bytes in memory of this device.
 * @mapped_read: returned: bytes that the device has mapped, whatever the rights.
 * @mapped_write: returned: those it has mapped for writing.
 *
 * What is in neither kind of memory is not present. The answer is true for each
 * page at some time during the call. -ENOENT: nothing is mapped in the range by
 * the process. It waits, killably, for faults of the same mirror that are being
 * served.
 */
struct drm_rsvm_svm_get_attr {
	__u32 vm_id;
	__u32 flags;
	__u64 addr;
	__u64 len;
	__u64 attrs;
	__u64 pages;
	__u32 count;
	__u32 stride;
	__u64 same_len;
	__u64 system;
	__u64 vram;
	__u64 mapped_read;
	__u64 mapped_write;
};

#define DRM_RSVM_SVM_MAX_GET_LEN	(1ULL << 32)

/**
 * struct drm_rsvm_svm_range - addresses of a process.
 * @addr: first byte, a multiple of the page size.
 * @len: in bytes, whole pages.
 */
struct drm_rsvm_svm_range {
	__u64 addr;
	__u64 len;
};

/* Most ranges in one call. */
#define DRM_RSVM_SVM_MAX_RANGES		1024

/**
 * struct drm_rsvm_svm_migrate - move pages now rather than when they are used.
 * @vm_id: from VM_CREATE.
 * @flags: must be zero.
 * @location: DRM_RSVM_SVM_LOCATION_SYSTEM or _VRAM.
 * @num_ranges: how many, 1 to DRM_RSVM_SVM_MAX_RANGES.
 * @ranges: pointer to an array of struct drm_rsvm_svm_range.
 * @fence_addr: where @fence_value is written when everything was tried: a
 *	pointer, 8-byte aligned, or 0 for no fence.
 * @fence_value: what to write.
 *
 * Returns at once; the pages move while the process and the device go on. Only
 * what takes less than waking somebody up, 2 MiB or less on their way to system
 * memory while the mirror is idle, may be done before it returns. What
 * cannot move, because it is no private anonymous memory, in use by the kernel or
 * forbidden by DRM_RSVM_SVM_ATTR_NO_MIGRATE, or because there is no room, stays:
 * SVM_GET_ATTR tells. To device memory, unbacked anonymous memory is allocated
 * there, zeroed, and the device gets everything mapped that it moved.
 *
 * The fence is not written when the mirror is destroyed first, or if the memory
 * is not writable then.
 *
 * -ENOENT: nothing is mapped in one of the ranges. -EBUSY: more than
 * DRM_RSVM_SVM_MAX_PENDING calls have not finished.
 */
struct drm_rsvm_svm_migrate {
	__u32 vm_id;
	__u32 flags;
	__u32 location;
	__u32 num_ranges;
	__u64 ranges;
	__u64 fence_addr;
	__u64 fence_value;
};

#define DRM_RSVM_SVM_MAX_PENDING	256

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
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_WAIT_USER_FENCE,
			 struct drm_rsvm_wait_user_fence),
	DRM_IOCTL_RSVM_EVENT_OPEN =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_EVENT_OPEN, struct drm_rsvm_event_open),
	DRM_IOCTL_RSVM_GEM_CREATE =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_GEM_CREATE, struct drm_rsvm_gem_create),
	DRM_IOCTL_RSVM_GEM_MMAP_OFFSET =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_GEM_MMAP_OFFSET,
			 struct drm_rsvm_gem_mmap_offset),
	DRM_IOCTL_RSVM_VM_BIND =
		DRM_IOW(DRM_COMMAND_BASE + DRM_RSVM_VM_BIND, struct drm_rsvm_vm_bind),
	DRM_IOCTL_RSVM_SVM_SET_ATTR =
		DRM_IOW(DRM_COMMAND_BASE + DRM_RSVM_SVM_SET_ATTR, struct drm_rsvm_svm_set_attr),
	DRM_IOCTL_RSVM_SVM_GET_ATTR =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_RSVM_SVM_GET_ATTR, struct drm_rsvm_svm_get_attr),
	DRM_IOCTL_RSVM_SVM_MIGRATE =
		DRM_IOW(DRM_COMMAND_BASE + DRM_RSVM_SVM_MIGRATE, struct drm_rsvm_svm_migrate),
};

#if defined(__cplusplus)
}
#endif

#endif /* _UAPI_RSVM_DRM_H_ */
