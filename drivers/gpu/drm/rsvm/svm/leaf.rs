// SPDX-License-Identifier: GPL-2.0

//! The shadow of one 2 MiB leaf of a space's page tables.
//!
//! A leaf knows for each of its 512 pages where it lies, whether a PTE maps it, with which rights
//! and by a PTE of which size. That is enough to choose PTE sizes, to clear exactly the pages that
//! an invalidation hits, and to split a large PTE without asking mm.
//!
//! A page of a leaf is in one of three states:
//!
//! - *empty*: the leaf knows nothing of it;
//! - *held*: it has a bus address but no PTE. A translation that is older may still be in use, so
//!   it counts as hit by an invalidation until [`Leaf::retire`] is told that the device has
//!   acknowledged;
//! - *live*: a PTE maps it.
//!
//! Everything here is called under the space's page-table lock, and nothing allocates.

mod slot;

pub(crate) use self::slot::Slot;
use super::device::{
    Mmu,
    PageSize,
    Tables,
    Target,
    LEAF_PAGES, //
};
use core::ops::Range;
use kernel::{
    mm::addr::VirtAddr,
    page::PAGE_SIZE,
    prelude::*, //
};

const PAGES_64K: usize = PageSize::Size64K.pages();

/// The pages of one leaf as they are to be mapped; what is not live is left as it is.
pub(crate) type Window = [Slot; LEAF_PAGES];

/// First page of the PTE of `size` that maps page `page`.
fn pte_start(page: usize, size: PageSize) -> usize {
    page & !(size.pages() - 1)
}

/// Whether one PTE of `size` can map all of `slots`.
fn fits(slots: &[Slot], size: PageSize) -> bool {
    let Some(first) = slots.first().filter(|slot| slot.is_live()) else {
        return false;
    };
    let target = first.target();
    target.is_aligned(size)
        && slots.iter().enumerate().all(|(page, slot)| {
            slot.is_live()
                && slot.target() == target.offset(page)
                && slot.prot() == first.prot()
                // These come and go one by one.
                && !slot.is_exclusive()
        })
}

/// Gives each live page the largest PTE that its neighbours allow.
fn choose_sizes(window: &mut Window) {
    let set = |slots: &mut [Slot], size| {
        for slot in slots.iter_mut().filter(|slot| slot.is_live()) {
            *slot = slot.with_size(size);
        }
    };
    if fits(window, PageSize::Size2M) {
        set(window, PageSize::Size2M);
        return;
    }
    for group in window.chunks_exact_mut(PAGES_64K) {
        let size = if fits(group, PageSize::Size64K) {
            PageSize::Size64K
        } else {
            PageSize::Size4K
        };
        set(group, size);
    }
}

/// The smallest range that has both.
fn join(range: Option<Range<usize>>, more: Range<usize>) -> Option<Range<usize>> {
    Some(match range {
        Some(range) => range.start.min(more.start)..range.end.max(more.end),
        None => more,
    })
}

/// What [`Leaf::commit`] did.
pub(crate) struct Commit<R> {
    /// Pages that the device has to learn about.
    pub(crate) mapped: Option<Range<usize>>,
    /// Pages of which a PTE was taken away, and the invalidation acknowledged.
    pub(crate) flushed: Option<Range<usize>>,
    /// PTEs written, by size.
    pub(crate) ptes: [usize; 3],
    /// Tables that nothing needs any more, to be dropped without the lock.
    pub(crate) surplus: Option<R>,
}

/// What [`Leaf::revoke`] did.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Revoked {
    /// Pages to invalidate: more than were hit where a PTE mapped more.
    pub(crate) pages: Range<usize>,
    /// A large PTE was split so that pages beside the hit ones stay mapped.
    pub(crate) demoted: bool,
}

type Reserve<T> = <<T as Tables>::Mmu as Mmu>::Reserve;

/// The shadow of 2 MiB of GPU virtual addresses.
///
/// # Invariants
///
/// - A page is live exactly if a PTE of the size its slot names maps it to its target.
/// - If a PTE larger than 4 KiB is live, a 4 KiB table is hooked into the leaf or in `reserve`,
///   unless [`Mmu::take_demotion`] had none to give.
pub(crate) struct Leaf<T: Tables> {
    base: VirtAddr,
    slots: Window,
    reserve: Reserve<T>,
    /// `reserve` was filled and is not used up.
    has_reserve: bool,
    /// Tables were made below the leaf.
    has_tables: bool,
    /// Tables that [`Self::unhook`] took out.
    unhooked: Reserve<T>,
    held: usize,
}

