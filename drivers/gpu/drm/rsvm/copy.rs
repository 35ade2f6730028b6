// SPDX-License-Identifier: GPL-2.0

//! The copy engine: moves pages between system and device memory, and zeroes them.
//!
//! There are several channels, so that migrations overlap. A batch of copies owns one of them from
//! its first operation until it is done, and is one push with one doorbell; an error is therefore
//! that of exactly one batch, and the others go on. Its parts are done one after the other, and can
//! be waited for one by one. Nothing is allocated for a batch.
//!
//! Lock order: a channel's lock is inside of folio locks, outside of the runlist lock. Nothing of
//! mm is entered under it, but for putting pages in place that came with a part, which takes the
//! locks of their mappings (rmap, page tables) and waits for nobody. A thread has one batch at a
//! time.

mod lane;
mod methods;

use crate::{
    gpu::Gpu,
    hal::Hal,
    mmu::{
        pool::TablePool,
        tlb::{
            Program,
            KERNEL_CHID, //
        }, //
    },
    reset::BOUND, //
};
use kernel::{
    device::{
        Bound,
        Device, //
    },
    new_event_count,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicFlag,
            Relaxed,
            Release, //
        },
        Arc,
        EventCount,
        Mutex,
        MutexGuard,
        WaitMode,
        Wake, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};
use lane::Lane;
use methods::MAX_PARTS;

/// How many batches are under way at once.
const CHANNELS: u32 = 4;
const FIRST_CHID: u32 = KERNEL_CHID + 1;

/// How often a waiter looks without having been woken: a device that was pulled out says nothing.
const RECHECK: Delta = Delta::from_millis(1000);
/// How often a preempt is looked for.
const POLL: Delta = Delta::from_micros(20);
/// So long a batch is looked for before an interrupt is asked for. Most are done by then, and the
/// interrupt would wake a thread of its own and everybody who waits for a fence: a good part of what
/// a large page takes.
const SOON: Delta = Delta::from_millis(2);

/// Where bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bus address of system memory.
    System(u64),
    /// Byte offset into device memory.
    Vram(u64),
}

/// Why a batch was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyError {
    /// The engine refused a copy of this batch: nothing that was to be written may be relied on.
    /// The channel works again.
    Failed,
    /// The device is unbound, wedged or gone, and reaches no memory any more.
    Gone,
}

impl From<CopyError> for Error {
    fn from(err: CopyError) -> Self {
        match err {
            CopyError::Failed => EIO,
            CopyError::Gone => ENODEV,
        }
    }
}

/// What the copy engine was asked to do.
pub(crate) struct Counters {
    batches: Atomic<u64>,
    ops: Atomic<u64>,
    bytes: Atomic<u64>,
    errors: Atomic<u64>,
}

impl Counters {
    /// Their names in debugfs, and their values.
    pub(crate) fn all(&self) -> [(&'static str, u64); 4] {
        [
            ("copy_batches", self.batches.load(Relaxed)),
            ("copy_ops", self.ops.load(Relaxed)),
            ("copy_bytes", self.bytes.load(Relaxed)),
            ("copy_errors", self.errors.load(Relaxed)),
        ]
    }
}

/// The copy engine.
#[pin_data]
pub(crate) struct CopyEngine {
    lanes: KVec<Pin<KBox<Mutex<Lane>>>>,
    /// Which lane is waited for when all are busy.
    next: Atomic<u32>,
    /// Advanced when a batch may be done, or will never be.
    #[pin]
    events: EventCount,
    /// Errors that the device has told about, of any channel.
    errors: Atomic<u32>,
    stopped: AtomicFlag,
    pub(crate) counters: Counters,
}

impl CopyEngine {
    /// Makes the channels; [`Gpu::start_copies`] comes next. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` when the driver is being unbound.
    pub(crate) fn new<'a>(
        dev: &'a Device<Bound>,
        hal: &'static dyn Hal,
        pool: &'a Arc<TablePool>,
    ) -> impl PinInit<Self, Error> + 'a {
        pin_init::pin_init_scope(move || {
            let mut lanes = KVec::new();
            for chid in (FIRST_CHID..).take(CHANNELS as usize) {
                let lane = Lane::new(dev, hal, pool, chid)?;
                let lane = KBox::pin_init(new_mutex!(lane, "rsvm_copy"), GFP_KERNEL)?;
                lanes.push(lane, GFP_KERNEL)?;
            }
            Ok(try_pin_init!(Self {
                lanes,
                next: Atomic::new(0),
                events <- new_event_count!("CopyEngine"),
                errors: Atomic::new(0),
                stopped: AtomicFlag::new(false),
                counters: Counters {
                    batches: Atomic::new(0),
                    ops: Atomic::new(0),
                    bytes: Atomic::new(0),
                    errors: Atomic::new(0),
                },
            }? Error))
        })
    }

    /// Makes all waiters look whether they are done. Any context.
    pub(crate) fn notify(&self) {
        self.events.advance();
    }

    /// Makes all waiters look whether it was their channel that the device stopped. Any context.
    pub(crate) fn notify_error(&self) {
        self.errors.fetch_add(1u32, Release);
        self.events.advance();
    }

    /// Ends the use of the engine: what is under way finishes first, what comes later is refused.
    /// Bounded.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Release);
        for lane in &self.lanes {
            drop(lane.lock());
        }
    }

    /// A channel that nobody uses, or soon nobody uses.
    fn lane(&self) -> MutexGuard<'_, Lane> {
        for lane in &self.lanes {
            if let Some(lane) = lane.try_lock() {
                return lane;
            }
        }
        // CAST: Widening.
        let n = (self.next.fetch_add(1u32, Relaxed) % CHANNELS) as usize;
        self.lanes[n].lock()
    }
}

