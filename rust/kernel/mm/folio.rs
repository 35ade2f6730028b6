// SPDX-License-Identifier: GPL-2.0

//! Folios, as far as drivers that mirror or migrate memory have to do with them.

use super::{
    addr::{
        Pfn,
        VirtAddr, //
    },
    virt::VmaRef,
    zone_device::Order, //
};
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
use crate::sync::atomic::{
    Atomic,
    Relaxed, //
};
use crate::{
    bindings,
    prelude::*, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};

mod holder;

pub(super) use self::holder::{
    FolioHolder,
    FolioHolderSlot, //
};

/// Marks the folio of `pfn` dirty, without its lock, and, if it is not a device's memory, accessed.
/// Returns the first frame behind the folio.
///
/// Does not sleep.
///
/// # Safety
///
/// `pfn` has a `struct page` whose folio is mapped by a process and stays so during the call: the
/// caller delays an MMU notifier that must be answered before the mapping goes. That also keeps
/// truncation away, for which others need the folio lock; see `ib_umem_odp_unmap_dma_pages()`.
pub(super) unsafe fn mark_written(pfn: Pfn, is_device: bool) -> Pfn {
    // SAFETY: `pfn` has a `struct page` in a folio that stays, by the caller's promise.
    let folio = unsafe { bindings::page_folio(bindings::pfn_to_page(pfn.as_usize())) };
    // SAFETY: As above.
    unsafe {
        bindings::folio_mark_dirty(folio);
        if !is_device {
            bindings::folio_mark_accessed(folio);
        }
        Pfn::new(bindings::folio_pfn(folio) + bindings::folio_nr_pages(folio))
    }
}

/// Set by a test that wants no large folio to be found.
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
pub(super) static FRAGMENTED: Atomic<bool> = Atomic::new(false);

/// A folio of system memory that nobody else knows of yet.
///
/// # Invariants
///
/// The reference is the only one.
pub(super) struct RamFolio(NonNull<bindings::folio>);

impl RamFolio {
    /// A page. `vma` is the place that it is for, which decides on which node it is.
    ///
    /// If `needed` the allocation goes to any length; else it gives up early.
    pub(super) fn page(vma: Option<(&VmaRef, VirtAddr)>, needed: bool) -> Option<Self> {
        let gfp = bindings::GFP_HIGHUSER_MOVABLE;
        let easy = bindings::__GFP_NORETRY | bindings::__GFP_NOWARN;
        // Eviction must not kill: whoever waits for it may do without.
        let hard = bindings::__GFP_RETRY_MAYFAIL | bindings::__GFP_NOWARN;
        match (vma, needed) {
            (Some(_), true) => Self::alloc(gfp, Order::Page, vma),
            (None, true) => Self::alloc(gfp | hard, Order::Page, vma),
            (_, false) => Self::alloc(gfp | easy, Order::Page, vma),
        }
    }

    /// A large folio, if there is one without much work.
    pub(super) fn huge(vma: Option<(&VmaRef, VirtAddr)>) -> Option<Self> {
        #[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
        if FRAGMENTED.load(Relaxed) {
            return None;
        }
        let gfp = bindings::GFP_TRANSHUGE | bindings::__GFP_NORETRY;
        Self::alloc(gfp, Order::Huge, vma)
    }

    fn alloc(gfp: bindings::gfp_t, order: Order, vma: Option<(&VmaRef, VirtAddr)>) -> Option<Self> {
        let order = order.as_raw();
        // SAFETY: The VMA is valid; no requirements else.
        let folio = unsafe {
            match vma {
                Some((vma, addr)) => {
                    // CAST: 0 or 9.
                    let order = order as c_int;
                    bindings::vma_alloc_folio(gfp, order, vma.as_ptr(), addr.as_usize())
                }
                None => bindings::folio_alloc(gfp, order),
            }
        };
        // INVARIANT: Just allocated.
        NonNull::new(folio).map(Self)
    }

    /// Locks it. The reference now is the caller's.
    pub(super) fn into_locked(self) -> *mut bindings::folio {
        let folio = ManuallyDrop::new(self).0.as_ptr();
        // SAFETY: Nobody else knows the folio, so this locks it.
        unsafe { bindings::folio_trylock(folio) };
        folio
    }
}

impl Drop for RamFolio {
    fn drop(&mut self) {
        // SAFETY: The reference is ours.
        unsafe { bindings::folio_put(self.0.as_ptr()) };
    }
}

/// Pages of system memory that lie side by side, to be handed out one by one.
///
/// What comes back from a device in this way is copied in fewer and larger pieces, and a device
/// whose page tables know that size maps it with one PTE when it uses it in system memory.
///
/// # Invariants
///
/// The pages from `next` on, `left` of them, are folios of their own with one reference each, which
/// is ours.
pub(super) struct RamBlock {
    next: Pfn,
    left: usize,
}

impl RamBlock {
    /// Pages of a block, aligned to as many.
    pub(super) const PAGES: usize = 1 << Self::ORDER;
    const ORDER: u32 = 4;

    /// Nothing.
    pub(super) const fn empty() -> Self {
        Self {
            next: Pfn::new(0),
            left: 0,
        }
    }

    /// A block, if there is one without any work. `vma` is what it is for: one that has a say in
    /// where its pages are gets none.
    pub(super) fn new(vma: Option<&VmaRef>) -> Option<Self> {
        #[cfg(CONFIG_NUMA)]
        if let Some(vma) = vma {
            let vma = vma.as_ptr();
            // SAFETY: The VMA is valid, and its operations are constant. Others may change a VMA
            // meanwhile, so there is no reference to it; the policy is changed only with `mmap_lock`
            // held for writing, which is held for reading here.
            let has_policy = unsafe {
                let ops = (*vma).vm_ops.as_ref();
                !(*vma).vm_policy.is_null() || ops.is_some_and(|ops| ops.get_policy.is_some())
            };
            if has_policy {
                return None;
            }
        }
        // As for a huge page, but no folio yet, and without any reclaim: where memory is short, pages
        // are had one by one.
        let gfp =
            bindings::GFP_TRANSHUGE & !(bindings::GFP_KERNEL | 1 << bindings::___GFP_COMP_BIT);
        // SAFETY: No requirements.
        let page = unsafe { bindings::alloc_pages(gfp, Self::ORDER) };
        if page.is_null() {
            return None;
        }
        // SAFETY: Just allocated, and not compound.
        unsafe { bindings::split_page(page, Self::ORDER) };
        // INVARIANT: Split into folios with one reference each.
        Some(Self {
            // SAFETY: As above.
            next: Pfn::new(unsafe { bindings::page_to_pfn(page) }),
            left: Self::PAGES,
        })
    }

    /// The next page.
    pub(super) fn take(&mut self) -> Option<RamFolio> {
        self.left = self.left.checked_sub(1)?;
        let pfn = self.next.as_usize();
        self.next = Pfn::new(pfn + 1);
        // SAFETY: By the type invariants it has a `struct page`, which is a folio.
        let folio = unsafe { bindings::page_folio(bindings::pfn_to_page(pfn)) };
        // INVARIANT: By the type invariants; it is not ours any more.
        NonNull::new(folio).map(RamFolio)
    }
}

impl Drop for RamBlock {
    fn drop(&mut self) {
        while self.take().is_some() {}
    }
}