impl<T: Tables> Leaf<T> {
    /// A leaf with nothing mapped, which has yet to get its [`place`](Self::place).
    pub(crate) fn new() -> impl Init<Self> {
        init!(Self {
            base: VirtAddr::new(0),
            slots <- pin_init::init_array_from_fn(|_| Slot::default()),
            reserve: Reserve::<T>::default(),
            has_reserve: false,
            has_tables: false,
            unhooked: Reserve::<T>::default(),
            held: 0,
        })
    }

    /// Says where the leaf's first byte is. Nothing is mapped yet.
    pub(crate) fn place(&mut self, base: VirtAddr) {
        self.base = base;
    }

    pub(crate) fn slot(&self, page: usize) -> Slot {
        self.slots[page]
    }

    /// Whether no page has a bus address any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Whether an invalidation of `pages` has anything to do.
    pub(crate) fn is_hit(&self, pages: Range<usize>) -> bool {
        self.held != 0 && self.slots[pages].iter().any(|slot| slot.is_held())
    }

    /// An empty page got a bus address.
    pub(crate) fn hold(&mut self, page: usize, target: Target) {
        if !self.slots[page].is_held() {
            self.slots[page] = Slot::held(target);
            self.held += 1;
        }
    }

    fn va(&self, page: usize) -> VirtAddr {
        // OVERFLOW: The leaf ends below the end of the address space.
        VirtAddr::new(self.base.as_usize() + page * PAGE_SIZE)
    }

    /// Makes the PTEs agree with `window`, whose live pages are all held here and have the same
    /// target. Pages that are not live in it keep their mapping, though perhaps by a PTE of another
    /// size.
    ///
    /// Where a PTE has to go first, because another size takes its place or a right is lost,
    /// `flush` is called once, for all of them: it invalidates the given pages and waits for the
    /// acknowledgement.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if `reserve` was exhausted, with what was done so far; call it again with the same
    /// window and a full reserve.
    pub(crate) fn commit(
        &mut self,
        tables: &mut T,
        window: &mut Window,
        reserve: &mut Reserve<T>,
        flush: impl FnOnce(&T, Range<usize>),
    ) -> (Commit<Reserve<T>>, Result) {
        for (new, old) in window.iter_mut().zip(&self.slots) {
            if !new.is_live() && old.is_live() {
                *new = *old;
            }
        }
        choose_sizes(window);

        let mut done = Commit {
            mapped: None,
            flushed: None,
            ptes: [0; 3],
            surplus: None,
        };
        let mut page = 0;
        while page < LEAF_PAGES {
            let old = self.slots[page];
            if !old.is_live() {
                page += 1;
                continue;
            }
            let pages = page..page + old.size().pages();
            if !old.grows_into(window[page]) {
                self.clear(tables, page);
                done.flushed = join(done.flushed, pages.clone());
            }
            page = pages.end;
        }
        let mut unhooked = None;
        if window[0].is_live() && window[0].size() == PageSize::Size2M && self.has_tables {
            unhooked = Some(tables.unhook_leaf(self.base));
            self.has_tables = false;
            done.flushed = Some(0..LEAF_PAGES);
        }
        if let Some(pages) = done.flushed.clone() {
            flush(tables, pages);
        }
        if let Some(unhooked) = unhooked {
            let old = core::mem::replace(&mut self.reserve, unhooked);
            done.surplus = Some(old);
            self.has_reserve = true;
        }

        let result = self.map(tables, window, reserve, &mut done);
        (done, result)
    }

    /// Maps `page`, which is held here, by a 4 KiB PTE as `slot` has it, and leaves its neighbours as
    /// they are, though perhaps by smaller PTEs or by none. `flush` as for [`Self::commit`].
    ///
    /// # Errors
    ///
    /// `ENOMEM` if `reserve` was exhausted.
    pub(crate) fn commit_page(
        &mut self,
        tables: &mut T,
        (page, slot): (usize, Slot),
        reserve: &mut Reserve<T>,
        flush: impl FnOnce(&T, Range<usize>),
    ) -> Result {
        let old = self.slots[page];
        if old.is_live() && !old.grows_into(slot) {
            if let Some(revoked) = self.revoke(tables, page..page + 1) {
                flush(tables, revoked.pages);
            }
        }
        tables.map(
            self.va(page),
            PageSize::Size4K,
            slot.target(),
            slot.prot(),
            reserve,
        )?;
        self.has_tables = true;
        self.slots[page] = slot;
        Ok(())
    }

