// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What all units of the device share.

use crate::config::Config;
use crate::copy::CopyEngine;
use crate::engine::ComputeEngine;
use crate::errors::GuestErrors;
use crate::fault::FaultUnit;
use crate::host::{Host, StopReason};
use crate::inject::Injector;
use crate::intr::Intr;
use crate::mem::{AtomicUnit, Memory};
use crate::mmu::{Fault, Mmu};
use crate::InterruptSink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The units of one device. Engines hold it by `Arc` and give it up when they
/// are stopped.
pub struct Core {
    pub config: Config,
    pub errors: Arc<GuestErrors>,
    pub mem: Arc<Memory>,
    pub mmu: Mmu,
    pub atomics: AtomicUnit,
    pub intr: Arc<Intr>,
    pub faults: FaultUnit,
    pub host: Host,
    pub copy: CopyEngine,
    pub inject: Injector,
    pub(crate) plain: crate::regs::Plain,
    compute: RwLock<Option<Arc<dyn ComputeEngine>>>,
    removed: AtomicBool,
}

impl Core {
    /// # Errors
    ///
    /// The host's, if device memory cannot be made.
    pub fn new(config: Config, sink: Arc<dyn InterruptSink>) -> std::io::Result<Arc<Self>> {
        let errors = Arc::new(GuestErrors::default());
        let intr = Arc::new(Intr::new(sink));
        let mem = Arc::new(Memory::new(config.vram_bytes)?);
        Ok(Arc::new(Self {
            mmu: Mmu::new(&config, mem.clone(), errors.clone(), intr.clone()),
            atomics: AtomicUnit::new(config.inject.seed, config.inject.atomic_window),
            intr,
            faults: FaultUnit::new(&config),
            host: Host::new(),
            copy: CopyEngine::default(),
            inject: Injector::new(&config.inject),
            plain: crate::regs::Plain::default(),
            errors,
            mem,
            config,
            compute: RwLock::new(None),
            removed: AtomicBool::new(false),
        }))
    }

    /// Installs the compute engine, or takes it away.
    pub fn set_compute(&self, engine: Option<Arc<dyn ComputeEngine>>) {
        *self.compute.write().unwrap_or_else(PoisonError::into_inner) = engine;
    }

    pub(crate) fn compute(&self) -> Option<Arc<dyn ComputeEngine>> {
        self.compute
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes a fault packet. May be called with a [`crate::mmu::UtlbGuard`]
    /// held. A replayable fault that finds no room is not lost: its access,
    /// which stays parked, faults again at the next replay. False if it found
    /// none.
    pub fn report_fault(&self, fault: &Fault) -> bool {
        let report = self.faults.report(self, fault);
        if report.removal {
            self.remove();
        }
        report.buffered
    }

    /// A hart did what its program must not: the channel stops with reason 4.
    /// The engine has killed the VEID's harts before.
    pub fn engine_exception(&self, chid: u32, pc: u64) {
        self.host
            .stop_channel(self, chid, StopReason::EngineException, pc);
    }

    /// A fault of the channel was cancelled: it stops with reason 5. The engine
    /// has killed the VEID's harts before.
    pub fn fault_cancelled(&self, chid: u32, va: u64) {
        self.host
            .stop_channel(self, chid, StopReason::FaultCancelled, va);
    }

    /// The compute engine's answer to a method or preempt may be another now.
    pub fn kick_compute(&self) {
        self.host.kick(crate::host::RUNLIST_USER);
    }

    /// The device vanishes from the bus: registers read as ones, nothing
    /// happens any more. Returns at once; the MMU's thread does the rest.
    pub fn remove(&self) {
        if !self.removed.swap(true, Ordering::SeqCst) {
            tracing::warn!("surprise removal");
            self.faults.wake();
        }
    }

    pub fn removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }
}
