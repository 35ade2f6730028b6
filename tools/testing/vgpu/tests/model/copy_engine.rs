// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The copy engine beside the rest of the device: what waits for it and what
//! does not, when its writes are seen, and how it fails.

use crate::common::driver::*;
use crate::common::machine::Buffer;
use crate::common::tables::{Page, Tables};
use crate::copy::*;
use crate::rig::Rig;
use rsvm_vgpu::config::{Config, Inject};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use rsvm_vgpu::mmu::{Access, FaultType};
use std::time::Duration;

const LAUNCH_ERROR_NEXT: u32 = 0xf0_2000;
const LAUNCH_ERROR_EVERY: u32 = 0xf0_2004;
const COPY_DELAY: u32 = 0xf0_2008;
const REMOVE_AT_READ: u32 = 0xf0_200c;
const REMOVE_AT_COPY: u32 = 0xf0_2010;
const POISON: u32 = 0xf0_2014;
const COPIES: u32 = 0xf0_2020;

/// No copy begins.
fn hold(rig: &Rig) {
    rig.set(COPY_DELAY, u32::MAX);
}

fn let_go(rig: &Rig) {
    rig.set(COPY_DELAY, 0);
}

/// Another kernel channel, on the runlist together with `first`.
fn second(rig: &mut Rig, first: &Channel) -> Channel {
    let mirror = rig.sys();
    let channel = Channel::new(rig, 2, 0, 0, KERNEL, mirror);
    channel.enable(rig);
    submit(rig, 0, &[first, &channel]);
    channel
}

/// A copy of one word inside device memory, released with a flush.
fn word(rig: &mut Rig) -> (PhysAddr, Vec<u32>) {
    let (src, dst) = (rig.page(Aperture::Vid), rig.page(Aperture::Vid));
    rig.write(src, 5);
    let copy = Copy::new(src.addr, dst.addr, 8);
    let launch = PITCH | PHYSICAL | RELEASE | FLUSH;
    (dst, copy.between(Aperture::Vid, Aperture::Vid, launch))
}

#[test]
fn nothing_else_waits_for_a_copy() {
    let (mut rig, mut c) = kernel(Inject::default());
    let mut other = second(&mut rig, &c);
    let (dst, mut push) = word(&mut rig);
    hold(&rig);
    push.extend(release(SEM_VA + 0x10, 1));
    push.extend(inc(0, WAIT_FOR_IDLE, &[0]));
    push.extend(release(SEM_VA + 0x14, 1));
    c.push(&rig, &push);
    // The PBDMA goes on; only what waits for idle waits.
    rig.wait("the release", || rig.read32(c.sem.offset(0x10)) == 1);
    other.run(&rig, &invalidate_range(other.host.root, 0x1000, 12, 0, 0));
    other.run(&rig, &mem_op(0, 0, 0, OP_MEMBAR));
    assert_eq!((done(&rig, &c), rig.read(dst)), (0, 0));
    assert_eq!(rig.read32(c.sem.offset(0x14)), 0);
    let_go(&rig);
    rig.wait("the copy", || done(&rig, &c) == PAYLOAD);
    rig.wait("idle", || rig.read32(c.sem.offset(0x14)) == 1);
    assert_eq!(rig.read(dst), 5);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn a_release_with_wfi_waits_for_copies() {
    let (mut rig, mut c) = kernel(Inject::default());
    let (dst, mut push) = word(&mut rig);
    hold(&rig);
    push.extend(semaphore(SEM_VA + 0x20, 9, 1 | 1 << 20));
    c.push(&rig, &push);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.read32(c.sem.offset(0x20)), 0);
    let_go(&rig);
    rig.wait("the release", || rig.read32(c.sem.offset(0x20)) == 9);
    assert_eq!(rig.read(dst), 5);
}

#[test]
fn channels_take_turns_and_a_full_queue_stalls_its_pbdma() {
    let (mut rig, mut c) = kernel(Inject::default());
    let mut other = second(&mut rig, &c);
    hold(&rig);
    let (dst, push) = word(&mut rig);
    // More than the engine takes over.
    for _ in 0..40 {
        c.queue(&rig, &push);
    }
    c.queue(&rig, &release(SEM_VA + 0x10, 1));
    c.ring_doorbell(&rig);
    let (_, theirs) = word(&mut rig);
    other.push(&rig, &theirs);
    rig.wait("32 launches", || c.get(&rig) == 32);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.read32(c.sem.offset(0x10)), 0, "stalled");
    assert_eq!(c.get(&rig), 32);
    let_go(&rig);
    rig.wait("all launches", || rig.read32(c.sem.offset(0x10)) == 1);
    rig.wait("the other's", || done(&rig, &other) == PAYLOAD);
    rig.wait("the last copy", || rig.reg(COPIES) == 41);
    assert_eq!(rig.read(dst), 5);
}

