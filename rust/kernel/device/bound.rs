// SPDX-License-Identifier: GPL-2.0

//! Using a bound device from outside the driver core's callbacks, where one may sleep.

use super::{
    Bound,
    Core,
    CoreInternal,
    Device, //
};
use crate::{
    bindings,
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
use core::{
    ops::Deref,
    ptr, //
};

/// A way to a [`&Device<Bound>`](Device) for work items, ioctls and notifiers.
///
/// [`Devres`](crate::devres::Devres) gives access in an RCU section, where one must not sleep. Here
/// [`enter`](Self::enter) gives a guard under which one may sleep, for example to allocate coherent
/// memory or to map memory for DMA.
///
/// When the driver is unbound and its callback has returned, the driver core waits for all guards,
/// before it drops the driver's private data and releases the first of the device's resources. A
/// guard must therefore be dropped within bounded time.
///
/// # Examples
///
/// ```no_run
/// use kernel::{
///     device::{
///         BoundHandle,
///         Core,
///         Device, //
///     },
///     sync::Arc, //
/// };
///
/// /// Called by `probe`; the result is used by others.
/// fn share(device: &Device<Core<'_>>) -> Result<Arc<BoundHandle>> {
///     Ok(Arc::new(BoundHandle::new(device)?, GFP_KERNEL)?)
/// }
///
/// /// Called by anyone.
/// fn use_device(handle: &BoundHandle) -> Result {
///     let guard = handle.enter().ok_or(ENODEV)?;
///     dev_dbg!(*guard, "still bound\n");
///     Ok(())
/// }
/// ```
pub struct BoundHandle {
    dev: ARef<Device>,
    gate: Arc<Gate>,
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

/// Where a device keeps a gate: a resource that is taken out before any other is released.
///
/// # Invariants
///
/// Owns a reference to the gate.
struct Entry(*const Gate);

impl Entry {
    /// Has `dev` keep `gate`.
    fn add(dev: &Device<Core<'_>>, gate: Arc<Gate>) -> Result {
        // SAFETY: The callback is for resources that begin with an `Entry`.
        let entry = unsafe {
            bindings::__devres_alloc_node(
                Some(Self::release_callback),
                size_of::<Self>(),
                GFP_KERNEL.as_raw(),
                bindings::NUMA_NO_NODE,
                c"BoundHandle".as_char_ptr(),
            )
        };
        let entry = ptr::NonNull::new(entry.cast::<Self>()).ok_or(ENOMEM)?;
        // SAFETY: Just allocated, with room for an `Entry`; the device is bound.
        unsafe {
            // INVARIANT: The reference is handed over.
            entry.write(Self(Arc::into_raw(gate)));
            bindings::devres_add(dev.as_raw(), entry.as_ptr().cast());
        }
        Ok(())
    }

    /// Takes the entry of `gate` from `dev`, or any if that is null.
    fn take(dev: &Device, gate: *const Gate) -> Option<Arc<Gate>> {
        // SAFETY: The device is valid, and all resources with this callback begin with an `Entry`.
        let entry = unsafe {
            bindings::devres_remove(
                dev.as_raw(),
                Some(Self::release_callback),
                Some(Self::match_callback),
                gate.cast_mut().cast(),
            )
        };
        let entry = ptr::NonNull::new(entry.cast::<Self>())?;
        // SAFETY: It was taken off the device, so that nobody else has it. By the type invariant it
        // owns a reference, which is taken over.
        unsafe {
            let gate = Arc::from_raw(entry.read().0);
            bindings::devres_free(entry.as_ptr().cast());
            Some(gate)
        }
    }

    /// # Safety
    ///
    /// Called by the driver core with a resource that begins with an `Entry`.
    unsafe extern "C" fn match_callback(
        _dev: *mut bindings::device,
        entry: *mut c_void,
        gate: *mut c_void,
    ) -> c_int {
        // SAFETY: By the caller's promise.
        let own = unsafe { (*entry.cast::<Self>()).0 };
        c_int::from(gate.is_null() || ptr::eq(own, gate.cast()))
    }

    /// # Safety
    ///
    /// Called by the driver core with a resource that begins with an `Entry`, for the last time.
    unsafe extern "C" fn release_callback(_dev: *mut bindings::device, entry: *mut c_void) {
        // SAFETY: By the caller's promise and the type invariant.
        unsafe { Arc::from_raw(entry.cast::<Self>().read().0) }.close();
    }
}

/// Closes all handles of `dev`: lets nobody in any more, and waits until everybody is out.
///
/// Called when the driver was unbound, before it loses anything.
pub(crate) fn close_handles(dev: &Device<CoreInternal<'_>>) {
    while let Some(gate) = Entry::take(dev, ptr::null()) {
        gate.close();
    }
}

impl BoundHandle {
    /// Makes a handle of `dev`.
    ///
    /// Only a Rust driver's callbacks have a [`Device<Core>`](Core), and only for those drivers the
    /// driver core closes handles in time.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &Device<Core<'_>>) -> Result<Self> {
        let gate = Arc::pin_init(
            try_pin_init!(Gate {
                open: AtomicFlag::new(true),
                readers <- new_srcu!("BoundHandle"),
            }? Error),
            GFP_KERNEL,
        )?;
        Entry::add(dev, gate.clone())?;
        let dev: &Device = dev;
        Ok(Self {
            dev: dev.into(),
            gate,
        })
    }

    /// The device, kept from losing its driver and its resources while the guard lives; `None`
    /// once the driver was unbound.
    pub fn enter(&self) -> Option<BoundGuard<'_>> {
        let readers = self.gate.readers.read_lock();
        // INVARIANT: The gate was seen open inside the read-side section.
        self.gate.open.load(Relaxed).then_some(BoundGuard {
            dev: &self.dev,
            _readers: readers,
        })
    }
}