    /// Writes the PTEs of `window` that differ. Nothing is in their way.
    fn map(
        &mut self,
        tables: &mut T,
        window: &Window,
        reserve: &mut Reserve<T>,
        done: &mut Commit<Reserve<T>>,
    ) -> Result {
        let mut page = 0;
        while page < LEAF_PAGES {
            let new = window[page];
            if !new.is_live() {
                page += 1;
                continue;
            }
            let size = new.size();
            let pages = page..page + size.pages();
            let old = self.slots[page];
            page = pages.end;
            if old.is_live() && old.prot() == new.prot() {
                continue;
            }
            if size > PageSize::Size4K && !self.has_reserve {
                self.reserve = T::Mmu::take_demotion(reserve);
                self.has_reserve = true;
            }
            let va = self.va(pages.start);
            tables.map(va, size, new.target(), new.prot(), reserve)?;
            self.has_tables |= size != PageSize::Size2M;
            self.slots[pages.clone()].copy_from_slice(&window[pages.clone()]);
            done.ptes[size as usize] += 1;
            done.mapped = join(done.mapped.take(), pages);
        }
        Ok(())
    }

    /// Takes the PTE away that maps `page`, with everything under it.
    fn clear(&mut self, tables: &mut T, page: usize) -> Range<usize> {
        let size = self.slots[page].size();
        let start = pte_start(page, size);
        let pages = start..start + size.pages();
        tables.clear(self.va(start), size);
        for slot in &mut self.slots[pages.clone()] {
            *slot = slot.without_pte();
        }
        pages
    }

    /// Takes the PTEs of exactly `hit` away; they become held. A large PTE that is hit in part is
    /// replaced by smaller ones for the rest, with the same rights, or cleared as a whole where no
    /// table was set aside. The caller invalidates the pages that are returned and, once that was
    /// acknowledged, retires those that were hit. The others stay held: their page is still
    /// mapped in the process, and whoever takes it away revokes again.
    ///
    /// `None`: nothing is known of these pages, and there is nothing to invalidate.
    pub(crate) fn revoke(&mut self, tables: &mut T, hit: Range<usize>) -> Option<Revoked> {
        if !self.is_hit(hit.clone()) {
            return None;
        }
        let mut revoked = Revoked {
            pages: hit.clone(),
            demoted: false,
        };
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
                revoked.demoted = true;
            }
            page = pte.end;
            revoked.pages = revoked.pages.start.min(pte.start)..revoked.pages.end.max(pte.end);
        }
        Some(revoked)
    }

    /// Replaces the large PTE that maps `page` by 4 KiB ones for all but the `hit` pages. Tells
    /// whether it could.
    fn demote(&mut self, tables: &mut T, page: usize, hit: &Range<usize>) -> bool {
        let size = self.slots[page].size();
        let start = pte_start(page, size);
        let pages = start..start + size.pages();
        match size {
            PageSize::Size4K => return false,
            PageSize::Size64K => {
                tables.clear(self.va(start), size);
                for page in pages.clone().filter(|page| !hit.contains(page)) {
                    let slot = self.slots[page];
                    let small = PageSize::Size4K;
                    let va = self.va(page);
                    let map = tables.map(va, small, slot.target(), slot.prot(), &mut self.reserve);
                    self.slots[page] = match map {
                        Ok(()) => slot.with_size(small),
                        Err(_) => slot.without_pte(),
                    };
                }
            }
            PageSize::Size2M => {
                let slots = &self.slots;
                let rest = |page: usize| {
                    let slot = slots[page];
                    (!hit.contains(&page)).then(|| (slot.target(), slot.prot()))
                };
                if tables.demote(self.base, &mut self.reserve, rest).is_err() {
                    return false;
                }
                for page in pages.clone().filter(|page| !hit.contains(page)) {
                    self.slots[page] = self.slots[page].with_size(PageSize::Size4K);
                }
            }
        }
        for page in pages.filter(|page| hit.contains(page)) {
            self.slots[page] = self.slots[page].without_pte();
        }
        self.has_tables = true;
        self.has_reserve = false;
        true
    }

    /// Forgets those of `pages` that are held and not live. An invalidation of them that was sent
    /// after they lost their PTE has been acknowledged.
    pub(crate) fn retire(&mut self, pages: Range<usize>) {
        for slot in &mut self.slots[pages] {
            if slot.is_held() && !slot.is_live() {
                *slot = Slot::default();
                self.held -= 1;
            }
        }
    }

    /// Takes the tables below a leaf without PTEs out. The leaf may be dropped when an invalidation
    /// sent after this was acknowledged.
    pub(crate) fn unhook(&mut self, tables: &mut T) {
        if core::mem::take(&mut self.has_tables) {
            self.unhooked = tables.unhook_leaf(self.base);
        }
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
mod tests;
