// SPDX-License-Identifier: GPL-2.0

//! Moves pages of processes to device memory and back.
//!
//! # Overview
//!
//! A migration is a value that goes through stages. At each of them it may be dropped, and what was
//! not moved by then stays where it was.
//!
//! 1. Pages are unmapped and locked: [`MmSession::migrate`] for those of a range, of which it makes
//!    a [`Collected`]; [`MmSession::recall`] for the way back; [`CpuFault::migrate`] for those
//!    around a page that a CPU touched; [`Pagemap::evict`] for those in a part of device memory,
//!    whichever processes own them. In the first two cases the device may still reach the pages:
//!    [`Unflushed`] has it forget them with the copy, at the latest.
//! 2. Each gets a page to be copied to, which makes it a [`Filled`]. Towards the device the driver
//!    gives them, see [`Collected::fill`]; towards system memory they are allocated here.
//! 3. [`Filled::map`] lends the system pages to the device, and [`Mapped::copies`] is what its
//!    engine has to do: by [`Unflushed::copy`], after the flush.
//! 4. [`Filled::install`] and [`Mapped::install`] put those pages in place that were copied.
//! 5. Dropping the [`Installed`] lets the processes go on.
//!
//! Nothing here enters pages in a device's tables: the driver takes a fresh
//! [snapshot](super::hmm), in which it finds its own device pages.
//!
//! # What a thread may do meanwhile
//!
//! From stage 1 to stage 5 folios are locked, and CPUs that wait for them hold the `mmap_lock` of
//! their processes. A thread that waited for memory management then would wait for itself: a
//! migration borrows its [`MmSession`] mutably, no session of the thread looks into memory, and
//! [`DevFolio`]s have to be claimed before it begins. A thread has one migration at a time; more
//! threads make copies overlap.
//!
//! # Limits of core mm
//!
//! - Only anonymous memory goes to a device.
//! - A migration lies within one aligned block of 2 MiB, and folios of device memory have that size
//!   or one page.
//! - An empty 2 MiB may be filled with one large folio, or with small ones for all of its pages, or
//!   not at all. A large folio that is given small ones is split.
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     device::{Bound, Device},
//!     dma::DmaAddress,
//!     mm::{
//!         addr::PageRange,
//!         memremap::{DevFolio, DeviceMemory, Order, Pagemap, HUGE_PAGES},
//!         migrate::{Copy, MigrateBuf},
//!         space::{MmSession, Mirror},
//!     },
//! };
//!
//! /// Moves 2 MiB to the device in one piece, if they are in one piece. Returns how many pages moved.
//! fn to_device<T: Mirror>(
//!     session: &mut MmSession<'_, T>,
//!     pagemap: &Pagemap<T::Memory>,
//!     range: PageRange,
//!     first: u32,
//!     dev: &Device<Bound>,
//!     copy: impl Fn(Copy, Option<DmaAddress>) -> Result,
//! ) -> Result<usize> {
//!     let mut buf = MigrateBuf::new()?;
//!     // Device memory comes first: now nothing is locked.
//!     let mut folio = Some(pagemap.folio(first, Order::Huge)?);
//!     let Some(collected) = session.migrate(range, true, &mut buf)? else {
//!         return Ok(0);
//!     };
//!     let (mapped, copied) = collected
//!         .fill(|_, order| if order == Order::Huge { folio.take() } else { None })
//!         .map(dev)
//!         .copy(|_, mapped| mapped.copies().try_for_each(|(what, from)| copy(what, from)));
//!     // A page that is not copied stays where it is.
//!     let copied = copied.is_ok();
//!     let installed = mapped.install(|_| copied);
//!     Ok(installed.pages())
//! }
//!
//! /// Brings home what is in 2 MiB of device memory.
//! fn evict<D: DeviceMemory>(
//!     pagemap: &Pagemap<D>,
//!     first: u32,
//!     live: &[u64; HUGE_PAGES / 64],
//!     dev: &Device<Bound>,
//!     copy: impl Fn(Copy, Option<DmaAddress>) -> Result,
//! ) -> Result<usize> {
//!     let mut buf = MigrateBuf::new()?;
//!     let Some(filled) = pagemap.evict(first, live, &mut buf)? else {
//!         return Ok(0);
//!     };
//!     let mapped = filled.map(dev);
//!     let copied = mapped.copies().try_for_each(|(what, to)| copy(what, to)).is_ok();
//!     let installed = mapped.install(|_| copied);
//!     Ok(installed.pages())
//! }
//!
//! # #[cfg(CONFIG_RUST_MM_KUNIT_TEST)] {
//! # use kernel::{mm::{addr::VirtAddr, memremap::LivePagemap, testing::*}, page::PAGE_SIZE};
//! # let pages = HUGE_PAGES as u32;
//! # let (device, ram) = (DmaDevice::new()?, Ram::new(pages)?);
//! # let live = LivePagemap::new(device.bound(), pages, c"doctest", ram)?;
//! # let area = map_anon_len(2 * HUGE_PAGES * PAGE_SIZE)?;
//! # let start = area.start().as_usize().next_multiple_of(HUGE_PAGES * PAGE_SIZE);
//! # let range = PageRange::from_len(VirtAddr::new(start), HUGE_PAGES * PAGE_SIZE)?;
//! # let fixture = Fixture::with_pagemap(range, live.clone())?;
//! # let mut session = fixture.session()?;
//! # let device = DmaDevice::new()?;
//! # advise_huge(range)?;
//! // Memory that was never touched goes to the device as a whole: there is nothing to copy.
//! let zero = |copy: Copy, _| if copy.hole { Ok(()) } else { Err(EIO) };
//! let moved = to_device(&mut session, &live, range, 0, device.bound(), zero)?;
//! assert_eq!(moved, HUGE_PAGES);
//!
//! // A copy that fails leaves the pages where they are.
//! let live_pages = [u64::MAX; HUGE_PAGES / 64];
//! let moved = evict(&live, 0, &live_pages, device.bound(), |_, _| Err(EIO))?;
//! assert_eq!((moved, live.in_use()), (0, HUGE_PAGES));
//! let moved = evict(&live, 0, &live_pages, device.bound(), |_, _| Ok(()))?;
//! assert_eq!((moved, live.in_use()), (HUGE_PAGES, 0));
//!
//! // What is not mapped cannot move.
//! munmap(area)?;
//! let moved = to_device(&mut session, &live, range, 0, device.bound(), zero);
//! assert!(moved.is_err_and(|error| error == ENOENT));
//! # drop(session);
//! # }
//! # Ok::<(), Error>(())
//! ```
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h)

