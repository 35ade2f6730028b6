// SPDX-License-Identifier: GPL-2.0

//! Memory of a device that a process may own: pages that the CPU cannot reach.
//!
//! # Overview
//!
//! A [`Pagemap`] gives each page of a device's memory a `struct page`, so that it can take the
//! place of a page of anonymous memory; see [`super::migrate`]. A CPU that touches it faults, and
//! [`DeviceMemory::migrate_to_ram`] brings it back.
//!
//! A page is free, claimed as part of a [`DevFolio`], or installed in a process. The last reference
//! to an installed one may be dropped anywhere, so [`DeviceMemory::folio_free`] runs in atomic
//! context.
//!
//! Pages are counted by index: page `i` holds the bytes from `i * PAGE_SIZE` on of the device's
//! memory. So neither side needs a pointer from a `struct page` to what the driver knows of it.
//!
//! # Life
//!
//! A [`LivePagemap`] becomes a [`DrainedPagemap`] when no page is in use any more, and only that
//! gives the `struct page`s back. A process may keep a page longer than the device is there, so the
//! pagemap belongs to no device, and to drain it may take several attempts.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h)

use super::addr::Pfn;
use crate::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        EventCount, //
    },
    types::Opaque, //
};
use core::{
    ops::Range,
    ptr, //
};

mod claims;
mod fault;
mod live;

use self::claims::Claims;
pub use self::{
    fault::{
        CpuFault,
        FaultOutcome, //
    },
    live::{
        DrainedPagemap,
        LivePagemap, //
    }, //
};
pub use super::zone_device::{
    DevFolio,
    Order, //
};

/// Pages of a folio of [`Order::Huge`].
pub const HUGE_PAGES: usize = 1 << bindings::HPAGE_PMD_ORDER;

/// See [`Pagemap`].
const CLOSED: usize = 1 << (usize::BITS - 1);

/// What a driver does with its device's memory.
pub trait DeviceMemory: Sized + Send + Sync + 'static {
    /// These pages are free, and may be claimed again at once.
    ///
    /// Called once for each claim of a page: when the last reference to its folio is dropped, or a
    /// [`DevFolio`] is dropped unused. Called in any context, also with interrupts off: must not
    /// sleep.
    fn folio_free(&self, pages: Range<u32>);

    /// The large folio that began at page `first` was split into small ones.
    ///
    /// Called with interrupts off.
    fn folio_split(&self, first: u32);

    /// A CPU touched a page. See [`CpuFault::migrate`].
    ///
    /// Called with the process's `mmap_lock` and the lock of the folio held: whatever is locked
    /// here must never be held while entering memory management.
    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultOutcome;
}

/// [`DeviceMemory`] for devices that have none.
pub enum NoDeviceMemory {}

impl DeviceMemory for NoDeviceMemory {
    fn folio_free(&self, _pages: Range<u32>) {
        match *self {}
    }

    fn folio_split(&self, _first: u32) {
        match *self {}
    }

    fn migrate_to_ram(&self, _fault: CpuFault<'_, Self>) -> FaultOutcome {
        match *self {}
    }
}

/// The pages of a device's memory, all of it.
///
/// # Invariants
///
/// - `users` counts the claimed pages and those who look at them, and has `CLOSED` once there may be
///   no new claims. Nobody begins to look if it counts none.
/// - Until `users` is `CLOSED` and nothing else, `raw` is mapped by `memremap_pages()`, with `pages`
///   pages from the frame `base` on and `raw.owner` pointing to `self`.
#[pin_data]
pub struct Pagemap<D: DeviceMemory> {
    #[pin]
    raw: Opaque<bindings::dev_pagemap>,
    base: usize,
    pages: u32,
    /// Bytes of physical address space, from `base` on.
    region_len: bindings::resource_size_t,
    claims: Claims,
    users: Atomic<usize>,
    /// `users` counts none any more.
    #[pin]
    idle: EventCount,
    data: D,
}

// SAFETY: `raw` belongs to core mm, which locks what it changes.
unsafe impl<D: DeviceMemory> Send for Pagemap<D> {}
// SAFETY: As above.
unsafe impl<D: DeviceMemory> Sync for Pagemap<D> {}

