// SPDX-License-Identifier: GPL-2.0

//! Bus mastering that can be taken away from anywhere.

use super::Device;
use crate::{
    bindings,
    device,
    devres::Devres,
    prelude::*,
    sync::aref::ARef, //
};

/// A PCI device's permission to do DMA and to send MSIs.
///
/// It ends with [`disable`](Self::disable), when this is dropped, or when the driver is unbound,
/// whatever comes first.
pub struct BusMaster(Devres<Enabled>);

/// # Invariants
///
/// The driver that enabled mastering is bound.
struct Enabled(ARef<Device>);

impl Enabled {
    fn clear(&self) {
        // SAFETY: `self.0` is a valid `struct pci_dev`.
        unsafe { bindings::pci_clear_master(self.0.as_raw()) };
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        self.clear();
    }
}

impl BusMaster {
    /// Allows `pdev` to do DMA.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the device may not do DMA then.
    pub fn enable(pdev: &Device<device::Core<'_>>) -> Result<Self> {
        let pci: &Device<device::Bound> = pdev;
        let this = Devres::new(pci.as_ref(), Ok::<_, Error>(Enabled((&**pci).into())))?;
        pdev.set_master();
        Ok(Self(this))
    }

    /// Forbids the device all DMA, for good. What it has sent already may still arrive. Does
    /// nothing after the driver was unbound. May be called in atomic context.
    pub fn disable(&self) {
        self.0.try_access_with(Enabled::clear);
    }
}
