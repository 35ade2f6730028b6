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
//!     let mapped = collected
//!         .fill(|_, order| if order == Order::Huge { folio.take() } else { None })
//!         .map(dev)
//!         .flushed();
//!     // What is not copied stays where it is.
//!     let copied = mapped.copies().try_for_each(|(what, from)| copy(what, from)).is_ok();
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
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;
mod unflushed;

pub use self::{
    collected::{
        Collected,
        Source, //
    },
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

/// A migration under way.
///
/// # Invariants
///
/// - The first `count` entries of `buf.src` are as core mm left them in the last call.
/// - A frame in `buf.dst` from `finalized` on is that of a locked folio, with a reference of ours. If
///   it is large it has `COMPOUND` and the following entries are zero.
/// - If `vma` is not null, its `mmap_lock` is held, by `_mmap` or by the fault that is borrowed.
/// - Core mm's finalize was called for the entries before `finalized`, of which only the numbers are of
///   use, and has still to be called for the others.
struct Core<'m, D: DeviceMemory> {
    vma: *mut bindings::vm_area_struct,
    start: usize,
    count: usize,
    fault_page: *mut bindings::page,
    direction: Direction,
    pagemap: &'m Pagemap<D>,
    buf: &'m mut MigrateBuf,
    finalized: usize,
    /// Up to here `migrate_vma_pages()` or its like was called.
    installed: usize,
    // After what needs them: fields are dropped in order, and `drop` comes before all.
    _holder: FolioHolder,
    _user: Option<User<'m, D>>,
    _mmap: Option<MmapReadGuard<'m>>,
}

impl<'m, D: DeviceMemory> Core<'m, D> {
    /// Collects the pages of `range` that can go in `direction`; [`None`] if there are none. Large
    /// folios are taken as a `whole`, or else split.
    ///
    /// # Safety
    ///
    /// The `mmap_lock` of `vma` is held during `'m`; `fault_page` is null, or locked and referenced
    /// by a fault of that time.
    unsafe fn collect(
        pagemap: &'m Pagemap<D>,
        direction: Direction,
        (vma, fault_page): (*mut bindings::vm_area_struct, *mut bindings::page),
        range: PageRange,
        whole: bool,
        holder: FolioHolder,
        buf: &'m mut MigrateBuf,
    ) -> Result<Option<Self>> {
        if range.pages() > HUGE_PAGES {
            return Err(EINVAL);
        }
        let mut select = match direction {
            Direction::ToDevice => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_SYSTEM,
            Direction::ToRam => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
        };
        if whole && range.pages() == HUGE_PAGES {
            select |= bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_COMPOUND;
        }
        let mut args = bindings::migrate_vma {
            vma,
            src: buf.src.as_mut_ptr(),
            dst: buf.dst.as_mut_ptr(),
            cpages: 0,
            npages: 0,
            start: range.start().as_usize(),
            end: range.end().as_usize(),
            pgmap_owner: pagemap.owner(),
            // CAST: Flags of a few bits.
            flags: select as usize,
            fault_page,
        };
        // SAFETY: The arrays have an entry for each page; the lock is held.
        to_result(unsafe { bindings::migrate_vma_setup(&mut args) })?;
        // INVARIANT: Core mm has cleared `dst`.
        let this = Self {
            vma,
            start: args.start,
            count: args.npages,
            fault_page,
            direction,
            pagemap,
            buf,
            finalized: 0,
            installed: 0,
            _holder: holder,
            _user: None,
            _mmap: None,
        };
        // Even if there is none left core mm wants to be told of the end.
        Ok((args.cpages != 0).then_some(this))
    }

    /// For the entries of `range`.
    fn args(&mut self, range: Range<usize>) -> bindings::migrate_vma {
        bindings::migrate_vma {
            vma: self.vma,
            src: self.buf.src[range.clone()].as_mut_ptr(),
            dst: self.buf.dst[range.clone()].as_mut_ptr(),
            cpages: range.len(),
            npages: range.len(),
            start: self.start + range.start * PAGE_SIZE,
            end: self.start + range.end * PAGE_SIZE,
            pgmap_owner: self.pagemap.owner(),
            flags: 0,
            fault_page: self.fault_page,
        }
    }

    /// The frame that entry `page` is to be copied from. A large folio is one entry for core mm, until
    /// it is split.
    fn src_pfn(&self, page: usize) -> Option<Pfn> {
        pfn(self.buf.src[page]).or_else(|| {
            let head = self.buf.src[0];
            let whole = self.vma_window_is_whole() && head & COMPOUND != 0;
            pfn(head)
                .filter(|_| whole)
                .map(|head| Pfn::new(head.as_usize() + page))
        })
    }

    /// Whether there is a large folio at either end.
    fn is_large(&self) -> bool {
        (self.buf.src[0] | self.buf.dst[0]) & COMPOUND != 0
    }

    /// Whether a large folio, which takes all the room, may be here.
    fn vma_window_is_whole(&self) -> bool {
        self.count == HUGE_PAGES
    }

    /// Takes back what was to become of entry `page`.
    fn release(&mut self, page: usize) {
        let old = core::mem::take(&mut self.buf.dst[page]);
        // SAFETY: By the type invariants the folio is locked and one reference is ours.
        unsafe {
            if let Some(folio) = folio(old) {
                bindings::folio_unlock(folio);
                bindings::folio_put(folio);
            }
        }
    }

    fn release_all(&mut self) {
        for page in self.installed..self.count {
            self.release(page);
        }
    }

    /// Takes everything back where core mm could not cope: a large folio is split only if there is
    /// something for its first page, and a large hole has to be filled without gaps.
    fn normalise(&mut self) {
        let head = self.buf.src[0];
        let dst = &self.buf.dst[..self.count];
        if self.count == 0 || head & COMPOUND == 0 || dst[0] & COMPOUND != 0 {
            return;
        }
        let bad = if head & VALID != 0 {
            dst[0] == 0
        } else {
            dst.contains(&0)
        };
        if bad {
            self.release_all();
        }
    }

    /// Lets core mm put the new pages in place, up to entry `end`. A large folio is one entry, and takes
    /// all the room.
    fn install(&mut self, end: usize) {
        if self.installed == 0 {
            self.normalise();
        }
        let mut args = self.args(self.installed..end);
        // SAFETY: By the type invariants; `normalise` has left what core mm can deal with.
        unsafe {
            if self.vma.is_null() {
                bindings::migrate_device_pages(args.src, args.dst, args.npages);
            } else {
                bindings::migrate_vma_pages(&mut args);
            }
        }
        self.installed = end;
    }

    /// Lets the processes go on that wait for entries before `end`.
    fn finalize(&mut self, end: usize) {
        let mut args = self.args(self.finalized..end);
        // INVARIANT: It is called now.
        self.finalized = end;
        // SAFETY: By the type invariants. What is in `dst` was copied, if core mm has taken it, and is
        // given back by core mm otherwise.
        unsafe {
            if self.vma.is_null() {
                bindings::migrate_device_finalize(args.src, args.dst, args.npages);
            } else {
                bindings::migrate_vma_finalize(&mut args);
            }
        }
    }
}

impl<D: DeviceMemory> Drop for Core<'_, D> {
    fn drop(&mut self) {
        // Without new pages, core mm puts the old ones back.
        self.release_all();
        self.finalize(self.count);
    }
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
            unsafe { Core::collect(pagemap, Direction::ToDevice, at, range, whole, holder, buf) }
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
