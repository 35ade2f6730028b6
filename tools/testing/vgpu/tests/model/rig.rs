// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A machine with a compute engine that does what a test says.

use crate::common::machine::Machine;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::core::Core;
use rsvm_vgpu::engine::{ChannelCtx, ComputeEngine, Progress};
use rsvm_vgpu::mmu::{Access, Cancel, Client, Fault, Space, Utlb};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Parks accesses as harts do, and retries them on replay.
pub struct FakeEngine {
    pub utlbs: Vec<Arc<Utlb>>,
    core: Arc<Core>,
    pub parked: Mutex<Vec<(ChannelCtx, usize, Fault)>>,
    /// Accesses that a replay let through.
    pub replayed: Mutex<Vec<u64>>,
    pub methods: Mutex<Vec<(u32, u32, u32)>>,
    /// Answer to method 0x1000.
    pub busy: AtomicBool,
    /// How often it answered that it is busy.
    pub refused: AtomicU32,
    pub killed: Mutex<Vec<u8>>,
}

impl FakeEngine {
    /// Loads 8 bytes (or accesses them as told); a miss is reported and parks.
    pub fn touch(&self, ctx: &ChannelCtx, group: usize, va: u64, access: Access) -> Option<u64> {
        let result = self.try_touch(&ctx.space, group, va, access);
        if let Err(fault) = result {
            self.core.report_fault(&fault);
            self.parked.lock().unwrap().push((*ctx, group, fault));
        }
        result.ok()
    }

    pub fn try_touch(
        &self,
        space: &Space,
        group: usize,
        va: u64,
        access: Access,
    ) -> Result<u64, Fault> {
        let guard = self.utlbs[group].enter();
        let found = guard.translate(space, va, access);
        found.map(|found| found.ptr.load(8)).map_err(|fault| *fault)
    }

    pub fn parked_count(&self) -> usize {
        self.parked.lock().unwrap().len()
    }

    fn retry_all(&self) {
        let parked = std::mem::take(&mut *self.parked.lock().unwrap());
        for (ctx, group, fault) in parked {
            if self.touch(&ctx, group, fault.va, fault.access).is_some() {
                self.replayed.lock().unwrap().push(fault.va);
            }
        }
    }
}

impl ComputeEngine for FakeEngine {
    fn method(&self, channel: &ChannelCtx, method: u32, data: u32) -> Progress {
        match method {
            0x1000 if self.busy.load(Ordering::SeqCst) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                return Progress::Busy;
            }
            0x1ffc => return Progress::Bad,
            _ => {}
        }
        self.methods
            .lock()
            .unwrap()
            .push((channel.chid, method, data));
        Progress::Done
    }
    fn idle(&self, _: u8) -> bool {
        !self.busy.load(Ordering::SeqCst)
    }
    fn replay(&self, _: bool) {
        self.retry_all();
    }
    fn cancel(&self, cancel: &Cancel) {
        let hit: Vec<_> = {
            let mut parked = self.parked.lock().unwrap();
            let hit: Vec<_> = parked
                .iter()
                .filter(|p| cancel.matches(&p.2))
                .copied()
                .collect();
            parked.retain(|p| !hit.iter().any(|h| h.0.veid == p.0.veid));
            hit
        };
        for (ctx, _, fault) in hit {
            self.core.report_fault(&Fault {
                replayable: false,
                ..fault
            });
            self.core.fault_cancelled(ctx.chid, fault.va);
        }
        self.retry_all();
        self.core.kick_compute();
    }
    fn preempt(&self, veid: u8) -> bool {
        !self.parked.lock().unwrap().iter().any(|p| p.0.veid == veid)
    }
    fn resume(&self, _: u8) {}
    fn kill(&self, veid: u8) {
        self.killed.lock().unwrap().push(veid);
        self.parked.lock().unwrap().retain(|p| p.0.veid != veid);
    }
    fn reset(&self) {
        self.parked.lock().unwrap().clear();
    }
    fn stop(&self) {}
}

pub struct Rig {
    machine: Machine,
    pub engine: Arc<FakeEngine>,
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let mut made = None;
        let machine = Machine::new(config, |core| {
            let engine = Arc::new(FakeEngine {
                utlbs: (0..4)
                    .map(|n| core.mmu.add_utlb(Client::group(n)))
                    .collect(),
                core: core.clone(),
                parked: Mutex::default(),
                replayed: Mutex::default(),
                methods: Mutex::default(),
                busy: AtomicBool::default(),
                refused: AtomicU32::default(),
                killed: Mutex::default(),
            });
            made = Some(engine.clone());
            engine
        });
        let engine = made.unwrap();
        Self { machine, engine }
    }

    pub fn v2() -> Self {
        Self::new(Config::default())
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
