// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Access counters: how often the compute engine reaches for system memory.
//!
//! Source: NVIDIA open-gpu-kernel-modules, clc365, clc36f, dev_access_counter.
//! Counted by virtual address (MIMC), one counter for each granule of a page
//! directory and engine. One that reaches the threshold notifies once, and again
//! only after it was cleared.

use super::{Access, Space};
use crate::errors::GuestErrors;
use crate::intr::{Intr, VECTOR_ACCESS_COUNTER};
use crate::lock;
use crate::mem::{Aperture, Memory, PhysAddr};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const CONFIG: u32 = 0xb8_3100;
const LO: u32 = 0xb8_3108;
const HI: u32 = 0xb8_310c;
const SIZE: u32 = 0xb8_3110;
const GET: u32 = 0xb8_3114;
const PUT: u32 = 0xb8_3118;
const INFO: u32 = 0xb8_311c;

const LO_ENABLE: u32 = 1 << 0;
const POINTER: u32 = 0xf_ffff;
const INFO_FULL: u32 = 1 << 0;
const INFO_PUSHED: u32 = 1 << 1;
const VALID: u32 = 1 << 31;
const ENTRY_BYTES: u64 = 32;

/// One granule's counter.
struct Counter {
    count: u32,
    /// Thirty-seconds of the granule that were reached for.
    parts: u32,
    tag: u32,
    notified: bool,
}

#[derive(Default)]
struct State {
    /// CONFIG, LO, HI, SIZE, GET, PUT.
    config: u32,
    lo: u32,
    hi: u32,
    size: u32,
    get: u32,
    put: u32,
    /// By engine, page directory and granule.
    counters: BTreeMap<(u16, Option<PhysAddr>, u64), Counter>,
    tags: u32,
}

impl State {
    /// log2 of a granule's bytes.
    fn shift(&self) -> u32 {
        [16, 21, 24, 34][(self.config >> 16 & 3) as usize]
    }

    fn full(&self) -> bool {
        (self.put + 1) % self.size.max(1) == self.get
    }
}

/// Which counters a clear is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    All,
    /// The one with this tag.
    Tag(u32),
}

impl Clear {
    /// From MEM_OP_C and MEM_OP_D.
    pub fn decode(c: u32, d: u32) -> Self {
        // MOMC counters do not exist, so a clear of them is one of nothing.
        match d & 3 {
            0 | 2 => Self::All,
            1 => Self::Tag(u32::MAX),
            _ => Self::Tag(c & POINTER),
        }
    }
}

/// The counters of all engines. Lock order: leaf, but for the interrupt tree.
pub struct AccessCounters {
    state: Mutex<State>,
    enabled: AtomicBool,
    mem: Arc<Memory>,
    errors: Arc<GuestErrors>,
    intr: Arc<Intr>,
}

impl AccessCounters {
    pub(super) fn new(mem: Arc<Memory>, errors: Arc<GuestErrors>, intr: Arc<Intr>) -> Self {
        Self {
            state: Mutex::default(),
            enabled: AtomicBool::new(false),
            mem,
            errors,
            intr,
        }
    }

    /// Accesses are to be counted.
    pub(super) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// Counts an access to system memory.
    pub(super) fn count(&self, space: &Space, va: u64, access: Access) {
        if access == Access::Prefetch {
            return;
        }
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let shift = state.shift();
        let threshold = (state.config & 0xffff).max(1);
        let tags = &mut state.tags;
        let counter = state
            .counters
            .entry((space.engine, space.pdb, va >> shift))
            .or_insert_with(|| {
                *tags = (*tags + 1) & POINTER;
                Counter {
                    count: 0,
                    parts: 0,
                    tag: *tags,
                    notified: false,
                }
            });
        counter.count = (counter.count + 1).min(0xffff);
        counter.parts |= 1 << (va >> (shift - 5) & 31);
        if counter.notified || counter.count < threshold {
            return;
        }
        let (count, parts, tag) = (counter.count, counter.parts, counter.tag);
        if state.lo & LO_ENABLE == 0 || state.full() {
            return;
        }
        if let Some(counter) = state
            .counters
            .get_mut(&(space.engine, space.pdb, va >> shift))
        {
            counter.notified = true;
        }
        let inst = space.inst;
        let granule = va >> shift << shift;
        // By the GPU and virtual address, both 0; the bank is 0, too.
        let entry = [
            inst.addr as u32 & !0xfff | inst.aperture.target() << 10,
            (inst.addr >> 32) as u32,
            granule as u32,
            (granule >> 32) as u32,
            parts,
            tag,
            count,
            u32::from(space.engine) << 20 | VALID,
        ];
        let base = u64::from(state.hi) << 32 | u64::from(state.lo & !0xfff);
        let at =
            PhysAddr::new(Aperture::SysCoherent, base).offset(u64::from(state.put) * ENTRY_BYTES);
        let mem = self.mem.enter();
        for (i, &word) in entry.iter().enumerate() {
            if let Err(err) = mem.write_u32(at.offset(i as u64 * 4), word) {
                self.errors.report(format_args!("access counter: {err}"));
                return;
            }
        }
        drop(mem);
        let first = state.put == state.get;
        state.put = (state.put + 1) % state.size;
        drop(guard);
        if first {
            self.intr.raise(VECTOR_ACCESS_COUNTER);
        }
    }

    pub fn clear(&self, which: Clear) {
        let mut state = lock(&self.state);
        match which {
            Clear::All => state.counters.clear(),
            Clear::Tag(tag) => state.counters.retain(|_, c| c.tag != tag),
        }
    }

    /// Reads a register of this unit, if it is one.
    pub fn read(&self, offset: u32) -> Option<u32> {
        let state = lock(&self.state);
        Some(match offset {
            CONFIG => state.config,
            LO => state.lo,
            HI => state.hi,
            SIZE => state.size,
            GET => state.get,
            PUT => state.put,
            INFO => {
                let flag = |on: bool, bit| if on { bit } else { 0 };
                flag(state.size != 0 && state.full(), INFO_FULL)
                    | flag(state.get != state.put, INFO_PUSHED)
            }
            _ => return None,
        })
    }

    /// Writes a register. None if it is none of this unit, or read-only;
    /// otherwise whether counting was switched on or off.
    pub(super) fn write(&self, offset: u32, value: u32) -> Option<bool> {
        let mut state = lock(&self.state);
        let mut pulse = false;
        match offset {
            CONFIG => state.config = value,
            LO if value & LO_ENABLE != 0 && state.size < 2 => self.errors.report(format_args!(
                "access counters enabled with fewer than 2 entries (SIZE bits 19:0)"
            )),
            LO => state.lo = value,
            HI => state.hi = value,
            SIZE => state.size = value & POINTER,
            GET if value & POINTER >= state.size => self
                .errors
                .report(format_args!("GET {value:#x} of the access counters")),
            GET => {
                state.get = value & POINTER;
                pulse = state.get != state.put;
            }
            _ => return None,
        }
        let on = state.lo & LO_ENABLE != 0;
        drop(state);
        if pulse {
            self.intr.raise(VECTOR_ACCESS_COUNTER);
        }
        Some(self.enabled.swap(on, Ordering::SeqCst) != on)
    }

    pub(super) fn reset(&self) {
        *lock(&self.state) = State::default();
        self.enabled.store(false, Ordering::SeqCst);
    }
}