impl Drop for BoundHandle {
    fn drop(&mut self) {
        // There is none if the driver was unbound.
        drop(Entry::take(&self.dev, &*self.gate));
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
        // SAFETY: By the type invariant the gate was open in the read-side section, for which
        // `close_handles` waits. It was made for a device with a Rust driver, so the driver core
        // calls that when it unbinds, before the private data and the resources go.
        unsafe { self.dev.as_bound() }
    }
}

impl AsRef<Device<Bound>> for BoundGuard<'_> {
    fn as_ref(&self) -> &Device<Bound> {
        self
    }
}

#[kunit_tests(rust_device_bound)]
mod tests {
    use super::*;
    use crate::{
        devres,
        driver,
        error::from_err_ptr,
        platform,
        sync::{
            atomic::{
                Acquire,
                Atomic,
                Full,
                Release, //
            },
            Completion, //
        },
        time::{
            delay::fsleep,
            Delta, //
        },
        workqueue::{
            self,
            impl_has_work,
            new_work,
            Work,
            WorkItem, //
        },
        ThisModule, //
    };

    const NAME: &CStr = c"rust_device_bound";

    // SAFETY: The tests are built into the kernel.
    static MODULE: ThisModule = unsafe { ThisModule::from_ptr(ptr::null_mut()) };

    /// What was seen, as a sum of the following.
    static SEEN: Atomic<u32> = Atomic::new(0);
    /// The driver's callback got in.
    const IN_UNBIND: u32 = 1;
    /// The private data was dropped after the last guard.
    const GUARD_WAS_OUT: u32 = 2;
    /// Somebody got in while the private data was dropped.
    const IN_DATA: u32 = 4;
    /// Somebody got in while a resource was released that is younger than the handle.
    const IN_LATER: u32 = 8;

    fn see(what: u32, is: bool) {
        SEEN.fetch_add(if is { what } else { 0 }, Full);
    }

    /// Tries to get in when it goes.
    struct Witness(Arc<BoundHandle>, u32);

    impl Drop for Witness {
        fn drop(&mut self) {
            see(self.1, self.0.enter().is_some());
        }
    }

    /// Gets in, and stays for a while.
    #[pin_data]
    struct Reader {
        handle: Arc<BoundHandle>,
        #[pin]
        is_in: Completion,
        was_out: AtomicFlag,
        #[pin]
        work: Work<Reader>,
    }

    impl_has_work! {
        impl HasWork<Self> for Reader { self.work }
    }

    impl WorkItem for Reader {
        type Pointer = Arc<Self>;

        fn run(this: Arc<Self>) {
            let guard = this.handle.enter();
            this.is_in.complete_all();
            // So that who does not wait for the guard is faster.
            fsleep(Delta::from_millis(50));
            this.was_out.store(guard.is_some(), Release);
        }
    }

    struct TestDriver;

    struct Data {
        _witness: Witness,
        reader: Arc<Reader>,
    }

    impl Drop for Data {
        fn drop(&mut self) {
            see(GUARD_WAS_OUT, self.reader.was_out.load(Acquire));
        }
    }

    impl platform::Driver for TestDriver {
        type IdInfo = ();
        type Data<'bound> = Data;

        fn probe<'bound>(
            pdev: &'bound platform::Device<Core<'_>>,
            _info: Option<&'bound ()>,
        ) -> impl PinInit<Data, Error> + 'bound {
            let dev: &Device<Core<'_>> = pdev.as_ref();
            let handle = Arc::new(BoundHandle::new(dev)?, GFP_KERNEL)?;
            // One that is dropped has nothing to close any more.
            drop(BoundHandle::new(dev)?);
            let own = handle.clone();
            let reader = Arc::pin_init(
                pin_init!(Reader {
                    handle: own,
                    is_in <- Completion::new(),
                    was_out: AtomicFlag::new(false),
                    work <- new_work!("Reader::work"),
                }),
                GFP_KERNEL,
            )?;
            let later = Witness(handle.clone(), IN_LATER);
            devres::register::<Witness, Error>(dev, Ok(later), GFP_KERNEL)?;
            Ok(Data {
                _witness: Witness(handle, IN_DATA),
                reader,
            })
        }

        fn unbind<'bound>(_pdev: &'bound platform::Device<Core<'_>>, this: Pin<&Data>) {
            // Guards nest.
            let guard = this.reader.handle.enter();
            see(
                IN_UNBIND,
                guard.is_some() && this.reader.handle.enter().is_some(),
            );
            drop(guard);
            let _ = workqueue::system_dfl().enqueue(this.reader.clone());
            this.reader.is_in.wait_for_completion();
        }
    }

    #[test]
    fn nobody_is_in_when_resources_go() -> Result {
        let driver = driver::Registration::<platform::Adapter<TestDriver>>::new(NAME, &MODULE);
        let driver = KBox::pin_init(driver, GFP_KERNEL)?;
        let info = bindings::platform_device_info {
            name: NAME.as_char_ptr(),
            id: bindings::PLATFORM_DEVID_NONE,
            ..Default::default()
        };
        SEEN.store(0, Relaxed);
        // SAFETY: `info` is valid; the device is registered, so it can be unregistered.
        unsafe {
            let pdev = from_err_ptr(bindings::platform_device_register_full(&info))?;
            bindings::platform_device_unregister(pdev);
        }
        drop(driver);
        assert_eq!(SEEN.load(Acquire), IN_UNBIND + GUARD_WAS_OUT);
        Ok(())
    }
}
