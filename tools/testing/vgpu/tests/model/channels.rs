// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Channels, runlists, host methods, privilege.

use crate::common::driver::*;
use crate::common::machine::Buffer;
use crate::common::tables::{Page, Tables};
use crate::rig::Rig;
use rsvm_vgpu::config::{Config, MmuVersion};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[track_caller]
fn stops(rig: &Rig, channel: &Channel, error: [u32; 3]) {
    rig.wait("the channel to stop", || channel.status(rig) & 3 << 22 != 0);
    assert_eq!(channel.status(rig) >> 22 & 3, 1);
    assert_eq!(channel.error(rig), error);
}

/// A user channel on runlist 1.
fn user() -> (Rig, Channel) {
    let mut rig = Rig::v2();
    let (channel, _) = Channel::user(&mut rig, 8, 3);
    submit(&mut rig, 1, &[&channel]);
    (rig, channel)
}

#[test]
fn membar_and_semaphores() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        let mut rig = Rig::new(Config {
            mmu,
            ..Config::default()
        });
        let mut c = Channel::kernel(&mut rig);
        c.run(&rig, &mem_op(0, 0, 0, OP_MEMBAR));
        let at = |offset| c.sem.offset(offset);
        let (wide, red) = (at(0x100), at(0x200));
        let mut push = semaphore(SEM_VA + 0x100, 0x1122_3344_5566_7788, 1 | 1 << 24);
        // Reductions: ADD, then signed MAX with -1, which changes nothing.
        push.extend(semaphore(SEM_VA + 0x200, 40, 6 | 5 << 27));
        push.extend(semaphore(SEM_VA + 0x200, 2, 6 | 5 << 27));
        push.extend(semaphore(SEM_VA + 0x200, 0xffff_ffff, 6 | 1 << 27));
        // A release with timestamp: 16 bytes.
        push.extend(semaphore(SEM_VA + 0x300, 7, 1 | 1 << 25));
        let stamped = at(0x300);
        c.run(&rig, &push);
        assert_eq!(rig.read(wide), 0x1122_3344_5566_7788);
        assert_eq!(rig.read32(red), 42);
        assert_eq!(rig.read32(stamped), 7);
        assert_ne!(rig.read(stamped.offset(8)), 0);
        rig.wait("GP_GET", || c.get(&rig) == 2);
        assert_eq!(rig.guest_errors(), 0);
    }
}

#[test]
fn the_ring_wraps() {
    let mut rig = Rig::v2();
    let mut c = Channel::kernel(&mut rig);
    for _ in 0..3 * GP_ENTRIES {
        c.run(&rig, &[]);
    }
    // Many entries for one doorbell, and an empty one between.
    for i in 0..10 {
        c.queue(&rig, &release(SEM_VA + 0x40, i));
    }
    c.raw_entry(&rig, 0);
    c.run(&rig, &[]);
    assert_eq!(rig.read32(c.sem.offset(0x40)), 9);
}

#[test]
fn methods_are_decoded_in_every_form() {
    let (rig, mut c) = user();
    let bind = inc(2, SET_OBJECT, &[CLASS_COMPUTE]);
    let header = |op: u32, count: u32, method: u32| op << 29 | count << 16 | 2 << 13 | method >> 2;
    let mut push = bind;
    push.extend([header(1, 2, 0x200), 1, 2]);
    push.extend([header(3, 2, 0x208), 3, 4]);
    push.extend([header(5, 3, 0x210), 5, 6, 7]);
    push.extend([header(4, 0x1abc, 0x218), 0]);
    c.run(&rig, &push);
    let got: Vec<_> = rig
        .engine
        .methods
        .lock()
        .unwrap()
        .iter()
        .map(|m| (m.1, m.2))
        .collect();
    let want = [
        (0x200, 1),
        (0x204, 2),
        (0x208, 3),
        (0x208, 4),
        (0x210, 5),
        (0x214, 6),
        (0x214, 7),
        (0x218, 0x1abc),
    ];
    assert_eq!(got, want);
}

