// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A device, the guest's memory, and fault buffers.

use rsvm_vgpu::config::{Config, MmuVersion};
use rsvm_vgpu::core::Core;
use rsvm_vgpu::engine::{ChannelCtx, ComputeEngine};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use rsvm_vgpu::mmu::Space;
use rsvm_vgpu::{Device, InterruptSink};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Guest memory in bytes, and its DMA address.
pub const RAM_BYTES: u64 = 64 << 20;
pub const RAM_AT: u64 = 1 << 32;
/// Device memory in bytes.
const VRAM_BYTES: u64 = 64 << 20;
/// How long a test waits for the device.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts messages by vector.
#[derive(Default)]
pub struct Messages(pub [AtomicU32; 16]);

impl InterruptSink for Messages {
    fn raise(&self, vector: u32) {
        self.0[vector as usize].fetch_add(1, Ordering::SeqCst);
    }
}

pub struct Machine {
    pub device: Arc<Device>,
    pub messages: Arc<Messages>,
    pub ram: File,
    /// The CPU's mapping of `ram`, which stays.
    cpu: &'static [AtomicU64],
    next_ram: u64,
    next_vram: u64,
}

impl Machine {
    /// A device whose compute engine `engine` makes, with bus mastering on.
    pub fn new(config: Config, engine: impl FnOnce(&Arc<Core>) -> Arc<dyn ComputeEngine>) -> Self {
        let config = Config {
            vram_bytes: VRAM_BYTES,
            ..config
        };
        let messages = Arc::new(Messages::default());
        let core = Core::new(config, messages.clone()).unwrap();
        core.set_compute(Some(engine(&core)));
        let device = Device::with_core(core).unwrap();
        // SAFETY: A new memory file that has no other owner.
        let ram = unsafe {
            let fd = libc::memfd_create(c"ram".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            File::from_raw_fd(fd)
        };
        ram.set_len(RAM_BYTES).unwrap();
        // SAFETY: A new mapping at an address the kernel chooses.
        let cpu = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                RAM_BYTES as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                ram.as_raw_fd(),
                0,
            )
        };
        assert_ne!(cpu, libc::MAP_FAILED);
        // SAFETY: It is never taken away, and all of it is reached as atomics.
        let cpu = unsafe { std::slice::from_raw_parts(cpu.cast(), RAM_BYTES as usize / 8) };
        device.dma_map(RAM_AT, RAM_BYTES, &ram, 0, true).unwrap();
        device.set_bus_master(true);
        // The first megabyte is for tests to place things by hand.
        Self {
            device,
            messages,
            ram,
            cpu,
            next_ram: RAM_AT + (1 << 20),
            next_vram: 1 << 20,
        }
    }

    /// A word of guest memory as the CPU sees it, at its DMA address.
    pub fn cpu(&self, at: PhysAddr) -> &AtomicU64 {
        assert!(at.aperture.is_sys() && at.addr % 8 == 0);
        &self.cpu[(at.addr - RAM_AT) as usize / 8]
    }

    pub fn version(&self) -> MmuVersion {
        self.device.core().config.mmu
    }

    pub fn core(&self) -> &Core {
        self.device.core()
    }

    /// A zeroed page of memory of that aperture.
    pub fn page(&mut self, aperture: Aperture) -> PhysAddr {
        self.pages(aperture, 1, 0x1000)
    }

    /// `n` zeroed pages, aligned to `align` bytes.
    pub fn pages(&mut self, aperture: Aperture, n: u64, align: u64) -> PhysAddr {
        let next = if aperture.is_sys() {
            &mut self.next_ram
        } else {
            &mut self.next_vram
        };
        let at = next.next_multiple_of(align);
        *next = at + n * 0x1000;
        assert!(
            *next
                <= if aperture.is_sys() {
                    RAM_AT + RAM_BYTES
                } else {
                    VRAM_BYTES
                }
        );
        PhysAddr::new(aperture, at)
    }

    pub fn sys(&mut self) -> PhysAddr {
        self.page(Aperture::SysCoherent)
    }

    pub fn read(&self, at: PhysAddr) -> u64 {
        self.core().mem.enter().read_u64(at).unwrap()
    }

    pub fn read32(&self, at: PhysAddr) -> u32 {
        self.core().mem.enter().read_u32(at).unwrap()
    }

    pub fn write(&self, at: PhysAddr, value: u64) {
        self.core().mem.enter().write_u64(at, value).unwrap();
    }

    pub fn write32(&self, at: PhysAddr, value: u32) {
        self.core().mem.enter().write_u32(at, value).unwrap();
    }

    pub fn reg(&self, offset: u32) -> u32 {
        self.device.bar0_read(offset)
    }

    pub fn set(&self, offset: u32, value: u32) {
        self.device.bar0_write(offset, value);
    }

    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.device.stats();
        stats.into_iter().find(|s| s.0 == name).unwrap().1
    }

    pub fn guest_errors(&self) -> u32 {
        self.reg(0xf0_0018)
    }

    pub fn stale_hits(&self) -> u32 {
        self.reg(0xf0_0010)
    }

    /// To be called between two looks at what is waited for.
    pub fn waiting(&self) -> impl Fn(&str) {
        let start = Instant::now();
        move |what| {
            assert!(start.elapsed() < PATIENCE, "timeout: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    #[track_caller]
    pub fn wait(&self, what: &str, mut until: impl FnMut() -> bool) {
        let waited = self.waiting();
        while !until() {
            waited(what);
        }
    }

    /// Writes a trigger register and waits for its acknowledgement.
    #[track_caller]
    pub fn trigger(&self, register: u32, value: u32) {
        self.set(register, value | 1 << 31);
        self.wait("the acknowledgement", || self.reg(register) >> 31 == 0);
    }

    /// The space of a hart of VEID `veid` with root `pdb`.
    pub fn space(&self, veid: u8, pdb: PhysAddr) -> Space {
        Space {
            inst: PhysAddr::new(Aperture::SysCoherent, RAM_AT + 0x8_0000),
            pdb: Some(pdb.canonical()),
            engine: match self.version() {
                MmuVersion::V2 => 64,
                MmuVersion::V3 => 384,
            } + u16::from(veid),
            replay_data: true,
            replay_fetch: true,
            privileged: false,
        }
    }

    pub fn ctx(&self, chid: u32, veid: u8, pdb: PhysAddr) -> ChannelCtx {
        ChannelCtx {
            chid,
            veid,
            space: self.space(veid, pdb),
        }
    }

    /// Invalidates by register, all of one page directory, acknowledged.
    pub fn invalidate(&self, pdb: PhysAddr) {
        self.set(
            0xb8_30a0,
            (pdb.addr >> 12 << 4) as u32 | u32::from(pdb.aperture.is_sys()) << 1,
        );
        self.set(0xb8_30a4, (pdb.addr >> 40) as u32);
        self.trigger(0xb8_30b0, 1 << 7 | 1 << 6 | 1);
    }
}

/// A fault buffer as a driver uses it.
pub struct Buffer {
    at: PhysAddr,
    base: u32,
    entries: u32,
    pub get: u32,
}

/// A decoded fault packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub inst: u64,
    pub va: u64,
    pub engine: u32,
    pub ty: u32,
    pub replayable: bool,
    pub client: u32,
    pub access: u32,
    pub hub: bool,
    pub gpc: u32,
}

impl Buffer {
    /// Enables buffer `i` (0 non-replayable, 1 replayable), with its overflow
    /// interrupt.
    pub fn new(machine: &mut Machine, i: u32, entries: u32) -> Self {
        let pages = (u64::from(entries) * 32).div_ceil(4096);
        let at = machine.pages(Aperture::SysCoherent, pages, 0x1000);
        let base = 0xb8_3000 + 0x20 * i;
        machine.set(base, at.addr as u32 | 2 << 1 | 1);
        machine.set(base + 4, (at.addr >> 32) as u32);
        machine.set(base + 0x10, entries | 1 << 31 | 1 << 29);
        assert_eq!(machine.reg(base + 0x10), entries | 1 << 31 | 1 << 29);
        Self {
            at,
            base,
            entries,
            get: 0,
        }
    }

    pub fn put(&self, machine: &Machine) -> u32 {
        machine.reg(self.base + 0xc)
    }

    fn dword(&self, machine: &Machine, index: u32, i: u64) -> u32 {
        machine.read32(self.at.offset(u64::from(index) * 32 + i * 4))
    }

    pub fn valid(&self, machine: &Machine, index: u32) -> bool {
        self.dword(machine, index, 7) >> 31 == 1
    }

    /// The next packet, once it is VALID; VALID is cleared.
    pub fn next(&mut self, machine: &Machine) -> Option<Packet> {
        if self.put(machine) & 0xf_ffff == self.get {
            return None;
        }
        let i = self.get;
        machine.wait("VALID", || self.valid(machine, i));
        let d: Vec<u32> = (0..8).map(|n| self.dword(machine, i, n)).collect();
        machine.write32(self.at.offset(u64::from(i) * 32 + 28), d[7] & !(1 << 31));
        self.get = (i + 1) % self.entries;
        Some(Packet {
            inst: u64::from(d[1]) << 32 | u64::from(d[0] & !0xfff),
            va: u64::from(d[3]) << 32 | u64::from(d[2] & !0xfff),
            engine: d[6] & 0x1ff,
            ty: d[7] & 0x1f,
            replayable: d[7] >> 7 & 1 == 1,
            client: d[7] >> 8 & 0x7f,
            access: d[7] >> 16 & 0xf,
            hub: d[7] >> 20 & 1 == 1,
            gpc: d[7] >> 24 & 0x1f,
        })
    }

    pub fn drain(&mut self, machine: &Machine) -> Vec<Packet> {
        let packets = std::iter::from_fn(|| self.next(machine)).collect();
        machine.set(self.base + 8, self.get);
        packets
    }

    pub fn clear_overflow(&self, machine: &Machine) {
        machine.set(self.base + 8, self.get | 1 << 30 | 1 << 31);
    }
}