impl Gpu {
    /// Puts the channels on the kernel's runlist and sees each of them work. May sleep.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if the device does not obey, `ENODEV` when it is gone, `EIO` if the engine
    /// fails.
    pub(crate) fn start_copies(&self) -> Result {
        for lane in &self.copy.lanes {
            let mut lane = lane.lock();
            self.kernel_runlist.lock().add(&self.regs, &lane.channel)?;
            lane.methods.begin();
            Batch::new(self, lane).submit()?.wait()?;
        }
        Ok(())
    }

    /// Begins a batch. Sleeps, bounded, while all channels are in use. The calling thread has no
    /// other batch, and neither allocates nor enters mm until this one is done, but for putting in
    /// place what came with a part.
    ///
    /// # Errors
    ///
    /// [`CopyError::Gone`].
    pub(crate) fn copy_batch(&self) -> Result<Batch<'_>, CopyError> {
        let mut lane = self.copy.lane();
        if self.copy.stopped.load(Acquire) || self.state.is_stopped() {
            return Err(CopyError::Gone);
        }
        lane.methods.begin();
        Ok(Batch::new(self, lane))
    }
}

/// Copies that are collected, to be done together. Those of a part have no order among each other.
pub(crate) struct Batch<'a> {
    gpu: &'a Gpu,
    lane: MutexGuard<'a, Lane>,
    bytes: u64,
    /// How many copies each part has, of `parts` that were ended.
    copies: [usize; MAX_PARTS],
    parts: usize,
}

impl<'a> Batch<'a> {
    fn new(gpu: &'a Gpu, lane: MutexGuard<'a, Lane>) -> Self {
        Self {
            gpu,
            lane,
            bytes: 0,
            copies: [0; MAX_PARTS],
            parts: 0,
        }
    }

    /// Has the host run `program`, an invalidate, before all copies, and wait until the device
    /// acknowledged it.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there are copies already, or the program is longer.
    pub(crate) fn first(&mut self, program: &Program) -> Result {
        self.lane.methods.first(program)
    }

    /// Adds a copy of `len` bytes. One that goes on where the last one ended becomes part of it.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there are [`methods::MAX_OPS`] already, `EINVAL` for a length of 0 or more than
    /// 1 GiB.
    pub(crate) fn copy(&mut self, from: Place, to: Place, len: usize) -> Result {
        self.add(Some(from), to, len)
    }

    /// Adds zeroing `len` bytes, a multiple of 16.
    ///
    /// # Errors
    ///
    /// As for [`copy`](Self::copy).
    pub(crate) fn zero(&mut self, to: Place, len: usize) -> Result {
        self.add(None, to, len)
    }

    fn add(&mut self, from: Option<Place>, to: Place, len: usize) -> Result {
        self.lane.methods.add(from, to, len)?;
        self.bytes += len as u64;
        self.copies[self.parts] += 1;
        Ok(())
    }

    /// What comes from here on is another part, if there is room for one more.
    pub(crate) fn end_part(&mut self) {
        if self.parts + 1 < MAX_PARTS {
            self.lane.end_part();
            self.parts += 1;
        }
    }

    /// Has the engine begin. May sleep, bounded.
    ///
    /// # Errors
    ///
    /// [`CopyError::Gone`]: nothing was done, and nothing will be.
    pub(crate) fn submit(mut self) -> Result<Ticket<'a>, CopyError> {
        let gpu = self.gpu;
        let errors = gpu.copy.errors.load(Acquire);
        if let Err(err) = self.lane.send(gpu) {
            gpu.wedge("a copy could not be sent", err);
            return Err(CopyError::Gone);
        }
        let counters = &gpu.copy.counters;
        counters.batches.fetch_add(1u64, Relaxed);
        // CAST: Widening.
        let ops = self.lane.methods.ops() as u64;
        counters.ops.fetch_add(ops, Relaxed);
        counters.bytes.fetch_add(self.bytes, Relaxed);
        let parts = self.parts as u32;
        Ok(Ticket {
            first: self.lane.number.wrapping_sub(parts),
            batch: self,
            errors,
            // TIMEOUT: Copies wait for nobody's service, and few are queued before these; see
            // `BOUND`.
            deadline: Instant::now() + BOUND,
            waited: 0,
        })
    }
}

