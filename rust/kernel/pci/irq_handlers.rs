// SPDX-License-Identifier: GPL-2.0

//! One threaded handler for each interrupt vector of a device.

use super::{
    Device,
    IrqTypes,
    IrqVectorRegistration, //
};
use crate::{
    device::Bound,
    irq::{
        Flags,
        ThreadedHandler,
        ThreadedRegistration, //
    },
    prelude::*, //
};

/// Interrupt vectors and their handlers.
///
/// Handlers borrow from the allocation of the vectors; this owns both, in the right order.
pub struct ThreadedHandlers<'a, T: ThreadedHandler + 'a> {
    // Fields are dropped in the order of their declaration.
    _handlers: KVec<Pin<KBox<ThreadedRegistration<'a, T>>>>,
    _vectors: KBox<IrqVectorRegistration<'a>>,
}

impl<'a, T: ThreadedHandler + 'a> ThreadedHandlers<'a, T> {
    /// Allocates `count` vectors of `pdev` and registers `handler(index)` for each of them.
    ///
    /// # Errors
    ///
    /// Those of [`Device::alloc_irq_vectors`], of the registration and of `handler`.
    ///
    /// # Safety
    ///
    /// The result must not be forgotten: what the handlers borrow ends with `'a`.
    pub unsafe fn new<I: PinInit<T, Error> + 'a>(
        pdev: &'a Device<Bound>,
        count: u32,
        types: IrqTypes,
        name: &'static CStr,
        handler: impl Fn(usize) -> I,
    ) -> Result<Self> {
        let vectors = KBox::new(pdev.alloc_irq_vectors(count, count, types)?, GFP_KERNEL)?;
        // SAFETY: The allocation does not move with the box. It is freed after the handlers, the
        // only ones that get this reference: by the order of fields once this function succeeded,
        // and by the reverse order of declaration when it fails.
        let borrowed: &'a IrqVectorRegistration<'a> = unsafe { &*core::ptr::from_ref(&*vectors) };

        let mut handlers = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        for index in 0..count as usize {
            let request = borrowed.index(index)?.into();
            // SAFETY: The registration lives in the result, which is not forgotten.
            let registration = unsafe {
                ThreadedRegistration::new(request, Flags::TRIGGER_NONE, name, handler(index))
            };
            handlers.push(KBox::pin_init(registration, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(Self {
            _handlers: handlers,
            _vectors: vectors,
        })
    }
}

#[kunit_tests(rust_pci_irq_handlers)]
mod tests {
    use super::*;
    use crate::{
        device::Core,
        irq::{
            IrqReturn,
            ThreadedIrqReturn, //
        },
        pci::{
            testing::{
                self,
                check, //
            },
            IrqType, //
        }, //
    };

    /// The vector that it was made for.
    struct Handler(#[expect(dead_code)] usize);

    impl ThreadedHandler for Handler {
        fn handle(&self) -> ThreadedIrqReturn {
            ThreadedIrqReturn::None
        }

        fn handle_threaded(&self) -> IrqReturn {
            IrqReturn::None
        }
    }

    fn register<'a>(
        pdev: &'a Device<Bound>,
        count: u32,
        handler: fn(usize) -> Result<Handler>,
    ) -> Result<ThreadedHandlers<'a, Handler>> {
        let types = IrqTypes::default().with(IrqType::Msi);
        // SAFETY: Callers forget nothing.
        unsafe { ThreadedHandlers::new(pdev, count, types, c"rust_pci_test", handler) }
    }

    fn is_on(pdev: &Device) -> bool {
        // SAFETY: The device is valid.
        unsafe { (*pdev.as_raw()).msi_enabled() != 0 }
    }

    struct Msi;

    impl testing::Test for Msi {
        type Kept = ();

        fn probe(pdev: &Device<Core<'_>>) -> Result {
            let handlers = register(pdev, 1, |index| Ok(Handler(index)))?;
            check!(is_on(pdev));
            drop(handlers);
            check!(!is_on(pdev));

            // A handler that fails takes the vectors along.
            check!(register(pdev, 1, |_| Err(EPERM)).err() == Some(EPERM));
            check!(!is_on(pdev));
            // There is but one.
            let result = register(pdev, 2, |index| Ok(Handler(index)));
            check!(result.err() == Some(ENOSPC));
            check!(!is_on(pdev));
            Ok(())
        }
    }

    #[test]
    fn vectors_come_and_go() -> Result {
        testing::bind::<Msi>()
    }
}
