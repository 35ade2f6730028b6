// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Queues, launches and fences.

use crate::context::Context;
use crate::error::{Error, Fault, Result};
use crate::mapping::Mapping;
use crate::method::{Grid, Push};
use crate::module::{Kernel, Module};
use crate::uapi;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A queue of work for the compute engine. Launches run in order, one after
/// the other. May be used from several threads.
#[derive(Debug)]
pub struct Queue {
    context: Arc<Context>,
    id: u32,
    fence: FencePage,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Value of the last fence pushed.
    last: u64,
    /// Programs that launches up to a fence value still run.
    running: Vec<(u64, Arc<Module>)>,
}

/// The end of everything that a queue was given until the fence was made.
#[derive(Clone, Debug)]
pub struct Fence {
    queue: Arc<Queue>,
    value: u64,
}

/// The 64 bits that the device writes, on a page of their own so that no other
/// data moves along with them.
#[derive(Debug)]
struct FencePage(Mapping);

impl FencePage {
    fn new() -> Result<Self> {
        Ok(FencePage(Mapping::new(4096)?))
    }

    fn ptr(&self) -> *const u64 {
        self.0.base().as_ptr().cast()
    }

    fn value(&self) -> u64 {
        // SAFETY: Mapped, aligned as pages are, and only the device writes it.
        unsafe { &*self.ptr().cast::<AtomicU64>() }.load(Ordering::Acquire)
    }
}

impl Queue {
    pub(crate) fn new(context: Arc<Context>) -> Result<Arc<Self>> {
        let fence = FencePage::new()?;
        let mut create = uapi::QueueCreate {
            vm_id: context.vm_id(),
            ..Default::default()
        };
        uapi::ioctl(context.fd(), &mut create).map_err(Error::system("create a queue"))?;
        Ok(Arc::new(Queue {
            context,
            id: create.queue_id,
            fence,
            state: Mutex::default(),
        }))
    }

    /// The driver's number of this queue.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Launches `kernel` once for each of `invocations`, and returns at once.
    /// `group_size` invocations share a group of hardware; 0 is the largest.
    /// Invocation i is called as `kernel(arg, i, invocations)`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an empty grid, [`Error::Fault`] when the queue
    /// has been killed, [`Error::System`] otherwise.
    ///
    /// # Safety
    ///
    /// The kernel reads and writes any memory of this process that it finds a
    /// pointer to, until the fence is reached or the queue is gone.
    pub unsafe fn launch(
        self: &Arc<Self>,
        kernel: &Kernel,
        invocations: u64,
        group_size: u32,
        arg: *const (),
    ) -> Result<Fence> {
        if invocations == 0 {
            return Err(Error::Invalid("a grid of no invocations"));
        }
        let mut push = Push::new(self.context.compute_class());
        push.launch(Grid {
            pc: kernel.address(),
            arg: arg as u64,
            invocations,
            group_size,
        });
        let mut state = self.lock();
        let done = self.fence.value();
        state.running.retain(|(value, _)| *value > done);
        let value = state.last + 1;
        self.exec(&push, self.fence.ptr() as u64, value)?;
        state.last = value;
        state.running.push((value, Arc::clone(kernel.module())));
        Ok(Fence {
            queue: Arc::clone(self),
            value,
        })
    }

    /// A fence for everything launched so far.
    pub fn last_fence(self: &Arc<Self>) -> Fence {
        let value = self.lock().last;
        Fence {
            queue: Arc::clone(self),
            value,
        }
    }

    /// The fence of an earlier launch, by its number.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a number that no launch has had yet.
    pub fn fence(self: &Arc<Self>, value: u64) -> Result<Fence> {
        if value > self.lock().last {
            return Err(Error::Invalid("a fence that was never launched"));
        }
        Ok(Fence {
            queue: Arc::clone(self),
            value,
        })
    }