/// A batch that the engine works on. Dropping it waits for the engine, too.
#[must_use]
pub(crate) struct Ticket<'a> {
    batch: Batch<'a>,
    /// Errors that were known when the batch began.
    errors: u32,
    /// When all parts have to be done.
    deadline: Instant<Monotonic>,
    /// Number of the first part.
    first: u32,
    /// How many parts were waited for.
    waited: usize,
}

impl Ticket<'_> {
    /// Waits until the batch is done, and what it wrote visible to the CPU and to the device.
    /// Not interruptible; bounded, for a device that is too slow is wedged.
    ///
    /// # Errors
    ///
    /// See [`CopyError`]. The engine does not touch the memory any more in any case.
    pub(crate) fn wait(mut self) -> Result<(), CopyError> {
        self.finish()
    }

    /// The same for the first part alone, before which came what was [`Batch::first`].
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub(crate) fn begun(&mut self) -> Result<(), CopyError> {
        self.wait_for(0)
    }

    /// The same for the next part. Tells how many copies that had, in the order in which they were
    /// added; [`None`] after the last part.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait). What came with other parts is there all the same.
    pub(crate) fn next_part(&mut self) -> Result<Option<usize>, CopyError> {
        let part = self.waited;
        if part > self.batch.parts {
            return Ok(None);
        }
        self.wait_for(part)?;
        self.waited = part + 1;
        Ok(Some(self.batch.copies[part]))
    }

    fn finish(&mut self) -> Result<(), CopyError> {
        let last = self.batch.parts;
        self.waited = last + 1;
        self.wait_for(last)
    }

    fn wait_for(&mut self, part: usize) -> Result<(), CopyError> {
        // CAST: A few.
        let number = self.first.wrapping_add(part as u32);
        let waited = self.wait_for_number(number);
        if waited.is_err() {
            // Nothing more comes.
            self.waited = self.batch.parts + 1;
        }
        waited
    }

    fn wait_for_number(&mut self, number: u32) -> Result<(), CopyError> {
        let gpu = self.batch.gpu;
        let engine = &gpu.copy;
        // Whatever it says, the loop looks again.
        let _ = self.batch.lane.poll(number, SOON);
        let mut asked = false;
        loop {
            let seen = engine.events.current();
            let errors = engine.errors.load(Acquire);
            match self.batch.lane.is_done(number) {
                Ok(true) => return Ok(()),
                Ok(false) => (),
                // The memory went with the device.
                Err(_) => return Err(CopyError::Gone),
            }
            if gpu.state.is_stopped() {
                return Err(CopyError::Gone);
            }
            if errors != self.errors {
                self.errors = errors;
                if self.restart_if_stopped()? {
                    return Err(CopyError::Failed);
                }
            }
            let left = self.deadline - Instant::now();
            if left <= Delta::ZERO {
                gpu.wedge("a copy was not done in time", ETIMEDOUT);
                return Err(CopyError::Gone);
            }
            if !asked {
                asked = match self.batch.lane.ask_for_interrupt(gpu) {
                    Ok(asked) => asked,
                    Err(err) => {
                        gpu.wedge("a copy's interrupt could not be asked for", err);
                        return Err(CopyError::Gone);
                    }
                };
            }
            let until = Instant::now() + left.min(if asked { RECHECK } else { SOON });
            let wake = engine
                .events
                .wait(seen, WaitMode::Uninterruptible, Some(until));
            if wake == Wake::Timeout {
                gpu.check_presence();
                if self.restart_if_stopped()? {
                    return Err(CopyError::Failed);
                }
            }
        }
    }

    /// Restarts the channel if the device stopped it; tells whether it had.
    fn restart_if_stopped(&mut self) -> Result<bool, CopyError> {
        let gpu = self.batch.gpu;
        let lane = &mut *self.batch.lane;
        let restarted = lane.has_stopped(gpu).and_then(|stopped| {
            if stopped {
                gpu.copy.counters.errors.fetch_add(1u64, Relaxed);
                lane.restart(gpu)?;
            }
            Ok(stopped)
        });
        restarted.map_err(|err| {
            gpu.wedge("a copy channel could not be restarted", err);
            CopyError::Gone
        })
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.waited <= self.batch.parts {
            // What comes of it was not asked for.
            let _ = self.finish();
        }
    }
}
