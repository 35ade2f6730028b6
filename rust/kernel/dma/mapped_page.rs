// SPDX-License-Identifier: GPL-2.0

//! Pages lent to a device.
//!
//! C header: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use super::{
    DataDirection,
    DmaAddress, //
};
use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use core::marker::PhantomData;

/// A page that a device may read or write by DMA, until this is dropped.
///
/// Where a device does not see the CPU's caches, or not all of memory, the page is copied or
/// synchronised when it is mapped and unmapped. So meanwhile the CPU leaves it alone.
///
/// # Invariants
///
/// `addr` was returned by `dma_map_page_attrs()` for `dev` and a whole page, which is valid for
/// `'a`, with direction `dir`.
pub struct MappedPage<'a> {
    dev: &'a Device<Bound>,
    addr: DmaAddress,
    dir: DataDirection,
    _page: PhantomData<&'a Page>,
}

impl<'a> MappedPage<'a> {
    /// Lends `page` to `dev`. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the page cannot be mapped.
    pub fn new(dev: &'a Device<Bound>, page: &'a Page, dir: DataDirection) -> Result<Self> {
        // SAFETY: The device is bound, and the page is valid.
        let addr = unsafe {
            bindings::dma_map_page_attrs(dev.as_raw(), page.as_ptr(), 0, PAGE_SIZE, dir.into(), 0)
        };
        // SAFETY: `addr` is what was returned for the device.
        if unsafe { bindings::dma_mapping_error(dev.as_raw(), addr) } != 0 {
            return Err(ENOMEM);
        }
        // INVARIANT: Mapped just now, and both live for `'a`.
        Ok(Self {
            dev,
            addr,
            dir,
            _page: PhantomData,
        })
    }

    /// Bus address of the page.
    pub fn addr(&self) -> DmaAddress {
        self.addr
    }
}

impl Drop for MappedPage<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants; the device is bound as long as it is borrowed.
        unsafe {
            bindings::dma_unmap_page_attrs(
                self.dev.as_raw(),
                self.addr,
                PAGE_SIZE,
                self.dir.into(),
                0,
            )
        };
    }
}
