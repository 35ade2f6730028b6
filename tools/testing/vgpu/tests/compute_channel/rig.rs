// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A machine with the real compute engine and both fault buffers, and its
//! driver's way to serve them.

use crate::common::machine::{Buffer, Machine, Packet};
use rsvm_vgpu::compute;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::mem::PhysAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

const ENTRIES: u32 = 2048;

pub struct Rig {
    machine: Machine,
    /// Non-replayable, replayable.
    buffers: [Buffer; 2],
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let mut machine = Machine::new(config, |core| compute::start(core.clone()).unwrap());
        let buffers = [0, 1].map(|i| Buffer::new(&mut machine, i, ENTRIES));
        // Messages for everything.
        machine.set(0xb8_1608, u32::MAX);
        for leaf in 0..16 {
            machine.set(0xb8_1200 + 4 * leaf, u32::MAX);
        }
        Self { machine, buffers }
    }

    pub fn messages(&self, vector: usize) -> u32 {
        self.messages.0[vector].load(Ordering::SeqCst)
    }

    #[track_caller]
    pub fn patiently(&mut self, what: &str, mut until: impl FnMut(&mut Self) -> bool) {
        let waited = self.waiting();
        while !until(self) {
            waited(what);
        }
    }

    pub fn faults(&mut self) -> Vec<Packet> {
        self.buffers[1].drain(&self.machine)
    }

    pub fn fatal_faults(&mut self) -> Vec<Packet> {
        self.buffers[0].drain(&self.machine)
    }

    /// Waits for the first fault; more may follow.
    pub fn one_fault(&mut self) -> Packet {
        let mut found = None;
        self.patiently("a fault", |rig| {
            found = rig.faults().first().copied();
            found.is_some()
        });
        found.unwrap()
    }

    /// Invalidates everything and replays, acknowledged.
    pub fn replay(&self) {
        self.trigger(0xb8_30b0, 3 | (2 << 3) | (1 << 6) | (1 << 7));
    }

    /// Cancels the faults of a page, of any access.
    pub fn cancel(&self, pdb: PhysAddr, va: u64, engine: u32) {
        self.set(0x10_0cb4, ((va >> 12) << 4) as u32);
        self.set(0x10_0ce8, (va >> 40) as u32);
        self.set(0x10_0cb8, ((pdb.addr >> 12) << 4) as u32 | (1 << 1));
        self.set(0x10_0cec, (pdb.addr >> 40) as u32);
        self.trigger(0x10_0cbc, (7 << 24) | (engine << 9) | (5 << 3) | (1 << 7));
    }
}

impl Deref for Rig {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }
}