    /// Lets the device write `value` to `addr` after everything launched so
    /// far.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `addr` is not 8-byte aligned; otherwise as
    /// [`Queue::launch`].
    ///
    /// # Safety
    ///
    /// `addr` stays writable until it has been written.
    pub unsafe fn signal(&self, addr: *mut u64, value: u64) -> Result<()> {
        if addr.is_null() || addr as usize % 8 != 0 {
            return Err(Error::Invalid("a fence is 8 bytes, aligned"));
        }
        let _order = self.lock();
        let mut push = Push::new(self.context.compute_class());
        push.release(addr as u64, value);
        self.exec(&push, 0, 0)
    }

    /// Sleeps until `*addr` is `value` or more; `None` waits for ever.
    ///
    /// # Errors
    ///
    /// As [`Fence::wait`].
    pub fn wait_value(
        &self,
        addr: *const u64,
        value: u64,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let mut wait = uapi::WaitUserFence {
            queue_id: self.id,
            op: uapi::FENCE_GE,
            addr: addr as u64,
            value,
            mask: u64::MAX,
            deadline_ns: deadline(timeout),
            ..Default::default()
        };
        uapi::ioctl(self.context.fd(), &mut wait).map_err(|err| match err.raw_os_error() {
            Some(libc::ETIME) => Error::Timeout(self.id),
            Some(libc::EIO) if wait.fault_reason != 0 => Error::Fault(Fault {
                queue_id: self.id,
                addr: wait.fault_addr,
                access: wait.fault_access.into(),
                reason: wait.fault_reason.into(),
            }),
            _ => Error::system("wait for the GPU")(err),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pushes methods and, unless `fence_addr` is 0, a fence. Callers hold the
    /// lock, so that fences are pushed in the order of their values.
    fn exec(&self, push: &Push, fence_addr: u64, fence_value: u64) -> Result<()> {
        let dwords = push.dwords();
        let mut exec = uapi::Exec {
            queue_id: self.id,
            push: dwords.as_ptr() as u64,
            // CAST: the library pushes a dozen dwords.
            num_dwords: dwords.len() as u32,
            fence_addr,
            fence_value,
            ..Default::default()
        };
        uapi::ioctl(self.context.fd(), &mut exec).map_err(|err| {
            if err.raw_os_error() == Some(libc::EIO) {
                // A wait for what cannot come tells why.
                let never = self.wait_value(self.fence.ptr(), u64::MAX, Some(Duration::ZERO));
                if let Err(fault @ Error::Fault(_)) = never {
                    return fault;
                }
            }
            Error::system("launch on the GPU")(err)
        })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut destroy = uapi::QueueDestroy {
            queue_id: self.id,
            pad: 0,
        };
        // Returns when the device left the queue's memory. An error means that
        // the device is gone.
        let _ = uapi::ioctl(self.context.fd(), &mut destroy);
    }
}

impl Fence {
    /// Its number in the queue, from 1.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Has the device come this far?
    pub fn is_done(&self) -> bool {
        self.queue.fence.value() >= self.value
    }

    /// Sleeps until the device has come this far; `None` waits for ever.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::Fault`] when the queue was killed before,
    /// [`Error::System`] when the device is gone.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        self.queue
            .wait_value(self.queue.fence.ptr(), self.value, timeout)
    }
}

/// Absolute CLOCK_MONOTONIC time in nanoseconds; too far away is for ever.
fn deadline(timeout: Option<Duration>) -> i64 {
    let Some(timeout) = timeout else {
        return i64::MAX;
    };
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid place for the result; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let now = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    let end = i128::try_from(timeout.as_nanos()).unwrap_or(i128::MAX);
    i64::try_from(now.saturating_add(end)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_absolute_and_saturate() {
        assert_eq!(deadline(None), i64::MAX);
        assert_eq!(deadline(Some(Duration::MAX)), i64::MAX);
        let (now, later) = (
            deadline(Some(Duration::ZERO)),
            deadline(Some(Duration::from_secs(5))),
        );
        assert!(now > 0 && later - now >= 5_000_000_000);
    }
}
