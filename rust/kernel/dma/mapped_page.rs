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

#[kunit_tests(rust_dma_mapped_page)]
mod tests {
    use super::*;
    use crate::{
        device::Normal,
        error::from_err_ptr, //
    };

    /// A device without a driver that reaches addresses up to `mask`.
    struct TestDevice(*mut bindings::platform_device);

    impl TestDevice {
        fn new(mask: u64) -> Result<Self> {
            let info = bindings::platform_device_info {
                name: c"rust_dma_mapped_page".as_char_ptr(),
                id: bindings::PLATFORM_DEVID_NONE,
                dma_mask: mask,
                ..Default::default()
            };
            // SAFETY: `info` is valid.
            let pdev = unsafe { bindings::platform_device_register_full(&info) };
            Ok(Self(from_err_ptr(pdev)?))
        }

        fn bound(&self) -> &Device<Bound> {
            // SAFETY: Registered until `self` is dropped. It has no driver that could be unbound.
            unsafe { Device::<Normal>::from_raw(&raw mut (*self.0).dev).as_bound() }
        }
    }

    impl Drop for TestDevice {
        fn drop(&mut self) {
            // SAFETY: Registered in `new`.
            unsafe { bindings::platform_device_unregister(self.0) };
        }
    }

    #[test]
    fn a_page_is_lent() -> Result {
        let dev = TestDevice::new(u64::MAX)?;
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
        let dev = TestDevice::new(0xff)?;
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