#[test]
fn a_busy_engine_stalls_its_channel_only() {
    let (mut rig, mut c) = user();
    let (mut other, _) = Channel::user(&mut rig, 9, 4);
    submit(&mut rig, 1, &[&c, &other]);
    rig.engine.busy.store(true, Ordering::SeqCst);
    let mut push = inc(1, SET_OBJECT, &[CLASS_COMPUTE]);
    push.extend(inc(1, 0x1000, &[1]));
    push.extend(release(SEM_VA, 5));
    c.push(&rig, &push);
    other.run(&rig, &[]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.read32(c.sem), 0);
    rig.engine.busy.store(false, Ordering::SeqCst);
    rig.core().kick_compute();
    rig.wait("the stalled method", || rig.read32(c.sem) == 5);
    assert_eq!(*rig.engine.methods.lock().unwrap(), [(8, 0x1000, 1)]);
}

#[test]
fn acquires_wait_for_the_cpu_and_for_other_channels() {
    let mut rig = Rig::v2();
    let mut kernel = Channel::kernel(&mut rig);
    let (mut c, _) = Channel::user(&mut rig, 9, 4);
    submit(&mut rig, 1, &[&c]);
    // Its own semaphore page, in the other channel's space, too.
    kernel.host.map(&mut rig, HOLE_VA, &Page::new(c.sem, 12));
    let mut push = semaphore(SEM_VA + 0x80, 3, 2 | 1 << 12);
    push.extend(release(SEM_VA + 0x84, 1));
    push.extend(semaphore(SEM_VA + 0x88, 1, 0));
    push.extend(release(SEM_VA + 0x8c, 1));
    c.push(&rig, &push);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.read32(c.sem.offset(0x84)), 0);
    assert_eq!(c.get(&rig), 0, "an entry is told when all of it is done");
    kernel.run(&rig, &release(HOLE_VA + 0x80, 4));
    rig.wait("the first acquire", || rig.read32(c.sem.offset(0x84)) == 1);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.read32(c.sem.offset(0x8c)), 0);
    rig.write32(c.sem.offset(0x88), 1);
    rig.wait("the second acquire", || rig.read32(c.sem.offset(0x8c)) == 1);
}

#[test]
fn an_acquire_can_time_out() {
    let mut rig = Rig::v2();
    let mut c = Channel::kernel(&mut rig);
    c.unbind(&rig);
    // 1 * 2^0 * 1024 ns.
    rig.write32(c.inst.offset(0x30), 1 << 31 | 1 << 15);
    c.bind(&rig);
    c.enable(&rig);
    submit(&mut rig, 0, &[&c]);
    c.push(&rig, &semaphore(SEM_VA, 3, 0));
    stops(&rig, &c, [6, 0x6c, 0]);
}

#[test]
fn privileged_methods_stop_a_user_channel() {
    for (methods, method) in [
        (mem_op(0, 0, 1, OP_INVALIDATE), 0x28),
        (inc(0, 0x34, &[OP_MEMBAR]), 0x34),
        (inc(0, CLEAR_FAULTED, &[1]), 0x84),
    ] {
        let (rig, mut c) = user();
        rig.set(0x2140, 1 << 29);
        let mut push = methods;
        push.extend(release(SEM_VA, 1));
        c.push(&rig, &push);
        stops(&rig, &c, [2, method, 0]);
        assert_eq!(rig.reg(0x2100), 1 << 29);
        assert_eq!(rig.reg(0xb8_1010), 1 << 8, "vector 136");
        assert_eq!(*rig.engine.killed.lock().unwrap(), [3]);
        // Neither a doorbell nor the status bits bring it back.
        rig.set(0x80_0004 + 8 * 8, 1 << 22 | 1 << 10);
        c.push(&rig, &release(SEM_VA, 2));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(rig.read32(c.sem), 0);
        assert_eq!(
            rig.guest_errors(),
            0,
            "a user's mistake is not the driver's"
        );
    }
}

