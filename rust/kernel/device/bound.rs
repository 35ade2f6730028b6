// SPDX-License-Identifier: GPL-2.0

//! Using a bound device from outside the driver core's callbacks, where one may sleep.

use super::{
    Bound,
    Device, //
};
use crate::{
    devres::Devres,
    new_srcu,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        srcu::{
            Guard,
            Srcu, //
        },
        Arc, //
    }, //
};
use core::ops::Deref;

/// A way to a [`&Device<Bound>`](Device) for work items, ioctls and notifiers.
///
/// [`Devres`] gives access in an RCU section, where one must not sleep. Here [`enter`](Self::enter)
/// gives a guard under which one may sleep, for example to allocate coherent memory or to map
/// memory for DMA; unbinding the driver waits for all guards. A guard must therefore be dropped
/// within bounded time, and [`close`](Self::close) must not be called by its owner.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::{
///         Bound,
///         BoundHandle,
///         Device, //
///     },
///     faux, //
/// };
///
/// let faux = faux::Registration::new(c"bound_handle_doctest", None)?;
/// let faux: &faux::Device<Bound> = faux.as_ref();
/// let device: &Device<Bound> = faux.as_ref();
/// let handle = BoundHandle::new(device)?;
///
/// let guard = handle.enter().ok_or(ENODEV)?;
/// // Guards nest.
/// assert!(handle.enter().is_some());
/// dev_dbg!(*guard, "still bound\n");
/// drop(guard);
///
/// handle.close();
/// assert!(handle.enter().is_none());
/// # Ok::<(), Error>(())
/// ```
pub struct BoundHandle {
    dev: ARef<Device>,
    gate: Arc<Gate>,
    /// Closes the gate when the driver is unbound.
    _closer: Devres<Closer>,
}

#[pin_data]
struct Gate {
    open: AtomicFlag,
    #[pin]
    readers: Srcu,
}

impl Gate {
    fn close(&self) {
        self.open.store(false, Relaxed);
        // Readers that saw the gate open are waited for, later ones see it closed.
        self.readers.synchronize();
    }
}

struct Closer(Arc<Gate>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl BoundHandle {
    /// Makes a handle of `dev`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &Device<Bound>) -> Result<Self> {
        let gate = Arc::pin_init(
            try_pin_init!(Gate {
                open: AtomicFlag::new(true),
                readers <- new_srcu!("BoundHandle"),
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(Self {
            dev: dev.into(),
            _closer: Devres::new(dev, Ok::<_, Error>(Closer(gate.clone())))?,
            gate,
        })
    }

    /// The device, kept from being unbound while the guard lives; `None` once the driver is
    /// unbound or the handle closed.
    pub fn enter(&self) -> Option<BoundGuard<'_>> {
        let readers = self.gate.readers.read_lock();
        // INVARIANT: The gate was seen open inside the read-side section.
        self.gate.open.load(Relaxed).then_some(BoundGuard {
            dev: &self.dev,
            _readers: readers,
        })
    }

    /// Lets nobody in any more, and waits until everybody is out. May sleep.
    pub fn close(&self) {
        self.gate.close();
    }
}

/// Proof that a device is bound.
///
/// # Invariants
///
/// The gate of the handle was open when the read-side section began, which lasts as long as this.
pub struct BoundGuard<'a> {
    dev: &'a Device,
    _readers: Guard<'a>,
}

impl Deref for BoundGuard<'_> {
    type Target = Device<Bound>;

    fn deref(&self) -> &Self::Target {
        // SAFETY: By the type invariant the gate was open in the read-side section. The driver
        // core releases `Closer` before it finishes unbinding, and that waits for the section.
        unsafe { self.dev.as_bound() }
    }
}

impl AsRef<Device<Bound>> for BoundGuard<'_> {
    fn as_ref(&self) -> &Device<Bound> {
        self
    }
}
