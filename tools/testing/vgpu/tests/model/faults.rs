// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Fault buffers, replay and cancel.

use crate::common::driver::{cancel, invalidate_range, preempt, preempting, submit, Channel};
use crate::common::machine::{Buffer, Packet};
use crate::common::tables::{Page, Tables};
use crate::rig::Rig;
use rsvm_vgpu::config::{Config, Inject, MmuVersion};
use rsvm_vgpu::mem::Aperture;
use rsvm_vgpu::mmu::Access;
use std::time::Duration;

const VA: u64 = 0x5555_1234_5000;

fn space_of(rig: &mut Rig) -> Tables {
    Tables::new(rig, &[Aperture::SysCoherent])
}

#[test]
fn a_packet_tells_everything() {
    for (mmu, engine) in [(MmuVersion::V2, 64 + 3), (MmuVersion::V3, 384 + 3)] {
        let mut rig = Rig::new(Config {
            mmu,
            ..Config::default()
        });
        let mut buffer = Buffer::new(&mut rig, 1, 64);
        rig.set(0xb8_1200 + 4 * 2, 1);
        rig.set(0xb8_1608, 1 << 1);
        let tables = space_of(&mut rig);
        let ctx = rig.ctx(5, 3, tables.root);
        rig.engine.touch(&ctx, 2, VA + 0x18, Access::Write);
        rig.engine.touch(&ctx, 2, VA + 0x2000, Access::Fetch);
        rig.engine.touch(&ctx, 2, VA + 0x3000, Access::Atomic);
        let first = Packet {
            inst: ctx.space.inst.addr,
            va: VA,
            engine,
            ty: 0,
            replayable: true,
            client: 2,
            access: 1,
            hub: false,
            gpc: 0,
        };
        let packets = buffer.drain(&rig);
        assert_eq!(packets[0], first);
        assert_eq!(
            packets[1],
            Packet {
                va: VA + 0x2000,
                client: 0x11,
                access: 0,
                ..first
            }
        );
        assert_eq!(
            packets[2],
            Packet {
                va: VA + 0x3000,
                access: 2,
                ..first
            }
        );
        assert_eq!(packets.len(), 3);
        // One pulse, when the buffer became not empty.
        assert_eq!(
            rig.messages.0[1].load(std::sync::atomic::Ordering::SeqCst),
            1
        );
        assert_eq!(rig.reg(0xb8_1008), 1);
        assert_eq!(rig.reg(0xb8_1600), 1 << 1);
    }
}

#[test]
fn get_that_leaves_packets_pulses_again() {
    let mut rig = Rig::v2();
    let buffer = Buffer::new(&mut rig, 1, 64);
    let tables = space_of(&mut rig);
    let ctx = rig.ctx(5, 0, tables.root);
    for i in 0..3 {
        rig.engine.touch(&ctx, 0, VA + i * 0x1000, Access::Read);
    }
    rig.set(0xb8_1008, 1);
    rig.set(0xb8_3028, 1);
    assert_eq!(rig.reg(0xb8_1008), 1);
    rig.set(0xb8_1008, 1);
    rig.set(0xb8_3028, buffer.put(&rig));
    assert_eq!(rig.reg(0xb8_1008), 0);
}

