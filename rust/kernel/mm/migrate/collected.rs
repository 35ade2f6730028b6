// SPDX-License-Identifier: GPL-2.0

//! Pages that are unmapped and have no place to go to yet.

use super::*;

/// Pages that are unmapped and locked, to be moved.
#[must_use]
pub struct Collected<'m, D: DeviceMemory> {
    pub(super) core: Migration<'m, D>,
    pub(super) range: PageRange,
}

/// Something that may be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Where, in pages from the start of [`Collected::range`].
    pub(super) page: usize,
    /// How much.
    pub(super) order: Order,
}

impl<'m, D: DeviceMemory> Collected<'m, D> {
    /// Collects what of `range` is in `pagemap`; [`None`] if nothing is. Large folios are taken as
    /// a `whole`, or else split.
    ///
    /// # Safety
    ///
    /// The `mmap_lock` of `vma`, which covers `range`, is held during `'m`, and `fault_page` is
    /// locked and referenced by a fault of that time.
    pub(in crate::mm) unsafe fn from_device(
        pagemap: &'m Pagemap<D>,
        vma: &VmaRef,
        range: PageRange,
        whole: bool,
        fault_page: *mut bindings::page,
        holder: FolioHolder,
        buf: &'m mut MigrateBuf,
    ) -> Result<Option<Self>> {
        let at = (vma.as_ptr(), fault_page);
        // SAFETY: By the caller's promise.
        let core = unsafe {
            Migration::collect(pagemap, Direction::ToRam, at, range, whole, holder, buf)?
        };
        Ok(core.map(|core| Self { core, range }))
    }

    /// The range that is being migrated.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// What may be moved, in order.
    #[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        (0..self.core.count).filter_map(|page| self.source(page))
    }

    fn source(&self, page: usize) -> Option<Source> {
        let src = self.core.buf.src[page];
        // SAFETY: Core mm found it in a process.
        let movable = match unsafe { folio(src) } {
            // SAFETY: As above. Pages of files do not go to a device.
            Some(folio) => unsafe { bindings::folio_test_anon(folio) },
            // Core mm finds holes on the way back, too, where there is nothing to fill them with.
            None => self.core.direction == Direction::ToDevice,
        };
        (is_migrating(src) && movable).then(|| Source {
            page,
            order: order(src),
        })
    }

    /// Asks `give` for device memory for each page or large folio, with its place in pages from the start
    /// of [`Collected::range`].
    ///
    /// For a large source it asks for [`Order::Huge`] first, and if there is none, for
    /// [`Order::Page`] for each of its pages. What does not fit is given back: folios of another
    /// size or pagemap, and those for a large hole unless there is one for each page.
    ///
    /// `give` must not sleep for other than what a folio lock may be held for; see [`super`].
    pub fn fill<'p>(
        mut self,
        mut give: impl FnMut(usize, Order) -> Option<DevFolio<'p, D>>,
    ) -> Filled<'m, D>
    where
        D: 'p,
    {
        let mut page = 0;
        while let Some(source) = self.next_source(page) {
            page = source.page + source.order.pages();
            if self.put(source.page, source.order, &mut give) || source.order == Order::Page {
                continue;
            }
            for small in source.page..page {
                self.put(small, Order::Page, &mut give);
            }
        }
        self.core.normalise();
        Filled::new(self.core)
    }

    fn next_source(&self, from: usize) -> Option<Source> {
        (from..self.core.count).find_map(|page| self.source(page))
    }

    fn put<'p>(
        &mut self,
        page: usize,
        order: Order,
        give: &mut impl FnMut(usize, Order) -> Option<DevFolio<'p, D>>,
    ) -> bool
    where
        D: 'p,
    {
        let pagemap = self.core.pagemap;
        let Some(folio) = give(page, order)
            .filter(|folio| folio.order() == order && ptr::eq(folio.pagemap(), pagemap))
        else {
            return false;
        };
        // INVARIANT: Locked, with one reference, which is ours now.
        self.core.put(page, folio.into_locked(), order);
        true
    }

    /// Gives each page system memory. `near` is where the fault was, for which there must be a page
    /// if there is one at all; `huge` is for a large folio.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if there is no memory for the page at `near`, or without it, for none.
    pub(in crate::mm) fn fill_ram(
        mut self,
        near: Option<(&VmaRef, VirtAddr)>,
        mut huge: Option<RamFolio>,
    ) -> Result<Filled<'m, D>> {
        let touched = near.and_then(|(_, addr)| self.range.page_index(addr));
        let (mut filled, mut failed) = (0, false);
        let mut block = RamBlock::empty();
        // A large folio is one entry, and takes all the room.
        let is_large = self.core.count == HUGE_PAGES && self.core.buf.src[0] & COMPOUND != 0;
        for page in 0..if is_large { 1 } else { self.core.count } {
            let Some(source) = self.source(page) else {
                continue;
            };
            let addr = VirtAddr::new(self.range.start().as_usize() + page * PAGE_SIZE);
            if self.is_block(page, addr) {
                block = RamBlock::new(near.map(|(vma, _)| vma)).unwrap_or(block);
            }
            let at = near.map(|(vma, _)| (vma, addr));
            let folio = match source.order {
                Order::Huge => huge.take(),
                Order::Page => block
                    .take()
                    .or_else(|| RamFolio::page(at, near.is_none() || touched == Some(page))),
            };
            match folio {
                Some(folio) => {
                    // INVARIANT: Locked, with one reference, which is ours now.
                    self.core.put(page, folio.into_locked(), source.order);
                    filled += 1;
                }
                None if touched == Some(page) => return Err(ENOMEM),
                None => failed = true,
            }
        }
        if failed && filled == 0 {
            return Err(ENOMEM);
        }
        Ok(Filled::new(self.core))
    }

    /// Whether a block of neighbours begins with entry `page`, at `addr`, which all may move.
    fn is_block(&self, page: usize, addr: VirtAddr) -> bool {
        let small = |&src: &usize| src & (MIGRATE | VALID | COMPOUND) == MIGRATE | VALID;
        addr.as_usize() % (RamBlock::PAGES * PAGE_SIZE) == 0
            && self.core.buf.src[page..self.core.count]
                .get(..RamBlock::PAGES)
                .is_some_and(|pages| pages.iter().all(small))
    }
}
