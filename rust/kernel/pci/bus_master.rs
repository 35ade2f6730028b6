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

#[kunit_tests(rust_pci_bus_master)]
mod tests {
    use super::*;
    use crate::{
        pci::testing::{
            self,
            check, //
        },
        sync::SetOnce, //
    };

    fn is_on(pdev: &Device) -> bool {
        let mut command = 0;
        // SAFETY: The device is valid.
        unsafe {
            bindings::pci_read_config_word(
                pdev.as_raw(),
                bindings::PCI_COMMAND as c_int,
                &mut command,
            )
        };
        u32::from(command) & bindings::PCI_COMMAND_MASTER != 0
    }

    /// Taken away, and then dropped.
    struct Disabled;

    impl testing::Test for Disabled {
        type Kept = ();

        fn probe(pdev: &Device<device::Core<'_>>) -> Result {
            let master = BusMaster::enable(pdev)?;
            check!(is_on(pdev));
            master.disable();
            check!(!is_on(pdev));
            master.disable();
            drop(master);

            let master = BusMaster::enable(pdev)?;
            check!(is_on(pdev));
            drop(master);
            check!(!is_on(pdev));
            Ok(())
        }
    }

    #[test]
    fn ends_when_it_is_told_to() -> Result {
        testing::bind::<Disabled>()
    }

    /// Kept beyond the binding.
    struct Unbound;

    static KEPT: SetOnce<(BusMaster, ARef<Device>)> = SetOnce::new();

    impl testing::Test for Unbound {
        type Kept = ();

        fn probe(pdev: &Device<device::Core<'_>>) -> Result {
            KEPT.populate((BusMaster::enable(pdev)?, pdev.into()));
            check!(is_on(pdev));
            Ok(())
        }
    }

    #[test]
    fn ends_with_the_binding() -> Result {
        testing::bind::<Unbound>()?;
        if let Some((master, pdev)) = KEPT.as_ref() {
            assert!(!is_on(pdev));
            // Whoever has the device now is left alone.
            // SAFETY: The device is valid.
            unsafe { bindings::pci_set_master(pdev.as_raw()) };
            master.disable();
            assert!(is_on(pdev));
            // SAFETY: As above.
            unsafe { bindings::pci_clear_master(pdev.as_raw()) };
        }
        Ok(())
    }
}
