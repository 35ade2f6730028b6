// SPDX-License-Identifier: GPL-2.0

//! The shadow of one 2 MiB leaf of the device's page tables.
//!
//! A leaf knows for each of its 512 pages where it lies, with which rights it is mapped and by a PTE
//! of which size. That is enough to choose PTE sizes, to clear exactly the pages that a change hits,
//! and to split a large PTE without asking core mm.
//!
//! A page whose PTE was cleared leaves with one certain flush, and keeps its DMA mapping until that
//! flush, or a later one that covers the page, is acknowledged; see [`Leaf::revoke`] and
//! [`Leaf::acknowledged`].
//!
//! All of it is called with the page-table lock held, and nothing allocates.

use super::{
    dma::DmaMap,
    slot::{
        FlushId,
        Slot, //
    },
    Mirror,
    PageSize,
    Prot,
    Tables,
    Target,
    VirtAddr,
    LEAF_PAGES, //
};
use crate::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        addr::Pfn,
        folio, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};
use core::ops::Range;

mod write;

#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;

/// The pages of one leaf as they are to be mapped; one that is not live is left as it is.
pub(in crate::mm) type Window = [Slot; LEAF_PAGES];

/// First page of the PTE of `size` that maps page `page`.
fn pte_start(page: usize, size: PageSize) -> usize {
    page & !(size.pages() - 1)
}

/// The smallest range that has both.
fn hull(range: Option<Range<usize>>, more: Range<usize>) -> Option<Range<usize>> {
    Some(match range {
        Some(range) => range.start.min(more.start)..range.end.max(more.end),
        None => more,
    })
}

type Reserve<T> = <<T as Mirror>::Tables as Tables>::Reserve;

/// A page of the process that may be mapped.
#[derive(Clone, Copy)]
pub(in crate::mm) struct Found {
    pub(in crate::mm) pfn: Pfn,
    /// Which page of the space's own pagemap it is, if it is device memory.
    pub(in crate::mm) private: Option<u32>,
}

/// What [`Leaf::commit`] did.
pub(in crate::mm) struct Written<R> {
    /// Pages that the device has to learn about.
    pub(in crate::mm) mapped: Option<Range<usize>>,
    /// PTEs written, by size.
    pub(in crate::mm) ptes: [usize; 3],
    /// Tables that nothing needs any more, to be dropped without the lock.
    pub(in crate::mm) surplus: [Option<R>; 2],
}

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Pages whose PTE was cleared.
    pub pages: usize,
    /// Folios marked dirty.
    pub dirtied: usize,
    /// Large PTEs split so that pages beside those hit stay mapped.
    pub demoted: usize,
}

/// How far a leaf is on its way out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dying {
    No,
    /// The device may know its tables until that flush is acknowledged.
    With(FlushId),
    Acknowledged,
}

/// The shadow of 2 MiB of GPU virtual addresses.
///
/// # Invariants
///
/// - A slot is live exactly if a PTE of the size it names maps the page to its target, unless the
///   driver's [`Tables`] do something else than they are told. None is bare when the lock is free.
/// - An entry of `dma` is not empty exactly if the slot is neither free nor an object's. A page that
///   is not device memory is mapped for DMA.
/// - The folio of a live slot is mapped in the process: before core mm takes it away it announces
///   that to the space, which makes the slot leave.
/// - `used` is the number of slots that are not free, `leaving` of those that are leaving.
pub(in crate::mm) struct Leaf<T: Mirror> {
    base: VirtAddr,
    slots: Window,
    dma: DmaMap,
    used: usize,
    leaving: usize,
    dying: Dying,
    /// Tables to demote into, where a PTE is larger than 4 KiB.
    reserve: Reserve<T>,
    /// `reserve` was filled and is not used up.
    has_reserve: bool,
    /// Tables were made below the leaf.
    has_tables: bool,
    /// Tables that [`Self::kill`] took out.
    unhooked: Reserve<T>,
    /// The next in the list of leaves that the device has forgotten.
    pub(super) next: Option<KBox<Self>>,
    pub(super) data: T::Leaf,
}

impl<T: Mirror> Leaf<T> {
    /// Makes a leaf with nothing mapped, which has yet to get its [`place`](Self::place).
    pub(super) fn new(dma: DmaMap) -> impl Init<Self> {
        // INVARIANT: All is empty.
        init!(Self {
            base: VirtAddr::new(0),
            slots <- pin_init::init_array_from_fn(|_| Slot::FREE),
            dma: dma,
            used: 0,
            leaving: 0,
            dying: Dying::No,
            reserve: Reserve::<T>::default(),
            has_reserve: false,
            has_tables: false,
            unhooked: Reserve::<T>::default(),
            next: None,
            data: T::Leaf::default(),
        })
    }

