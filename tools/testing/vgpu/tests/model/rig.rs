// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A device, guest memory, and a compute engine that does what a test says.

use rsvm_vgpu::config::{Config, MmuVersion};
use rsvm_vgpu::core::Core;
use rsvm_vgpu::engine::{ChannelCtx, ComputeEngine, Progress};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use rsvm_vgpu::mmu::{Access, Cancel, Client, Fault, Space, Utlb};
use rsvm_vgpu::{Device, InterruptSink};
use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Guest memory in bytes, and its DMA address.
pub const RAM_BYTES: u64 = 64 << 20;
pub const RAM_AT: u64 = 1 << 32;
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

/// Parks accesses as harts do, and retries them on replay.
pub struct FakeEngine {
    pub utlbs: Vec<Arc<Utlb>>,
    core: Arc<Core>,
    pub parked: Mutex<Vec<(ChannelCtx, usize, Fault)>>,
    /// Accesses that a replay let through.
    pub replayed: Mutex<Vec<u64>>,
    pub methods: Mutex<Vec<(u32, u32, u32)>>,
    /// Answer to method 0x1000.
    pub busy: std::sync::atomic::AtomicBool,
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
        let found = guard.translate(space, va, access)?;
        Ok(found.ptr.load(8))
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
            0x1000 if self.busy.load(Ordering::SeqCst) => return Progress::Busy,
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
    pub device: Arc<Device>,
    pub engine: Arc<FakeEngine>,
    pub messages: Arc<Messages>,
    pub ram: File,
    next_ram: u64,
    next_vram: u64,
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let config = Config {
            vram_bytes: 64 << 20,
            ..config
        };
        let messages = Arc::new(Messages::default());
        let core = Core::new(config, messages.clone()).unwrap();
        let engine = Arc::new(FakeEngine {
            utlbs: (0..4)
                .map(|n| core.mmu.add_utlb(Client::group(n)))
                .collect(),
            core: core.clone(),
            parked: Mutex::default(),
            replayed: Mutex::default(),
            methods: Mutex::default(),
            busy: Default::default(),
            killed: Mutex::default(),
        });
        core.set_compute(Some(engine.clone()));
        let device = Device::with_core(core).unwrap();
        // SAFETY: A new memory file that has no other owner.
        let ram = unsafe {
            let fd = libc::memfd_create(c"ram".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            File::from_raw_fd(fd)
        };
        ram.set_len(RAM_BYTES).unwrap();
        device.dma_map(RAM_AT, RAM_BYTES, &ram, 0, true).unwrap();
        device.set_bus_master(true);
        // The first megabyte is for tests to place things by hand.
        Self {
            device,
            engine,
            messages,
            ram,
            next_ram: RAM_AT + (1 << 20),
            next_vram: 1 << 20,
        }
    }

    pub fn v2() -> Self {
        Self::new(Config::default())
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
        self.set(0xb8_30b0, 1 << 31 | 1 << 7 | 1);
        self.wait("invalidate", || self.reg(0xb8_30b0) >> 31 == 0);
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
    pub fn new(rig: &mut Rig, i: u32, entries: u32) -> Self {
        let pages = (u64::from(entries) * 32).div_ceil(4096);
        let at = rig.pages(Aperture::SysCoherent, pages, 0x1000);
        let base = 0xb8_3000 + 0x20 * i;
        rig.set(base, at.addr as u32 | 2 << 1 | 1);
        rig.set(base + 4, (at.addr >> 32) as u32);
        rig.set(base + 0x10, entries | 1 << 31 | 1 << 29);
        assert_eq!(rig.reg(base + 0x10), entries | 1 << 31 | 1 << 29);
        Self {
            at,
            base,
            entries,
            get: 0,
        }
    }

    pub fn put(&self, rig: &Rig) -> u32 {
        rig.reg(self.base + 0xc)
    }

    fn dword(&self, rig: &Rig, index: u32, i: u64) -> u32 {
        rig.read32(self.at.offset(u64::from(index) * 32 + i * 4))
    }

    pub fn valid(&self, rig: &Rig, index: u32) -> bool {
        self.dword(rig, index, 7) >> 31 == 1
    }

    /// The next packet, once it is VALID; VALID is cleared.
    pub fn next(&mut self, rig: &Rig) -> Option<Packet> {
        if self.put(rig) & 0xf_ffff == self.get {
            return None;
        }
        let i = self.get;
        rig.wait("VALID", || self.valid(rig, i));
        let d: Vec<u32> = (0..8).map(|n| self.dword(rig, i, n)).collect();
        rig.write32(self.at.offset(u64::from(i) * 32 + 28), d[7] & !(1 << 31));
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

    pub fn drain(&mut self, rig: &Rig) -> Vec<Packet> {
        let packets = std::iter::from_fn(|| self.next(rig)).collect();
        rig.set(self.base + 8, self.get);
        packets
    }

    pub fn clear_overflow(&self, rig: &Rig) {
        rig.set(self.base + 8, self.get | 1 << 30 | 1 << 31);
    }
}