/// Large copies of several channels at once.
#[test]
fn several_channels_copy_at_once() {
    const LEN: u64 = 2 << 20;
    let (mut rig, mut c) = kernel(Inject::default());
    let mut other = second(&mut rig, &c);
    let src = rig.pages(Aperture::SysCoherent, LEN / 4096, LEN);
    let data = fill(&rig, src, LEN as usize);
    let there: Vec<PhysAddr> = (0..4)
        .map(|_| rig.pages(Aperture::Vid, LEN / 4096, LEN))
        .collect();
    let back = rig.pages(Aperture::SysCoherent, LEN / 4096, LEN);
    let (sys, vid) = (Aperture::SysCoherent, Aperture::Vid);
    let copy = |from: PhysAddr, to: PhysAddr| Copy::new(from.addr, to.addr, LEN as u32);
    let mut push = copy(src, there[0]).between(sys, vid, PITCH | PHYSICAL);
    push.extend(copy(there[0], there[1]).between(vid, vid, PITCH | PHYSICAL));
    let mut theirs = copy(src, there[2]).between(sys, vid, PITCH | PHYSICAL);
    theirs.extend(copy(there[2], there[3]).between(vid, vid, PITCH | PHYSICAL));
    theirs.extend(copy(there[3], back).between(vid, sys, PITCH | PHYSICAL));
    for (channel, push) in [(&mut c, &mut push), (&mut other, &mut theirs)] {
        push.extend(semaphore(SEM_VA + 0x20, 9, 1 | 1 << 20));
        channel.push(&rig, push);
    }
    for channel in [&c, &other] {
        rig.wait("the end", || rig.read32(channel.sem.offset(0x20)) == 9);
    }
    for at in there.into_iter().chain([back]) {
        assert!(bytes(&rig, at, LEN as usize) == data, "{at}");
    }
    assert_eq!(rig.guest_errors(), 0);
}

/// Writes are seen after a flush, whatever flushes, and not before.
#[test]
fn writes_are_seen_after_a_flush() {
    let (sys, vid) = (Aperture::SysCoherent, Aperture::Vid);
    let sem_only = |launch: u32| inc(4, 0x300, &[launch]);
    let gpu = 1 << 25;
    // What comes after the copy, and whether writes to system memory and to
    // device memory are seen then.
    let cases: [(Vec<u32>, [bool; 2]); 10] = [
        (vec![], [false, false]),
        (sem_only(RELEASE), [false, false]),
        (sem_only(FLUSH), [false, false]),
        (sem_only(RELEASE | FLUSH), [true, true]),
        (sem_only(RELEASE | FLUSH | gpu), [false, true]),
        (inc(0, WAIT_FOR_IDLE, &[0]), [true, true]),
        (semaphore(SEM_VA + 0x20, 9, 1 | 1 << 20), [true, true]),
        (mem_op(0, 0, 0, OP_MEMBAR), [true, true]),
        (mem_op(0, 0, 1, OP_MEMBAR), [false, true]),
        (
            mem_op(1 << 11, 0, 1 | 1 << 5, OP_INVALIDATE),
            [false, false],
        ),
    ];
    for (n, (after, seen)) in cases.into_iter().enumerate() {
        for (to, seen) in [(sys, seen[0]), (vid, seen[1])] {
            let (mut rig, mut c) = kernel(Inject::default());
            let (src, dst) = (rig.pages(sys, 4, 0x1000), rig.pages(to, 4, 0x1000));
            let data = fill(&rig, src, 0x4000);
            let copy = Copy::new(src.addr, dst.addr, 0x4000);
            c.push(&rig, &copy.between(sys, to, PITCH | PHYSICAL | RELEASE));
            rig.wait("the copy", || done(&rig, &c) == PAYLOAD);
            rig.write32(c.sem.offset(DONE), 0);
            c.run(&rig, &after);
            // So that launches among it are over.
            c.run(&rig, &sem_only(RELEASE));
            rig.wait("a release", || done(&rig, &c) == PAYLOAD);
            let got = bytes(&rig, dst, 0x4000);
            assert!(got[..0x3000] == data[..0x3000]);
            let last = if seen { &data[0x3000..] } else { &[0; 0x1000] };
            assert!(got[0x3000..] == *last, "case {n}, {to:?}");
        }
    }
}