#[test]
fn overflow_and_recovery() {
    let mut rig = Rig::v2();
    let mut channel = Channel::kernel(&mut rig);
    let mut buffer = Buffer::new(&mut rig, 1, 8);
    let mut tables = space_of(&mut rig);
    let ctx = rig.ctx(5, 0, tables.root);
    let pages: Vec<u64> = (0..20).map(|i| VA + i * 0x1000).collect();
    for &va in &pages {
        rig.engine.touch(&ctx, 0, va, Access::Read);
    }
    assert_eq!(buffer.put(&rig), 7 | 1 << 31, "one less than its size");
    assert_eq!(rig.reg(0xb8_1010) & 1 << 3, 1 << 3, "error vector 131");
    assert_eq!(rig.reg(0xb8_3094), 1 << 8 | 1 << 10 | 1 << 12);
    let mut served = 0;
    while rig.engine.parked_count() > 0 {
        let packets = buffer.drain(&rig);
        if buffer.put(&rig) >> 31 == 1 {
            buffer.clear_overflow(&rig);
        }
        assert!(!packets.is_empty() && packets.len() < 8);
        served += 1;
        for p in packets {
            let page = rig.sys();
            tables.map(&mut rig, p.va, &Page::new(page, 12));
        }
        // Level 0 throws invalid directories away, too; then replay.
        channel.run(&rig, &invalidate_range(tables.root, VA, 21, 0, 1));
    }
    assert!(served >= 3);
    let mut replayed = rig.engine.replayed.lock().unwrap().clone();
    replayed.sort_unstable();
    assert_eq!(replayed, pages);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn a_smaller_buffer_than_asked_for() {
    let inject = Inject {
        fault_buffer_entries: Some(4),
        ..Inject::default()
    };
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let mut buffer = Buffer::new(&mut rig, 1, 64);
    let tables = space_of(&mut rig);
    let ctx = rig.ctx(5, 0, tables.root);
    for i in 0..6 {
        rig.engine.touch(&ctx, 0, VA + i * 0x1000, Access::Read);
    }
    assert_eq!(buffer.drain(&rig).len(), 3);
    assert_eq!(buffer.put(&rig) >> 31, 1);
}

#[test]
fn valid_comes_out_of_order() {
    let inject = Inject {
        out_of_order_every: 2,
        out_of_order_delay: Duration::from_millis(30),
        seed: 7,
        ..Inject::default()
    };
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let mut buffer = Buffer::new(&mut rig, 1, 256);
    let tables = space_of(&mut rig);
    let ctx = rig.ctx(5, 0, tables.root);
    let mut gaps = 0;
    for i in 0..64u32 {
        rig.engine
            .touch(&ctx, 0, VA + u64::from(i) * 0x1000, Access::Read);
        gaps += u32::from(!buffer.valid(&rig, i));
    }
    assert!(gaps > 5, "{gaps} packets were late");
    // All become valid, in place, the last ones by time alone.
    let vas: Vec<u64> = buffer.drain(&rig).iter().map(|p| p.va).collect();
    assert_eq!(vas, (0..64).map(|i| VA + i * 0x1000).collect::<Vec<_>>());
}

#[test]
fn duplicates() {
    let inject = Inject {
        duplicate_every: 1,
        ..Inject::default()
    };
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let mut buffer = Buffer::new(&mut rig, 1, 64);
    let tables = space_of(&mut rig);
    let ctx = rig.ctx(5, 0, tables.root);
    rig.engine.touch(&ctx, 0, VA, Access::Read);
    let packets = buffer.drain(&rig);
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[0], packets[1]);
}

#[test]
fn replay_is_global_and_refaults_are_there_when_it_is_acknowledged() {
    let mut rig = Rig::v2();
    let mut channel = Channel::kernel(&mut rig);
    let mut buffer = Buffer::new(&mut rig, 1, 64);
    let (mut a, b) = (space_of(&mut rig), space_of(&mut rig));
    let (ctx_a, ctx_b) = (rig.ctx(5, 0, a.root), rig.ctx(6, 1, b.root));
    rig.engine.touch(&ctx_a, 0, VA, Access::Read);
    rig.engine.touch(&ctx_b, 1, VA, Access::Read);
    assert_eq!(buffer.drain(&rig).len(), 2);
    let page = rig.sys();
    a.map(&mut rig, VA, &Page::new(page, 12));
    channel.run(&rig, &invalidate_range(a.root, VA, 12, 0, 2));
    let again = buffer.drain(&rig);
    assert_eq!(again.len(), 1, "the other space's fault came again");
    assert_eq!(again[0].engine, 65);
    assert_eq!(rig.engine.parked_count(), 1);
}

