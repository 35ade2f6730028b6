/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Allocations of the driver that fail. Root, and a kernel with fault injection.
 * Errors are -errno.
 */
#ifndef RSVM_LIB_FAIL_H
#define RSVM_LIB_FAIL_H

#include <stdbool.h>

#define FAIL_SLAB "failslab"
#define FAIL_PAGES "fail_page_alloc"

/* Whether this kernel can. */
bool fail_possible(const char *injector);
/*
 * From now on @percent of the allocations fail for which the driver asked, itself
 * or by what it called. Not those of debugging aids below them, which would only
 * switch themselves off. After @most of them it ends by itself.
 */
int fail_start(const char *injector, unsigned int percent, int most);
/* Ends that; how many failed since then. */
long fail_stop(const char *injector);

#endif /* RSVM_LIB_FAIL_H */
