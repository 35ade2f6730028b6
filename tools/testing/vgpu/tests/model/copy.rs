// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The copy engine.

use crate::driver::*;
use crate::rig::{Buffer, Rig};
use crate::tables::Page;
use rsvm_vgpu::config::{Config, Inject};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use std::time::Duration;

const LAUNCH: u32 = 0x300;
const PITCH: u32 = 1 << 7 | 1 << 8;
const RELEASE: u32 = 1 << 3;
const PHYSICAL: u32 = 1 << 12 | 1 << 13;
const DONE_VA: u64 = SEM_VA + 0x400;

fn bind() -> Vec<u32> {
    inc(4, SET_OBJECT, &[CLASS_COPY])
}

/// A copy of `lines` lines, with a semaphore release of `payload`.
fn copy(src: u64, dst: u64, length: u32, [pitch, lines]: [u32; 2], launch: u32) -> Vec<u32> {
    let hi = |va: u64| (va >> 32) as u32;
    let mut push = bind();
    let geometry = [
        hi(src),
        src as u32,
        hi(dst),
        dst as u32,
        pitch,
        pitch + 16,
        length,
        lines,
    ];
    push.extend(inc(4, 0x400, &geometry));
    push.extend(inc(4, 0x240, &[hi(DONE_VA), DONE_VA as u32, 77]));
    push.extend(inc(4, LAUNCH, &[launch | 2]));
    push
}

fn kernel(inject: Inject) -> (Rig, Channel) {
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let channel = Channel::kernel(&mut rig);
    (rig, channel)
}

fn done(rig: &Rig, c: &Channel) -> u32 {
    rig.read32(c.sem.offset(0x400))
}

fn fill(rig: &Rig, at: PhysAddr, n: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..n).map(|i| (i * 7 % 251) as u8).collect();
    rig.core().mem.enter().write(at, &data).unwrap();
    data
}

fn bytes(rig: &Rig, at: PhysAddr, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    rig.core().mem.enter().read(at, &mut out).unwrap();
    out
}

