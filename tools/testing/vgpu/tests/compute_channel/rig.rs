// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A whole device, guest memory and fault buffers, for the helpers of the model
//! tests to work on.

use rsvm_vgpu::config::Config;
use rsvm_vgpu::config::MmuVersion;
use rsvm_vgpu::engine::ChannelCtx;
use rsvm_vgpu::mem::Aperture;
use rsvm_vgpu::mem::PhysAddr;
use rsvm_vgpu::mmu::Space;
use rsvm_vgpu::Device;
use rsvm_vgpu::InterruptSink;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

const RAM_BYTES: u64 = 64 << 20;
const RAM_AT: u64 = 1 << 32;
const PATIENCE: Duration = Duration::from_secs(20);
const ENTRIES: u64 = 2048;

#[derive(Default)]
struct Messages([AtomicU32; 16]);

impl InterruptSink for Messages {
    fn raise(&self, vector: u32) {
        self.0[vector as usize].fetch_add(1, Ordering::SeqCst);
    }
}

/// A fault packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub inst: u64,
    pub va: u64,
    pub engine: u32,
    pub access: u32,
    pub replayable: bool,
}

/// A fault buffer: where it is, its registers, the next entry.
struct Buffer {
    at: PhysAddr,
    base: u32,
    get: u64,
}

pub struct Rig {
    device: Arc<Device>,
    messages: Arc<Messages>,
    buffers: Vec<Buffer>,
    next_ram: u64,
    _ram: File,
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let messages = Arc::new(Messages::default());
        let config = Config {
            vram_bytes: 16 << 20,
            ..config
        };
        let device = Device::new(config, messages.clone()).unwrap();
        // SAFETY: A new memory file that has no other owner.
        let ram = unsafe {
            let fd = libc::memfd_create(c"ram".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            File::from_raw_fd(fd)
        };
        ram.set_len(RAM_BYTES).unwrap();
        device.dma_map(RAM_AT, RAM_BYTES, &ram, 0, true).unwrap();
        device.set_bus_master(true);
        let mut rig = Rig {
            device,
            messages,
            buffers: Vec::new(),
            next_ram: RAM_AT,
            _ram: ram,
        };
        for i in 0..2 {
            let at = rig.pages(Aperture::SysCoherent, ENTRIES * 32 / 4096, 4096);
            let base = 0xb8_3000 + 0x20 * i;
            rig.set(base, at.addr as u32 | (2 << 1) | 1);
            rig.set(base + 4, (at.addr >> 32) as u32);
            rig.set(base + 0x10, ENTRIES as u32 | (1 << 31));
            rig.buffers.push(Buffer { at, base, get: 0 });
        }
        // Messages for everything.
        rig.set(0xb8_1608, u32::MAX);
        for leaf in 0..16 {
            rig.set(0xb8_1200 + 4 * leaf, u32::MAX);
        }
        rig
    }

    pub fn version(&self) -> MmuVersion {
        self.device.core().config.mmu
    }

    pub fn messages(&self, vector: usize) -> u32 {
        self.messages.0[vector].load(Ordering::SeqCst)
    }

    pub fn page(&mut self, aperture: Aperture) -> PhysAddr {
        self.pages(aperture, 1, 0x1000)
    }

    pub fn pages(&mut self, aperture: Aperture, n: u64, align: u64) -> PhysAddr {
        assert!(aperture.is_sys());
        let at = self.next_ram.next_multiple_of(align);
        self.next_ram = at + n * 0x1000;
        assert!(self.next_ram <= RAM_AT + RAM_BYTES);
        PhysAddr::new(aperture, at)
    }

    pub fn sys(&mut self) -> PhysAddr {
        self.page(Aperture::SysCoherent)
    }

    pub fn read(&self, at: PhysAddr) -> u64 {
        self.device.core().mem.enter().read_u64(at).unwrap()
    }

    pub fn read32(&self, at: PhysAddr) -> u32 {
        self.device.core().mem.enter().read_u32(at).unwrap()
    }

    pub fn write(&self, at: PhysAddr, value: u64) {
        self.device.core().mem.enter().write_u64(at, value).unwrap();
    }

    pub fn write32(&self, at: PhysAddr, value: u32) {
        self.device.core().mem.enter().write_u32(at, value).unwrap();
    }

    pub fn reg(&self, offset: u32) -> u32 {
        self.device.bar0_read(offset)
    }

    pub fn set(&self, offset: u32, value: u32) {
        self.device.bar0_write(offset, value);
    }

    pub fn guest_errors(&self) -> u32 {
        self.reg(0xf0_0018)
    }

    pub fn stale_hits(&self) -> u32 {
        self.reg(0xf0_0010)
    }

    #[track_caller]
    pub fn wait(&self, what: &str, mut until: impl FnMut() -> bool) {
        let start = Instant::now();
        while !until() {
            assert!(start.elapsed() < PATIENCE, "timeout: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    #[track_caller]
    pub fn patiently(&mut self, what: &str, mut until: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !until(self) {
            assert!(start.elapsed() < PATIENCE, "timeout: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// For helpers that hand channels to an engine directly.
    pub fn ctx(&self, chid: u32, veid: u8, pdb: PhysAddr) -> ChannelCtx {
        let space = Space {
            inst: pdb,
            pdb: Some(pdb),
            engine: 64 + u16::from(veid),
            replay_data: true,
            replay_fetch: true,
            privileged: false,
        };
        ChannelCtx { chid, veid, space }
    }

    fn drain(&mut self, i: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            let Buffer { at, get, .. } = self.buffers[i];
            let dword = |n: u64| self.read32(at.offset(get * 32 + n * 4));
            let last = dword(7);
            if last >> 31 == 0 {
                break;
            }
            packets.push(Packet {
                inst: (u64::from(dword(1)) << 32) | u64::from(dword(0) & !0xfff),
                va: (u64::from(dword(3)) << 32) | u64::from(dword(2) & !0xfff),
                engine: dword(6) & 0x1ff,
                access: (last >> 16) & 15,
                replayable: (last >> 7) & 1 == 1,
            });
            self.write32(at.offset(get * 32 + 28), 0);
            self.buffers[i].get = (get + 1) % ENTRIES;
        }
        if !packets.is_empty() {
            self.set(self.buffers[i].base + 8, self.buffers[i].get as u32);
        }
        packets
    }

    pub fn faults(&mut self) -> Vec<Packet> {
        self.drain(1)
    }

    pub fn fatal_faults(&mut self) -> Vec<Packet> {
        self.drain(0)
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

    fn trigger(&self, register: u32, value: u32) {
        self.set(register, value | (1 << 31));
        self.wait("the acknowledgement", || self.reg(register) >> 31 == 0);
    }

    /// Invalidates everything and replays, acknowledged.
    pub fn replay(&self) {
        self.trigger(0xb8_30b0, 3 | (2 << 3) | (1 << 6) | (1 << 7));
    }

    /// Invalidates one page directory, acknowledged.
    pub fn invalidate(&self, pdb: PhysAddr) {
        self.set(0xb8_30a0, ((pdb.addr >> 12) << 4) as u32 | (1 << 1));
        self.set(0xb8_30a4, (pdb.addr >> 40) as u32);
        self.trigger(0xb8_30b0, 1 | (1 << 6) | (1 << 7));
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