#[test]
fn replay_without_invalidate_hits_the_negative_entry() {
    let mut rig = Rig::v2();
    let mut channel = Channel::kernel(&mut rig);
    let mut buffer = Buffer::new(&mut rig, 1, 64);
    let mut tables = space_of(&mut rig);
    let ctx = rig.ctx(5, 0, tables.root);
    rig.engine.touch(&ctx, 0, VA, Access::Read);
    let page = rig.sys();
    tables.map(&mut rig, VA, &Page::new(page, 12));
    // A replay that throws away PTEs of page directory 0 only.
    let dummy = rsvm_vgpu::mem::PhysAddr::new(Aperture::Vid, 0);
    channel.run(&rig, &invalidate_range(dummy, 0, 12, 1, 2));
    assert_eq!(rig.engine.parked_count(), 1);
    assert_eq!(buffer.drain(&rig).len(), 2);
    channel.run(&rig, &invalidate_range(tables.root, VA, 12, 0, 2));
    assert_eq!(rig.engine.parked_count(), 0);
    assert_eq!(rig.stale_hits(), 0);
}

#[test]
fn cancel_hits_one_veid_of_two_on_the_same_page() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        let mut rig = Rig::new(Config {
            mmu,
            ..Config::default()
        });
        let mut kernel = Channel::kernel(&mut rig);
        let mut replayable = Buffer::new(&mut rig, 1, 64);
        let mut non_replayable = Buffer::new(&mut rig, 0, 64);
        let (a, tables) = Channel::user(&mut rig, 8, 10);
        // The second queue of the same space, with the same page directory.
        let b = Channel::new(&mut rig, 9, 1, 11, crate::common::driver::USER, tables.root);
        b.enable(&rig);
        submit(&mut rig, 1, &[&a, &b]);
        rig.engine.touch(&a.ctx(&rig), 0, VA, Access::Write);
        rig.engine.touch(&b.ctx(&rig), 0, VA, Access::Write);
        assert_eq!(replayable.drain(&rig).len(), 2);
        // Reads only: matches nothing, replays both.
        kernel.run(&rig, &cancel(&rig, tables.root, VA, 11, 0));
        assert_eq!(replayable.drain(&rig).len(), 2);
        assert_eq!(rig.engine.parked_count(), 2);
        kernel.run(&rig, &cancel(&rig, tables.root, VA, 11, 7));
        assert_eq!(rig.engine.parked_count(), 1);
        let died = non_replayable.drain(&rig);
        assert_eq!(died.len(), 1);
        assert!(!died[0].replayable && died[0].va == VA && died[0].engine & 0x3f == 11);
        assert_eq!(b.status(&rig) >> 22 & 3, 2, "engine faulted");
        assert_eq!(b.error(&rig), [5, VA as u32, (VA >> 32) as u32]);
        assert_eq!(a.status(&rig) >> 22 & 3, 0);
        assert_eq!(rig.reg(0x2100), 1 << 29);
        assert_eq!(rig.guest_errors(), 0);
    }
}

#[test]
fn preempt_waits_for_the_outstanding_fault_until_it_is_cancelled() {
    let mut rig = Rig::v2();
    let mut kernel = Channel::kernel(&mut rig);
    let (user, tables) = Channel::user(&mut rig, 8, 4);
    submit(&mut rig, 1, &[&user]);
    // The PBDMA has loaded it.
    rig.wait("channel on its PBDMA", || {
        user.status(&rig) >> 24 & 0xf != 0
    });
    rig.engine.touch(&user.ctx(&rig), 0, VA, Access::Read);
    user.disable(&rig);
    preempt(&rig, user.chid);
    std::thread::sleep(Duration::from_millis(50));
    assert!(preempting(&rig), "a fault is outstanding");
    kernel.run(&rig, &cancel(&rig, tables.root, VA, 4, 7));
    rig.wait("preempt", || !preempting(&rig));
    submit(&mut rig, 1, &[]);
    user.unbind(&rig);
    assert_eq!(*rig.engine.killed.lock().unwrap(), [4]);
    assert_eq!(rig.guest_errors(), 0);
}