#[test]
fn physical_both_ways() {
    let (mut rig, mut c) = kernel(Inject::default());
    let sys = rig.pages(Aperture::SysCoherent, 8, 0x1000);
    let vid = rig.pages(Aperture::Vid, 8, 0x1000);
    let data = fill(&rig, sys, 0x6001);
    // Targets: 1 coherent system memory, 0 device memory.
    let mut push = inc(4, SET_OBJECT, &[CLASS_COPY]);
    push.extend(inc(4, 0x260, &[1, 0]));
    push.extend(copy(
        sys.addr,
        vid.addr,
        0x6001,
        [0, 1],
        PITCH | PHYSICAL | RELEASE,
    ));
    c.run(&rig, &push);
    assert_eq!(done(&rig, &c), 77);
    assert_eq!(bytes(&rig, vid, 0x6001), data);
    let back = rig.pages(Aperture::SysCoherent, 8, 0x1000);
    let mut push = bind();
    push.extend(inc(4, 0x260, &[0, 2]));
    push.extend(copy(
        vid.addr + 1,
        back.addr + 3,
        0x5000,
        [0, 1],
        PITCH | PHYSICAL,
    ));
    c.run(&rig, &push);
    assert_eq!(bytes(&rig, back.offset(3), 0x5000), data[1..0x5001]);
    assert_eq!(bytes(&rig, back, 3), [0; 3]);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn virtual_lines() {
    let (mut rig, mut c) = kernel(Inject::default());
    let src = rig.sys();
    let dst = rig.page(Aperture::Vid);
    let data = fill(&rig, src, 0x400);
    c.host.map(&mut rig, 0x40_0000, &Page::new(src, 12));
    c.host.map(&mut rig, 0x40_1000, &Page::new(dst, 12));
    let push = copy(0x40_0000, 0x40_1000, 20, [32, 5], PITCH | 1 << 9 | RELEASE);
    c.run(&rig, &push);
    for line in 0..5 {
        let got = bytes(&rig, dst.offset(line * 48), 24);
        let from = line as usize * 32;
        assert_eq!(got[..20], data[from..from + 20]);
        assert_eq!(got[20..], [0; 4], "between the lines");
    }
}

#[test]
fn memset_by_remap() {
    let (mut rig, mut c) = kernel(Inject::default());
    let dst = rig.page(Aperture::Vid);
    // Two components of four bytes: constants A and B.
    let remap = 4 | 5 << 4 | 3 << 16 | 1 << 24;
    let mut push = bind();
    push.extend(inc(4, 0x264, &[0]));
    push.extend(inc(4, 0x700, &[0x1111_2222, 0x3333_4444, remap]));
    let launch = 1 << 8 | 1 << 10 | 1 << 13 | RELEASE;
    push.extend(copy(0, dst.addr + 8, 100, [0, 1], launch));
    c.run(&rig, &push);
    assert_eq!(rig.read(dst), 0);
    assert_eq!(rig.read(dst.offset(8)), 0x3333_4444_1111_2222);
    assert_eq!(rig.read(dst.offset(800)), 0x3333_4444_1111_2222);
    assert_eq!(rig.read(dst.offset(808)), 0);
    // A component that is not written stays.
    let mut push = bind();
    push.extend(inc(
        4,
        0x700,
        &[0xaaaa_bbbb, 0, 4 | 6 << 4 | 3 << 16 | 1 << 24],
    ));
    push.extend(copy(0, dst.addr + 8, 1, [0, 1], launch));
    c.run(&rig, &push);
    assert_eq!(rig.read(dst.offset(8)), 0x3333_4444_aaaa_bbbb);
}

#[test]
fn faults_are_switched_out_and_go_on() {
    let (mut rig, mut c) = kernel(Inject::default());
    let mut buffer = Buffer::new(&mut rig, 0, 64);
    let src = rig.pages(Aperture::SysCoherent, 3, 0x1000);
    let dst = rig.pages(Aperture::SysCoherent, 3, 0x1000);
    let data = fill(&rig, src, 0x3000);
    for i in 0..3 {
        c.host.map(
            &mut rig,
            0x40_0000 + i * 0x1000,
            &Page::new(src.offset(i * 0x1000), 12),
        );
        // The last page of the destination is missing.
        if i < 2 {
            c.host.map(
                &mut rig,
                0x41_0000 + i * 0x1000,
                &Page::new(dst.offset(i * 0x1000), 12),
            );
        }
    }
    c.push(
        &rig,
        &copy(0x40_0000, 0x41_0000, 0x3000, [0, 1], PITCH | RELEASE),
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
    rig.wait("the rest", || done(&rig, &c) == 77);
    assert_eq!(bytes(&rig, dst, 0x3000), data);
}

#[test]
fn launch_errors_release_nothing() {
    let (mut rig, mut c) = kernel(Inject {
        launch_error_every: 2,
        ..Inject::default()
    });
    let vid = rig.page(Aperture::Vid);
    rig.write(vid, 5);
    let push = |c: &mut Channel, rig: &Rig, to: u64| {
        let push = copy(
            vid.addr,
            vid.addr + to,
            8,
            [0, 1],
            PITCH | PHYSICAL | RELEASE,
        );
        c.run(rig, &push);
    };
    push(&mut c, &rig, 0x100);
    assert_eq!((done(&rig, &c), rig.reg(0x10_4410)), (77, 0));
    rig.write32(c.sem.offset(0x400), 0);
    push(&mut c, &rig, 0x200);
    assert_eq!((done(&rig, &c), rig.reg(0x10_4410)), (0, 1 << 2));
    assert_eq!(rig.read(vid.offset(0x200)), 0);
    assert_eq!(rig.reg(0xb8_1018), 1 << 1, "vector 193");
    rig.set(0x10_4410, 1 << 2);
    assert_eq!(rig.reg(0x10_4410), 0);
    push(&mut c, &rig, 0x300);
    assert_eq!(rig.read(vid.offset(0x300)), 5);
}

#[test]
fn memory_that_is_not_there_is_a_launch_error() {
    let (mut rig, mut c) = kernel(Inject::default());
    let vid = rig.page(Aperture::Vid);
    let mut push = bind();
    push.extend(inc(4, 0x260, &[1, 0]));
    push.extend(copy(
        0x1000,
        vid.addr,
        8,
        [0, 1],
        PITCH | PHYSICAL | RELEASE,
    ));
    c.run(&rig, &push);
    assert_eq!((done(&rig, &c), rig.reg(0x10_4410)), (0, 1 << 2));
    assert_eq!(rig.guest_errors(), 1);
    // Block-linear layouts are left out.
    c.run(&rig, &copy(0x1000, vid.addr, 8, [0, 1], 1 << 8 | PHYSICAL));
    assert_eq!(rig.reg(0x10_4410), 1 << 2 | 1 << 3);
}

#[test]
fn physical_copies_are_privileged() {
    let mut rig = Rig::v2();
    let mirror = rig.sys();
    let mut c = Channel::new(&mut rig, 5, 0, 0, USER, mirror);
    c.enable(&rig);
    submit(&mut rig, 0, &[&c]);
    let vid = rig.page(Aperture::Vid);
    c.push(
        &rig,
        &copy(vid.addr, vid.addr + 8, 8, [0, 1], PITCH | PHYSICAL),
    );
    rig.wait("the channel to stop", || c.status(&rig) & 1 << 22 != 0);
    assert_eq!(c.error(&rig), [2, LAUNCH, 0]);
}

#[test]
fn preempt_takes_a_faulted_copy_off() {
    let (mut rig, mut c) = kernel(Inject::default());
    let _buffer = Buffer::new(&mut rig, 0, 64);
    c.push(&rig, &copy(HOLE_VA, SEM_VA, 8, [0, 1], PITCH));
    rig.wait("the fault", || c.status(&rig) & 1 << 23 != 0);
    c.disable(&rig);
    preempt(&rig, c.chid);
    rig.wait("preempt", || !preempting(&rig));
    submit(&mut rig, 0, &[]);
    c.unbind(&rig);
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(rig.guest_errors(), 0);
}