    /// Says where the leaf's first byte is. Nothing is mapped yet.
    pub(super) fn place(&mut self, base: VirtAddr) {
        self.base = base;
    }

    pub(super) fn dma(&self) -> &DmaMap {
        &self.dma
    }

    pub(in crate::mm) fn slot(&self, page: usize) -> Slot {
        self.slots.get(page).copied().unwrap_or_default()
    }

    #[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
    pub(super) fn frame(&self, page: usize) -> Option<Pfn> {
        self.dma.page(page).map(|(pfn, _)| pfn)
    }

    /// Whether the device may reach a page of `pages`.
    pub(super) fn is_used(&self, pages: Range<usize>) -> bool {
        self.used != 0 && self.slots[pages].iter().any(|slot| !slot.is_free())
    }

    /// Whether the leaf is on its way out: nothing may be mapped any more.
    pub(in crate::mm) fn is_dying(&self) -> bool {
        self.dying != Dying::No
    }

    /// Whether the device has forgotten a leaf that was on its way out.
    pub(super) fn is_gone(&self) -> bool {
        self.dying == Dying::Acknowledged && self.used == 0
    }

    fn va(&self, page: usize) -> VirtAddr {
        // OVERFLOW: The leaf ends below the end of the address space.
        VirtAddr::new(self.base.as_usize() + page * PAGE_SIZE)
    }

    /// Prepares to map `found` as page `page`: gives it a bus address if it needs one. Returns the
    /// slot to be written next with [`commit`](Self::commit) or [`commit_page`](Self::commit_page);
    /// [`None`] if the page cannot be had now: it is leaving, mapped to something else, or without a
    /// bus address.
    ///
    /// # Safety
    ///
    /// `found` is a page of the process at that address, and stays mapped there until the space is
    /// told of a change, which it hears of only with the page-table lock.
    pub(in crate::mm) unsafe fn prepare(
        &mut self,
        dev: &Device<Bound>,
        page: usize,
        found: Found,
        prot: Prot,
    ) -> Option<Slot> {
        let old = self.slots[page];
        if old.is_live() {
            let same = self.dma.page(page).is_some_and(|(pfn, _)| pfn == found.pfn);
            return same.then(|| Slot::live(old.target(), prot));
        }
        if !old.is_free() {
            return None;
        }
        let target = match found.private {
            Some(index) => {
                self.dma.record(page, found.pfn);
                // CAST: Widening.
                Target::Vram(u64::from(index) * PAGE_SIZE as u64)
            }
            None => {
                // SAFETY: The page is no device memory and stays until the entry is emptied, which
                // a slot that is not free delays: by the caller's promise and the type invariants.
                Target::System(unsafe { self.dma.map(dev, page, found.pfn) }.ok()?)
            }
        };
        // INVARIANT: Bare until it is committed.
        self.slots[page] = Slot::live(target, NO_RIGHTS).bare();
        self.used += 1;
        Some(Slot::live(target, prot))
    }

    /// The same for a page of an object of the driver's, at byte `offset` of device memory.
    pub(super) fn prepare_object(&mut self, page: usize, offset: u64, write: bool) -> Option<Slot> {
        let (old, new) = (self.slots[page], Slot::object(offset, write));
        if old.is_live() {
            return (old.is_object() && old.target() == new.target()).then_some(new);
        }
        if !old.is_free() {
            return None;
        }
        // INVARIANT: Bare until it is committed.
        self.slots[page] = new.bare();
        self.used += 1;
        Some(new)
    }

    /// Frees the bare pages of `pages`, which the device cannot reach.
    fn free_bare(&mut self, dev: Option<&Device<Bound>>, pages: Range<usize>) -> usize {
        let mut marks = Marks::default();
        for page in pages {
            if self.slots[page].is_bare() {
                marks.mark(&self.dma, page, self.slots[page]);
                self.free(dev, page);
            }
        }
        marks.count
    }

    fn free(&mut self, dev: Option<&Device<Bound>>, page: usize) {
        self.dma.unmap(dev, page);
        self.slots[page] = Slot::FREE;
        self.used -= 1;
    }

    /// Clears the PTE that maps `page`, with all pages under it.
    fn clear(&mut self, tables: &mut T::Tables, page: usize) -> Range<usize> {
        let size = self.slots[page].size();
        let start = pte_start(page, size);
        let pages = start..start + size.pages();
        tables.clear(self.va(start), size);
        for slot in &mut self.slots[pages.clone()] {
            *slot = slot.bare();
        }
        pages
    }

