// SPDX-License-Identifier: GPL-2.0

//! Writing the PTEs of a leaf.

use super::*;

const PAGES_64K: usize = PageSize::Size64K.pages();

/// Whether one PTE of `size` can map all of `slots`.
fn fits(slots: &[Slot], size: PageSize) -> bool {
    let Some(first) = slots.first().filter(|slot| slot.is_live()) else {
        return false;
    };
    let target = first.target();
    // Exclusive pages come and go one by one.
    target.is_aligned(size)
        && !first.is_exclusive()
        && slots.iter().enumerate().all(|(page, slot)| {
            slot.is_live() && slot.target() == target.offset(page) && slot.is_alike(*first)
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

impl<T: Mirror> Leaf<T> {
    /// Makes the PTEs agree with `window`, whose live pages were [prepared](Self::prepare). Pages that
    /// are not live in it keep their mapping, though perhaps by a PTE of another size.
    ///
    /// Where a PTE has to go first, because another size takes its place or a right is lost,
    /// `flush` is called once, for all of them: it has the device forget the given pages and waits
    /// for the acknowledgement.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if `reserve` was exhausted, with the pages mapped that could be; no other prepared
    /// one is.
    pub(in crate::mm) fn commit(
        &mut self,
        tables: &mut T::Tables,
        window: &mut Window,
        reserve: &mut Reserve<T>,
        dev: Option<&Device<Bound>>,
        flush: impl FnOnce(&T::Tables, Range<usize>),
    ) -> (Written<Reserve<T>>, Result) {
        for (new, old) in window.iter_mut().zip(&self.slots) {
            if !new.is_live() && old.is_live() {
                *new = *old;
            }
        }
        choose_sizes(window);

        let mut cleared = None;
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
                cleared = hull(cleared, pages.clone());
            }
            page = pages.end;
        }
        let mut unhooked = None;
        if window[0].is_live() && window[0].size() == PageSize::Size2M && self.has_tables {
            unhooked = Some(tables.unhook(self.base));
            self.has_tables = false;
            cleared = Some(0..LEAF_PAGES);
        }
        if let Some(pages) = cleared {
            flush(tables, pages);
        }
        let mut done = Written {
            mapped: None,
            ptes: [0; 3],
            surplus: [unhooked, None],
        };
        let result = self.write(tables, window, reserve, &mut done);
        // The device forgot them if it ever knew them.
        self.free_bare(dev, 0..LEAF_PAGES);
        (done, result)
    }

    /// Writes the PTEs of `window` that differ. Nothing is in their way.
    fn write(
        &mut self,
        tables: &mut T::Tables,
        window: &Window,
        reserve: &mut Reserve<T>,
        done: &mut Written<Reserve<T>>,
    ) -> Result {
        let mut marks = Marks::default();
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
                let taken = T::Tables::take_demotion(reserve);
                done.surplus[1] = Some(core::mem::replace(&mut self.reserve, taken));
                self.has_reserve = true;
            }
            let va = self.va(pages.start);
            tables.write(va, size, new.target(), new.prot(), reserve)?;
            self.has_tables |= size != PageSize::Size2M;
            for page in pages.clone() {
                if !window[page].may_be_dirty() {
                    // The right to write is lost, with the memory of it.
                    marks.mark(&self.dma, page, self.slots[page]);
                }
                self.slots[page] = window[page];
            }
            done.ptes[size as usize] += 1;
            done.mapped = hull(done.mapped.take(), pages);
        }
        Ok(())
    }

    /// Maps the [prepared](Self::prepare) page `page` by a 4 KiB PTE as `slot` has it, and leaves its
    /// neighbours as they are, though perhaps by smaller PTEs. `flush` as for [`Self::commit`].
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if `reserve` was exhausted; the page is not mapped then.
    pub(in crate::mm) fn commit_page(
        &mut self,
        tables: &mut T::Tables,
        (page, slot): (usize, Slot),
        reserve: &mut Reserve<T>,
        dev: Option<&Device<Bound>>,
        flush: impl FnOnce(&T::Tables, Range<usize>),
    ) -> Result {
        let old = self.slots[page];
        let mut bare = page..page + 1;
        if old.is_live() && !old.grows_into(slot) {
            if let Some(pages) = self.take_out(tables, bare.clone(), &mut 0) {
                flush(tables, pages.clone());
                bare = pages;
            }
        }
        let (va, size) = (self.va(page), PageSize::Size4K);
        let result = tables.write(va, size, slot.target(), slot.prot(), reserve);
        if result.is_ok() {
            self.has_tables = true;
            self.slots[page] = slot;
        }
        self.free_bare(dev, bare);
        result
    }

    /// Replaces the large PTE that maps `page` by 4 KiB ones for all but the `hit` pages. Tells
    /// whether it could.
    pub(super) fn demote(
        &mut self,
        tables: &mut T::Tables,
        page: usize,
        hit: &Range<usize>,
    ) -> bool {
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
                    let (target, prot) = (slot.target(), slot.prot());
                    let written = tables.write(va, small, target, prot, &mut self.reserve);
                    self.slots[page] = match written {
                        Ok(()) => slot.with_size(small),
                        Err(_) => slot.bare(),
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
            self.slots[page] = self.slots[page].bare();
        }
        self.has_tables = true;
        self.has_reserve = false;
        true
    }
}
