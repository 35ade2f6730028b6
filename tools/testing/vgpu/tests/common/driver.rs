// SPDX-License-Identifier: GPL-2.0 OR MIT
//! As much of a driver as tests need: channels, runlists, pushes.

use super::machine::Machine;
use super::tables::{Page, Tables};
use rsvm_vgpu::config::MmuVersion;
use rsvm_vgpu::engine::ChannelCtx;
use rsvm_vgpu::mem::{Aperture, PhysAddr};

pub const GP_ENTRIES: u64 = 64;
/// Addresses in a channel's own (host) address space.
pub const RING_VA: u64 = 0x20_0000;
pub const PUSH_VA: u64 = 0x20_1000;
pub const SEM_VA: u64 = 0x20_2000;
/// Not mapped at first.
pub const HOLE_VA: u64 = 0x20_3000;

/// Methods.
pub const SET_OBJECT: u32 = 0x00;
pub const NON_STALL_INTERRUPT: u32 = 0x20;
pub const MEM_OP_A: u32 = 0x28;
pub const SEM_ADDR_LO: u32 = 0x5c;
pub const WAIT_FOR_IDLE: u32 = 0x78;
pub const CLEAR_FAULTED: u32 = 0x84;
pub const CLASS_COPY: u32 = 0xc5b5;
pub const CLASS_COMPUTE: u32 = 0xf0c0;
pub const OP_MEMBAR: u32 = 5 << 27;
pub const OP_INVALIDATE: u32 = 9 << 27;
pub const OP_TARGETED: u32 = 10 << 27;

#[derive(Clone, Copy, Default)]
pub struct Rights {
    pub privileged: bool,
    pub physical_copy: bool,
}

pub const KERNEL: Rights = Rights {
    privileged: true,
    physical_copy: true,
};
pub const USER: Rights = Rights {
    privileged: false,
    physical_copy: false,
};

pub struct Channel {
    pub chid: u32,
    pub runlist: u32,
    pub veid: u8,
    pub inst: PhysAddr,
    userd: PhysAddr,
    ring: PhysAddr,
    push: PhysAddr,
    pub sem: PhysAddr,
    pub host: Tables,
    /// What the compute engine's harts see.
    pub mirror: PhysAddr,
    put: u64,
    words: u64,
}

impl Channel {
    /// Makes a channel in memory and binds it; `mirror` is the subcontext's
    /// page directory.
    pub fn new(
        machine: &mut Machine,
        chid: u32,
        runlist: u32,
        veid: u8,
        rights: Rights,
        mirror: PhysAddr,
    ) -> Self {
        let mut host = Tables::new(machine, &[Aperture::SysCoherent]);
        let [inst, userd, ring, push, sem] = std::array::from_fn(|_| machine.sys());
        for (va, page) in [(RING_VA, ring), (PUSH_VA, push), (SEM_VA, sem)] {
            host.map(machine, va, &Page::new(page, 12));
        }
        let set = |offset: u64, value: u32| machine.write32(inst.offset(offset), value);
        let pdb = |at: PhysAddr| at.addr as u32 | 1 << 11 | 1 << 10 | at.aperture.target();
        set(0x008, userd.addr as u32 | 2);
        set(0x00c, (userd.addr >> 32) as u32);
        set(0x010, 0xface);
        set(0x030, 0x7fff_f902);
        set(0x048, RING_VA as u32);
        set(0x04c, GP_ENTRIES.ilog2() << 16);
        set(0x0e4, u32::from(rights.physical_copy) << 5);
        set(0x0e8, chid);
        set(0x0f4, u32::from(rights.privileged) << 8 | 1 << 12);
        set(0x0fc, chid << 16 | u32::from(veid) << 8);
        set(0x200, pdb(host.root));
        set(0x204, (host.root.addr >> 32) as u32);
        set(0x218, veid.into());
        set(0x298 + u64::from(veid / 32) * 4, 1 << (veid % 32));
        for i in 0..64 {
            set(0x2a0 + 16 * i, 1);
        }
        set(0x2a0 + 16 * u64::from(veid), pdb(mirror) | 3 << 4);
        set(0x2a4 + 16 * u64::from(veid), (mirror.addr >> 32) as u32);
        let channel = Self {
            chid,
            runlist,
            veid,
            inst,
            userd,
            ring,
            push,
            sem,
            host,
            mirror,
            put: 0,
            words: 0,
        };
        channel.bind(machine);
        channel
    }

