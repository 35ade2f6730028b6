/* SPDX-License-Identifier: GPL-2.0 */
/* What all GPU code of the selftests begins with. */
#ifndef RSVM_GPU_KERNEL_H
#define RSVM_GPU_KERNEL_H

#include "args.h"

#define KERNEL(name) \
	void name(struct gpu_args *a, uint64_t i, uint64_t n); \
	__attribute__((used)) void name(struct gpu_args *a, uint64_t i, uint64_t n)

typedef volatile uint64_t word;

static inline word *slot(const struct gpu_args *a, uint64_t i)
{
	return (word *)(a->addr + i * a->stride);
}

#endif /* RSVM_GPU_KERNEL_H */
