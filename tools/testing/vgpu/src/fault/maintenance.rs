// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Invalidates, replays and cancels, whether they come by register or by
//! method.

use super::FaultUnit;
use crate::config::Inject;
use crate::core::Core;
use crate::lock;
use crate::mmu::{Cancel, Invalidate};
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What happens to the faults that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    None,
    Start,
    StartAckAll,
    Cancel(Cancel),
}

/// One operation of the MMU on its own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maintenance {
    pub invalidate: Invalidate,
    pub replay: Replay,
    /// The issuer waits until it is done; only then a membar counts.
    pub ack: bool,
    pub sys_membar: bool,
}

/// Which trigger register shows an operation as pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// 0xb830b0.
    Virt,
    /// 0x100cbc.
    Pf,
}

/// Pending bits of the trigger registers, and injected trouble.
pub(super) struct Acks {
    pending: [AtomicU32; 2],
    count: AtomicU64,
    lost_every: u32,
    delay: Duration,
}

impl Acks {
    pub(super) fn new(inject: &Inject) -> Self {
        Self {
            pending: Default::default(),
            count: AtomicU64::new(0),
            lost_every: inject.ack_lost_every,
            delay: inject.ack_delay,
        }
    }

    pub(super) fn reset(&self) {
        for pending in &self.pending {
            pending.store(0, Ordering::SeqCst);
        }
    }
}

impl FaultUnit {
    /// Queues an operation that a trigger register asks for.
    pub fn trigger(&self, source: Source, op: Maintenance) {
        let mut state = lock(&self.state);
        self.ack.pending[source as usize].store(1, Ordering::SeqCst);
        state.queue.push_back((source, op));
        self.wake.notify_all();
    }

    /// Bit 31 of a trigger register.
    pub fn trigger_pending(&self, source: Source) -> bool {
        self.ack.pending[source as usize].load(Ordering::SeqCst) != 0
    }

    pub(super) fn acknowledge(&self, source: Source) {
        self.ack.pending[source as usize].store(0, Ordering::SeqCst);
    }

    /// How long the acknowledgement of `op` is held back; none if it is lost.
    pub(crate) fn ack_delay(&self, op: &Maintenance) -> Option<Duration> {
        if !op.ack && op.replay == Replay::None {
            return Some(Duration::ZERO);
        }
        let n = self.ack.count.fetch_add(1, Ordering::Relaxed) + 1;
        let every = u64::from(self.ack.lost_every);
        if every != 0 && n % every == 0 {
            tracing::info!("acknowledgement {n} is lost");
            return None;
        }
        Some(self.ack.delay)
    }
}

impl Maintenance {
    /// Executes it, and with `ack` waits until no access uses what it threw
    /// away. Not to be called with a guard of memory or of a uTLB held.
    pub fn execute(&self, core: &Core) {
        let replay = self.replay != Replay::None;
        core.mmu.invalidate(&self.invalidate, self.ack || replay);
        if let Some(compute) = core.compute() {
            let stats = &core.faults.stats;
            match &self.replay {
                Replay::None => {}
                Replay::Start => compute.replay(false),
                Replay::StartAckAll => compute.replay(true),
                Replay::Cancel(cancel) => {
                    stats.cancels.fetch_add(1, Ordering::Relaxed);
                    compute.cancel(cancel);
                }
            }
            if matches!(self.replay, Replay::Start | Replay::StartAckAll) {
                stats.replays.fetch_add(1, Ordering::Relaxed);
            }
        }
        if self.ack && self.sys_membar {
            fence(Ordering::SeqCst);
        }
    }
}
