// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A device with its compute engine, guest memory, page tables made by hand
//! (MMU v2, 4 KiB pages) and fault buffers.

use rsvm_vgpu::compute;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::core::Core;
use rsvm_vgpu::engine::ChannelCtx;
use rsvm_vgpu::engine::ComputeEngine;
use rsvm_vgpu::engine::Progress;
use rsvm_vgpu::fault::Maintenance;
use rsvm_vgpu::fault::Replay;
use rsvm_vgpu::fault::NON_REPLAYABLE;
use rsvm_vgpu::fault::REPLAYABLE;
use rsvm_vgpu::mem::Aperture;
use rsvm_vgpu::mem::PhysAddr;
use rsvm_vgpu::mmu::Invalidate;
use rsvm_vgpu::mmu::Space;
use rsvm_vgpu::regs;
use rsvm_vgpu::InterruptSink;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

pub const PAGE: u64 = 0x1000;
/// Bytes of guest memory, and its DMA address.
pub const RAM_BYTES: u64 = 32 << 20;
pub const RAM_AT: u64 = 0x1_0000_0000;
/// Entries of the fault buffers.
const ENTRIES: u64 = 4096;
const BUFFERS_AT: [u64; 2] = [0x10_0000, 0x18_0000];
/// First byte of VRAM handed out for tables.
const TABLES_AT: u64 = 0x20_0000;

/// PTE bits.
pub const RO: u64 = 1 << 6;
pub const ATOMIC_DISABLE: u64 = 1 << 7;

struct Nobody;

impl InterruptSink for Nobody {
    fn raise(&self, _: u32) {}
}

/// One fault packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub va: u64,
    pub ty: u32,
    pub access: u32,
    pub client: u32,
    pub engine: u32,
    pub replayable: bool,
}

pub struct Rig {
    pub core: Arc<Core>,
    pub engine: Arc<dyn ComputeEngine>,
    ram: *mut u8,
    next_table: u64,
    next_page: u64,
    gets: [u64; 2],
}

