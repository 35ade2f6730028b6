// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the copy engine moves.

use crate::common::driver::*;
use crate::common::machine::Buffer;
use crate::common::tables::{Page, Tables};
use crate::rig::Rig;
use rsvm_vgpu::config::{Config, Inject, MmuVersion};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use std::time::Duration;

pub const PITCH: u32 = 1 << 7 | 1 << 8;
pub const FLUSH: u32 = 1 << 2;
pub const RELEASE: u32 = 1 << 3;
pub const MULTI_LINE: u32 = 1 << 9;
pub const REMAP: u32 = 1 << 10;
pub const SRC_PHYSICAL: u32 = 1 << 12;
pub const DST_PHYSICAL: u32 = 1 << 13;
pub const PHYSICAL: u32 = SRC_PHYSICAL | DST_PHYSICAL;
pub const DONE: u64 = 0x400;
/// What a launch releases.
pub const PAYLOAD: u32 = 77;

/// A copy's geometry.
#[derive(Clone, Copy)]
pub struct Copy {
    pub src: u64,
    pub dst: u64,
    pub length: u32,
    /// Pitches in and out, and lines.
    pub lines: [u32; 3],
}

impl Copy {
    pub fn new(src: u64, dst: u64, length: u32) -> Self {
        let lines = [0, 0, 1];
        Self {
            src,
            dst,
            length,
            lines,
        }
    }

    /// Methods for a launch; `launch` misses only the transfer's type.
    pub fn push(&self, launch: u32) -> Vec<u32> {
        let hi = |va: u64| (va >> 32) as u32;
        let [pitch_in, pitch_out, lines] = self.lines;
        let geometry = [
            hi(self.src),
            self.src as u32,
            hi(self.dst),
            self.dst as u32,
            pitch_in,
            pitch_out,
            self.length,
            lines,
        ];
        let done = SEM_VA + DONE;
        let mut push = inc(4, SET_OBJECT, &[CLASS_COPY]);
        push.extend(inc(4, 0x400, &geometry));
        push.extend(inc(4, 0x240, &[hi(done), done as u32, PAYLOAD]));
        push.extend(inc(4, 0x300, &[launch | 2]));
        push
    }

    /// As [`Copy::push`], with the targets of physical addresses.
    pub fn between(&self, src: Aperture, dst: Aperture, launch: u32) -> Vec<u32> {
        let target = |a| match a {
            Aperture::Vid => 0,
            Aperture::SysCoherent => 1,
            Aperture::SysNonCoherent => 2,
        };
        let mut push = inc(4, SET_OBJECT, &[CLASS_COPY]);
        push.extend(inc(4, 0x260, &[target(src), target(dst)]));
        push.extend(self.push(launch));
        push
    }
}

pub fn kernel(inject: Inject) -> (Rig, Channel) {
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let channel = Channel::kernel(&mut rig);
    (rig, channel)
}

pub fn done(rig: &Rig, c: &Channel) -> u32 {
    rig.read32(c.sem.offset(DONE))
}

/// Pushes, and waits until the copies among it are done and visible.
#[track_caller]
pub fn run(rig: &Rig, c: &mut Channel, push: &[u32]) {
    let mut all = push.to_vec();
    all.extend(inc(0, WAIT_FOR_IDLE, &[0]));
    c.run(rig, &all);
}

pub fn fill(rig: &Rig, at: PhysAddr, n: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..n).map(|i| (i * 7 % 251) as u8).collect();
    rig.core().mem.enter().write(at, &data).unwrap();
    data
}

pub fn bytes(rig: &Rig, at: PhysAddr, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    rig.core().mem.enter().read(at, &mut out).unwrap();
    out
}

/// One way to name memory to a copy: physically, or by pages of a size.
#[derive(Clone, Copy, Debug)]
struct Way {
    aperture: Aperture,
    /// None: physical.
    shift: Option<u32>,
}

const LEN: usize = 0x1_2345;

impl Way {
    fn all() -> Vec<Way> {
        let mut all = Vec::new();
        for aperture in [Aperture::Vid, Aperture::SysCoherent] {
            for shift in [None, Some(12), Some(16), Some(21)] {
                all.push(Way { aperture, shift });
            }
        }
        all
    }