#[test]
fn a_channel_sees_its_own_writes_in_order() {
    let (mut rig, mut c) = kernel(Inject::default());
    let (sys, vid) = (Aperture::SysCoherent, Aperture::Vid);
    let [a, b] = [rig.sys(), rig.sys()];
    let [x, y] = [rig.page(vid), rig.page(vid)];
    rig.write(a, 1);
    rig.write(b, 2);
    let copy = |from: PhysAddr, to: PhysAddr| {
        Copy::new(from.addr, to.addr, 8).between(from.aperture, to.aperture, PITCH | PHYSICAL)
    };
    // Written, read back, overwritten, and by a virtual address.
    c.host.map(&mut rig, 0x40_0000, &Page::new(x, 12));
    let mut push = copy(a, x);
    push.extend(copy(x, y));
    push.extend(copy(b, x));
    let through = Copy::new(0x40_0000, a.addr + 8, 8);
    push.extend(through.between(sys, sys, PITCH | DST_PHYSICAL));
    run(&rig, &mut c, &push);
    let got = [x, y, a, a.offset(8)].map(|at| rig.read(at));
    assert_eq!(got, [2, 1, 1, 2]);
    // Without laziness everything is seen at once.
    let mut rig = Rig::new(Config {
        copy_lazy_writes: false,
        ..Config::default()
    });
    let mut c = Channel::kernel(&mut rig);
    let [a, x] = [rig.sys(), rig.page(vid)];
    rig.write(a, 3);
    let copy = Copy::new(a.addr, x.addr, 8);
    c.push(&rig, &copy.between(sys, vid, PITCH | PHYSICAL | RELEASE));
    rig.wait("the copy", || done(&rig, &c) == PAYLOAD);
    assert_eq!(rig.read(x), 3);
}

#[test]
fn a_preempt_takes_copies_off_and_a_resume_goes_on() {
    let (mut rig, mut c) = kernel(Inject::default());
    let (dst, push) = word(&mut rig);
    hold(&rig);
    c.push(&rig, &push);
    rig.wait("GP_GET", || c.get(&rig) == 1);
    c.disable(&rig);
    preempt(&rig, c.chid);
    rig.wait("preempt", || !preempting(&rig));
    let_go(&rig);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(done(&rig, &c), 0);
    c.enable(&rig);
    rig.wait("the copy", || done(&rig, &c) == PAYLOAD);
    assert_eq!(rig.read(dst), 5);
    assert_eq!(c.status(&rig) >> 24 & 0xf, 5, "resident again");
}

/// The channel of a failed copy is as dead as one can be; others are not.
fn dies(rig: &Rig, c: &Channel, status: u32, n: u32) {
    rig.wait("the error", || c.status(rig) & 1 << 23 != 0);
    assert_eq!(c.error(rig), [7, status, n]);
    assert_eq!(rig.reg(0x10_4410), status);
    assert_eq!(rig.reg(0x2100) & 1 << 29, 1 << 29);
    rig.wait("vector 193", || rig.reg(0xb8_1018) == 1 << 1);
}

