// SPDX-License-Identifier: GPL-2.0

//! Private workqueues.

use super::{
    Queue,
    RawWorkItem, //
};
use crate::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        rcu, //
    }, //
};
use core::ptr::NonNull;

/// A workqueue of one's own.
///
/// Dropping it waits until everything that was queued has run, so it must not be dropped by one
/// of its own work items. Delayed items cannot be queued: their timers are not waited for.
///
/// # Invariants
///
/// The pointer is a valid workqueue that `self` owns.
///
/// # Examples
///
/// ```
/// use kernel::{
///     sync::{Arc, atomic::{Atomic, Relaxed}},
///     workqueue::OwnedQueue,
/// };
///
/// let count = Arc::new(Atomic::<u32>::new(0), GFP_KERNEL)?;
/// let queue = OwnedQueue::new_unbound(c"example", 4)?;
/// for _ in 0..10 {
///     let count = count.clone();
///     queue.try_spawn(GFP_KERNEL, move || {
///         count.fetch_add(1u32, Relaxed);
///     })?;
/// }
/// drop(queue);
/// assert_eq!(count.load(Relaxed), 10);
/// # Ok::<(), Error>(())
/// ```
pub struct OwnedQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A workqueue may be used and destroyed by any thread.
unsafe impl Send for OwnedQueue {}
// SAFETY: Queueing is thread-safe.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// Makes a workqueue whose items run on any CPU, up to `max_active` of them at the same time
    /// (0 for the default limit). Its items may sleep for as long as they like.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new_unbound(name: &CStr, max_active: u16) -> Result<Self> {
        // SAFETY: The format takes one string, which is copied.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND,
                ffi::c_int::from(max_active),
                name.as_char_ptr(),
            )
        };
        // INVARIANT: A new workqueue is owned by whoever allocated it.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }

    fn queue(&self) -> &Queue {
        // SAFETY: By the type invariant it lives as long as `self`.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }

    /// As [`Queue::try_spawn`].
    pub fn try_spawn<F: FnOnce() + Send + 'static>(
        &self,
        flags: crate::alloc::Flags,
        func: F,
    ) -> Result<(), crate::alloc::AllocError> {
        self.queue().try_spawn(flags, func)
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is ours. Nobody else can queue to it any more but its
        // own items, which the drain allows.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// A workqueue for a `static`, which a module starts when it is loaded and stops when it is
/// unloaded.
///
/// Work items do not pin the code that they run. A module whose items can outlive its files and
/// devices queues them here: [`ModuleQueueGuard`] waits for the last instruction of the last one.
///
/// # Examples
///
/// ```
/// use kernel::{
///     new_work,
///     sync::{Arc, atomic::{Atomic, Relaxed}},
///     workqueue::{self, ModuleQueue, Work, WorkItem},
/// };
///
/// static QUEUE: ModuleQueue = ModuleQueue::new();
///
/// #[pin_data]
/// struct Counter {
///     runs: Atomic<u32>,
///     #[pin]
///     work: Work<Counter>,
/// }
///
/// workqueue::impl_has_work! {
///     impl HasWork<Self> for Counter { self.work }
/// }
///
/// impl WorkItem for Counter {
///     type Pointer = Arc<Self>;
///
///     fn run(this: Arc<Self>) {
///         this.runs.fetch_add(1u32, Relaxed);
///     }
/// }
///
/// let counter = Arc::pin_init(pin_init!(Counter {
///     runs: Atomic::new(0),
///     work <- new_work!(),
/// }), GFP_KERNEL)?;
///
/// // Nothing is queued before it is started; the item comes back.
/// assert!(QUEUE.enqueue(counter.clone()).is_err());
///
/// let guard = QUEUE.start(c"example", 0)?;
/// assert_eq!(QUEUE.start(c"second", 0).err(), Some(EBUSY));
/// assert!(QUEUE.enqueue(counter.clone()).is_ok());
/// drop(guard);
/// assert_eq!(counter.runs.load(Relaxed), 1);
/// assert!(QUEUE.enqueue(counter.clone()).is_err());
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The value is null or a workqueue that stays valid for an RCU grace period after it was
/// replaced.
pub struct ModuleQueue(Atomic<*mut bindings::workqueue_struct>);

// SAFETY: The pointer is to a workqueue, which any thread may use.
unsafe impl Sync for ModuleQueue {}

impl Default for ModuleQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl ModuleQueue {
    /// One that is not started.
    pub const fn new() -> Self {
        // INVARIANT: Null.
        Self(Atomic::new(core::ptr::null_mut()))
    }

    /// Starts it, with the arguments of [`OwnedQueue::new_unbound`]. The guard belongs into the
    /// module's data, after everything that can still queue.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is running, `ENOMEM`.
    pub fn start(&'static self, name: &CStr, max_active: u16) -> Result<ModuleQueueGuard> {
        let queue = OwnedQueue::new_unbound(name, max_active)?;
        // INVARIANT: `queue` is valid, and the guard keeps it so for as long as is asked for.
        match self
            .0
            .cmpxchg(core::ptr::null_mut(), queue.0.as_ptr(), Release)
        {
            Ok(_) => Ok(ModuleQueueGuard {
                slot: self,
                _queue: queue,
            }),
            Err(_) => Err(EBUSY),
        }
    }

    /// As [`Queue::enqueue`]; `work` comes back as an error if the queue is not running.
    pub fn enqueue<W, const ID: u64>(&self, work: W) -> Result<W::EnqueueOutput, W>
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        let _rcu = rcu::read_lock();
        let queue = self.0.load(Acquire);
        if queue.is_null() {
            return Err(work);
        }
        // SAFETY: By the type invariant it is valid until this RCU section ends.
        Ok(unsafe { Queue::from_raw(queue) }.enqueue(work))
    }
}

/// Stops a [`ModuleQueue`] when it is dropped, and waits until all of its items have returned.
#[must_use]
pub struct ModuleQueueGuard {
    slot: &'static ModuleQueue,
    /// Destroyed, and thereby drained, after [`Drop::drop`] took it out of the slot.
    _queue: OwnedQueue,
}

impl Drop for ModuleQueueGuard {
    fn drop(&mut self) {
        self.slot.0.xchg(core::ptr::null_mut(), Full);
        rcu::synchronize_rcu();
    }
}
