// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Fault buffers, replay and cancel.
//!
//! Lock order: [`FaultUnit`] state › interrupt tree. Held shortly; fault
//! reporters may hold a uTLB guard.

mod buffer;
mod maintenance;
mod packet;
mod thread;

pub use maintenance::{Maintenance, Replay, Source};
pub use packet::{PACKET_BYTES, VALID};
pub use thread::start;

use crate::config::Config;
use crate::core::Core;
use crate::intr::{
    VECTOR_INFO_FAULT, VECTOR_NON_REPLAYABLE, VECTOR_NON_REPLAYABLE_ERROR, VECTOR_REPLAYABLE,
    VECTOR_REPLAYABLE_ERROR,
};
use crate::lock;
use crate::mem::PhysAddr;
use crate::mmu::{Access, Fault};
use crate::rng::Rng;
use buffer::{Buffer, Effects, Place};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// Index of the registers of either buffer.
pub const NON_REPLAYABLE: usize = 0;
pub const REPLAYABLE: usize = 1;

const NOTIFY: [u32; 2] = [VECTOR_NON_REPLAYABLE, VECTOR_REPLAYABLE];
const ERROR: [u32; 2] = [VECTOR_NON_REPLAYABLE_ERROR, VECTOR_REPLAYABLE_ERROR];

/// Counters for people.
#[derive(Default)]
pub struct Stats {
    pub packets: AtomicU64,
    pub dropped: AtomicU64,
    pub overflows: AtomicU64,
    pub replays: AtomicU64,
    pub cancels: AtomicU64,
}

/// What became of a report.
pub(crate) struct Report {
    /// It is where it belongs, or nobody wants it.
    pub buffered: bool,
    /// The device is to vanish now.
    pub removal: bool,
}

/// The last fault that no buffer took.
#[derive(Clone, Copy, Default)]
struct Snapshot {
    words: [u32; 5],
    valid: bool,
}

/// A packet whose VALID bit is still to be written.
struct Late {
    at: PhysAddr,
    last: u32,
    due: Instant,
}

struct State {
    buffers: [Buffer; 2],
    snapshot: Snapshot,
    prefetch_filter: u32,
    late: VecDeque<Late>,
    rng: Rng,
    /// Register-triggered operations not yet begun.
    queue: VecDeque<(maintenance::Source, Maintenance)>,
    stop: bool,
    woken: bool,
}

pub struct FaultUnit {
    state: Mutex<State>,
    /// For the MMU's thread.
    wake: Condvar,
    ack: maintenance::Acks,
    born: Instant,
    pub stats: Stats,
    limit: Option<u32>,
    default_entries: u32,
    inject: crate::config::Inject,
}

impl FaultUnit {
    pub fn new(config: &Config) -> Self {
        let harts = config.groups * config.harts_per_group;
        Self {
            state: Mutex::new(State {
                buffers: Default::default(),
                snapshot: Snapshot::default(),
                prefetch_filter: 0,
                late: VecDeque::new(),
                rng: Rng::stream(config.inject.seed, 0xfa),
                queue: VecDeque::new(),
                stop: false,
                woken: false,
            }),
            wake: Condvar::new(),
            ack: maintenance::Acks::new(&config.inject),
            born: Instant::now(),
            stats: Stats::default(),
            limit: config.inject.fault_buffer_entries,
            default_entries: (2 * harts).next_power_of_two().clamp(32, 1 << 16),
            inject: config.inject.clone(),
        }
    }

    /// Has the MMU's thread look around.
    pub fn wake(&self) {
        lock(&self.state).woken = true;
        self.wake.notify_all();
    }

    pub fn stop(&self) {
        lock(&self.state).stop = true;
        self.wake.notify_all();
    }

    pub fn reset(&self) {
        let mut state = lock(&self.state);
        for buffer in &mut state.buffers {
            buffer.reset();
        }
        state.snapshot = Snapshot::default();
        state.prefetch_filter = 0;
        state.late.clear();
        state.queue.clear();
        self.ack.reset();
    }

    /// Puts a packet into the buffer it belongs to.
    pub(crate) fn report(&self, core: &Core, fault: &Fault) -> Report {
        let nothing = Report {
            buffered: true,
            removal: false,
        };
        if core.removed() {
            return nothing;
        }
        let mut state = lock(&self.state);
        if fault.access == Access::Prefetch && state.prefetch_filter == 3 {
            return nothing;
        }
        let n = self.stats.packets.fetch_add(1, Ordering::Relaxed) + 1;
        let buffered = self.write(core, &mut state, fault);
        if state.rng.one_in(self.inject.duplicate_every) {
            self.write(core, &mut state, fault);
        }
        Report {
            buffered,
            removal: n == self.inject.remove_at_fault,
        }
    }

    /// False if there is no room for it.
    fn write(&self, core: &Core, state: &mut State, fault: &Fault) -> bool {
        let i = usize::from(fault.replayable);
        match state.buffers[i].place(self.limit) {
            Place::At { at, first } => {
                self.write_packet(core, state, fault, at);
                if first {
                    core.intr.raise(NOTIFY[i]);
                }
                true
            }
            Place::Full { newly, intr } => {
                self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                if newly {
                    self.stats.overflows.fetch_add(1, Ordering::Relaxed);
                    tracing::info!("fault buffer {i} overflows");
                    if intr {
                        core.intr.raise(ERROR[i]);
                    }
                }
                false
            }
            Place::Disabled => {
                self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                self.snapshot(core, state, fault);
                false
            }
        }
    }

