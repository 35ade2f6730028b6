// SPDX-License-Identifier: GPL-2.0

//! Folios of device memory before they belong to a process.

use super::memremap::{
    DeviceMemory,
    Pagemap,
    HUGE_PAGES, //
};
use crate::bindings;
use core::mem::ManuallyDrop;

/// The two sizes that folios of device memory have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A page.
    Page,
    /// As much as an entry of a CPU's middle page table maps, 2 MiB in most cases.
    Huge,
}

impl Order {
    /// Size in pages.
    #[inline]
    pub const fn pages(self) -> usize {
        1 << self.as_raw()
    }

    pub(super) const fn as_raw(self) -> u32 {
        match self {
            Self::Page => 0,
            Self::Huge => bindings::HPAGE_PMD_ORDER,
        }
    }

    pub(super) fn of_pages(pages: usize) -> Self {
        if pages == HUGE_PAGES {
            Self::Huge
        } else {
            Self::Page
        }
    }
}

/// Pages of device memory that are claimed and used by nobody yet.
///
/// Needs to be had before a migration begins, since to make room for it may take any lock. It is
/// initialised and locked when it becomes part of one, and not before. If it is dropped the pages
/// are free again.
///
/// # Invariants
///
/// The pages are claimed and counted, and nobody else refers to them.
#[must_use]
pub struct DevFolio<'p, D: DeviceMemory> {
    pagemap: &'p Pagemap<D>,
    first: u32,
    order: Order,
}

impl<'p, D: DeviceMemory> DevFolio<'p, D> {
    /// # Safety
    ///
    /// The invariants hold.
    pub(super) unsafe fn from_claim(pagemap: &'p Pagemap<D>, first: u32, order: Order) -> Self {
        // INVARIANT: By the caller's promise.
        Self {
            pagemap,
            first,
            order,
        }
    }

    /// Index of the first page.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Its size.
    pub fn order(&self) -> Order {
        self.order
    }

    pub(super) fn pagemap(&self) -> &'p Pagemap<D> {
        self.pagemap
    }

    /// Initialises the folio, with one reference, which now is the caller's, and locked.
    pub(super) fn into_locked(self) -> *mut bindings::folio {
        let this = ManuallyDrop::new(self);
        let pfn = this.pagemap.pfn(this.first as usize);
        // SAFETY: The frame has a `struct page`, and by the type invariants nobody uses any page of
        // the folio. They are counted, so the pagemap stays until they are released, which the last
        // reference to the folio does.
        unsafe {
            let folio = bindings::pfn_to_page(pfn.as_usize()).cast::<bindings::folio>();
            bindings::zone_device_folio_init(folio, this.pagemap.raw(), this.order.as_raw());
            folio
        }
    }
}

impl<D: DeviceMemory> Drop for DevFolio<'_, D> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe {
            self.pagemap
                .release(self.first as usize, self.order.pages())
        };
    }
}
