// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The compute engine itself, without channels: methods and MMU operations by
//! calls. Guest memory goes by offset in bytes.

use crate::common::machine::{Buffer, Machine, Packet, RAM_AT};
use crate::common::tables::{Page, Tables};
use rsvm_vgpu::compute;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::core::Core;
use rsvm_vgpu::engine::{ChannelCtx, ComputeEngine, Progress};
use rsvm_vgpu::fault::{Maintenance, Replay};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use rsvm_vgpu::mmu::Invalidate;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

pub const PAGE: u64 = 0x1000;
/// Entries of the fault buffers.
const ENTRIES: u32 = 4096;

/// Rights of a page.
pub const RO: u64 = 1 << 6;
pub const ATOMIC_DISABLE: u64 = 1 << 7;

pub struct Rig {
    machine: Machine,
    pub core: Arc<Core>,
    pub engine: Arc<dyn ComputeEngine>,
    /// Non-replayable, replayable.
    buffers: [Buffer; 2],
    /// By VEID, in order of their making.
    tables: Vec<Tables>,
}

/// An address space and the VEID that uses it.
#[derive(Clone, Copy)]
pub struct Mirror {
    pub channel: ChannelCtx,
    tables: usize,
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let mut made = None;
        let mut machine = Machine::new(config, |core| {
            let engine = compute::start(core.clone()).unwrap();
            made = Some(engine.clone());
            engine
        });
        let buffers = [0, 1].map(|i| Buffer::new(&mut machine, i, ENTRIES));
        Self {
            core: machine.device.core().clone(),
            engine: made.unwrap(),
            machine,
            buffers,
            tables: Vec::new(),
        }
    }

    /// A word of guest memory, as the CPU sees it.
    pub fn word(&self, at: u64) -> &AtomicU64 {
        self.machine.cpu(sys(at))
    }

    pub fn read(&self, at: u64) -> u64 {
        self.word(at).load(Ordering::SeqCst)
    }

    pub fn write(&self, at: u64, value: u64) {
        self.word(at).store(value, Ordering::SeqCst);
    }

    /// Offset of `n` pages of guest memory nobody else uses, zeroed.
    pub fn pages(&mut self, n: u64) -> u64 {
        let at = self.machine.pages(Aperture::SysCoherent, n, PAGE);
        at.addr - RAM_AT
    }

    /// `n` pages of device memory, aligned to `align` bytes.
    pub fn vram(&mut self, n: u64, align: u64) -> PhysAddr {
        self.machine.pages(Aperture::Vid, n, align)
    }

    pub fn write_at(&self, at: PhysAddr, value: u64) {
        self.machine.write(at, value);
    }

    pub fn read_at(&self, at: PhysAddr) -> u64 {
        self.machine.read(at)
    }

    /// An empty address space for a VEID, with replayable faults.
    pub fn mirror(&mut self, veid: u8) -> Mirror {
        let tables = Tables::new(&mut self.machine, &[Aperture::Vid]);
        let channel = self.machine.ctx(100 + u32::from(veid), veid, tables.root);
        self.tables.push(tables);
        Mirror {
            channel,
            tables: self.tables.len() - 1,
        }
    }

    /// Maps any page, without an invalidate.
    pub fn map_page(&mut self, mirror: &Mirror, va: u64, page: &Page) {
        self.tables[mirror.tables].map(&mut self.machine, va, page);
    }

    /// Points the page at `va` to guest memory, without an invalidate.
    pub fn map(&mut self, mirror: &Mirror, va: u64, ram: u64, rights: u64) {
        let page = Page {
            read_only: rights & RO != 0,
            no_atomic: rights & ATOMIC_DISABLE != 0,
            ..Page::new(sys(ram), 12)
        };
        self.map_page(mirror, va, &page);
    }

    pub fn unmap(&mut self, mirror: &Mirror, va: u64) {
        self.tables[mirror.tables].unmap(&mut self.machine, va, 12);
    }

    /// Puts code into a new page and maps it at `va`.
    pub fn load(&mut self, mirror: &Mirror, va: u64, code: &[u8]) {
        let at = self.pages(1);
        assert!(code.len() as u64 <= PAGE);
        self.fill(at, code);
        self.map(mirror, va, at, RO);
    }

    pub fn fill(&self, at: u64, code: &[u8]) {
        for (i, chunk) in code.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write(at + i as u64 * 8, u64::from_le_bytes(word));
        }
    }

    pub fn maintain(&self, replay: Replay) {
        Maintenance {
            invalidate: Invalidate::ALL,
            replay,
            ack: true,
            sys_membar: true,
        }
        .execute(&self.core);
    }

    pub fn invalidate(&self) {
        self.maintain(Replay::None);
    }

    pub fn replay(&self) {
        self.maintain(Replay::StartAckAll);
    }

    /// Takes all replayable faults out of the buffer.
    pub fn faults(&mut self) -> Vec<Packet> {
        self.buffers[1].drain(&self.machine)
    }

    pub fn fatal_faults(&mut self) -> Vec<Packet> {
        self.buffers[0].drain(&self.machine)
    }

    pub fn clear_overflow(&mut self) {
        self.buffers[1].clear_overflow(&self.machine);
    }

    /// Waits for `n` faults, and a little for one too many.
    pub fn settled_faults(&mut self, n: usize) -> Vec<Packet> {
        let mut all = Vec::new();
        self.wait("the faults", |rig| {
            all.extend(rig.faults());
            all.len() >= n
        });
        std::thread::sleep(Duration::from_millis(20));
        all.extend(self.faults());
        all
    }

    #[track_caller]
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let waited = self.machine.waiting();
        while !done(self) {
            waited(what);
        }
    }

    pub fn wait_idle(&mut self, mirror: &Mirror) {
        let veid = mirror.channel.veid;
        self.wait("the end of the grid", |rig| rig.engine.idle(veid));
    }

    /// Why the channel was stopped (0: it was not), and where.
    pub fn error(&self, mirror: &Mirror) -> (u32, u64) {
        let word = |at: u32| self.machine.reg(0xf0_1000 + 16 * mirror.channel.chid + at);
        (word(0), (u64::from(word(8)) << 32) | u64::from(word(4)))
    }

    pub fn method(&self, mirror: &Mirror, method: u32, data: u32) -> Progress {
        self.engine.method(&mirror.channel, method, data)
    }

    pub fn method64(&self, mirror: &Mirror, method: u32, data: u64) {
        assert_eq!(self.method(mirror, method, data as u32), Progress::Done);
        assert_eq!(
            self.method(mirror, method + 4, (data >> 32) as u32),
            Progress::Done
        );
    }

    pub fn launch(&self, mirror: &Mirror, pc: u64, arg: u64, invocations: u64, group: u32) {
        self.method64(mirror, 0x200, pc);
        self.method64(mirror, 0x208, arg);
        self.method64(mirror, 0x210, invocations);
        assert_eq!(self.method(mirror, 0x218, group), Progress::Done);
        assert_eq!(self.method(mirror, 0x21c, 0), Progress::Done);
    }
}

fn sys(at: u64) -> PhysAddr {
    PhysAddr::new(Aperture::SysCoherent, RAM_AT + at)
}