    /// Takes the PTEs of exactly `hit` away. A large PTE that is hit in part is replaced by smaller
    /// ones for the rest, with the same rights, or cleared as a whole where no table was set aside.
    /// The pages without a PTE are bare now; all lie in the range that is returned, which the
    /// device has to forget. [`None`] if no page of `hit` is live.
    fn take_out(
        &mut self,
        tables: &mut T::Tables,
        hit: Range<usize>,
        demoted: &mut usize,
    ) -> Option<Range<usize>> {
        let mut cleared = None;
        let mut page = hit.start;
        while page < hit.end {
            let slot = self.slots[page];
            if !slot.is_live() {
                page += 1;
                continue;
            }
            let size = slot.size();
            let start = pte_start(page, size);
            let pte = start..start + size.pages();
            let whole = hit.start <= pte.start && pte.end <= hit.end;
            if whole || !self.demote(tables, page, &hit) {
                self.clear(tables, page);
            } else {
                *demoted += 1;
            }
            page = pte.end;
            cleared = hull(cleared, pte);
        }
        cleared
    }

    /// Takes the PTEs of `hit` away and marks the folios of writable ones dirty and accessed: core mm
    /// cannot see that the device wrote to them, nor do its entries for exclusive pages remember it.
    /// From now on these pages leave with `flush`, which has to be started for the pages returned.
    /// [`None`] if the device knows nothing of `hit`.
    ///
    /// Marking before the flush is acknowledged is sound: whoever wants to clean a page has to
    /// announce a change first, and waits for a flush of its own.
    pub(super) fn revoke(
        &mut self,
        tables: &mut T::Tables,
        hit: Range<usize>,
        flush: FlushId,
        stats: &mut Revoked,
    ) -> Option<Range<usize>> {
        if self.used == 0 {
            return None;
        }
        let mut pages = None;
        if self.leaving != 0 {
            // Another flush of them is under way. It is waited for by another change, perhaps after
            // this one returned, and may not even be sent; so this change needs its own.
            for page in hit.clone() {
                if self.slots[page].leaves_with().is_some() {
                    pages = hull(pages, page..page + 1);
                }
            }
        }
        let Some(cleared) = self.take_out(tables, hit, &mut stats.demoted) else {
            return pages;
        };
        let mut marks = Marks::default();
        for page in cleared.clone() {
            if self.slots[page].is_bare() {
                marks.mark(&self.dma, page, self.slots[page]);
                self.slots[page] = Slot::leaving(flush);
                self.leaving += 1;
                stats.pages += 1;
            }
        }
        stats.dirtied += marks.count;
        hull(pages, cleared)
    }

    /// Takes the tables out as well. The leaf is dying: nothing can be mapped any more.
    pub(super) fn kill(&mut self, tables: &mut T::Tables, flush: FlushId) {
        if self.dying == Dying::No {
            self.dying = Dying::With(flush);
            if core::mem::take(&mut self.has_tables) {
                self.unhooked = tables.unhook(self.base);
            }
        }
    }

    /// Frees the pages of `pages`, for which `flush` was started, that leave with it or with an older
    /// flush. The device has acknowledged it, and so has forgotten all whose PTEs were cleared before
    /// it was started; a page that leaves with a later flush stays.
    pub(super) fn acknowledged(
        &mut self,
        dev: Option<&Device<Bound>>,
        flush: FlushId,
        pages: Range<usize>,
    ) {
        if self.dying == Dying::With(flush) {
            self.dying = Dying::Acknowledged;
        }
        if self.leaving == 0 {
            return;
        }
        for page in pages {
            if self.slots[page]
                .leaves_with()
                .is_some_and(|with| with <= flush)
            {
                self.free(dev, page);
                self.leaving -= 1;
            }
        }
    }
}

const NO_RIGHTS: Prot = Prot {
    write: false,
    atomic: false,
};

/// Marks folios dirty, each once.
struct Marks {
    folio: Range<Pfn>,
    count: usize,
}

impl Default for Marks {
    fn default() -> Self {
        let none = Pfn::new(0);
        Self {
            folio: none..none,
            count: 0,
        }
    }
}

impl Marks {
    /// Marks the folio of page `page` of a leaf, which `slot` described until its PTE was cleared.
    fn mark(&mut self, dma: &DmaMap, page: usize, slot: Slot) {
        let Some((pfn, is_device)) = dma.page(page).filter(|_| slot.may_be_dirty()) else {
            return;
        };
        if self.folio.contains(&pfn) {
            return;
        }
        // SAFETY: The slot was live a moment ago, in the same critical section of the page-table
        // lock, so by the invariants of `Leaf` the folio is mapped in the process: core mm is waiting
        // for the change that takes the page away, or for the lock to announce one.
        let end = unsafe { folio::mark_written(pfn, is_device) };
        self.folio = pfn..end;
        self.count += 1;
    }
}
