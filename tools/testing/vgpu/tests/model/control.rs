// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Reset, removal, DMA maps, identity, the interrupt tree.

use crate::common::driver::{release, submit, Channel, SEM_VA};
use crate::common::machine::{Buffer, RAM_AT, RAM_BYTES};
use crate::common::tables::{Page, Tables};
use crate::rig::Rig;
use rsvm_vgpu::config::{Config, Inject, MmuVersion};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use rsvm_vgpu::mmu::{Access, FaultType};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn identity() {
    for (mmu, boot) in [(MmuVersion::V2, 0x1620_00a1), (MmuVersion::V3, 0x1800_00a1)] {
        let rig = Rig::new(Config {
            mmu,
            ..Config::default()
        });
        assert_eq!(rig.reg(0), boot);
        assert_eq!(rig.reg(0x10_0ce0), 1 << 4 | 6);
        assert_eq!(rig.reg(0xf0_0000), 1024);
        assert_eq!(rig.reg(0xf0_0004), 64);
        assert_eq!(rig.guest_errors(), 0);
        assert_eq!(rig.reg(0x12_3450), 0xbadf_0000);
        rig.set(0x12_3450, 1);
        assert_eq!(rig.guest_errors(), 2);
    }
}

#[test]
fn interrupt_tree() {
    let rig = Rig::v2();
    let sent = || rig.messages.0[2].load(Ordering::SeqCst);
    // Vector 130: leaf 4, bit 2, subtree 2.
    rig.set(0xb8_1640, 130);
    assert_eq!((rig.reg(0xb8_1010), rig.reg(0xb8_1600), sent()), (4, 0, 0));
    rig.set(0xb8_1210, 4);
    assert_eq!((rig.reg(0xb8_1600), sent()), (4, 0));
    // The last of the three sends.
    rig.set(0xb8_1608, 4);
    assert_eq!(sent(), 1);
    // Set already: nothing new.
    rig.set(0xb8_1640, 130);
    assert_eq!(sent(), 1);
    rig.set(0xb8_1010, 4);
    rig.set(0xb8_1640, 130);
    assert_eq!(sent(), 2);
    // Masked at the top, then let through again.
    rig.set(0xb8_1610, 4);
    rig.set(0xb8_1608, 4);
    assert_eq!(sent(), 3);
    rig.set(0xb8_1410, 4);
    assert_eq!(rig.reg(0xb8_1600), 0);
    rig.set(0xb8_1210, 4);
    assert_eq!(sent(), 4);
}

