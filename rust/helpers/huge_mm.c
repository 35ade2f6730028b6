// SPDX-License-Identifier: GPL-2.0

#include <linux/huge_mm.h>
#include <linux/mm.h>

__rust_helper int rust_helper_split_huge_page(struct page *page)
{
	return split_huge_page(page);
}

/* Whether some of the pages are mapped, and others by nobody. */
__rust_helper bool rust_helper_folio_is_partly_mapped(struct folio *folio)
{
	int mapped = folio_mapcount(folio);

	if (!mapped || folio_entire_mapcount(folio))
		return false;
	/* Without a count for each page, one mapped twice hides one unmapped. */
	if (!IS_ENABLED(CONFIG_NO_PAGE_MAPCOUNT))
		mapped = atomic_read(&folio->_nr_pages_mapped);
	return mapped < folio_nr_pages(folio);
}
