// SPDX-License-Identifier: GPL-2.0

//! Event counters: sleep until something happened that is checked without a lock.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use super::{
    atomic::{
        Acquire,
        Atomic,
        Full, //
    },
    LockClassKey, //
};
use crate::{
    bindings,
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    },
    types::Opaque, //
};

/// Creates an [`EventCount`] initialiser with the given name and a newly-created lock class.
#[macro_export]
macro_rules! new_event_count {
    ($($name:literal)?) => {
        $crate::sync::EventCount::new($crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}
pub use new_event_count;

/// What may end a sleep besides the event and the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// Any signal.
    Interruptible,
    /// A fatal signal.
    Killable,
    /// Nothing, not even the death of the task; for waits with a short deadline.
    Uninterruptible,
}

/// Why [`EventCount::wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The counter moved.
    Event,
    /// The deadline passed.
    Timeout,
    /// A signal of the kind that the [`WaitMode`] allows is pending.
    Signal,
}

/// An event counter.
///
/// A waiter reads the counter, checks its condition, and sleeps until the counter differs from
/// what it read. An event between the check and the sleep is therefore never missed, and the
/// check runs without any lock: it may fault, allocate or read user memory.
///
/// [`CondVar`](super::CondVar) is the better choice where the condition is protected by a lock.
///
/// # Examples
///
/// ```
/// use kernel::{
///     new_event_count,
///     sync::{Arc, EventCount, WaitMode, Wake},
///     time::{Delta, Instant, Monotonic},
///     workqueue,
/// };
///
/// let events = Arc::pin_init(new_event_count!(), GFP_KERNEL)?;
///
/// // An event after the counter was read is not missed, though nobody sleeps yet.
/// let seen = events.current();
/// events.advance();
/// assert_eq!(events.wait(seen, WaitMode::Uninterruptible, None), Wake::Event);
///
/// // Without one the deadline ends the sleep.
/// let start = Instant::<Monotonic>::now();
/// let seen = events.current();
/// let deadline = start + Delta::from_millis(20);
/// assert_eq!(events.wait(seen, WaitMode::Killable, Some(deadline)), Wake::Timeout);
/// assert!(start.elapsed().as_millis() >= 20);
///
/// // A deadline in the past polls.
/// assert_eq!(events.wait(seen, WaitMode::Interruptible, Some(start)), Wake::Timeout);
///
/// // Another thread wakes a sleeper.
/// let waker = events.clone();
/// workqueue::system().try_spawn(GFP_KERNEL, move || waker.advance())?;
/// assert_eq!(events.wait(seen, WaitMode::Uninterruptible, None), Wake::Event);
/// # Ok::<(), Error>(())
/// ```
#[pin_data]
pub struct EventCount {
    count: Atomic<u64>,
    #[pin]
    queue: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue head may be used from any thread.
unsafe impl Send for EventCount {}
// SAFETY: A wait queue head is protected by its own lock.
unsafe impl Sync for EventCount {}

/// A value of the counter of an [`EventCount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(u64);

impl EventCount {
    /// Constructs a new initialiser.
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            count: Atomic::new(0),
            // SAFETY: `slot` is valid while the closure is called and both `name` and `key` have
            // static lifetimes.
            queue <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// The counter now. What the caller checks afterwards is at least as new as the last event
    /// that is counted in.
    #[inline]
    pub fn current(&self) -> Seen {
        Seen(self.count.load(Acquire))
    }

    /// Counts an event and wakes all waiters. May be called from any context but NMI.
    pub fn advance(&self) {
        self.count.fetch_add(1u64, Full);
        // SAFETY: `queue` was initialised by the constructor.
        unsafe {
            bindings::__wake_up(
                self.queue.get(),
                bindings::TASK_NORMAL,
                0,
                core::ptr::null_mut(),
            )
        };
    }

    /// Sleeps until the counter differs from `seen`, `deadline` passes, or a signal comes as far
    /// as `mode` lets it. Without a deadline there is no limit.
    ///
    /// An event wins over a signal and over the deadline.
    pub fn wait(&self, seen: Seen, mode: WaitMode, deadline: Option<Instant<Monotonic>>) -> Wake {
        let state = match mode {
            WaitMode::Interruptible => bindings::TASK_INTERRUPTIBLE,
            WaitMode::Killable => bindings::TASK_KILLABLE,
            WaitMode::Uninterruptible => bindings::TASK_UNINTERRUPTIBLE,
        };
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: `entry` is memory of the right type, on the stack until `finish_wait`.
        unsafe { bindings::init_wait(entry.get()) };

        let mut timed_out = false;
        let wake = loop {
            // SAFETY: Queue and entry are initialised; the task state is a valid one.
            unsafe {
                bindings::prepare_to_wait(self.queue.get(), entry.get(), state as ffi::c_int)
            };
            // `prepare_to_wait` has a full barrier after it set the state: either this sees the
            // event or `advance` sees this task and wakes it.
            if self.current() != seen {
                break Wake::Event;
            }
            // SAFETY: The current task is valid.
            if unsafe { bindings::signal_pending_state(state, bindings::get_current()) } != 0 {
                break Wake::Signal;
            }
            if timed_out {
                break Wake::Timeout;
            }
            let mut expires: bindings::ktime_t;
            let expires = match deadline {
                Some(deadline) => {
                    expires = deadline.as_nanos();
                    &raw mut expires
                }
                None => core::ptr::null_mut(),
            };
            // SAFETY: `expires` is null or valid during the call; the task state is set, and this
            // context may sleep.
            timed_out = unsafe {
                bindings::schedule_hrtimeout(expires, bindings::hrtimer_mode_HRTIMER_MODE_ABS)
            } == 0;
        };
        // SAFETY: Both were initialised above.
        unsafe { bindings::finish_wait(self.queue.get(), entry.get()) };
        wake
    }
}
