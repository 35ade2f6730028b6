// SPDX-License-Identifier: GPL-2.0

//! Folios, as far as drivers that mirror memory have to do with them.

use super::addr::Pfn;
use crate::bindings;

/// Marks the folio of `pfn` dirty, without its lock. Returns the first frame behind the folio.
///
/// Does not sleep.
///
/// # Safety
///
/// `pfn` has a `struct page` whose folio is mapped by a process and stays so during the call: the
/// caller delays an MMU notifier that must be answered before the mapping goes. That also keeps
/// truncation away, for which others need the folio lock; see `ib_umem_odp_unmap_dma_pages()`.
pub(super) unsafe fn mark_dirty(pfn: Pfn) -> Pfn {
    // SAFETY: `pfn` has a `struct page` in a folio that stays, by the caller's promise.
    let folio = unsafe { bindings::page_folio(bindings::pfn_to_page(pfn.as_usize())) };
    // SAFETY: As above.
    unsafe {
        bindings::folio_mark_dirty(folio);
        Pfn::new(bindings::folio_pfn(folio) + bindings::folio_nr_pages(folio))
    }
}