#[test]
fn bad_methods_classes_and_entries_stop() {
    let compute = inc(1, SET_OBJECT, &[CLASS_COMPUTE]);
    let bad_value: Vec<u32> = compute.into_iter().chain(inc(1, 0x1ffc, &[0])).collect();
    for (push, error) in [
        (inc(0, 0x88, &[0]), [1, 0x88, 0]),
        (inc(1, SET_OBJECT, &[CLASS_COPY]), [1, 0, 0]),
        (inc(1, 0x200, &[0]), [1, 0x200, 0]),
        (bad_value, [1, 0x1ffc, 0]),
        // A header with an operation that does not exist.
        (vec![2 << 29 | 1 << 16 | 0x50], [1, 0x140, 0]),
        // A semaphore beyond 40 bits, and one misaligned.
        (release(1 << 40, 1), [1, 0x6c, 0]),
        (release(SEM_VA + 2, 1), [1, 0x6c, 0]),
    ] {
        let (rig, mut c) = user();
        c.push(&rig, &push);
        stops(&rig, &c, error);
    }
    let (rig, mut c) = user();
    c.raw_entry(&rig, PUSH_VA | 1 | 1 << 42);
    stops(&rig, &c, [3, PUSH_VA as u32 | 1, 1 << 10]);
}

#[test]
fn gp_put_beyond_the_ring() {
    let (rig, c) = user();
    let userd = rig.read32(c.inst.offset(8)) & !0x1ff;
    let at = PhysAddr::new(Aperture::SysCoherent, 1 << 32 | u64::from(userd));
    rig.write32(at.offset(0x8c), GP_ENTRIES as u32);
    rig.set(0xbb_0090, 1 << 16 | 8);
    stops(&rig, &c, [3, GP_ENTRIES as u32, 0]);
}

