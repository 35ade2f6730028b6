// SPDX-License-Identifier: GPL-2.0

#include <linux/pagemap.h>

__rust_helper bool rust_helper_folio_trylock(struct folio *folio)
{
	return folio_trylock(folio);
}
