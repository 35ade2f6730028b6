// SPDX-License-Identifier: GPL-2.0

//! A BAR as something to be mapped into user space.

use super::Device;
use crate::{
    bindings,
    device::Bound,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

impl Device<Bound> {
    /// Number of the page frame that has byte `offset` of BAR `index`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such BAR, it is none of memory, it does not consist of whole pages, or
    /// it is shorter.
    pub(crate) fn bar_frame(&self, index: u32, offset: u64) -> Result<usize> {
        let start = self.resource_start(index)?;
        let len = self.resource_len(index)?;
        // SAFETY: The device is valid, and the index was checked just now. A BAR does not change
        // while a driver is bound.
        let flags = unsafe { (*self.as_raw()).resource[index as usize].flags };
        let kind = flags & (bindings::IORESOURCE_MEM | bindings::IORESOURCE_UNSET) as usize;
        // CAST: Widening.
        let whole_pages = (start | len) % PAGE_SIZE as u64 == 0;
        if kind != bindings::IORESOURCE_MEM as usize || !whole_pages || offset >= len {
            return Err(EINVAL);
        }
        Ok(usize::try_from((start + offset) >> PAGE_SHIFT)?)
    }
}

#[kunit_tests(rust_pci_bar_pages)]
mod tests {
    use super::*;

    /// A device with a BAR of `size` bytes.
    fn device(flags: u32, start: u64, size: u64) -> Result<KBox<bindings::pci_dev>> {
        let mut dev = KBox::<bindings::pci_dev>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        dev.resource[1].flags = flags as usize;
        dev.resource[1].start = start;
        dev.resource[1].end = start + size - 1;
        Ok(dev)
    }

    fn frame(dev: &bindings::pci_dev, index: u32, offset: u64) -> Result<usize> {
        let dev = core::ptr::from_ref(dev);
        // SAFETY: What is called looks at the resources only, which are valid.
        unsafe { &*dev.cast::<Device<Bound>>() }.bar_frame(index, offset)
    }

    #[test]
    fn pages_of_memory() -> Result {
        let dev = device(bindings::IORESOURCE_MEM, 0x4_0000_0000, 0x2000)?;
        assert_eq!(frame(&dev, 1, 0), Ok(0x40_0000));
        assert_eq!(frame(&dev, 1, 0xfff), Ok(0x40_0000));
        assert_eq!(frame(&dev, 1, 0x1fff), Ok(0x40_0001));
        assert_eq!(frame(&dev, 1, 0x2000), Err(EINVAL));
        assert_eq!(frame(&dev, 1, u64::MAX), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn no_memory() -> Result {
        let ports = device(bindings::IORESOURCE_IO, 0x1000, 0x1000)?;
        assert_eq!(frame(&ports, 1, 0), Err(EINVAL));
        let unset = bindings::IORESOURCE_MEM | bindings::IORESOURCE_UNSET;
        let unset = device(unset, 0, 0x1000)?;
        assert_eq!(frame(&unset, 1, 0), Err(EINVAL));
        for index in [0, bindings::PCI_NUM_RESOURCES, u32::MAX] {
            assert_eq!(frame(&ports, index, 0), Err(EINVAL));
        }
        Ok(())
    }

    #[test]
    fn no_whole_pages() -> Result {
        for (start, size) in [(0x4000, 0x800), (0x4800, 0x1000)] {
            let dev = device(bindings::IORESOURCE_MEM, start, size)?;
            assert_eq!(frame(&dev, 1, 0), Err(EINVAL));
        }
        Ok(())
    }
}
