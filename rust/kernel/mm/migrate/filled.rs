// SPDX-License-Identifier: GPL-2.0

//! Pages that have a place to go to, are being copied, and are put in place.

use super::*;
use crate::{
    device::{
        Bound,
        Device, //
    },
    page::PAGE_SHIFT, //
};
use core::ops::Range;

/// Pages that are locked at both ends, to be copied.
#[must_use]
pub struct Filled<'m, D: DeviceMemory> {
    core: Migration<'m, D>,
}

/// Most small pages that are copied in one piece: as many as [`RamBlock`] gives.
const RUN: usize = RamBlock::PAGES;

/// A bounce buffer would be filled before the device has forgotten the page, and miss its last stores.
const ATTRS: usize = bindings::DMA_ATTR_REQUIRE_COHERENT as usize;

/// What has to be copied, in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Where it is in the migration, in pages from the start.
    pub page: usize,
    /// How many pages.
    pub pages: usize,
    /// Index of the first page in device memory.
    pub device: u32,
    /// Whether there is nothing to copy from: the device memory has to be filled with zeroes.
    pub hole: bool,
}

impl<'m, D: DeviceMemory> Migration<'m, D> {
    /// Enters a locked folio with a reference, which now is the migration's.
    pub(super) fn put(&mut self, page: usize, folio: *mut bindings::folio, order: Order) {
        let compound = match order {
            Order::Page => 0,
            Order::Huge => COMPOUND,
        };
        // SAFETY: The folio is valid.
        let pfn = unsafe { bindings::folio_pfn(folio) };
        self.buf.dst[page] = pfn << SHIFT | VALID | compound;
    }

    fn copy(&self, page: usize) -> Option<Copy> {
        let dst = pfn(self.buf.dst[page])?;
        let src = self.src_pfn(page);
        let device = match self.direction {
            Direction::ToDevice => dst,
            Direction::ToRam => src?,
        };
        Some(Copy {
            page,
            pages: order(self.buf.dst[page]).pages(),
            device: self.pagemap.index(device)?,
            hole: src.is_none(),
        })
    }

    /// Entries that may have a place to go to: a large folio is one, and takes all the room.
    fn used(&self) -> Range<usize> {
        let is_large = self.count != 0 && self.buf.dst[0] & COMPOUND != 0;
        0..if is_large { 1 } else { self.count }
    }

    /// What has to be copied, but for what processes have again.
    fn copies(&self) -> impl Iterator<Item = Copy> + '_ {
        self.used()
            .skip(self.finalized)
            .filter_map(|page| self.copy(page))
    }

    /// The same in fewer pieces, with neighbours joined that lie side by side at both ends. It only
    /// depends on `src` and `dst`.
    fn runs(&self) -> impl Iterator<Item = Copy> + '_ {
        let mut copies = self.copies().peekable();
        core::iter::from_fn(move || {
            let mut run = copies.next()?;
            let joins = |run: &Copy, next: &Copy| {
                // CAST: Less than 512.
                let (page, end) = (run.page + run.pages, run.device + run.pages as u32);
                let frame = |page| self.system_pfn(page).map(Pfn::as_usize);
                run.pages < RUN
                    && (next.page, next.device, next.hole) == (page, end, run.hole)
                    && frame(next.page) == frame(run.page).map(|frame| frame + run.pages)
            };
            while copies.next_if(|next| joins(&run, next)).is_some() {
                run.pages += 1;
            }
            Some(run)
        })
    }

    /// The first system frame of a copy.
    fn system_pfn(&self, page: usize) -> Option<Pfn> {
        let dst = pfn(self.buf.dst[page])?;
        match self.direction {
            Direction::ToDevice => self.src_pfn(page),
            Direction::ToRam => Some(dst),
        }
    }

    /// The first system page of a copy.
    fn system(&self, page: usize) -> Option<*mut bindings::page> {
        let pfn = self.system_pfn(page)?;
        // SAFETY: The frame has a `struct page`.
        Some(unsafe { bindings::pfn_to_page(pfn.as_usize()) })
    }
}

impl<'m, D: DeviceMemory> Filled<'m, D> {
    pub(super) fn new(core: Migration<'m, D>) -> Self {
        Self { core }
    }