    /// Memory for [`LEN`] bytes, and its name; `va` is free for it.
    fn place(self, rig: &mut Rig, c: &mut Channel, va: u64) -> (PhysAddr, u64) {
        let shift = self.shift.unwrap_or(12);
        let pages = (LEN as u64 + 0x1000).div_ceil(1 << shift);
        let at = rig.pages(self.aperture, pages << (shift - 12), 1 << shift);
        let Some(shift) = self.shift else {
            return (at, at.addr);
        };
        for i in 0..pages {
            let offset = i << shift;
            c.host
                .map(rig, va + offset, &Page::new(at.offset(offset), shift));
        }
        (at, va)
    }
}

/// Physical and virtual, system and device memory, in all combinations.
#[test]
fn every_way_to_name_memory() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        let mut rig = Rig::new(Config {
            mmu,
            ..Config::default()
        });
        let mut c = Channel::kernel(&mut rig);
        let mut va = 0x4000_0000;
        for (n, from) in Way::all().into_iter().enumerate() {
            let (src, src_name) = from.place(&mut rig, &mut c, va);
            let data = fill(&rig, src, LEN);
            for to in Way::all() {
                va += 0x100_0000;
                let (dst, dst_name) = to.place(&mut rig, &mut c, va);
                let mut launch = PITCH | FLUSH | RELEASE;
                launch |= if from.shift.is_none() {
                    SRC_PHYSICAL
                } else {
                    0
                };
                launch |= if to.shift.is_none() { DST_PHYSICAL } else { 0 };
                rig.write32(c.sem.offset(DONE), 0);
                // Misaligned differently, now and then.
                let skew = [0, 8, 3][n % 3];
                let copy = Copy::new(src_name, dst_name + skew, LEN as u32);
                c.push(&rig, &copy.between(from.aperture, to.aperture, launch));
                rig.wait("the copy", || done(&rig, &c) == PAYLOAD);
                let got = bytes(&rig, dst, LEN + 0x10);
                let skew = skew as usize;
                assert!(got[skew..skew + LEN] == data, "{from:?} {to:?}");
                assert_eq!(got[..skew], [0; 8][..skew]);
                assert_eq!(got[skew + LEN..], [0; 16][skew..], "{from:?} {to:?}");
            }
            va += 0x100_0000;
        }
        assert_eq!((rig.guest_errors(), rig.stale_hits()), (0, 0));
    }
}

#[test]
fn lines() {
    let (mut rig, mut c) = kernel(Inject::default());
    let src = rig.pages(Aperture::SysCoherent, 4, 0x1000);
    let dst = rig.pages(Aperture::Vid, 4, 0x1000);
    let data = fill(&rig, src, 0x4000);
    let copy = Copy {
        lines: [500, 523, 29],
        ..Copy::new(src.addr, dst.addr, 451)
    };
    let launch = PITCH | MULTI_LINE | PHYSICAL | FLUSH | RELEASE;
    c.push(
        &rig,
        &copy.between(Aperture::SysCoherent, Aperture::Vid, launch),
    );
    rig.wait("the copy", || done(&rig, &c) == PAYLOAD);
    for line in 0..30 {
        let got = bytes(&rig, dst.offset(line * 523), 523);
        let from = line as usize * 500;
        if line < 29 {
            assert_eq!(got[..451], data[from..from + 451]);
            assert_eq!(got[451..], [0; 72], "between the lines");
        } else {
            assert_eq!(got, [0; 523], "one line too many");
        }
    }
    // The count is ignored without MULTI_LINE.
    let far = rig.pages(Aperture::Vid, 4, 0x1000);
    let copy = Copy {
        dst: far.addr,
        ..copy
    };
    run(&rig, &mut c, &copy.push(PITCH | PHYSICAL));
    assert_eq!(bytes(&rig, far, 451), data[..451]);
    assert_eq!(bytes(&rig, far.offset(523), 451), [0; 451]);
}

