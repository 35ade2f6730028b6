/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * librsvm: run GPU kernels on ordinary pointers, through the rsvm driver.
 *
 *	rsvm_context *ctx;
 *	rsvm_module *mod;
 *	rsvm_kernel *add;
 *	rsvm_queue *queue;
 *
 *	if (rsvm_open(NULL, &ctx) || rsvm_queue_create(ctx, &queue) ||
 *	    rsvm_module_load_file("kernels.elf", &mod) ||
 *	    rsvm_kernel_get(mod, "add", &add) ||
 *	    rsvm_launch(queue, add, 1024, 0, &args, NULL) ||
 *	    rsvm_finish(queue, RSVM_FOREVER))
 *		fprintf(stderr, "%s\n", rsvm_error());
 *
 * Functions that return int give 0 or a negative errno; rsvm_error() then has
 * it in words. All of them may be called from any thread. After fork() the
 * child opens a context of its own.
 *
 * A GPU program is a static position-independent RV64 ELF file:
 *	clang --target=riscv64-unknown-elf -march=rv64imafd -mabi=lp64d -fPIE
 *	      -ffreestanding -nostdlib -fuse-ld=lld -Wl,-pie,--no-dynamic-linker,-e,0
 * A kernel is a function void kernel(void *arg, uint64_t index, uint64_t n).
 */
#ifndef RSVM_H
#define RSVM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An open device that mirrors this process's address space. */
typedef struct rsvm_context rsvm_context;
/* A queue of work; launches in it run in order. */
typedef struct rsvm_queue rsvm_queue;
/* A GPU program in this process's memory. */
typedef struct rsvm_module rsvm_module;
/* A function of a program. */
typedef struct rsvm_kernel rsvm_kernel;
/* A file that tells what happens in the mirror. */
typedef struct rsvm_events rsvm_events;

/* Any negative time in nanoseconds: no limit. */
#define RSVM_FOREVER (-1)

/* Why a queue was killed. The numbers are DRM_RSVM_FAULT_* and _ACCESS_*. */
struct rsvm_fault {
	uint64_t addr;
	uint32_t queue_id;
	uint32_t access;
	uint32_t reason;
	uint32_t pad;
};

/* What the driver counted for a context since it was opened. */
struct rsvm_stats {
	uint64_t faults;	/* faults served */
	uint64_t batches;	/* batches they came in */
	uint64_t pages;		/* 4 KiB pages mapped */
	uint64_t map_4k;	/* leaf entries written, by size */
	uint64_t map_64k;
	uint64_t map_2m;
	uint64_t invalidations;	/* by the kernel's memory management */
	uint64_t replays;
	uint64_t retries;	/* memory changed while a fault was served */
	uint64_t demotions;	/* 2 MiB entries split */
	uint64_t prefetched;	/* pages mapped beside the one that faulted */
	uint64_t migrations;	/* to device memory */
	uint64_t to_vram;	/* pages that came to device memory */
	uint64_t zeroed;	/* how many of them had no memory before */
	uint64_t recalled;	/* pages that came back by request */
	uint64_t thrashed;	/* pages that stay for a while because they bounced */
	uint64_t grabs;		/* pages taken away from all CPUs for atomics */
	uint64_t revoked;	/* how many of them were given back */
};

/* Where pages are, in bytes. */
struct rsvm_residency {
	uint64_t system;
	uint64_t vram;
	uint64_t mapped_read;	/* mapped by the device */
	uint64_t mapped_write;	/* mapped by the device for writing */
};

/* Same layout as struct drm_rsvm_event. */
struct rsvm_event {
	uint32_t type;		/* DRM_RSVM_EVENT_* */
	uint32_t size;
	uint64_t time_ns;	/* CLOCK_MONOTONIC */
	uint64_t addr;
	uint64_t len;
	uint32_t queue_id;
	uint32_t access;
	uint32_t reason;
	uint32_t dropped;	/* records lost before this one */
};

/* The last error of this thread in words; valid until its next error. */
const char *rsvm_error(void);
/* Why the queue of this thread's last error was killed; -ENOENT if the error
 * was of another kind. */
int rsvm_last_fault(struct rsvm_fault *fault);

/* Opens a render node, or with NULL the first that belongs to the driver, and
 * mirrors the address space. -ENODEV: there is none. */