/// Off the runlist first and preempted then: it must not be forgotten.
#[test]
fn preempt_waits_for_a_tsg_that_left_the_runlist() {
    let mut rig = Rig::v2();
    let mut kernel = Channel::kernel(&mut rig);
    let (user, tables) = Channel::user(&mut rig, 8, 4);
    submit(&mut rig, 1, &[&user]);
    rig.wait("channel on its PBDMA", || {
        user.status(&rig) >> 24 & 0xf != 0
    });
    rig.engine.touch(&user.ctx(&rig), 0, VA, Access::Read);
    user.disable(&rig);
    submit(&mut rig, 1, &[]);
    preempt(&rig, user.chid);
    std::thread::sleep(Duration::from_millis(30));
    assert!(preempting(&rig), "a fault is outstanding");
    kernel.run(&rig, &cancel(&rig, tables.root, VA, 4, 7));
    rig.wait("preempt", || !preempting(&rig));
    user.unbind(&rig);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn a_fault_that_nobody_buffers_shows_in_the_snapshot() {
    let mut rig = Rig::v2();
    let tables = space_of(&mut rig);
    let ctx = rig.ctx(5, 2, tables.root);
    rig.engine.touch(&ctx, 0, VA, Access::Write);
    assert_eq!(rig.reg(0xb8_3094), 1 << 31);
    assert_eq!(rig.reg(0xb8_3080), VA as u32);
    assert_eq!(rig.reg(0xb8_3084), (VA >> 32) as u32);
    assert_eq!(rig.reg(0xb8_3088) & 0x1ff, 66);
    assert_eq!(rig.reg(0xb8_1010), 1 << 6, "vector 134");
    rig.set(0xb8_3094, 1 << 31);
    assert_eq!(rig.reg(0xb8_3094), 0);
    // It was not lost: replay brings it back, now into the buffer.
    let mut buffer = Buffer::new(&mut rig, 1, 64);
    rig.set(0xb8_30b0, 1 << 31 | 1 << 7 | 1 << 3 | 3);
    rig.wait("replay", || rig.reg(0xb8_30b0) >> 31 == 0);
    assert_eq!(buffer.drain(&rig).len(), 1);
}

#[test]
fn prefetches_can_be_filtered() {
    let mut rig = Rig::v2();
    let mut buffer = Buffer::new(&mut rig, 1, 64);
    let tables = space_of(&mut rig);
    let ctx = rig.ctx(5, 0, tables.root);
    rig.engine.touch(&ctx, 0, VA, Access::Prefetch);
    assert_eq!(buffer.drain(&rig)[0].access, 3);
    rig.set(0xb8_3070, 3);
    rig.engine.touch(&ctx, 0, VA, Access::Prefetch);
    assert!(buffer.drain(&rig).is_empty());
}

#[test]
fn poisoned_memory_faults_for_good() {
    let inject = Inject {
        poison: vec![0x30_0000],
        ..Inject::default()
    };
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let mut buffer = Buffer::new(&mut rig, 1, 64);
    let mut tables = space_of(&mut rig);
    let at = |addr| rsvm_vgpu::mem::PhysAddr::new(Aperture::Vid, addr);
    tables.map(&mut rig, VA, &Page::new(at(0x30_0000), 12));
    tables.map(&mut rig, VA + 0x1000, &Page::new(at(0x30_1000), 12));
    let ctx = rig.ctx(5, 0, tables.root);
    assert!(rig
        .engine
        .touch(&ctx, 0, VA + 0x1000, Access::Read)
        .is_some());
    assert!(rig.engine.touch(&ctx, 0, VA, Access::Read).is_none());
    assert_eq!(buffer.drain(&rig)[0].ty, 0xe);
}