    /// A fault that no enabled buffer takes shows in the snapshot registers.
    fn snapshot(&self, core: &Core, state: &mut State, fault: &Fault) {
        if state.snapshot.valid {
            return;
        }
        let dwords = packet::encode(fault, 0);
        let inst = fault.space.inst;
        state.snapshot = Snapshot {
            words: [
                dwords[2],
                dwords[3],
                dwords[0] & !0xfff | inst.aperture.target() << 10 | dwords[6],
                dwords[1],
                dwords[7],
            ],
            valid: true,
        };
        core.intr.raise(VECTOR_INFO_FAULT);
    }

    fn write_packet(&self, core: &Core, state: &mut State, fault: &Fault, at: PhysAddr) {
        let dwords = packet::encode(fault, self.born.elapsed().as_nanos() as u64);
        let mem = core.mem.enter();
        for (i, &dword) in dwords[..7].iter().enumerate() {
            if let Err(err) = mem.write_u32(at.offset(i as u64 * 4), dword) {
                core.errors.report(format_args!("fault packet: {err}"));
                return;
            }
        }
        let last = at.offset(28);
        if state.rng.one_in(self.inject.out_of_order_every) {
            // Everything but VALID; that comes after a later packet's.
            let _ = mem.write_u32(last, dwords[7] & !VALID);
            state.late.push_back(Late {
                at: last,
                last: dwords[7],
                due: Instant::now() + self.inject.out_of_order_delay,
            });
            state.woken = true;
            self.wake.notify_all();
            return;
        }
        let _ = mem.write_u32(last, dwords[7]);
        drop(mem);
        self.finish_late(core, state, None);
    }

    /// Writes the VALID bits that are due at `now`, or all.
    fn finish_late(&self, core: &Core, state: &mut State, now: Option<Instant>) {
        let mem = core.mem.enter();
        state.late.retain(|late| {
            let due = now.is_none_or(|now| late.due <= now);
            if due {
                // The first dwords could be written, so this one can.
                let _ = mem.write_u32(late.at, late.last);
            }
            !due
        });
    }

    fn apply(&self, core: &Core, i: usize, effects: Effects) {
        if let Some(what) = effects.guest_error {
            core.errors.report(format_args!("{what}"));
        }
        if effects.notify {
            core.intr.raise(NOTIFY[i]);
        }
        if effects.error {
            core.intr.raise(ERROR[i]);
        }
    }

    /// Register `reg` (0 LO, 1 HI, 2 GET, 3 PUT, 4 SIZE) of buffer `i`.
    pub fn read_register(&self, i: usize, reg: u32) -> Option<u32> {
        let state = lock(&self.state);
        let buffer = &state.buffers[i];
        Some(match reg {
            0 => buffer.lo,
            1 => buffer.hi,
            2 => buffer.get(),
            3 => buffer.put(),
            4 => buffer.size(),
            _ => return None,
        })
    }

    /// See [`FaultUnit::read_register`]. False if there is no such register, or
    /// it cannot be written.
    pub fn write_register(&self, core: &Core, i: usize, reg: u32, value: u32) -> bool {
        let mut state = lock(&self.state);
        let buffer = &mut state.buffers[i];
        match reg {
            0 | 1 if buffer.is_enabled() => core.errors.report(format_args!(
                "address of fault buffer {i} changed while it is enabled"
            )),
            0 => buffer.lo = value,
            1 => buffer.hi = value,
            2 => {
                let effects = buffer.write_get(value);
                self.apply(core, i, effects);
            }
            4 => {
                let effects = buffer.write_size(value, self.default_entries);
                self.apply(core, i, effects);
            }
            _ => return false,
        }
        true
    }

    /// 0xb83094.
    pub fn status(&self) -> u32 {
        let state = lock(&self.state);
        let mut status = u32::from(state.snapshot.valid) << 31;
        for (shift, i) in [(0, REPLAYABLE), (1, NON_REPLAYABLE)] {
            let b = &state.buffers[i];
            status |= u32::from(b.is_enabled() && !b.is_empty()) << (8 + shift)
                | u32::from(b.overflowed() || b.corrupted()) << (10 + shift)
                | u32::from(b.overflowed()) << (12 + shift)
                | u32::from(b.corrupted()) << (14 + shift);
        }
        status
    }

    pub fn clear_snapshot(&self) {
        lock(&self.state).snapshot.valid = false;
    }

    /// Word `i` of 0xb83080..=0xb83090.
    pub fn snapshot_word(&self, i: usize) -> u32 {
        lock(&self.state).snapshot.words[i]
    }

    pub fn prefetch_filter(&self) -> u32 {
        lock(&self.state).prefetch_filter
    }

    pub fn set_prefetch_filter(&self, value: u32) {
        lock(&self.state).prefetch_filter = value & 3;
    }
}
