// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Access counters.

use crate::common::driver::*;
use crate::common::tables::{Page, Tables};
use crate::rig::Rig;
use rsvm_vgpu::config::{Config, MmuVersion};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use rsvm_vgpu::mmu::{Access, Space};

const CONFIG: u32 = 0xb8_3100;
const LO: u32 = 0xb8_3108;
const SIZE: u32 = 0xb8_3110;
const GET: u32 = 0xb8_3114;
const PUT: u32 = 0xb8_3118;
const INFO: u32 = 0xb8_311c;
const VA: u64 = 0x7f_0020_0000;
const CLEAR: u32 = 0x16 << 27;

struct Counting {
    rig: Rig,
    tables: Tables,
    space: Space,
    buffer: PhysAddr,
}

/// 8 notifications at the threshold, on granules of 64 KiB, or 2 MiB.
fn counting(mmu: MmuVersion, threshold: u32, two_mib: bool) -> Counting {
    let mut rig = Rig::new(Config {
        mmu,
        ..Config::default()
    });
    let mut tables = Tables::new(&mut rig, &[Aperture::Vid]);
    let space = rig.space(9, tables.root);
    let ram = rig.pages(Aperture::SysCoherent, 1024, 2 << 20);
    for i in 0..2 {
        let page = Page::new(ram.offset(i << 21), 21);
        tables.map(&mut rig, VA + (i << 21), &page);
    }
    let buffer = rig.sys();
    rig.set(CONFIG, threshold | u32::from(two_mib) << 16);
    rig.set(SIZE, 8);
    rig.set(LO + 4, (buffer.addr >> 32) as u32);
    rig.set(LO, buffer.addr as u32 | 1);
    Counting {
        rig,
        tables,
        space,
        buffer,
    }
}

impl Counting {
    fn touch(&self, va: u64, n: usize) {
        for i in 0..n {
            // Any group, and any kind.
            let access = [Access::Read, Access::Write, Access::Fetch][i % 3];
            self.rig
                .engine
                .try_touch(&self.space, i % 4, va, access)
                .unwrap();
        }
    }

    fn entry(&self, n: u64) -> [u32; 8] {
        std::array::from_fn(|i| self.rig.read32(self.buffer.offset(n * 32 + i as u64 * 4)))
    }
}

#[test]
fn a_granule_notifies_at_its_threshold() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        let c = counting(mmu, 10, false);
        c.touch(VA + 0x5008, 9);
        // The next granule counts for itself.
        c.touch(VA + 0x1_0000, 9);
        assert_eq!((c.rig.reg(PUT), c.rig.reg(INFO)), (0, 0));
        c.touch(VA + 0xf000, 5);
        assert_eq!((c.rig.reg(PUT), c.rig.reg(INFO)), (1, 2), "once");
        assert_eq!(c.rig.reg(0xb8_1008) >> 8 & 1, 1, "vector 72");
        let inst = c.space.inst.addr;
        let engine = u32::from(c.space.engine);
        let parts = 1 << (0x5008 / 0x800) | 1 << (0xf000 / 0x800);
        let want = [
            inst as u32 | 2 << 10,
            (inst >> 32) as u32,
            VA as u32,
            (VA >> 32) as u32,
            parts,
            1,
            10,
            engine << 20 | 1 << 31,
        ];
        assert_eq!(c.entry(0), want);
        // An acknowledged one is over.
        c.rig.set(0xb8_1008, 1 << 8);
        c.rig.set(GET, 1);
        assert_eq!(c.rig.reg(INFO), 0);
        c.touch(VA, 100);
        assert_eq!(c.rig.reg(PUT), 1);
        assert_eq!(c.rig.guest_errors(), 0);
    }
}

#[test]
fn large_granules_tell_their_parts() {
    let c = counting(MmuVersion::V2, 4, true);
    for part in [0, 3, 31, 31] {
        c.touch(VA + part * 0x1_0000, 1);
    }
    let entry = c.entry(0);
    assert_eq!((c.rig.reg(PUT), entry[4]), (1, 1 | 1 << 3 | 1 << 31));
    assert_eq!(u64::from(entry[3]) << 32 | u64::from(entry[2]), VA);
}

#[test]
fn a_clear_begins_anew() {
    let mut c = counting(MmuVersion::V2, 3, false);
    let mut kernel = Channel::kernel(&mut c.rig);
    c.touch(VA, 3);
    c.touch(VA + 0x1_0000, 3);
    assert_eq!(c.rig.reg(PUT), 2);
    let second = c.entry(1)[5];
    // One by its tag.
    kernel.run(&c.rig, &mem_op(0, 0, second, CLEAR | 3));
    c.touch(VA, 3);
    assert_eq!(c.rig.reg(PUT), 2);
    c.touch(VA + 0x1_0000, 3);
    assert_eq!((c.rig.reg(PUT), c.entry(2)[2]), (3, VA as u32 + 0x1_0000));
    // All.
    kernel.run(&c.rig, &mem_op(0, 0, 0, CLEAR | 2));
    c.touch(VA, 2);
    assert_eq!(c.rig.reg(PUT), 3);
    c.touch(VA, 1);
    assert_eq!(c.rig.reg(PUT), 4);
}

#[test]
fn a_full_buffer_makes_notifications_wait() {
    let c = counting(MmuVersion::V2, 1, false);
    for granule in 0..8 {
        c.touch(VA + granule * 0x1_0000, 2);
    }
    assert_eq!((c.rig.reg(PUT), c.rig.reg(INFO)), (7, 3));
    c.rig.set(GET, 7);
    c.touch(VA + 7 * 0x1_0000, 1);
    assert_eq!((c.rig.reg(PUT), c.rig.reg(INFO)), (0, 2));
    assert_eq!(c.entry(7)[6], 3, "it counted on");
}

#[test]
fn only_what_is_remote_and_asked_for_counts() {
    let mut c = counting(MmuVersion::V3, 1, false);
    let vid = c.rig.page(Aperture::Vid);
    let local = VA + 0x4000_0000;
    c.tables.map(&mut c.rig, local, &Page::new(vid, 12));
    c.touch(local, 5);
    assert_eq!(c.rig.reg(PUT), 0);
    // PCF bit 4: not this page.
    let ram = c.rig.sys();
    let quiet = local + 0x1000;
    c.tables.map(&mut c.rig, quiet, &Page::new(ram, 12));
    let at = c.tables.entry(&mut c.rig, quiet, 12);
    c.rig.write(at, c.rig.read(at) | 1 << 7);
    c.rig.invalidate(c.tables.root);
    c.touch(quiet, 5);
    assert_eq!(c.rig.reg(PUT), 0);
    // Off, with entries in the TLBs; on again, likewise.
    c.rig.set(LO, c.buffer.addr as u32);
    c.touch(VA, 5);
    assert_eq!(c.rig.reg(PUT), 0);
    c.rig.set(LO, c.buffer.addr as u32 | 1);
    c.touch(VA, 1);
    assert_eq!((c.rig.reg(PUT), c.entry(0)[6]), (1, 1));
    assert_eq!(c.rig.guest_errors(), 0);
    // A buffer without room is refused.
    c.rig.set(LO, 0);
    c.rig.set(SIZE, 1);
    c.rig.set(LO, 1);
    assert_eq!((c.rig.reg(LO), c.rig.guest_errors()), (0, 1));
}