impl<D: DeviceMemory> Pagemap<D> {
    const OPS: &'static bindings::dev_pagemap_ops = &bindings::dev_pagemap_ops {
        folio_free: Some(Self::folio_free_callback),
        migrate_to_ram: Some(Self::migrate_to_ram_callback),
        memory_failure: None,
        folio_split: Some(Self::folio_split_callback),
    };

    /// What the driver keeps for the callbacks.
    pub fn data(&self) -> &D {
        &self.data
    }

    /// How many pages there are.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// How many pages are claimed or being looked at; a hint.
    pub fn in_use(&self) -> usize {
        self.users.load(Relaxed) & !CLOSED
    }

    /// Claims the free pages of a folio that begins at page `first`, which must be a multiple of
    /// the folio's size. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if one of the pages is in use; [`EINVAL`] for a wrong index; [`ENODEV`] after
    /// [`LivePagemap::drain`] was called.
    pub fn folio(&self, first: u32, order: Order) -> Result<DevFolio<'_, D>> {
        let pages = order.pages();
        let start = first as usize;
        if start % pages != 0 || start + pages > self.pages as usize {
            return Err(EINVAL);
        }
        self.count(pages, |users| users & CLOSED == 0)
            .ok_or(ENODEV)?;
        self.claims
            .claim(start, order)
            .inspect_err(|_| self.leave(pages))?;
        // SAFETY: Just claimed and counted.
        Ok(unsafe { DevFolio::from_claim(self, first, order) })
    }

    /// Gives claimed pages back.
    ///
    /// # Safety
    ///
    /// They are claimed and counted, and nobody refers to them any more.
    pub(super) unsafe fn release(&self, first: usize, pages: usize) {
        self.claims.release(first, pages);
        // CAST: Both are less than `self.pages`.
        self.data.folio_free(first as u32..(first + pages) as u32);
        self.leave(pages);
    }

    /// Adds to `users`, if `allowed` with what it is.
    fn count(&self, more: usize, allowed: impl Fn(usize) -> bool) -> Option<()> {
        let mut users = self.users.load(Relaxed);
        while allowed(users) {
            match self.users.cmpxchg(users, users + more, Full) {
                Ok(_) => return Some(()),
                Err(now) => users = now,
            }
        }
        None
    }

    fn leave(&self, users: usize) {
        if self.users.fetch_sub(users, Full) & !CLOSED == users {
            self.idle.advance();
        }
    }

    /// Keeps the `struct page`s for a while; [`None`] if no page is in use.
    pub(super) fn enter(&self) -> Option<User<'_, D>> {
        self.count(1, |users| users & !CLOSED != 0)?;
        // INVARIANT: Just counted.
        Some(User(self))
    }

    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) fn raw(&self) -> *mut bindings::dev_pagemap {
        self.raw.get()
    }

    /// What `dev_private_owner` and `pgmap_owner` have to be for these pages.
    pub(super) fn owner(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// The frame of page `index`.
    pub(super) fn pfn(&self, index: usize) -> Pfn {
        Pfn::new(self.base + index)
    }

    /// Which page of this pagemap has the frame `pfn`.
    pub(super) fn index(&self, pfn: Pfn) -> Option<u32> {
        let index = u32::try_from(pfn.as_usize().checked_sub(self.base)?).ok()?;
        (index < self.pages).then_some(index)
    }

    /// The pagemap of a page.
    ///
    /// # Safety
    ///
    /// `page` is in a pagemap that was made with [`Self::OPS`], and is in use during `'a`.
    unsafe fn of_page<'a>(page: *const bindings::page) -> &'a Self {
        // SAFETY: By the type invariants the owner is the pagemap, which stays while the page is in
        // use.
        unsafe { &*(*bindings::page_pgmap(page)).owner.cast::<Self>() }
    }

    /// # Safety
    ///
    /// Called by core mm for a folio whose last reference was dropped.
    unsafe extern "C" fn folio_free_callback(folio: *mut bindings::folio) {
        // SAFETY: A folio begins with its first page; core mm counts its pages as in use till this
        // returns.
        let (this, pfn, pages) = unsafe {
            (
                Self::of_page(folio.cast()),
                bindings::folio_pfn(folio),
                bindings::folio_nr_pages(folio),
            )
        };
        // SAFETY: They were claimed when the folio was made. Core mm touches the folio no more; what
        // it does afterwards, to drop the pages' references to `raw`, `memunmap_pages` waits for.
        unsafe { this.release(pfn - this.base, pages) };
    }

    /// # Safety
    ///
    /// Called by core mm while `head` is split, for each folio that comes out of it and at the end
    /// with null.
    unsafe extern "C" fn folio_split_callback(
        head: *mut bindings::folio,
        tail: *mut bindings::folio,
    ) {
        if !tail.is_null() {
            // SAFETY: Both are valid, and nobody else has `tail` yet.
            unsafe {
                let head = &raw const (*head).__bindgen_anon_1.__bindgen_anon_1;
                let tail = &raw mut (*tail).__bindgen_anon_1.__bindgen_anon_1;
                (*tail).__bindgen_anon_1.pgmap = (*head).__bindgen_anon_1.pgmap;
                (*tail).mapping = (*head).mapping;
            }
            return;
        }
        // SAFETY: `head` is in use.
        let (this, pfn) = unsafe { (Self::of_page(head.cast()), bindings::folio_pfn(head)) };
        // CAST: Less than `pages`.
        this.data.folio_split((pfn - this.base) as u32);
    }

    /// # Safety
    ///
    /// Called by core mm for a fault on a page, which it has locked and referenced.
    unsafe extern "C" fn migrate_to_ram_callback(
        vmf: *mut bindings::vm_fault,
    ) -> bindings::vm_fault_t {
        // SAFETY: The page is in use: core mm has a reference.
        let this = unsafe { Self::of_page((*vmf).page) };
        // SAFETY: Valid and as core mm promises until this returns.
        let fault = unsafe { CpuFault::from_raw(vmf, this) };
        this.data.migrate_to_ram(fault).into_raw()
    }
}

/// Keeps the `struct page`s of a pagemap.
///
/// # Invariants
///
/// One of [`Pagemap::users`].
pub(super) struct User<'p, D: DeviceMemory>(&'p Pagemap<D>);

impl<D: DeviceMemory> Drop for User<'_, D> {
    fn drop(&mut self) {
        self.0.leave(1);
    }
}