int rsvm_open(const char *node, rsvm_context **context);
/* Queues and event files keep a context open until they are gone too. */
void rsvm_close(rsvm_context *context);
/* A property of the device: DRM_RSVM_PARAM_*. */
int rsvm_query(rsvm_context *context, uint32_t param, uint64_t *value);
int rsvm_get_stats(rsvm_context *context, struct rsvm_stats *stats);

/*
 * Has len bytes at addr, whole pages, moved to DRM_RSVM_SVM_LOCATION_SYSTEM or
 * _VRAM, and returns at once. When everything was tried, value is written to
 * *fence, unless fence is NULL: rsvm_wait_value() waits for that. -ENOENT:
 * nothing is mapped there.
 */
int rsvm_migrate(rsvm_context *context, const void *addr, size_t len,
		 uint32_t location, uint64_t *fence, uint64_t value);
/*
 * DRM_RSVM_SVM_ATTR_* of whole pages; the value read is that of the first.
 *
 * Atomics of the device are atomic against the CPU wherever memory is private:
 * a page is taken away from all CPUs while the device uses it, and given back
 * to the first that touches it. DRM_RSVM_SVM_ATTR_ATOMIC_MODE changes that:
 * _ATOMIC_SYSTEM never moves pages for it, _ATOMIC_VRAM moves them to device
 * memory, and _ATOMIC_DEVICE is atomic for the device's own threads alone, which
 * is faster and the only one for shared mappings and files. Where an atomic is
 * not possible the queue is killed, with DRM_RSVM_FAULT_ATOMIC in rsvm_last_fault().
 */
int rsvm_set_attribute(rsvm_context *context, const void *addr, size_t len,
		       uint32_t attribute, uint64_t value);
int rsvm_get_attribute(rsvm_context *context, const void *addr,
		       uint32_t attribute, uint64_t *value);
/* Where len bytes at addr, whole pages, are now. */
int rsvm_where(rsvm_context *context, const void *addr, size_t len,
	       struct rsvm_residency *where);

/* Loads a program from memory or a file. -ENOEXEC: the device cannot run it. */
int rsvm_module_load(const void *elf, size_t size, rsvm_module **module);
int rsvm_module_load_file(const char *path, rsvm_module **module);
/* Launches that still run, and kernels, keep a program until they are gone. */
void rsvm_module_unload(rsvm_module *module);
/* -ENOENT: the program has no such function. */
int rsvm_kernel_get(rsvm_module *module, const char *name, rsvm_kernel **kernel);
void rsvm_kernel_put(rsvm_kernel *kernel);

/* -EBUSY: the device holds as many queues as it can. */
int rsvm_queue_create(rsvm_context *context, rsvm_queue **queue);
/* Kills what still runs. Returns when the queue no longer touches memory. */
void rsvm_queue_destroy(rsvm_queue *queue);
uint32_t rsvm_queue_id(rsvm_queue *queue);

/*
 * Launches a kernel and returns at once: invocation i of n is called as
 * kernel(arg, i, n). group_size invocations share a group of hardware; 0 is
 * the largest. *fence, unless fence is NULL, is what rsvm_wait() takes.
 * -EIO: the queue was killed; rsvm_last_fault() tells why.
 */
int rsvm_launch(rsvm_queue *queue, rsvm_kernel *kernel, uint64_t n,
		uint32_t group_size, const void *arg, uint64_t *fence);
/* Lets the device write value to *addr (8-byte aligned) after all launches so
 * far. */
int rsvm_signal(rsvm_queue *queue, uint64_t *addr, uint64_t value);

/*
 * Sleep until a launch is through, until all so far are, or until *addr is at
 * least value. -ETIME: not in time. -EIO: the queue was killed before.
 */
int rsvm_wait(rsvm_queue *queue, uint64_t fence, int64_t timeout_ns);
int rsvm_finish(rsvm_queue *queue, int64_t timeout_ns);
int rsvm_wait_value(rsvm_queue *queue, const uint64_t *addr, uint64_t value,
		    int64_t timeout_ns);

/* Opens an event file; mask has bits 1 << DRM_RSVM_EVENT_*. */
int rsvm_events_open(rsvm_context *context, uint32_t mask, rsvm_events **events);
void rsvm_events_close(rsvm_events *events);
/* For poll(); belongs to events. */
int rsvm_events_fd(rsvm_events *events);
/* The next event. -ETIME: none came in time. */
int rsvm_events_read(rsvm_events *events, struct rsvm_event *event,
		     int64_t timeout_ns);

#ifdef __cplusplus
}
#endif

#endif /* RSVM_H */