#[test]
fn a_channel_runs_again_after_it_was_unbound() {
    let (mut rig, mut c) = user();
    c.push(&rig, &inc(0, 0x88, &[0]));
    stops(&rig, &c, [1, 0x88, 0]);
    c.disable(&rig);
    preempt(&rig, 8);
    rig.wait("preempt", || !preempting(&rig));
    submit(&mut rig, 1, &[]);
    c.unbind(&rig);
    assert_eq!(c.status(&rig), 0);
    let (mut c, _) = Channel::user(&mut rig, 8, 3);
    submit(&mut rig, 1, &[&c]);
    c.run(&rig, &[]);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn host_faults_wait_for_clear_faulted() {
    let mut rig = Rig::v2();
    let mut buffer = Buffer::new(&mut rig, 0, 64);
    let mut kernel = Channel::kernel(&mut rig);
    let (mut c, _) = Channel::user(&mut rig, 9, 4);
    submit(&mut rig, 1, &[&c]);
    let mut push = release(HOLE_VA + 8, 5);
    push.extend(release(SEM_VA, 5));
    c.push(&rig, &push);
    rig.wait("the fault", || c.status(&rig) & 1 << 22 != 0);
    let packets = buffer.drain(&rig);
    assert_eq!(packets.len(), 1);
    let p = packets[0];
    assert_eq!((p.va, p.engine, p.ty, p.access), (HOLE_VA, 33, 2, 1));
    assert!(p.hub && p.client == 6 && !p.replayable && p.inst == c.inst.addr);
    assert_eq!(rig.read32(c.sem), 0);
    let hole = rig.sys();
    c.host.map(&mut rig, HOLE_VA, &Page::new(hole, 12));
    let mut serve = invalidate_range(c.host.root, HOLE_VA, 12, 0, 0);
    serve.extend(inc(0, CLEAR_FAULTED, &[c.chid]));
    kernel.run(&rig, &serve);
    rig.wait("the release", || rig.read32(c.sem) == 5);
    assert_eq!(rig.read32(hole.offset(8)), 5);
    assert_eq!(c.status(&rig) & 3 << 22, 0);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn clear_faulted_gives_up() {
    let mut rig = Rig::v2();
    let mut kernel = Channel::kernel(&mut rig);
    kernel.run(&rig, &inc(0, CLEAR_FAULTED, &[77]));
    assert_eq!(rig.reg(0x2a14), 1 << 31 | 77);
}

#[test]
fn channels_outside_a_tsg() {
    let mut rig = Rig::v2();
    rig.set(0x2140, 1 << 8);
    let (c, _) = Channel::user(&mut rig, 9, 4);
    let list = rig.sys();
    rig.write32(list.offset(8), c.inst.addr as u32 | c.chid);
    submit_raw(&rig, 1, list, 1);
    rig.wait("sched error", || rig.reg(0x2100) == 1 << 8);
    assert_eq!(rig.reg(0x254c), 0x20);
    rig.set(0x2100, 1 << 8);
    assert_eq!(rig.reg(0x2100), 0);
}

#[test]
fn runlist_mistakes_are_guest_errors() {
    let mut rig = Rig::v2();
    let (a, mirror) = Channel::user(&mut rig, 8, 3);
    submit(&mut rig, 1, &[&a]);
    rig.wait("resident", || a.status(&rig) >> 24 & 0xf != 0);
    // Gone from the runlist while it runs.
    submit(&mut rig, 1, &[]);
    assert_eq!(rig.guest_errors(), 1);
    // The same VEID twice.
    let b = Channel::new(&mut rig, 9, 1, 3, USER, mirror.root);
    b.enable(&rig);
    submit(&mut rig, 1, &[&a, &b]);
    rig.wait("the clash", || rig.guest_errors() > 1);
}

#[test]
fn a_bad_instance_block_is_a_bind_error() {
    let mut rig = Rig::v2();
    for (offset, value) in [
        (0x10, 0xfacf),
        (0xfc, 0),
        (0x298, 0),
        (0x200, 2),
        (0x21c, 1 << 31),
    ] {
        let before = rig.guest_errors();
        let mirror = Tables::new(&mut rig, &[Aperture::Vid]);
        let c = Channel::new(&mut rig, 8, 1, 3, USER, mirror.root);
        rig.write32(c.inst.offset(offset), value);
        c.enable(&rig);
        submit(&mut rig, 1, &[&c]);
        rig.wait("bind error", || rig.reg(0x2100) & 1 != 0);
        rig.wait("guest error", || rig.guest_errors() == before + 1);
        rig.set(0x2100, 1);
        c.disable(&rig);
        submit(&mut rig, 1, &[]);
        c.unbind(&rig);
    }
}

#[test]
fn disabled_channels_and_runlists_do_not_run() {
    let mut rig = Rig::v2();
    let mut c = Channel::kernel(&mut rig);
    c.disable(&rig);
    c.push(&rig, &release(SEM_VA, 1));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.read32(c.sem), 0);
    rig.set(0x2630, 1);
    c.enable(&rig);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.read32(c.sem), 0);
    rig.set(0x2630, 0);
    rig.wait("release", || rig.read32(c.sem) == 1);
    rig.set(0x2638, 1);
    rig.wait("runlist preempt", || rig.reg(0x2638) == 0);
    c.run(&rig, &[]);
}

#[test]
fn doorbells_have_to_be_enabled() {
    let mut rig = Rig::v2();
    let mut c = Channel::kernel(&mut rig);
    rig.set(0xb6_5000, 0);
    c.push(&rig, &release(SEM_VA, 1));
    assert_eq!(rig.guest_errors(), 1);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.read32(c.sem), 0);
    rig.set(0xb6_5000, 1 << 31);
    c.ring_doorbell(&rig);
    rig.wait("release", || rig.read32(c.sem) == 1);
}

#[test]
fn non_stall_interrupts() {
    let (rig, mut c) = user();
    rig.set(0xb8_1200, 1);
    rig.set(0xb8_1608, 1);
    c.run(&rig, &inc(0, NON_STALL_INTERRUPT, &[0]));
    assert_eq!(rig.reg(0xb8_1000), 1);
    assert_eq!(rig.messages.0[0].load(Ordering::SeqCst), 1);
}