/// Zeroing and filling, of pages large and small.
#[test]
fn memset_by_remap() {
    let (mut rig, mut c) = kernel(Inject::default());
    for (aperture, shift) in [
        (Aperture::Vid, 12),
        (Aperture::Vid, 21),
        (Aperture::SysCoherent, 16),
    ] {
        let size = 1u64 << shift;
        let dst = rig.pages(aperture, size >> 12, size);
        rig.core()
            .mem
            .enter()
            .write(dst, &vec![0xa5; size as usize])
            .unwrap();
        // All but the first and last 8 bytes, by words of constant A.
        let mut push = inc(4, SET_OBJECT, &[CLASS_COPY]);
        push.extend(inc(4, 0x700, &[0, 0, 4 | 3 << 16]));
        let copy = Copy::new(0, dst.addr + 8, size as u32 / 4 - 4);
        let launch = 1 << 8 | REMAP | DST_PHYSICAL | FLUSH | RELEASE;
        push.extend(copy.between(aperture, aperture, launch));
        rig.write32(c.sem.offset(DONE), 0);
        c.push(&rig, &push);
        rig.wait("the memset", || done(&rig, &c) == PAYLOAD);
        let got = bytes(&rig, dst, size as usize);
        let last = size as usize - 8;
        assert!(got[8..last].iter().all(|b| *b == 0));
        assert_eq!((&got[..8], &got[last..]), (&[0xa5; 8][..], &[0xa5; 8][..]));
    }
    // Elements of two constants; then one that leaves a component alone.
    let dst = rig.page(Aperture::Vid);
    let launch = 1 << 8 | REMAP | DST_PHYSICAL;
    let mut push = inc(4, SET_OBJECT, &[CLASS_COPY]);
    push.extend(inc(4, 0x264, &[0]));
    let remap = 4 | 5 << 4 | 3 << 16 | 1 << 24;
    push.extend(inc(4, 0x700, &[0x1111_2222, 0x3333_4444, remap]));
    push.extend(Copy::new(0, dst.addr + 8, 100).push(launch));
    push.extend(inc(
        4,
        0x700,
        &[0xaaaa_bbbb, 0, 4 | 6 << 4 | 3 << 16 | 1 << 24],
    ));
    push.extend(Copy::new(0, dst.addr + 16, 1).push(launch));
    run(&rig, &mut c, &push);
    let words = [0, 8, 16, 800, 808].map(|at| rig.read(dst.offset(at)));
    let both = 0x3333_4444_1111_2222;
    assert_eq!(words, [0, both, 0x3333_4444_aaaa_bbbb, both, 0]);
}

/// Components of the source, in another order and beside a constant.
#[test]
fn remap_of_the_source() {
    let (mut rig, mut c) = kernel(Inject::default());
    let (src, dst) = (rig.sys(), rig.page(Aperture::Vid));
    let data = fill(&rig, src, 0x1000);
    // Two components of 2 bytes become three: the second, A, the first.
    let remap = 1 | 4 << 4 | 1 << 16 | 1 << 20 | 2 << 24;
    let mut push = inc(4, SET_OBJECT, &[CLASS_COPY]);
    push.extend(inc(4, 0x700, &[0xbeef, 0, remap]));
    let copy = Copy::new(src.addr, dst.addr + 2, 600);
    push.extend(copy.between(
        Aperture::SysCoherent,
        Aperture::Vid,
        PITCH | REMAP | PHYSICAL,
    ));
    run(&rig, &mut c, &push);
    let got = bytes(&rig, dst, 0xf00);
    for i in 0..600 {
        let (from, to) = (i * 4, 2 + i * 6);
        assert_eq!(got[to..to + 2], data[from + 2..from + 4]);
        assert_eq!(got[to + 2..to + 4], [0xef, 0xbe]);
        assert_eq!(got[to + 4..to + 6], data[from..from + 2]);
    }
}

#[test]
fn a_ring_in_device_memory() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        let mut rig = Rig::new(Config {
            mmu,
            ..Config::default()
        });
        let mut c = Channel::kernel(&mut rig);
        // Ring, pushbuffer, semaphores: 64 KiB of VRAM behind one entry, and
        // what was there goes along.
        c.move_to_vram(&mut rig);
        let (src, dst) = (rig.sys(), rig.sys());
        let data = fill(&rig, src, 0x1000);
        let copy = Copy::new(src.addr, dst.addr, 0x1000);
        let sys = Aperture::SysCoherent;
        run(&rig, &mut c, &copy.between(sys, sys, PITCH | PHYSICAL));
        assert_eq!(bytes(&rig, dst, 0x1000), data);
        // A reduction by the host, natively.
        let mut push = semaphore(SEM_VA + 0x80, 40, 6 | 5 << 27);
        push.extend(semaphore(SEM_VA + 0x80, 2, 6 | 5 << 27));
        c.run(&rig, &push);
        assert_eq!(rig.read32(c.sem.offset(0x80)), 42);
        assert!(!c.sem.aperture.is_sys());
        assert_eq!(rig.guest_errors(), 0);
    }
}