use super::{
    addr::{
        PageRange,
        Pfn,
        VirtAddr, //
    },
    folio::{
        FolioHolder,
        RamBlock,
        RamFolio, //
    },
    memremap::{
        DevFolio,
        DeviceMemory,
        Order,
        Pagemap,
        User,
        HUGE_PAGES, //
    },
    space::{
        Deferred,
        Mirror,
        MmSession, //
    },
    virt::{
        flags,
        VmaRef, //
    },
    MmapReadGuard, //
};
use crate::{
    bindings,
    dma::DmaAddress,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    ptr::Alignment, //
};
use core::{
    ops::Range,
    ptr, //
};

mod collected;
mod evict;
mod filled;
mod migration;
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;
mod unflushed;

use self::migration::Migration;
pub use self::{
    collected::Collected,
    filled::{
        Copy,
        Filled,
        Installed,
        Mapped, //
    },
    unflushed::Unflushed,
};
#[cfg(doc)]
use super::memremap::CpuFault;

// CAST: Small constants.
const VALID: usize = bindings::MIGRATE_PFN_VALID as usize;
const MIGRATE: usize = bindings::MIGRATE_PFN_MIGRATE as usize;
const COMPOUND: usize = bindings::MIGRATE_PFN_COMPOUND as usize;
const SHIFT: u32 = bindings::MIGRATE_PFN_SHIFT;

/// The memory that a migration lies within: as much as an entry of a CPU's middle page table maps.
pub(super) const BLOCK: Alignment = Alignment::new::<{ HUGE_PAGES * PAGE_SIZE }>();

/// Marks what is not mapped for DMA.
const UNMAPPED: DmaAddress = DmaAddress::MAX;

/// Room for what a migration has to remember.
pub struct MigrateBuf {
    /// What core mm found, each a frame with flags, as in `struct migrate_vma`.
    src: KVVec<usize>,
    /// Where it goes.
    dst: KVVec<usize>,
    /// The address on the bus of the system page.
    dma: KVVec<DmaAddress>,
}

impl MigrateBuf {
    /// Makes room for any migration.
    pub fn new() -> Result<Self> {
        Ok(Self {
            src: KVVec::from_elem(0, HUGE_PAGES, GFP_KERNEL)?,
            dst: KVVec::from_elem(0, HUGE_PAGES, GFP_KERNEL)?,
            dma: KVVec::from_elem(UNMAPPED, HUGE_PAGES, GFP_KERNEL)?,
        })
    }
}

fn is_migrating(mpfn: usize) -> bool {
    mpfn & MIGRATE != 0
}

/// The frame, if there is one.
fn pfn(mpfn: usize) -> Option<Pfn> {
    (mpfn & VALID != 0).then(|| Pfn::new(mpfn >> SHIFT))
}

/// The folio that the frame belongs to, if there is one.
///
/// # Safety
///
/// The frame has a `struct page`.
unsafe fn folio(mpfn: usize) -> Option<*mut bindings::folio> {
    // SAFETY: By the caller's promise.
    pfn(mpfn).map(|pfn| unsafe { bindings::page_folio(bindings::pfn_to_page(pfn.as_usize())) })
}

