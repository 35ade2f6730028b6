// SPDX-License-Identifier: GPL-2.0

#include <linux/huge_mm.h>

__rust_helper int rust_helper_split_huge_page(struct page *page)
{
	return split_huge_page(page);
}
