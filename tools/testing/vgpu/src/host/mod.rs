// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The host interface (PFIFO): channels, runlists and their PBDMAs.
//!
//! Each runlist has a thread, which owns the execution state of its channels
//! ([`Lane`]) while it works. Registers change [`State`] only and wake threads.
//!
//! Lock order: lane › state › interrupt tree. No lock but the lane is held
//! while the compute engine or the MMU is called.

mod channel;
mod copy;
mod memop;
mod pbdma;
mod ramfc;
mod registers;
mod runlist;
mod schedule;
mod semaphore;
mod wake;

pub(crate) use memop::cancel_access;
pub use schedule::start;
pub use semaphore::{timestamp, Reduction};

use crate::core::Core;
use crate::intr::VECTOR_PFIFO;
use crate::lock;
use crate::mem::PhysAddr;
use schedule::Lane;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex};

/// The kernel's runlist: MEM_OP and the copy engine.
pub const RUNLIST_KERNEL: usize = 0;
/// The users' runlist: the compute engine.
pub const RUNLIST_USER: usize = 1;
const RUNLISTS: usize = 2;
/// Channel ids; as many as the error registers have room for.
pub const CHANNELS: usize = 128;

const INTR_BIND: u32 = 1 << 0;
const INTR_SCHED: u32 = 1 << 8;
const INTR_PBDMA: u32 = 1 << 29;

/// Why a channel was stopped: register 0xf01000 + 16 * chid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StopReason {
    /// An unknown method, class, or value; the next register has the method.
    BadMethod = 1,
    /// A method without the privilege for it; the next register has the method.
    Privilege = 2,
    /// A GP entry or GP_PUT that makes no sense.
    BadGpEntry = 3,
    /// A hart's program did what it must not; the next registers have the pc.
    EngineException = 4,
    /// A fault was cancelled; the next registers have its address.
    FaultCancelled = 5,
    /// A semaphore acquire took longer than RAMFC 0x30 allows.
    AcquireTimeout = 6,
    /// A copy failed; the next registers have bits of 0x104410 and the number
    /// of the launch since the channel was bound.
    CopyError = 7,
}

#[derive(Clone, Default)]
struct Channel {
    inst: Option<PhysAddr>,
    /// Counts binds, so that stale execution state is recognised.
    bound: u64,
    enabled: bool,
    pbdma_faulted: bool,
    eng_faulted: bool,
    /// Stopped for good: until it is unbound.
    dead: bool,
    /// GP_PUT may have moved.
    doorbell: bool,
    /// On the engine: what a preempt takes away.
    resident: bool,
    /// Bound, and seen by its PBDMA.
    loaded: bool,
    /// Of a user's channel that is loaded.
    veid: Option<u8>,
    error: [u32; 3],
}

impl Channel {
    fn runnable(&self) -> bool {
        self.inst.is_some()
            && self.enabled
            && !self.dead
            && !self.pbdma_faulted
            && !self.eng_faulted
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tsg {
    id: u32,
    channels: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Submit {
    at: PhysAddr,
    entries: u32,
}

#[derive(Default)]
struct Runlist {
    base: u32,
    base_hi: u32,
    submit: Option<Submit>,
    /// A submit is being read.
    pending: bool,
    tsgs: Vec<Tsg>,
    /// Channels that are no longer listed but not yet off the engine, with
    /// their TSGs.
    leaving: Vec<(u32, u32)>,
    /// The thread has something to look at.
    kicked: bool,
    /// Acquires of the current pass that have to wait.
    acquiring: u32,
    disabled: bool,
    /// Preempt all of it.
    preempt: bool,
}

/// The preempt register.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Preempt {
    id: u32,
    tsg: bool,
}

struct State {
    channels: Vec<Channel>,
    runlists: [Runlist; RUNLISTS],
    preempt: Option<Preempt>,
    last_preempt: u32,
    intr: u32,
    intr_enable: u32,
    sched_error: u32,
    clear_faulted_error: u32,
    doorbells: bool,
    copy_status: u32,
    stop: bool,
}

impl State {
    fn new() -> Self {
        Self {
            channels: vec![Channel::default(); CHANNELS],
            runlists: Default::default(),
            preempt: None,
            last_preempt: 0,
            intr: 0,
            intr_enable: 0,
            sched_error: 0,
            clear_faulted_error: 0,
            doorbells: false,
            copy_status: 0,
            stop: false,
        }
    }

    /// Sets interrupt bits; true if the vector is to be pulsed.
    fn interrupt(&mut self, bits: u32) -> bool {
        self.intr |= bits;
        self.intr_enable & bits != 0
    }
}

pub struct Host {
    state: Mutex<State>,
    wake: [Condvar; RUNLISTS],
    lanes: [Mutex<Lane>; RUNLISTS],
    /// Doorbells rung.
    pub doorbells: AtomicU64,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State::new()),
            wake: Default::default(),
            lanes: std::array::from_fn(|_| Mutex::default()),
            doorbells: AtomicU64::new(0),
        }
    }

    pub fn stop(&self) {
        lock(&self.state).stop = true;
        for wake in &self.wake {
            wake.notify_all();
        }
    }

    /// All channels and harts are gone, and nothing is in flight, when this
    /// returns.
    pub fn reset(&self, core: &Core) {
        let mut lanes: Vec<_> = self.lanes.iter().map(lock).collect();
        for lane in &mut lanes {
            lane.clear();
        }
        if let Some(compute) = core.compute() {
            compute.reset();
        }
        core.copy.reset();
        let mut state = lock(&self.state);
        *state = State {
            stop: state.stop,
            ..State::new()
        };
    }

    fn interrupt(&self, core: &Core, bits: u32) {
        let pulse = lock(&self.state).interrupt(bits);
        if pulse {
            core.intr.raise(VECTOR_PFIFO);
        }
    }

    /// Stops a channel until it is unbound; `info` goes to its error registers.
    /// The channel's harts are gone already.
    pub(crate) fn stop_channel(&self, core: &Core, chid: u32, reason: StopReason, info: u64) {
        tracing::info!("channel {chid} stops: {reason:?}, {info:#x}");
        let mut state = lock(&self.state);
        let Some(channel) = state.channels.get_mut(chid as usize) else {
            return;
        };
        channel.dead = true;
        match reason {
            StopReason::EngineException | StopReason::FaultCancelled | StopReason::CopyError => {
                channel.eng_faulted = true
            }
            _ => channel.pbdma_faulted = true,
        }
        channel.error = [reason as u32, info as u32, (info >> 32) as u32];
        let pulse = state.interrupt(INTR_PBDMA);
        drop(state);
        if pulse {
            core.intr.raise(VECTOR_PFIFO);
        }
        self.kick(RUNLIST_USER);
    }
}
