/* SPDX-License-Identifier: GPL-2.0 */
/* The device from below: binding, registers, and what others hold. Root only. */
#ifndef RSVM_LIB_DEVICE_H
#define RSVM_LIB_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Registers of the virtual GPU that make it fail. */
#define FAIL_NEXT_COPY		0xf02000 /* n: the n-th copy from now; reads what is left */
#define FAIL_EVERY_COPY		0xf02004 /* n: every n-th */
#define COPY_DELAY_US		0xf02008
#define REMOVE_AT_READ		0xf0200c
#define COPIES_BEGUN		0xf02020
#define COPY_ERRORS		0xf02024

struct device {
	char bdf[256];
	char driver[288];	/* directory of the driver in sysfs */
	volatile uint32_t *bar0;
};

/* Finds the device that the driver is bound to and maps its registers. */
int device_find(struct device *d);
void device_put(struct device *d);
int device_bind(const struct device *d);
int device_unbind(const struct device *d);
/* Loads and unloads the driver; a put that is under way is waited for. */
int driver_load(void);
int driver_unload(void);
/* Whether a new file computes: 0 or -errno. */
int device_works(void);

uint32_t device_read(const struct device *d, uint32_t reg);
void device_write(const struct device *d, uint32_t reg, uint32_t value);

/*
 * test_modules/rsvm_hold.ko: 0 when it is loaded, -ENOENT if this system has
 * none. @pfn is from mem_device_pfn() or mem_pfn().
 */
int hold_load(void);
int hold_mmap_lock(pid_t pid);
int hold_folio(uint64_t pfn, bool locked);
int hold_release(bool irqoff);

/* Frame number of the device page at @p; 0 when there is none. */
uint64_t mem_device_pfn(const void *p);

/* rsvm_hold is there, or the test is skipped. */
#define HOLD_OR_SKIP() do { \
	if (hold_load()) \
		SKIP(return, "no rsvm_hold.ko"); \
} while (0)

#endif /* RSVM_LIB_DEVICE_H */