/// An address space and the VEID that uses it.
#[derive(Clone, Copy)]
pub struct Mirror {
    pub channel: ChannelCtx,
    root: u64,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.engine.stop();
        self.core.set_compute(None);
    }
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let config = Config {
            vram_bytes: 32 << 20,
            ..config
        };
        let core = Core::new(config, Arc::new(Nobody)).unwrap();
        let engine = compute::start(core.clone()).unwrap();
        core.set_compute(Some(engine.clone()));
        // SAFETY: A new memory file; the mapping is never taken away.
        let (fd, ram) = unsafe {
            let fd = libc::memfd_create(c"ram".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            let fd = OwnedFd::from_raw_fd(fd);
            assert_eq!(libc::ftruncate(fd.as_raw_fd(), RAM_BYTES as i64), 0);
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let ram = libc::mmap(
                std::ptr::null_mut(),
                RAM_BYTES as usize,
                prot,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            );
            assert_ne!(ram, libc::MAP_FAILED);
            (fd, ram.cast::<u8>())
        };
        core.mem.map(Some(fd), 0, RAM_AT, RAM_BYTES, true).unwrap();
        core.mmu.retire_map(core.mem.set_bus_master(true));
        for (i, at) in [(NON_REPLAYABLE, BUFFERS_AT[0]), (REPLAYABLE, BUFFERS_AT[1])] {
            for (reg, value) in [(0, at as u32 | 1), (1, 0), (4, ENTRIES as u32 | (1 << 31))] {
                assert!(core.faults.write_register(&core, i, reg, value));
            }
        }
        Rig {
            core,
            engine,
            ram,
            next_table: TABLES_AT,
            next_page: 0,
            gets: [0; 2],
        }
    }

    /// A word of guest memory, as the CPU sees it. `at` is an offset in bytes.
    pub fn word(&self, at: u64) -> &AtomicU64 {
        assert!(at % 8 == 0 && at < RAM_BYTES);
        // SAFETY: In bounds and aligned; the mapping lives as long as the process.
        unsafe { &*self.ram.add(at as usize).cast::<AtomicU64>() }
    }

    pub fn read(&self, at: u64) -> u64 {
        self.word(at).load(Ordering::SeqCst)
    }

    pub fn write(&self, at: u64, value: u64) {
        self.word(at).store(value, Ordering::SeqCst);
    }

    /// Offset of `n` pages of guest memory nobody else uses, zeroed.
    pub fn pages(&mut self, n: u64) -> u64 {
        let at = self.next_page;
        self.next_page += n * PAGE;
        assert!(self.next_page <= RAM_BYTES);
        at
    }

    fn vram(&self, at: u64) -> PhysAddr {
        PhysAddr::new(Aperture::Vid, at)
    }

    fn peek(&self, at: u64) -> u64 {
        self.core.mem.enter().read_u64(self.vram(at)).unwrap()
    }

    fn poke(&self, at: u64, value: u64) {
        self.core
            .mem
            .enter()
            .write_u64(self.vram(at), value)
            .unwrap();
    }

    fn table(&mut self) -> u64 {
        self.next_table += PAGE;
        self.next_table - PAGE
    }

    /// An empty address space for a VEID, with replayable faults.
    pub fn mirror(&mut self, veid: u8) -> Mirror {
        let root = self.table();
        let space = Space {
            inst: self.vram(0x8000 + u64::from(veid) * PAGE),
            pdb: Some(self.vram(root)),
            engine: 64 + u16::from(veid),
            replay_data: true,
            replay_fetch: true,
            privileged: false,
        };
        Mirror {
            channel: ChannelCtx {
                chid: 100 + u32::from(veid),
                veid,
                space,
            },
            root,
        }
    }

    /// Address of the PTE for `va`, whose tables are made if need be.
    fn pte(&mut self, mirror: &Mirror, va: u64) -> u64 {
        let mut table = mirror.root;
        for (shift, bits) in [(47, 2), (38, 9), (29, 9), (21, 8)] {
            let index = (va >> shift) & ((1 << bits) - 1);
            // The last level's entries are pairs; the table of small pages is
            // in the second half.
            let at = if shift == 21 {
                table + index * 16 + 8
            } else {
                table + index * 8
            };
            if self.peek(at) == 0 {
                let next = self.table();
                self.poke(at, (next >> 4) | (1 << 1));
            }
            table = (self.peek(at) << 4) & !0xfff;
        }
        table + ((va >> 12) & 511) * 8
    }

    /// Points the page at `va` to guest memory, without an invalidate.
    pub fn map(&mut self, mirror: &Mirror, va: u64, ram: u64, bits: u64) {
        let pte = self.pte(mirror, va);
        self.poke(pte, ((RAM_AT + ram) >> 4) & !0xff | (2 << 1) | bits | 1);
    }

    /// Points the page at `va` to device memory, without an invalidate.
    pub fn map_vram(&mut self, mirror: &Mirror, va: u64, vram: u64, bits: u64) {
        let pte = self.pte(mirror, va);
        self.poke(pte, (vram >> 4) & !0xff | bits | 1);
    }

    pub fn unmap(&mut self, mirror: &Mirror, va: u64) {
        let pte = self.pte(mirror, va);
        self.poke(pte, 0);
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

    fn drain(&mut self, i: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            let at = BUFFERS_AT[i] + self.gets[i] * 32;
            let dwords: Vec<u32> = (0..4)
                .map(|j| self.peek(at + j * 8))
                .flat_map(|w| [w as u32, (w >> 32) as u32])
                .collect();
            if dwords[7] >> 31 == 0 {
                break;
            }
            self.poke(at + 24, 0);
            packets.push(Packet {
                va: (u64::from(dwords[3]) << 32) | u64::from(dwords[2] & !0xfff),
                ty: dwords[7] & 31,
                access: (dwords[7] >> 16) & 15,
                client: (dwords[7] >> 8) & 127,
                engine: dwords[6] & 0x1ff,
                replayable: (dwords[7] >> 7) & 1 == 1,
            });
            self.gets[i] = (self.gets[i] + 1) % ENTRIES;
        }
        if !packets.is_empty() {
            self.core
                .faults
                .write_register(&self.core, i, 2, self.gets[i] as u32);
        }
        packets
    }

    /// Takes all replayable faults out of the buffer.
    pub fn faults(&mut self) -> Vec<Packet> {
        self.drain(REPLAYABLE)
    }

    pub fn fatal_faults(&mut self) -> Vec<Packet> {
        self.drain(NON_REPLAYABLE)
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

    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < end, "{what} did not come");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn wait_idle(&mut self, mirror: &Mirror) {
        let veid = mirror.channel.veid;
        self.wait("the end of the grid", |rig| rig.engine.idle(veid));
    }

    /// Why the channel was stopped (0: it was not), and where.
    pub fn error(&self, mirror: &Mirror) -> (u32, u64) {
        let word = |at: u32| regs::read(&self.core, 0xf0_1000 + 16 * mirror.channel.chid + at);
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