    pub fn bind(&self, machine: &Machine) {
        let value = (self.inst.addr >> 12) as u32 | 2 << 28 | 1 << 31;
        machine.set(0x80_0000 + 8 * self.chid, value);
    }

    pub fn unbind(&self, machine: &Machine) {
        machine.set(0x80_0000 + 8 * self.chid, 0);
    }

    /// Unbinds it and binds it again, with a ring that is empty.
    pub fn rebind(&mut self, machine: &Machine) {
        self.unbind(machine);
        self.put = 0;
        machine.write(self.userd.offset(0x88), 0);
        for offset in [0x00, 0x14, 0x18, 0x1c, 0x5c, 0x60, 0x84, 0x88] {
            machine.write32(self.inst.offset(offset), 0);
        }
        self.bind(machine);
    }

    /// Moves ring, pushbuffer and semaphores into a big page of device memory.
    pub fn move_to_vram(&mut self, machine: &mut Machine) {
        let vid = machine.pages(Aperture::Vid, 16, 1 << 16);
        for (n, page) in [&mut self.ring, &mut self.push, &mut self.sem]
            .into_iter()
            .enumerate()
        {
            let to = vid.offset(n as u64 * 0x1000);
            for offset in (0..0x1000).step_by(8) {
                machine.write(to.offset(offset), machine.read(page.offset(offset)));
            }
            *page = to;
        }
        self.host.map(machine, RING_VA, &Page::new(vid, 16));
        machine.invalidate(self.host.root);
    }

    pub fn enable(&self, machine: &Machine) {
        machine.set(0x80_0004 + 8 * self.chid, 1 << 10);
    }

    pub fn disable(&self, machine: &Machine) {
        machine.set(0x80_0004 + 8 * self.chid, 1 << 11);
    }

    pub fn status(&self, machine: &Machine) -> u32 {
        machine.reg(0x80_0004 + 8 * self.chid)
    }

    /// Reason, and the two words that go with it.
    pub fn error(&self, machine: &Machine) -> [u32; 3] {
        [0, 4, 8].map(|word| machine.reg(0xf0_1000 + 16 * self.chid + word))
    }

    pub fn get(&self, machine: &Machine) -> u32 {
        machine.read32(self.userd.offset(0x88))
    }

    /// A kernel channel, on its runlist and enabled.
    pub fn kernel(machine: &mut Machine) -> Self {
        let mirror = machine.sys();
        let channel = Self::new(machine, 1, 0, 0, KERNEL, mirror);
        channel.enable(machine);
        submit(machine, 0, &[&channel]);
        channel
    }

    /// A user's channel with an empty mirror, on its runlist and enabled.
    pub fn user(machine: &mut Machine, chid: u32, veid: u8) -> (Self, Tables) {
        let mirror = Tables::new(machine, &[Aperture::SysCoherent]);
        let channel = Self::new(machine, chid, 1, veid, USER, mirror.root);
        channel.enable(machine);
        (channel, mirror)
    }

    /// What the compute engine gets of it.
    pub fn ctx(&self, machine: &Machine) -> ChannelCtx {
        let mut ctx = machine.ctx(self.chid, self.veid, self.mirror);
        ctx.space.inst = self.inst;
        ctx
    }

    fn entry(&mut self, machine: &Machine, entry: u64) {
        machine.write(self.ring.offset(self.put * 8), entry);
        self.put = (self.put + 1) % GP_ENTRIES;
    }

    /// Puts dwords into the ring without telling the device.
    pub fn queue(&mut self, machine: &Machine, dwords: &[u32]) {
        assert!(dwords.len() < 512);
        if self.words + dwords.len() as u64 > 1024 {
            self.words = 0;
        }
        for (i, &dword) in dwords.iter().enumerate() {
            machine.write32(self.push.offset((self.words + i as u64) * 4), dword);
        }
        let va = PUSH_VA + self.words * 4;
        self.words += dwords.len() as u64;
        self.entry(machine, va | (dwords.len() as u64) << 42);
    }

    /// Puts a GP entry as it is.
    pub fn raw_entry(&mut self, machine: &Machine, entry: u64) {
        self.entry(machine, entry);
        self.ring_doorbell(machine);
    }

    pub fn ring_doorbell(&self, machine: &Machine) {
        machine.write32(self.userd.offset(0x8c), self.put as u32);
        machine.set(0xbb_0090, self.runlist << 16 | self.chid);
    }

