// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The interrupt tree.
//!
//! Vector v is bit v % 32 of leaf v / 32; leaves 2s and 2s + 1 are subtree s,
//! which sends MSI-X vector s.

use crate::lock;
use crate::InterruptSink;
use std::sync::{Arc, Mutex};

/// Vectors of the device's sources.
pub const VECTOR_COMPUTE: u32 = 0;
pub const VECTOR_COPY: u32 = 1;
pub const VECTOR_REPLAYABLE: u32 = 64;
pub const VECTOR_ACCESS_COUNTER: u32 = 72;
pub const VECTOR_REPLAYABLE_ERROR: u32 = 131;
pub const VECTOR_NON_REPLAYABLE: u32 = 132;
pub const VECTOR_NON_REPLAYABLE_ERROR: u32 = 133;
pub const VECTOR_INFO_FAULT: u32 = 134;
pub const VECTOR_PFIFO: u32 = 136;
/// Stall interrupt of the copy engine.
pub const VECTOR_COPY_STALL: u32 = 193;

pub const LEAVES: usize = 16;

#[derive(Default)]
struct State {
    leaf: [u32; LEAVES],
    enabled: [u32; LEAVES],
    top_enabled: u32,
}

/// Lock order: leaf; the sink is called without it.
pub struct Intr {
    state: Mutex<State>,
    sink: Arc<dyn InterruptSink>,
}

impl State {
    fn pending(&self, subtree: usize) -> bool {
        (2 * subtree..2 * subtree + 2).any(|i| self.leaf[i] & self.enabled[i] != 0)
    }

    /// Sets `bits` in one of the leaf's words; true if the leaf has an enabled
    /// bit set that it had not before, in an enabled subtree.
    fn set(&mut self, i: usize, bits: u32, word: fn(&mut Self) -> &mut [u32; LEAVES]) -> bool {
        let before = self.leaf[i] & self.enabled[i];
        word(self)[i] |= bits;
        let new = self.leaf[i] & self.enabled[i] & !before;
        new != 0 && self.top_enabled & 1 << (i / 2) != 0
    }
}

impl Intr {
    pub fn new(sink: Arc<dyn InterruptSink>) -> Self {
        Self {
            state: Mutex::default(),
            sink,
        }
    }

    /// A source pulses its vector.
    pub fn raise(&self, vector: u32) {
        let i = vector as usize / 32;
        if i < LEAVES {
            self.set_leaf(i, 1 << (vector % 32));
        }
    }

    fn set_leaf(&self, i: usize, bits: u32) {
        let send = lock(&self.state).set(i, bits, |s| &mut s.leaf);
        if send {
            self.sink.raise(i as u32 / 2);
        }
    }

    pub fn leaf(&self, i: usize) -> u32 {
        lock(&self.state).leaf[i]
    }

    pub fn clear_leaf(&self, i: usize, bits: u32) {
        lock(&self.state).leaf[i] &= !bits;
    }

    pub fn leaf_enabled(&self, i: usize) -> u32 {
        lock(&self.state).enabled[i]
    }

    pub fn enable_leaf(&self, i: usize, bits: u32) {
        let send = lock(&self.state).set(i, bits, |s| &mut s.enabled);
        if send {
            self.sink.raise(i as u32 / 2);
        }
    }

    pub fn disable_leaf(&self, i: usize, bits: u32) {
        lock(&self.state).enabled[i] &= !bits;
    }

    /// Bit s: subtree s has an enabled leaf bit set.
    pub fn top(&self) -> u32 {
        let state = lock(&self.state);
        (0..LEAVES / 2).fold(0, |top, s| top | u32::from(state.pending(s)) << s)
    }

    pub fn top_enabled(&self) -> u32 {
        lock(&self.state).top_enabled
    }

    pub fn enable_top(&self, bits: u32) {
        let mut state = lock(&self.state);
        let new = bits & !state.top_enabled & ((1 << (LEAVES / 2)) - 1);
        state.top_enabled |= new;
        let send: Vec<usize> = (0..LEAVES / 2)
            .filter(|&s| new & 1 << s != 0 && state.pending(s))
            .collect();
        drop(state);
        for s in send {
            self.sink.raise(s as u32);
        }
    }

    pub fn disable_top(&self, bits: u32) {
        lock(&self.state).top_enabled &= !bits;
    }

    pub fn reset(&self) {
        *lock(&self.state) = State::default();
    }
}
