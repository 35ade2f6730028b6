// SPDX-License-Identifier: GPL-2.0

//! User fences: waiting until memory of the process holds a value.
//!
//! The device writes the value, and it may take page faults before it gets there. So nothing of
//! the kernel waits for it, only the process does, and it holds no lock while it looks.

use crate::{
    fault::FaultInfo,
    gpu::Gpu,
    queue::Queue, //
};
use kernel::{
    new_event_count,
    prelude::*,
    sync::{
        EventCount,
        Seen,
        WaitMode,
        Wake, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
    uaccess::UserPtr,
    uapi, //
};

/// How often a waiter looks without having been woken: a value that the CPU writes, or a device
/// that releases without an interrupt, tells nobody.
const RECHECK: Delta = Delta::from_millis(1000);

/// Wakes everybody who waits for something of the device: a user fence, room in a ring. Advanced
/// by fence interrupts, the failure of a queue, a wedge, and unbind.
#[pin_data]
pub(crate) struct Wakeup {
    #[pin]
    events: EventCount,
}

impl Wakeup {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            events <- new_event_count!("Wakeup"),
        })
    }

    /// Makes all waiters look again. Any context.
    pub(crate) fn notify_all(&self) {
        self.events.advance();
    }

    /// To be taken before looking at what is waited for.
    pub(crate) fn current(&self) -> Seen {
        self.events.current()
    }

    /// Sleeps until something happens that `seen` does not include, for `at_most` at most.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS` if a signal of the kind of `mode` is pending.
    pub(crate) fn wait(&self, seen: Seen, mode: WaitMode, at_most: Delta) -> Result {
        match self.events.wait(seen, mode, Some(Instant::now() + at_most)) {
            Wake::Event | Wake::Timeout => Ok(()),
            Wake::Signal => Err(ERESTARTSYS),
        }
    }
}

/// `(value of memory & mask) OP (value & mask)`.
#[derive(Clone, Copy)]
pub(crate) struct Condition {
    compare: fn(&u64, &u64) -> bool,
    value: u64,
    mask: u64,
}

impl Condition {
    /// # Errors
    ///
    /// `EINVAL` if `op` is no `DRM_RSVM_FENCE_*`.
    pub(crate) fn new(op: u32, value: u64, mask: u64) -> Result<Self> {
        let compare = match op {
            uapi::DRM_RSVM_FENCE_EQ => u64::eq,
            uapi::DRM_RSVM_FENCE_NE => u64::ne,
            uapi::DRM_RSVM_FENCE_GE => u64::ge,
            uapi::DRM_RSVM_FENCE_GT => u64::gt,
            uapi::DRM_RSVM_FENCE_LE => u64::le,
            uapi::DRM_RSVM_FENCE_LT => u64::lt,
            _ => return Err(EINVAL),
        };
        Ok(Self {
            compare,
            value: value & mask,
            mask,
        })
    }

    fn holds(&self, memory: u64) -> bool {
        (self.compare)(&(memory & self.mask), &self.value)
    }
}

/// How a wait ended.
pub(crate) enum Outcome {
    /// The condition holds.
    Reached,
    /// It does not, and the queue that was to make it true was killed.
    Killed(FaultInfo),
}

/// Waits until the current process's memory at `addr` meets `condition`. Holds no lock, and no
/// section that an unbind of any device waits for.
///
/// # Errors
///
/// `EFAULT`: the memory cannot be read. `ETIME`: not reached by `deadline`. `ENODEV`, `EIO`: the
/// device is gone. `ERESTARTSYS`: a signal is pending.
pub(crate) fn wait(
    gpu: &Gpu,
    queue: &Queue,
    addr: UserPtr,
    condition: Condition,
    deadline: Instant<Monotonic>,
) -> Result<Outcome> {
    let wakeup = gpu.wakeup();
    loop {
        let seen = wakeup.current();
        // In this order: what a queue wrote before it was killed counts.
        let failure = queue.failure();
        let gone = gpu.check();
        if condition.holds(addr.get_u64()?) {
            return Ok(Outcome::Reached);
        }
        gone?;
        if let Some(info) = failure {
            return Ok(Outcome::Killed(info));
        }
        let left = deadline - Instant::now();
        if left <= Delta::ZERO {
            return Err(ETIME);
        }
        wakeup.wait(seen, WaitMode::Interruptible, left.min(RECHECK))?;
        if wakeup.current() == seen {
            // A device that was pulled out says nothing.
            gpu.check_presence();
        }
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_fence)]
mod tests {
    use super::*;

    #[test]
    fn conditions() -> Result {
        let table = [
            (uapi::DRM_RSVM_FENCE_EQ, [false, true, false]),
            (uapi::DRM_RSVM_FENCE_NE, [true, false, true]),
            (uapi::DRM_RSVM_FENCE_GE, [false, true, true]),
            (uapi::DRM_RSVM_FENCE_GT, [false, false, true]),
            (uapi::DRM_RSVM_FENCE_LE, [true, true, false]),
            (uapi::DRM_RSVM_FENCE_LT, [true, false, false]),
        ];
        for (op, expected) in table {
            let condition = Condition::new(op, 5, !0)?;
            for (memory, expected) in [4, 5, 6].into_iter().zip(expected) {
                assert_eq!(condition.holds(memory), expected);
            }
        }
        assert!(Condition::new(uapi::DRM_RSVM_FENCE_LT + 1, 0, 0).is_err());
        Ok(())
    }

    #[test]
    fn mask_applies_to_both_sides_and_values_are_unsigned() -> Result {
        let condition = Condition::new(uapi::DRM_RSVM_FENCE_EQ, 0xff12, 0xff)?;
        assert!(condition.holds(0xaa12));
        assert!(!condition.holds(0xaa13));
        let condition = Condition::new(uapi::DRM_RSVM_FENCE_GT, 1, !0)?;
        assert!(condition.holds(u64::MAX));
        Ok(())
    }
}