#[test]
fn faults_are_switched_out_and_go_on() {
    let (mut rig, mut c) = kernel(Inject::default());
    let mut buffer = Buffer::new(&mut rig, 0, 64);
    let src = rig.pages(Aperture::SysCoherent, 3, 0x1000);
    let dst = rig.pages(Aperture::Vid, 3, 0x1000);
    let data = fill(&rig, src, 0x3000);
    for i in 0..3 {
        let page = |at: PhysAddr| Page::new(at.offset(i * 0x1000), 12);
        c.host.map(&mut rig, 0x40_0000 + i * 0x1000, &page(src));
        // The last page of the destination is missing.
        if i < 2 {
            c.host.map(&mut rig, 0x41_0000 + i * 0x1000, &page(dst));
        }
    }
    c.push(
        &rig,
        &Copy::new(0x40_0000, 0x41_0000, 0x3000).push(PITCH | RELEASE),
    );
    rig.wait("the fault", || c.status(&rig) & 1 << 23 != 0);
    let p = buffer.drain(&rig)[0];
    assert_eq!((p.va, p.engine, p.client, p.access), (0x41_2000, 15, 1, 1));
    assert!(p.hub && !p.replayable);
    assert_eq!(done(&rig, &c), 0);
    c.host
        .map(&mut rig, 0x41_2000, &Page::new(dst.offset(0x2000), 12));
    rig.invalidate(c.host.root);
    rig.set(0x80_0004 + 8 * c.chid, 1 << 23);
    rig.wait("the rest", || done(&rig, &c) == PAYLOAD);
    assert_eq!(bytes(&rig, dst, 0x3000), data);
}

#[test]
fn a_release_that_faults_goes_on() {
    let (mut rig, mut c) = kernel(Inject::default());
    let _buffer = Buffer::new(&mut rig, 0, 64);
    let mut push = inc(4, SET_OBJECT, &[CLASS_COPY]);
    push.extend(inc(4, 0x240, &[0, HOLE_VA as u32, 5]));
    // Semaphore only, with a non-stall interrupt.
    push.extend(inc(4, 0x300, &[RELEASE | FLUSH | 2 << 5]));
    c.push(&rig, &push);
    rig.wait("the fault", || c.status(&rig) & 1 << 23 != 0);
    assert_eq!(rig.reg(0xb8_1000) & 1 << 1, 0);
    let page = rig.sys();
    c.host.map(&mut rig, HOLE_VA, &Page::new(page, 12));
    rig.invalidate(c.host.root);
    rig.set(0x80_0004 + 8 * c.chid, 1 << 23);
    rig.wait("the release", || rig.read32(page) == 5);
    rig.wait("the interrupt", || rig.reg(0xb8_1000) & 1 << 1 != 0);
}

#[test]
fn physical_copies_are_privileged() {
    let mut rig = Rig::v2();
    let mirror = Tables::new(&mut rig, &[Aperture::SysCoherent]);
    let mut c = Channel::new(&mut rig, 5, 0, 0, USER, mirror.root);
    c.enable(&rig);
    submit(&mut rig, 0, &[&c]);
    let vid = rig.page(Aperture::Vid);
    let copy = Copy::new(vid.addr, vid.addr + 8, 8);
    c.push(&rig, &copy.push(PITCH | DST_PHYSICAL));
    rig.wait("the channel to stop", || c.status(&rig) & 1 << 22 != 0);
    assert_eq!(c.error(&rig), [2, 0x300, 0]);
}

#[test]
fn preempt_takes_a_faulted_copy_off() {
    let (mut rig, mut c) = kernel(Inject::default());
    let _buffer = Buffer::new(&mut rig, 0, 64);
    c.push(&rig, &Copy::new(HOLE_VA, SEM_VA, 8).push(PITCH));
    rig.wait("the fault", || c.status(&rig) & 1 << 23 != 0);
    c.disable(&rig);
    preempt(&rig, c.chid);
    rig.wait("preempt", || !preempting(&rig));
    submit(&mut rig, 0, &[]);
    c.unbind(&rig);
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(rig.guest_errors(), 0);
}