#[test]
fn a_launch_error_stops_its_channel_until_it_is_bound_anew() {
    let (mut rig, mut c) = kernel(Inject::default());
    let mut other = second(&mut rig, &c);
    let (dst, push) = word(&mut rig);
    let (later, after) = word(&mut rig);
    c.run(&rig, &push);
    rig.wait("the first copy", || done(&rig, &c) == PAYLOAD);
    rig.write32(c.sem.offset(DONE), 0);
    rig.write(dst, 0);
    rig.set(LAUNCH_ERROR_NEXT, 2);
    hold(&rig);
    for push in [&push, &push, &after, &after] {
        c.queue(&rig, push);
    }
    c.ring_doorbell(&rig);
    rig.wait("GP_GET", || c.get(&rig) == 5);
    let_go(&rig);
    dies(&rig, &c, 1 << 2, 3);
    assert_eq!(rig.reg(LAUNCH_ERROR_NEXT), 0, "disarmed");
    assert_eq!(rig.read(dst), 5, "the one before was made");
    assert_eq!(rig.read(later), 0, "none of those after was");
    other.run(&rig, &[]);
    other.push(&rig, &push);
    rig.wait("the other's", || done(&rig, &other) == PAYLOAD);
    // Nothing short of a new bind helps.
    rig.write32(c.sem.offset(DONE), 0);
    rig.set(0x80_0004 + 8 * c.chid, 1 << 23 | 1 << 10);
    c.push(&rig, &after);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(done(&rig, &c), 0);
    rig.set(0x10_4410, 1 << 2);
    assert_eq!(rig.reg(0x10_4410), 0);
    c.disable(&rig);
    preempt(&rig, c.chid);
    rig.wait("preempt", || !preempting(&rig));
    c.rebind(&rig);
    assert_eq!((c.status(&rig), c.error(&rig)), (0, [0; 3]));
    c.enable(&rig);
    c.push(&rig, &after);
    rig.wait("a new life", || done(&rig, &c) == PAYLOAD);
    assert_eq!(rig.read(later), 5);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn launch_errors_leave_half_a_copy() {
    let (mut rig, mut c) = kernel(Inject {
        launch_error_at: vec![1],
        ..Inject::default()
    });
    let (src, dst) = (
        rig.pages(Aperture::Vid, 8, 0x1000),
        rig.pages(Aperture::Vid, 8, 0x1000),
    );
    let data = fill(&rig, src, 0x7000);
    let copy = Copy::new(src.addr, dst.addr, 0x7000);
    c.push(&rig, &copy.push(PITCH | PHYSICAL | RELEASE | FLUSH));
    dies(&rig, &c, 1 << 2, 1);
    assert_eq!(done(&rig, &c), 0);
    let got = bytes(&rig, dst, 0x7000);
    assert_eq!(got[..0x3000], data[..0x3000]);
    assert_eq!(got[0x3000..], [0; 0x4000]);
    assert_eq!(rig.stat("copy_errors"), 1);
    assert_eq!((rig.stat("copies"), rig.stat("copy_bytes")), (1, 0x3000));
}

#[test]
fn every_nth_launch_fails_from_where_it_is_armed() {
    let (mut rig, mut c) = kernel(Inject::default());
    let (_, push) = word(&mut rig);
    c.run(&rig, &push);
    rig.wait("the first", || done(&rig, &c) == PAYLOAD);
    rig.set(LAUNCH_ERROR_EVERY, 3);
    assert_eq!(rig.reg(LAUNCH_ERROR_EVERY), 3);
    for n in 2..=4 {
        assert_eq!(c.status(&rig) & 1 << 23, 0);
        rig.write32(c.sem.offset(DONE), 0);
        c.push(&rig, &push);
        if n < 4 {
            rig.wait("a copy", || done(&rig, &c) == PAYLOAD);
        }
    }
    dies(&rig, &c, 1 << 2, 4);
}

#[test]
fn what_makes_no_sense_stops_the_channel() {
    let pages = |rig: &mut Rig| (rig.page(Aperture::Vid), 1u64 << 40);
    type Case = fn(u64, u64) -> (Copy, u32, u32);
    let cases: [Case; 6] = [
        // No such memory, on either side.
        |vid, none| (Copy::new(none, vid, 8), PITCH | PHYSICAL, 1 << 2),
        |vid, none| (Copy::new(vid, none, 8), PITCH | PHYSICAL, 1 << 2),
        // Block-linear layouts are left out.
        |vid, _| (Copy::new(vid, vid, 8), 1 << 8 | PHYSICAL, 1 << 3),
        |vid, _| (Copy::new(vid, vid, 8), 1 << 7 | PHYSICAL, 1 << 3),
        // A transfer and a release that do not exist.
        |vid, _| (Copy::new(vid, vid, 8), PITCH | PHYSICAL | 3, 1 << 3),
        |vid, _| (Copy::new(vid, vid, 8), PITCH | PHYSICAL | 3 << 3, 1 << 3),
    ];
    for (n, case) in cases.into_iter().enumerate() {
        let (mut rig, mut c) = kernel(Inject::default());
        let (vid, none) = pages(&mut rig);
        let (copy, launch, status) = case(vid.addr, none);
        c.push(
            &rig,
            &copy.between(Aperture::Vid, Aperture::Vid, launch | RELEASE),
        );
        dies(&rig, &c, status, 1);
        assert_eq!(done(&rig, &c), 0, "case {n}");
        assert_eq!(rig.guest_errors(), u32::from(n < 2), "case {n}");
    }
}

#[test]
fn poison_comes_and_goes() {
    let (mut rig, mut c) = kernel(Inject::default());
    let mut fatal = Buffer::new(&mut rig, 0, 64);
    let vid = rig.pages(Aperture::Vid, 16, 1 << 16);
    let sys = rig.pages(Aperture::SysCoherent, 16, 1 << 16);
    let mut tables = Tables::new(&mut rig, &[Aperture::SysCoherent]);
    tables.map(&mut rig, 0x10_0000, &Page::new(vid, 16));
    let space = rig.space(0, tables.root);
    let bad = 0x10_0000 + 5 * 0x1000;
    let touch = |rig: &Rig, va, access| {
        let result = rig.engine.try_touch(&space, 0, va, access);
        result.map(drop).map_err(|f| f.ty)
    };
    assert_eq!(touch(&rig, bad, Access::Read), Ok(()));
    let page = (vid.addr >> 12) as u32 + 5;
    rig.set(POISON, 1 << 31 | page);
    assert_eq!(rig.reg(POISON), 1);
    for access in [Access::Read, Access::Write, Access::Atomic] {
        assert_eq!(touch(&rig, bad, access), Err(FaultType::Poison));
    }
    assert_eq!(touch(&rig, bad + 0x1000, Access::Read), Ok(()));
    // Virtual: a fault. Physical: a launch error, after the pages before.
    let data = fill(&rig, sys, 0x1_0000);
    c.host.map(&mut rig, 0x40_0000, &Page::new(vid, 16));
    let copy = Copy::new(sys.addr, 0x40_0000, 0x1_0000);
    let (from, to) = (Aperture::SysCoherent, Aperture::Vid);
    c.push(&rig, &copy.between(from, to, PITCH | SRC_PHYSICAL));
    rig.wait("the fault", || c.status(&rig) & 1 << 23 != 0);
    let packet = fatal.drain(&rig)[0];
    assert_eq!((packet.va, packet.ty), (0x40_5000, 0xe));
    rig.set(POISON, page);
    assert_eq!(rig.reg(POISON), 0);
    rig.set(0x80_0004 + 8 * c.chid, 1 << 23);
    run(&rig, &mut c, &[]);
    assert_eq!(bytes(&rig, vid, 0x1_0000), data);
    assert_eq!(touch(&rig, bad, Access::Read), Ok(()));
    rig.set(POISON, 1 << 31 | page);
    let copy = Copy::new(vid.addr, sys.addr, 0x1_0000);
    c.push(&rig, &copy.between(to, from, PITCH | PHYSICAL | RELEASE));
    dies(&rig, &c, 1 << 2, 2);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn removal_when_a_copy_begins() {
    let (mut rig, mut c) = kernel(Inject::default());
    let (dst, push) = word(&mut rig);
    rig.set(REMOVE_AT_COPY, 2);
    c.run(&rig, &push);
    rig.wait("the first copy", || done(&rig, &c) == PAYLOAD);
    assert!(!rig.device.removed());
    c.push(&rig, &push);
    rig.wait("removal", || rig.device.removed());
    assert_eq!(rig.reg(0), u32::MAX);
    rig.wait("device memory of ones", || rig.read(dst) == u64::MAX);
    rig.device.set_bus_master(true);
    assert_eq!(done(&rig, &c), PAYLOAD);
}

#[test]
fn removal_at_a_register_read() {
    let (rig, _) = kernel(Inject::default());
    rig.set(REMOVE_AT_READ, 3);
    assert_eq!(rig.reg(0), 0x1620_00a1);
    assert_eq!(rig.reg(REMOVE_AT_READ), 1);
    assert!(!rig.device.removed());
    assert_eq!(rig.reg(0), u32::MAX);
    assert!(rig.device.removed());
}

#[test]
fn injection_survives_a_reset() {
    let (rig, _) = kernel(Inject::default());
    rig.set(LAUNCH_ERROR_NEXT, 7);
    rig.set(COPY_DELAY, 9);
    rig.device.reset();
    assert_eq!((rig.reg(LAUNCH_ERROR_NEXT), rig.reg(COPY_DELAY)), (7, 9));
    rig.set(COPIES, 1);
    assert_eq!(rig.guest_errors(), 1, "read-only");
}
