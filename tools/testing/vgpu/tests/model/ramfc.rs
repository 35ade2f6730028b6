// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a channel that is off the engine has in its instance block.

use crate::common::driver::*;
use crate::common::machine::Buffer;
use crate::rig::Rig;
use rsvm_vgpu::engine::ComputeEngine;
use std::sync::atomic::Ordering;

const A: u64 = 0x80;
const B: u64 = 0x84;
const GATE: u64 = 0x88;

/// The fields, by RAMFC offset.
fn saved(rig: &Rig, c: &Channel) -> [u32; 6] {
    [0x00, 0x14, 0x18, 0x5c, 0x84, 0x88].map(|offset| rig.read32(c.inst.offset(offset)))
}

/// Takes the channel off its engine between two turns of its PBDMA.
fn off(rig: &Rig, c: &Channel) {
    rig.set(0x2630, 1 << c.runlist);
    preempt(rig, c.chid);
    rig.wait("the preempt", || !preempting(rig));
}

fn on(rig: &Rig) {
    rig.set(0x2630, 0);
}

/// A channel preempted while an acquire in the middle of its second entry waits.
fn preempted(runlist: u32) -> (Rig, Channel) {
    let mut rig = Rig::v2();
    let mut c = match runlist {
        0 => Channel::kernel(&mut rig),
        _ => {
            let (c, _) = Channel::user(&mut rig, 8, 3);
            submit(&mut rig, 1, &[&c]);
            c
        }
    };
    c.run(&rig, &[]);
    let mut push = release(SEM_VA + A, 1);
    push.extend(semaphore(SEM_VA + GATE, 1, 0));
    push.extend(release(SEM_VA + B, 1));
    c.push(&rig, &push);
    rig.wait("the first release", || rig.read32(c.sem.offset(A)) == 1);
    off(&rig, &c);
    (rig, c)
}

/// Dwords of a semaphore operation, header included.
const OP: u32 = 6;

#[test]
fn a_preempt_writes_the_position_and_a_resume_goes_on_there() {
    for runlist in [0, 1] {
        let (rig, c) = preempted(runlist);
        // The first entry had one operation. The acquire's last dword is next.
        let start = PUSH_VA as u32 + OP * 4;
        let next = start + (2 * OP - 1) * 4;
        let header = 1 << 29 | 0x6c;
        assert_eq!(
            saved(&rig, &c),
            [2, 2, next, start + 3 * OP * 4, header, 1],
            "runlist {runlist}"
        );
        assert_eq!(c.get(&rig), 1, "the entry is not done");
        rig.write32(c.sem.offset(GATE), 1);
        on(&rig);
        rig.wait("the rest", || rig.read32(c.sem.offset(B)) == 1);
        rig.wait("GP_GET", || c.get(&rig) == 2);
    }
}

#[test]
fn a_resume_goes_on_where_the_driver_says() {
    let (rig, mut c) = preempted(0);
    // Over what is left, to an entry that is put behind.
    let end = rig.read32(c.inst.offset(0x5c));
    rig.write32(c.inst.offset(0x18), end);
    rig.write32(c.inst.offset(0x88), 0);
    on(&rig);
    c.run(&rig, &[]);
    assert_eq!(rig.read32(c.sem.offset(B)), 0, "skipped");
    assert_eq!(rig.guest_errors(), 0);
    // A position that cannot be stops the channel.
    off(&rig, &c);
    rig.write32(c.inst.offset(0x14), GP_ENTRIES as u32);
    on(&rig);
    rig.wait("the channel to stop", || c.status(&rig) & 1 << 22 != 0);
    assert_eq!(c.error(&rig), [3, GP_ENTRIES as u32, 0]);
}

/// Every kind of header, cut in the middle of its data, by a method that waits.
#[test]
fn headers_survive_in_every_form() {
    for (op, count, left) in [(1u32, 3u32, 2), (3, 3, 2), (5, 3, 2), (4, 0x55, 0)] {
        let mut rig = Rig::v2();
        let (mut c, _) = Channel::user(&mut rig, 8, 3);
        submit(&mut rig, 1, &[&c]);
        rig.engine.busy.store(true, Ordering::SeqCst);
        let mut push = inc(2, SET_OBJECT, &[CLASS_COMPUTE]);
        // The second datum meets a method that the engine is busy for.
        let first = if op == 1 || op == 5 { 0xffc } else { 0x1000 };
        push.push(op << 29 | count << 16 | 2 << 13 | first >> 2);
        if op != 4 {
            push.extend([11, 12, 13]);
        }
        c.push(&rig, &push);
        rig.wait("the method that waits", || {
            rig.engine.refused.load(Ordering::SeqCst) != 0
        });
        off(&rig, &c);
        let count = if op == 3 { left + 1 } else { left };
        assert_eq!(saved(&rig, &c)[5], count, "op {op}");
        rig.engine.busy.store(false, Ordering::SeqCst);
        rig.engine.resume(3);
        on(&rig);
        c.run(&rig, &[]);
        let got: Vec<_> = rig
            .engine
            .methods
            .lock()
            .unwrap()
            .iter()
            .map(|m| (m.1, m.2))
            .collect();
        let want: &[(u32, u32)] = match op {
            1 => &[(0xffc, 11), (0x1000, 12), (0x1004, 13)],
            3 => &[(0x1000, 11), (0x1000, 12), (0x1000, 13)],
            5 => &[(0xffc, 11), (0x1000, 12), (0x1000, 13)],
            _ => &[(0x1000, 0x55)],
        };
        assert_eq!(got, want, "op {op}");
    }
}

/// A PBDMA fault in the middle of an entry, as well.
#[test]
fn a_faulted_channel_is_saved_at_its_fault() {
    let mut rig = Rig::v2();
    let _buffer = Buffer::new(&mut rig, 0, 64);
    let mut c = Channel::kernel(&mut rig);
    c.push(&rig, &release(HOLE_VA, 1));
    rig.wait("the fault", || c.status(&rig) & 1 << 22 != 0);
    off(&rig, &c);
    let next = PUSH_VA as u32 + (OP - 1) * 4;
    assert_eq!(saved(&rig, &c)[2], next);
    // Given up: the channel goes on behind it.
    rig.write32(c.inst.offset(0x18), next + 4);
    rig.write32(c.inst.offset(0x88), 0);
    rig.set(0x80_0004 + 8 * c.chid, 1 << 22);
    on(&rig);
    c.run(&rig, &[]);
    assert_eq!(rig.guest_errors(), 0);
}