#[test]
fn reset_forgets_everything_but_memory() {
    let mut rig = Rig::v2();
    let mut c = Channel::kernel(&mut rig);
    let _buffer = Buffer::new(&mut rig, 1, 64);
    c.run(&rig, &[]);
    rig.set(0xb8_1640, 130);
    let vid = rig.page(Aperture::Vid);
    rig.write(vid, 3);
    rig.set(0xf0_001c, 1);
    assert_eq!(rig.reg(0xb8_1010), 0);
    assert_eq!(rig.reg(0xb8_3030), 0);
    assert_eq!(c.status(&rig), 0);
    assert_eq!(rig.read(vid), 3);
    // It can be set up again.
    let mut c = Channel::kernel(&mut rig);
    c.run(&rig, &[]);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn removal_reads_as_ones() {
    let inject = Inject {
        remove_at_doorbell: 2,
        ..Inject::default()
    };
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let mut c = Channel::kernel(&mut rig);
    c.run(&rig, &[]);
    assert!(!rig.device.removed());
    c.push(&rig, &release(SEM_VA + 8, 1));
    assert!(rig.device.removed());
    assert_eq!(rig.reg(0), u32::MAX);
    let mut word = [0; 4];
    rig.device.vram_read(0, &mut word);
    assert_eq!(word, [0xff; 4]);
    // What the VMM has mapped, too.
    let last = PhysAddr::new(Aperture::Vid, (64 << 20) - 8);
    rig.wait("device memory of ones", || rig.read(last) == u64::MAX);
    rig.device.reset();
    rig.device.dma_unmap_all();
}

#[test]
fn removal_at_a_fault() {
    let inject = Inject {
        remove_at_fault: 2,
        ..Inject::default()
    };
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let tables = Tables::new(&mut rig, &[Aperture::Vid]);
    let ctx = rig.ctx(5, 0, tables.root);
    rig.engine.touch(&ctx, 0, 0x1000, Access::Read);
    assert!(!rig.device.removed());
    rig.engine.touch(&ctx, 0, 0x1000, Access::Read);
    assert!(rig.device.removed());
}

#[test]
fn bus_master_off_cuts_everything_off() {
    let mut rig = Rig::v2();
    let mut tables = Tables::new(&mut rig, &[Aperture::Vid]);
    let page = rig.sys();
    tables.map(&mut rig, 0x1000, &Page::new(page, 12));
    let space = rig.space(0, tables.root);
    let load = |rig: &Rig| rig.engine.try_touch(&space, 0, 0x1000, Access::Read);
    assert!(load(&rig).is_ok());
    rig.device.set_bus_master(false);
    assert_eq!(load(&rig).map_err(|f| f.ty), Err(FaultType::Region));
    rig.device.set_bus_master(true);
    assert!(load(&rig).is_ok(), "the TLB entry is as it was");
}

/// Memory goes away only after the last access to it.
#[test]
fn unmap_waits_for_accesses() {
    let mut rig = Rig::v2();
    let mut tables = Tables::new(&mut rig, &[Aperture::Vid]);
    let page = rig.sys();
    tables.map(&mut rig, 0x1000, &Page::new(page, 12));
    let space = rig.space(0, tables.root);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guard = rig.engine.utlbs[1].enter();
        let found = guard.translate(&space, 0x1000, Access::Write).unwrap();
        scope.spawn(|| {
            rig.device.dma_unmap(RAM_AT, RAM_BYTES);
            done.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!done.load(Ordering::SeqCst));
        found.ptr.store(8, 1);
        drop(guard);
    });
    assert!(done.load(Ordering::SeqCst));
    assert!(rig
        .engine
        .try_touch(&space, 1, 0x1000, Access::Read)
        .is_err());
    // Idle holders gave the old map up as well, and it can be mapped again.
    rig.device
        .dma_map(RAM_AT, RAM_BYTES, &rig.ram, 0, true)
        .unwrap();
    assert_eq!(rig.read(page), 1);
}

#[test]
fn dma_maps_are_checked() {
    let rig = Rig::v2();
    let map = |iova, len| rig.device.dma_map(iova, len, &rig.ram, 0, true);
    assert!(map(RAM_AT + 0x1000, 0x1000).is_err(), "overlap");
    assert!(map(0x1000, 0).is_err(), "empty");
    assert!(map(u64::MAX - 0xfff, 0x2000).is_err(), "wraps");
    // Part of a mapping cannot go.
    rig.device.dma_unmap(RAM_AT, 0x1000);
    assert_eq!(rig.read(PhysAddr::new(Aperture::SysCoherent, RAM_AT)), 0);
}

#[test]
fn a_reset_interrupts_whatever_waits() {
    let inject = Inject {
        ack_lost_every: 1,
        ..Inject::default()
    };
    let mut rig = Rig::new(Config {
        inject,
        ..Config::default()
    });
    let mut c = Channel::kernel(&mut rig);
    let mut push =
        crate::common::driver::mem_op(0, 0, 1 | 1 << 5, crate::common::driver::OP_INVALIDATE);
    push.extend(release(SEM_VA, 1));
    c.push(&rig, &push);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(rig.read32(c.sem), 0, "the acknowledgement is lost");
    rig.device.reset();
    let mut c = Channel::kernel(&mut rig);
    c.run(&rig, &[]);
    submit(&mut rig, 0, &[]);
}