    pub fn push(&mut self, machine: &Machine, dwords: &[u32]) {
        self.queue(machine, dwords);
        self.ring_doorbell(machine);
    }

    /// Pushes, then releases the semaphore and waits for it.
    #[track_caller]
    pub fn run(&mut self, machine: &Machine, dwords: &[u32]) {
        let value = machine.read32(self.sem) + 1;
        let mut all = dwords.to_vec();
        all.extend(release(SEM_VA, value));
        self.push(machine, &all);
        let sem = self.sem;
        machine.wait("semaphore", || machine.read32(sem) == value);
    }
}

/// Data for increasing methods from `method` on.
pub fn inc(subch: u32, method: u32, data: &[u32]) -> Vec<u32> {
    let mut dwords = vec![1 << 29 | (data.len() as u32) << 16 | subch << 13 | method >> 2];
    dwords.extend(data);
    dwords
}

/// A host semaphore operation, 32 bits wide.
pub fn semaphore(va: u64, payload: u64, execute: u32) -> Vec<u32> {
    let [lo, hi] = [payload as u32, (payload >> 32) as u32];
    inc(
        0,
        SEM_ADDR_LO,
        &[va as u32, (va >> 32) as u32, lo, hi, execute],
    )
}

pub fn release(va: u64, payload: u32) -> Vec<u32> {
    semaphore(va, payload.into(), 1)
}

/// The four methods of a MEM_OP.
pub fn mem_op(a: u32, b: u32, c: u32, d: u32) -> Vec<u32> {
    inc(0, MEM_OP_A, &[a, b, c, d])
}

/// A targeted, acknowledged invalidate of `1 << shift` bytes.
pub fn invalidate_range(pdb: PhysAddr, va: u64, shift: u32, level: u32, replay: u32) -> Vec<u32> {
    mem_op(
        va as u32 & !0xfff | 1 << 11 | (shift - 12),
        (va >> 32) as u32,
        pdb.addr as u32 | pdb.aperture.target() << 10 | level << 7 | 1 << 5 | replay << 2,
        (pdb.addr >> 32) as u32 | OP_TARGETED,
    )
}

/// A cancel of one page of one VEID.
pub fn cancel(machine: &Machine, pdb: PhysAddr, va: u64, veid: u8, access: u32) -> Vec<u32> {
    let engine = match machine.version() {
        MmuVersion::V2 => 64,
        MmuVersion::V3 => 384,
    } + u32::from(veid);
    mem_op(
        va as u32 & !0xfff | engine,
        (va >> 32) as u32,
        pdb.addr as u32 | pdb.aperture.target() << 10 | access << 7 | 5 << 2,
        (pdb.addr >> 32) as u32 | OP_TARGETED,
    )
}

/// Writes a runlist, each channel in a TSG of its own with the same id, and
/// waits until it is taken over.
#[track_caller]
pub fn submit(machine: &mut Machine, runlist: u32, channels: &[&Channel]) {
    let list = machine.sys();
    let mut at = list;
    let mut put = |words: [u32; 4]| {
        for (i, word) in words.into_iter().enumerate() {
            machine.write32(at.offset(i as u64 * 4), word);
        }
        at = at.offset(16);
    };
    for c in channels {
        put([1 | 3 << 16 | 128 << 24, 1, c.chid, 0]);
        put([
            2 << 4 | 2 << 6 | c.userd.addr as u32 & !0xff,
            (c.userd.addr >> 32) as u32,
            c.inst.addr as u32 & !0xfff | c.chid,
            (c.inst.addr >> 32) as u32,
        ]);
    }
    machine.set(0xb6_5000, 1 << 31);
    submit_raw(machine, runlist, list, 2 * channels.len() as u32);
}

#[track_caller]
pub fn submit_raw(machine: &Machine, runlist: u32, list: PhysAddr, entries: u32) {
    let base = 0x2b00 + 16 * runlist;
    machine.set(base, list.addr as u32 | list.aperture.target());
    machine.set(base + 4, (list.addr >> 32) as u32);
    machine.set(base + 8, entries);
    machine.wait("runlist", || machine.reg(base + 12) & 1 << 15 == 0);
}

pub fn preempt(machine: &Machine, tsg: u32) {
    machine.set(0x2634, tsg | 1 << 24);
}

pub fn preempting(machine: &Machine) -> bool {
    machine.reg(0x2634) & 1 << 20 != 0
}
