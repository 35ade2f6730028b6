// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The device without a bus.

use crate::config::Config;
use crate::core::Core;
use crate::mem::{Aperture, MapError, PhysAddr};
use crate::{compute, copy, fault, host, regs, InterruptSink};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A virtual GPU. Its engines run until it is dropped.
///
/// Register accesses return promptly; everything that takes time happens in
/// the engines' threads.
pub struct Device {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
    /// One reset, map change or removal at a time.
    control: Mutex<()>,
    register_reads: AtomicU64,
    register_writes: AtomicU64,
}

impl Device {
    /// Builds the device and starts its threads.
    ///
    /// # Errors
    ///
    /// The host's, if memory or threads cannot be had.
    pub fn new(config: Config, sink: Arc<dyn InterruptSink>) -> io::Result<Arc<Self>> {
        let core = Core::new(config, sink)?;
        let engine = compute::start(core.clone())?;
        core.set_compute(Some(engine));
        Self::with_core(core)
    }

    /// Starts the host and MMU threads of `core`, whose compute engine, if any,
    /// is in place.
    ///
    /// # Errors
    ///
    /// The host's, if threads cannot be had.
    pub fn with_core(core: Arc<Core>) -> io::Result<Arc<Self>> {
        let mut threads = host::start(&core)?;
        threads.push(copy::start(&core)?);
        threads.push(fault::start(&core)?);
        Ok(Arc::new(Self {
            core,
            threads,
            control: Mutex::new(()),
            register_reads: AtomicU64::new(0),
            register_writes: AtomicU64::new(0),
        }))
    }

    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Reads the register at byte `offset`, a multiple of 4, of BAR0.
    pub fn bar0_read(&self, offset: u32) -> u32 {
        if self.core.inject.register_read() {
            self.remove();
        }
        if self.removed() {
            return u32::MAX;
        }
        self.register_reads.fetch_add(1, Ordering::Relaxed);
        regs::read(&self.core, offset)
    }

    /// Writes the register at byte `offset`, a multiple of 4, of BAR0.
    pub fn bar0_write(&self, offset: u32, value: u32) {
        if self.removed() {
            return;
        }
        self.register_writes.fetch_add(1, Ordering::Relaxed);
        if offset == regs::SOFT_RESET && value == 1 {
            return self.reset();
        }
        regs::write(&self.core, offset, value);
    }

    /// Size of device memory in bytes.
    pub fn vram_size(&self) -> u64 {
        self.core.mem.vram().len()
    }

    /// The file that is device memory, to be mapped as BAR1.
    pub fn vram_fd(&self) -> BorrowedFd<'_> {
        self.core.mem.vram().as_fd()
    }

    /// BAR1 by messages; what lies outside reads as ones.
    pub fn vram_read(&self, offset: u64, data: &mut [u8]) {
        let at = PhysAddr::new(Aperture::Vid, offset);
        if self.removed() || self.core.mem.enter().read(at, data).is_err() {
            data.fill(0xff);
        }
    }

    /// BAR1 by messages; what lies outside is dropped.
    pub fn vram_write(&self, offset: u64, data: &[u8]) {
        let at = PhysAddr::new(Aperture::Vid, offset);
        if !self.removed() && self.core.mem.enter().write(at, data).is_err() {
            tracing::warn!("write to device memory at {offset:#x} dropped");
        }
    }

    /// Makes `size` bytes of `fd` from `offset` reachable at DMA address `iova`.
    ///
    /// # Errors
    ///
    /// An overlap, a range that wraps, or what mmap says; nothing changed.
    pub fn dma_map(
        &self,
        iova: u64,
        size: u64,
        fd: &File,
        offset: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        let _control = crate::lock(&self.control);
        let fd = fd.as_fd().try_clone_to_owned()?;
        let old = self.core.mem.map(Some(fd), offset, iova, size, writable)?;
        self.core.mmu.retire_map(old);
        Ok(())
    }

    /// Takes the mappings in a range away. When this returns no access is
    /// inside them. A mapping that reaches out of the range stays, with a
    /// warning.
    pub fn dma_unmap(&self, iova: u64, size: u64) {
        let _control = crate::lock(&self.control);
        match self.core.mem.unmap(iova, size) {
            Ok(old) => self.core.mmu.retire_map(old),
            Err(err) => tracing::warn!("{err}"),
        }
    }

    /// As [`Device::dma_unmap`], for all of the guest's memory.
    pub fn dma_unmap_all(&self) {
        let _control = crate::lock(&self.control);
        self.core.mmu.retire_map(self.core.mem.unmap_all());
    }

    /// Lets the device at the guest's memory, or not. When this returns with
    /// false, no access is inside it.
    pub fn set_bus_master(&self, on: bool) {
        let _control = crate::lock(&self.control);
        self.core.mmu.retire_map(self.core.mem.set_bus_master(on));
    }

    /// Function-level reset: all but the contents of device memory.
    pub fn reset(&self) {
        let _control = crate::lock(&self.control);
        self.core.host.reset(&self.core);
        self.core.faults.reset();
        self.core.mmu.reset();
        self.core.intr.reset();
        self.core.plain.reset();
    }

    /// The device vanishes from the bus (surprise removal): configuration
    /// space, registers and device memory read as ones, engines stop.
    pub fn remove(&self) {
        self.core.remove();
    }

    pub fn removed(&self) -> bool {
        self.core.removed()
    }

    /// Counters for people and tests.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let core = &self.core;
        let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let faults = &core.faults.stats;
        vec![
            ("guest_errors", core.errors.count().into()),
            ("stale_hits", core.mmu.stale_hits()),
            ("lost_updates", core.atomics.lost_updates()),
            ("fault_packets", count(&faults.packets)),
            ("faults_dropped", count(&faults.dropped)),
            ("fault_overflows", count(&faults.overflows)),
            ("invalidates", count(&core.mmu.invalidates)),
            ("replays", count(&faults.replays)),
            ("cancels", count(&faults.cancels)),
            ("doorbells", count(&core.host.doorbells)),
            ("copies", core.inject.copies()),
            ("copy_bytes", count(&core.copy.stats.bytes)),
            ("copy_errors", count(&core.copy.stats.errors)),
            ("register_reads", count(&self.register_reads)),
            ("register_writes", count(&self.register_writes)),
        ]
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(engine) = self.core.compute() {
            engine.stop();
        }
        self.core.host.stop();
        self.core.copy.stop();
        self.core.faults.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an engine thread panicked");
            }
        }
        self.core.set_compute(None);
    }
}
