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

#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
#[kunit_tests(rust_dma_mapped_page)]
mod tests {
    use super::*;
    use crate::mm::testing::DmaDevice;

    #[test]
    fn a_page_is_lent() -> Result {
        let dev = DmaDevice::new()?;
        let page = Page::alloc_page(GFP_KERNEL)?;
        let other = Page::alloc_page(GFP_KERNEL)?;
        let lent = MappedPage::new(dev.bound(), &page, DataDirection::ToDevice)?;
        assert_eq!(lent.addr() % PAGE_SIZE as DmaAddress, 0);
        // One page more than once, and others beside it.
        let again = MappedPage::new(dev.bound(), &page, DataDirection::FromDevice)?;
        let beside = MappedPage::new(dev.bound(), &other, DataDirection::Bidirectional)?;
        assert!(beside.addr() != lent.addr() && beside.addr() != again.addr());
        Ok(())
    }

    #[test]
    fn out_of_reach() -> Result {
        let dev = DmaDevice::reaching(0xff)?;
        let page = Page::alloc_page(GFP_KERNEL)?;
        // SAFETY: The warning that is expected is for this test.
        let expected =
            unsafe { bindings::kunit_start_suppress_warning(bindings::kunit_get_current_test()) };
        let result = MappedPage::new(dev.bound(), &page, DataDirection::ToDevice);
        // SAFETY: Begun above.
        unsafe {
            bindings::kunit_end_suppress_warning(bindings::kunit_get_current_test(), expected)
        };
        assert_eq!(result.err(), Some(ENOMEM));
        Ok(())
    }
}
