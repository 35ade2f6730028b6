// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The seam between the host interface and the compute engine.
//!
//! The PBDMA thread of runlist 1 calls [`ComputeEngine::method`]; the MMU calls
//! [`ComputeEngine::replay`] and [`ComputeEngine::cancel`] from the thread that
//! executes the invalidate. No call holds a lock of the core. The engine calls
//! back through [`crate::core::Core`]:
//!
//! - `core.mmu.add_utlb(Client::group(n))` once per group, then
//!   `utlb.enter()` around each slice of instructions;
//! - `core.report_fault(&fault)` for an access that misses, before parking;
//! - `core.engine_exception(chid, code, pc)`;
//! - `core.kick_compute()` when something it answered [`Progress::Busy`] or
//!   [`ComputeEngine::preempt`] `false` for may have changed;
//! - `core.intr.raise(VECTOR_COMPUTE)` for the non-stall interrupt.

use crate::mmu::{Cancel, Space};

/// The channel a method comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelCtx {
    pub chid: u32,
    /// 0..=63; the harts of a channel are those of its VEID.
    pub veid: u8,
    /// The subcontext's address space (RAMIN + 0x2a0 + 16 * VEID).
    pub space: Space,
}

/// What became of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// It must wait. The same method comes again after `core.kick_compute()`.
    Busy,
    /// No such method, or data it does not allow.
    Bad,
}

/// Runs harts. All calls return promptly except where said.
pub trait ComputeEngine: Send + Sync {
    /// One method of class 0xf0c0 (`method` is its byte address, 0x100 or more).
    fn method(&self, channel: &ChannelCtx, method: u32, data: u32) -> Progress;

    /// Whether the VEID has no grid, parked or running, and no pending release.
    fn idle(&self, veid: u8) -> bool;

    /// Every parked hart translates again. With `ack_all`, returns when each
    /// hart that was parked has made its access or was refused again (refaults
    /// are in the fault buffer by then); never waits for service.
    fn replay(&self, ack_all: bool);

    /// Each VEID with a parked hart that `cancel` matches is killed: its harts
    /// go, the matching access is reported again with `replayable: false`, and
    /// `core.fault_cancelled(chid, va)` stops the channel. All other parked
    /// harts are replayed.
    fn cancel(&self, cancel: &Cancel);

    /// Stops scheduling the VEID's harts. True when none is parked on a fault
    /// and no access is in flight; otherwise the core asks again after a kick.
    fn preempt(&self, veid: u8) -> bool;

    /// Schedules the VEID's harts again after a preempt.
    fn resume(&self, veid: u8);

    /// The VEID's harts and state are gone when this returns, parked or not.
    /// It waits for an access in flight.
    fn kill(&self, veid: u8);

    /// All harts and state are gone when this returns.
    fn reset(&self);

    /// As reset, and the threads end and drop what they hold of the core.
    fn stop(&self);
}