    /// What has to be copied, in order, each page or large folio by itself.
    pub fn copies(&self) -> impl Iterator<Item = Copy> + '_ {
        self.core.copies()
    }

    /// Whether there is nothing to copy.
    pub fn is_empty(&self) -> bool {
        self.copies().next().is_none()
    }

    /// Maps the system pages for DMA by `dev`, one that is coherent and needs no bounce buffers. What
    /// that fails for is left out, and stays where it is.
    pub fn map<'d>(self, dev: &'d Device<Bound>) -> Mapped<'m, 'd, D> {
        let mut mapped = Mapped {
            filled: Some(self),
            dev,
        };
        mapped.map();
        mapped
    }

    /// Finds page `page` of the migration in system memory, whatever the size of its folio.
    fn system_page(&self, page: usize, direction: Direction) -> Result<*mut bindings::page> {
        let pages = self.core.finalized..self.core.count;
        if !pages.contains(&page) || self.core.direction != direction {
            return Err(EINVAL);
        }
        // A large folio is entered with its first page, and takes all the room.
        let large = self.core.copy(0).filter(|copy| copy.pages > 1);
        let copy = large.or_else(|| self.core.copy(page)).ok_or(EINVAL)?;
        let within = page - copy.page;
        let first = self.core.system(copy.page).ok_or(EINVAL)?;
        // SAFETY: Inside the same folio.
        Ok(unsafe { first.add(within) })
    }

    /// Reads page `page`, counted as in [`Copy::page`], of what goes to the device.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if there is no such page.
    #[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
    pub(in crate::mm) fn read_system(&self, page: usize, out: &mut [u8; PAGE_SIZE]) -> Result {
        let from = self.system_page(page, Direction::ToDevice)?;
        // SAFETY: The page is valid, locked and mapped nowhere, so nobody else writes to it.
        unsafe {
            let bytes = bindings::kmap_local_page(from);
            ptr::copy_nonoverlapping(bytes.cast(), out.as_mut_ptr(), PAGE_SIZE);
            bindings::kunmap_local(bytes);
        }
        Ok(())
    }

    /// Writes page `page`, counted as in [`Copy::page`], of where it goes to in system memory.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if there is no such page.
    pub fn write_system(&mut self, page: usize, data: &[u8; PAGE_SIZE]) -> Result {
        let to = self.system_page(page, Direction::ToRam)?;
        // SAFETY: The page is valid and ours alone.
        unsafe {
            let bytes = bindings::kmap_local_page(to);
            ptr::copy_nonoverlapping(data.as_ptr(), bytes.cast(), PAGE_SIZE);
            bindings::kunmap_local(bytes);
        }
        Ok(())
    }

    /// Puts the new pages in place for which `copied` says that all of it is certainly there: the
    /// copy is complete, or the zeroes of a hole. The others stay where they are.
    pub fn install(mut self, copied: impl FnMut(&Copy) -> bool) -> Installed<'m, D> {
        self.install_before(self.core.count, copied);
        Installed { core: self.core }
    }

    fn install_before(&mut self, end: usize, mut copied: impl FnMut(&Copy) -> bool) {
        let used = self.core.used();
        for page in self.core.installed..end.min(used.end) {
            if self.core.buf.dst[page] == 0 {
                continue;
            }
            if !self.core.copy(page).is_some_and(|copy| copied(&copy)) {
                self.core.release(page);
            }
        }
        self.core.install(end);
    }
}

/// A [`Filled`] whose system pages a device may reach.
///
/// # Invariants
///
/// What is not `UNMAPPED` in `buf.dma` is mapped for `dev`, from the first page of each of
/// `Migration::runs` to its last.
#[must_use]
pub struct Mapped<'m, 'd, D: DeviceMemory> {
    /// [`None`] only after [`Self::into_filled`].
    filled: Option<Filled<'m, D>>,
    dev: &'d Device<Bound>,
}

