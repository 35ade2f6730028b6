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
    handlers: KVec<Pin<KBox<ThreadedRegistration<'a, T>>>>,
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
            handlers,
            _vectors: vectors,
        })
    }

    /// Waits until no handler runs, on any vector. May sleep.
    pub fn synchronize(&self) {
        for handler in &self.handlers {
            handler.synchronize();
        }
    }
}
