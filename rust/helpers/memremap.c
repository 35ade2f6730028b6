// SPDX-License-Identifier: GPL-2.0

#include <linux/memremap.h>

#ifdef CONFIG_DEVICE_PRIVATE
__rust_helper void
rust_helper_zone_device_folio_init(struct folio *folio,
				   struct dev_pagemap *pgmap,
				   unsigned int order)
{
	zone_device_folio_init(folio, pgmap, order);
}

__rust_helper struct dev_pagemap *
rust_helper_page_pgmap(const struct page *page)
{
	return page_pgmap(page);
}
#endif