impl<'m, D: DeviceMemory> Mapped<'m, '_, D> {
    fn dma_direction(core: &Migration<'m, D>) -> bindings::dma_data_direction {
        match core.direction {
            Direction::ToDevice => bindings::dma_data_direction::DMA_TO_DEVICE,
            Direction::ToRam => bindings::dma_data_direction::DMA_FROM_DEVICE,
        }
    }

    fn map(&mut self) {
        let Some(Filled { core }) = &mut self.filled else {
            return;
        };
        let (dev, direction) = (self.dev.as_raw(), Self::dma_direction(core));
        let mut dma = core::mem::take(&mut core.buf.dma);
        dma.fill(UNMAPPED);
        for run in core.runs() {
            let Some(system) = core.system(run.page) else {
                continue;
            };
            let len = run.pages << PAGE_SHIFT;
            // SAFETY: `dev` is bound, and the pages, whose frames follow each other, stay until they
            // are unmapped.
            let addr =
                unsafe { bindings::dma_map_page_attrs(dev, system, 0, len, direction, ATTRS) };
            // SAFETY: `addr` is what was returned for `dev`.
            if unsafe { bindings::dma_mapping_error(dev, addr) } == 0 {
                // INVARIANT: Just mapped.
                dma[run.page] = addr;
            }
        }
        core.buf.dma = dma;
    }

    /// Unmaps what is mapped before entry `end`, and returns what was: a bit for each page.
    fn unmap_before(&mut self, end: usize) -> [u64; HUGE_PAGES / 64] {
        let mut mapped = [0; HUGE_PAGES / 64];
        let Some(Filled { core }) = &mut self.filled else {
            return mapped;
        };
        let (dev, direction) = (self.dev.as_raw(), Self::dma_direction(core));
        let mut dma = core::mem::take(&mut core.buf.dma);
        for run in core.runs().take_while(|run| run.page < end) {
            let addr = core::mem::replace(&mut dma[run.page], UNMAPPED);
            if addr == UNMAPPED {
                continue;
            }
            for page in run.page..run.page + run.pages {
                mapped[page / 64] |= 1 << (page % 64);
            }
            let len = run.pages << PAGE_SHIFT;
            // SAFETY: By the type invariants, with the length it was mapped with: neither `src` nor
            // `dst` has changed.
            unsafe { bindings::dma_unmap_page_attrs(dev, addr, len, direction, ATTRS) };
        }
        core.buf.dma = dma;
        mapped
    }

    /// What has to be copied, in order and in as few pieces as can be, with where the system memory
    /// is on the bus; [`None`] for holes.
    pub fn copies(&self) -> impl Iterator<Item = (Copy, Option<DmaAddress>)> + '_ {
        self.filled.iter().flat_map(|Filled { core }| {
            core.runs().filter_map(|copy| {
                let addr = Some(core.buf.dma[copy.page]).filter(|addr| *addr != UNMAPPED);
                (addr.is_some() || copy.hole).then_some((copy, addr))
            })
        })
    }

    /// Takes the pages from the device, which must have stopped to use them. What could not be
    /// mapped is there again.
    pub fn unmap(mut self) -> Filled<'m, D> {
        self.unmap_before(HUGE_PAGES);
        self.into_filled()
    }

    /// Takes the pages from the device, which must have stopped to use them, and does what
    /// [`Filled::install`] does. `copied` is asked about each page or large folio of what
    /// [`Self::copies`] gave.
    pub fn install(mut self, mut copied: impl FnMut(&Copy) -> bool) -> Installed<'m, D> {
        let mapped = self.unmap_before(HUGE_PAGES);
        self.into_filled()
            .install(|copy| (copy.hole || contains(&mapped, copy.page)) && copied(copy))
    }

    /// Puts the first `pieces` of what [`Self::copies`] gives in place, which are complete, and lets
    /// the processes go on; after that they are not among [`Self::copies`] any more. The device may
    /// go on with the others. Pages of a large folio stay together, until [`install`](Self::install).
    pub fn install_first(&mut self, pieces: usize) {
        let last = pieces.checked_sub(1).and_then(|n| self.copies().nth(n));
        let Some((run, _)) = last else { return };
        let end = run.page + run.pages;
        let mapped = match &self.filled {
            Some(filled) if !filled.core.is_large() => self.unmap_before(end),
            _ => return,
        };
        if let Some(filled) = &mut self.filled {
            filled.install_before(end, |copy| copy.hole || contains(&mapped, copy.page));
            filled.core.finalize(end);
        }
    }

    fn into_filled(mut self) -> Filled<'m, D> {
        // PANIC: `None` only from here on.
        self.filled.take().expect("not taken before")
    }
}

impl<D: DeviceMemory> Drop for Mapped<'_, '_, D> {
    fn drop(&mut self) {
        self.unmap_before(HUGE_PAGES);
    }
}

/// Whether `page` is in a set with a bit for each.
fn contains(pages: &[u64; HUGE_PAGES / 64], page: usize) -> bool {
    pages[page / 64] & 1 << (page % 64) != 0
}

/// Pages that are in place, and still locked. Dropping it lets the processes go on.
#[must_use]
pub struct Installed<'m, D: DeviceMemory> {
    core: Migration<'m, D>,
}

impl<D: DeviceMemory> Installed<'_, D> {
    /// What really moved: core mm may refuse some at the last moment.
    pub fn moved(&self) -> impl Iterator<Item = Copy> + '_ {
        let core = &self.core;
        core.used()
            .filter_map(|page| core.copy(page))
            .filter(|copy| is_migrating(core.buf.src[copy.page]))
    }

    /// How many pages did.
    pub fn pages(&self) -> usize {
        let (src, dst) = (&self.core.buf.src, &self.core.buf.dst);
        self.core
            .used()
            .filter(|&page| is_migrating(src[page]) && dst[page] != 0)
            .map(|page| order(dst[page]).pages())
            .sum()
    }

    /// Lets the processes go on.
    pub fn finalize(self) {}
}
