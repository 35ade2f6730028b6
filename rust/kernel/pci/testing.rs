// SPDX-License-Identifier: GPL-2.0

//! A PCI device for KUnit tests: an AHCI controller that has no driver. It has a BAR of memory, one of
//! ports, and MSI.

use super::{
    Adapter,
    Device,
    DeviceId,
    Driver,
    IdTable, //
};
use crate::{
    bindings,
    device::Core,
    device_id::IdArray,
    driver,
    module::this_module,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    LocalModule, //
};
use core::marker::PhantomData;

/// Index of the BAR with memory.
pub(crate) const MEMORY_BAR: u32 = 5;
/// Index of the BAR with ports.
pub(crate) const PORTS_BAR: u32 = 4;

/// Ends a driver's callback with an error unless something holds. It must not be ended by KUnit.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            pr_err!(
                "{}:{}: not so: {}\n",
                file!(),
                line!(),
                stringify!($condition)
            );
            return Err(EBADMSG);
        }
    };
}
pub(crate) use check;

/// A test that is a driver.
pub(crate) trait Test: Send + 'static {
    /// What is dropped when the device is unbound.
    type Kept: Send + 'static;

    /// Called with the device.
    fn probe(pdev: &Device<Core<'_>>) -> Result<Self::Kept>;
}

static PCI_TABLE: IdArray<DeviceId, (), 1> = IdArray::new([(
    DeviceId::from_class(bindings::PCI_CLASS_STORAGE_SATA_AHCI, 0xff_ffff),
    &(),
)]);

struct TestDriver<T>(PhantomData<T>);

impl<T: Test> Driver for TestDriver<T> {
    type IdInfo = ();
    type Data<'bound> = T::Kept;
    const ID_TABLE: IdTable<()> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound Device<Core<'_>>,
        _info: Option<&'bound ()>,
    ) -> impl PinInit<T::Kept, Error> + 'bound {
        let kept = T::probe(pdev);
        RESULT.store(kept.as_ref().err().map_or(0, |err| err.to_errno()), Relaxed);
        kept
    }
}

/// What became of the probe; positive if there was none.
static RESULT: Atomic<i32> = Atomic::new(1);

/// Has the device bound to `T`, and unbound again. Marks the test as skipped if there is none.
pub(crate) fn bind<T: Test>() -> Result {
    RESULT.store(1, Relaxed);
    let driver = driver::Registration::<Adapter<TestDriver<T>>>::new(
        c"rust_pci_test",
        this_module::<LocalModule>(),
    );
    drop(KBox::pin_init(driver, GFP_KERNEL)?);
    let result = RESULT.load(Relaxed);
    if result > 0 {
        // SAFETY: Called in a test, which nobody else changes.
        unsafe {
            (*bindings::kunit_get_current_test()).status = bindings::kunit_status_KUNIT_SKIPPED
        };
    }
    crate::error::to_result(result.min(0))
}