fn order(mpfn: usize) -> Order {
    if mpfn & COMPOUND != 0 {
        Order::Huge
    } else {
        Order::Page
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToDevice,
    ToRam,
}

impl<T: Mirror> MmSession<'_, T> {
    /// Unmaps and locks the pages of `range` that can go to the memory of the space's pagemap:
    /// anonymous memory, also where none is allocated yet.
    ///
    /// `range` lies within an aligned block of 2 MiB; what lies behind the end of its first VMA is
    /// cut off, see [`Collected::range`]. `whole` says to take 2 MiB in one piece, where memory is
    /// so or is not allocated yet; if it is false, large folios are split.
    ///
    /// Pages that are busy are left out. Takes `mmap_lock` and holds it until the end; the space
    /// revokes the range. Needs to be called without any lock that a [`Mirror`] or [`DeviceMemory`]
    /// takes.
    ///
    /// [`None`] if there is nothing to move.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if nothing is mapped at the start; [`EINVAL`] for a wrong range, and if what is
    /// mapped there never can go to a device; [`ENODEV`] if the space has no pagemap; [`EBUSY`] if
    /// the thread has a folio locked; [`ENOMEM`]; [`EINTR`] if the thread is killed.
    pub fn migrate<'m>(
        &'m mut self,
        range: PageRange,
        whole: bool,
        buf: &'m mut MigrateBuf,
    ) -> Result<Option<Unflushed<'m, T, Collected<'m, T::Memory>>>> {
        let space = self.space();
        let pagemap = space.pagemap().ok_or(ENODEV)?;
        if !PageRange::block(range.start(), BLOCK)?.covers(range) {
            return Err(EINVAL);
        }
        let holder = FolioHolder::new()?;
        let mmap = self.mm().mmap_read_lock_killable()?;
        let vma = mmap.vma_lookup(range.start().as_usize()).ok_or(ENOENT)?;
        if vma.flags() & flags::SHARED != 0 {
            return Err(EINVAL);
        }
        let range = PageRange::new(range.start(), range.end().min(VirtAddr::new(vma.end())))?;
        let at = (vma.as_ptr(), ptr::null_mut());
        let (deferred, core) = Deferred::capture(space, pagemap.owner(), || {
            // SAFETY: `mmap` moves into the result.
            unsafe {
                Migration::collect(pagemap, Direction::ToDevice, at, range, whole, holder, buf)
            }
        });
        Ok(core?.map(|mut core| {
            core._mmap = Some(mmap);
            Unflushed::new(deferred, Collected { core, range })
        }))
    }

    /// Unmaps and locks the pages of `range` that lie in the space's pagemap, and gives each page
    /// system memory to be copied to.
    ///
    /// `range` as for [`MmSession::migrate`], and so are the locks. `whole` says that there is a
    /// large folio: it stays in one piece if there is one of system memory, and is split if not.
    ///
    /// [`None`] if there is nothing to move.
    ///
    /// # Errors
    ///
    /// As for [`MmSession::migrate`].
    pub fn recall<'m>(
        &'m mut self,
        range: PageRange,
        whole: bool,
        buf: &'m mut MigrateBuf,
    ) -> Result<Option<Unflushed<'m, T, Filled<'m, T::Memory>>>> {
        let space = self.space();
        let pagemap = space.pagemap().ok_or(ENODEV)?;
        if !PageRange::block(range.start(), BLOCK)?.covers(range) {
            return Err(EINVAL);
        }
        let holder = FolioHolder::new()?;
        let mmap = self.mm().mmap_read_lock_killable()?;
        let vma = mmap.vma_lookup(range.start().as_usize()).ok_or(ENOENT)?;
        // SAFETY: Used as long as the lock is held only: by `mmap`, then by what is collected.
        let vma = unsafe { VmaRef::from_raw(vma.as_ptr()) };
        let range = PageRange::new(range.start(), range.end().min(VirtAddr::new(vma.end())))?;
        let huge = if whole && range.pages() == HUGE_PAGES {
            RamFolio::huge(Some((vma, range.start())))
        } else {
            None
        };
        let (whole, nowhere) = (huge.is_some(), ptr::null_mut());
        let (deferred, collected) = Deferred::capture(space, pagemap.owner(), || {
            // SAFETY: `mmap` moves into the result.
            unsafe { Collected::from_device(pagemap, vma, range, whole, nowhere, holder, buf) }
        });
        let Some(mut collected) = collected? else {
            return Ok(None);
        };
        collected.core._mmap = Some(mmap);
        let near = Some((vma, range.start()));
        // On an error `deferred` outlives the pages that were collected, of which none is put in
        // place either way.
        let filled = collected.fill_ram(near, huge)?;
        Ok(Some(Unflushed::new(deferred, filled)))
    }
}
