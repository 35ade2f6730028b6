// SPDX-License-Identifier: GPL-2.0 OR MIT
//! TLBs that are not coherent, and what makes them forget.

use crate::common::driver::{invalidate_range, mem_op, Channel, OP_INVALIDATE, OP_TARGETED};
use crate::common::tables::{pte, Page, Tables};
use crate::rig::Rig;
use rsvm_vgpu::config::{Config, Inject, MmuVersion, TlbMode};
use rsvm_vgpu::mem::Aperture;
use rsvm_vgpu::mmu::{Access, FaultType, Invalidate};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const VA: u64 = 0x7f12_3456_7000;

/// A rig with one page at [`VA`], read once, so that it is cached.
fn warm(config: Config) -> (Rig, Tables) {
    let mut rig = Rig::new(config);
    let mut tables = Tables::new(&mut rig, &[Aperture::SysCoherent]);
    let page = rig.sys();
    rig.write(page, 1);
    tables.map(&mut rig, VA, &Page::new(page, 12));
    assert_eq!(load(&rig, &tables, VA), Ok(1));
    (rig, tables)
}

fn load(rig: &Rig, tables: &Tables, va: u64) -> Result<u64, FaultType> {
    let space = rig.space(0, tables.root);
    rig.engine
        .try_touch(&space, 0, va, Access::Read)
        .map_err(|f| f.ty)
}

#[test]
fn a_hit_returns_no_room_for_a_fault() {
    let (rig, tables) = warm(Config::default());
    let space = rig.space(0, tables.root);
    let guard = rig.engine.utlbs[0].enter();
    let found = guard.translate(&space, VA, Access::Read);
    assert!(found.is_ok() && size_of_val(&found) <= 3 * size_of::<usize>());
}

#[test]
fn stale_entries_stay_and_are_counted_until_invalidated() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        let (mut rig, mut tables) = warm(Config {
            mmu,
            ..Config::default()
        });
        assert_eq!(rig.stale_hits(), 0);
        tables.unmap(&mut rig, VA, 12);
        assert_eq!(load(&rig, &tables, VA), Ok(1));
        assert_eq!(load(&rig, &tables, VA), Ok(1));
        assert_eq!(rig.stale_hits(), 2);
        rig.invalidate(tables.root);
        assert_eq!(rig.stale_hits(), 0, "the flush came, the hits were legal");
        assert_eq!(load(&rig, &tables, VA), Err(FaultType::Pte));
    }
}

#[test]
fn another_utlb_holds_its_own_entry() {
    let (mut rig, mut tables) = warm(Config::default());
    let space = rig.space(0, tables.root);
    let other = |rig: &Rig| rig.engine.try_touch(&space, 1, VA, Access::Read).is_ok();
    assert!(other(&rig));
    tables.unmap(&mut rig, VA, 12);
    assert!(other(&rig));
    assert_eq!(rig.stale_hits(), 1);
    rig.invalidate(tables.root);
    assert!(!other(&rig));
    assert_eq!(rig.stale_hits(), 0);
}

#[test]
fn invalid_to_valid_needs_an_invalidate() {
    let (mut rig, mut tables) = warm(Config::default());
    let page = rig.sys();
    rig.write(page, 2);
    // VA is entry 0x167 of its table: 0x164..=0x167 are one 32-byte sector, and
    // came with it, invalid as they were. 0x168 is not in it.
    tables.map(&mut rig, VA + 0x1000, &Page::new(page, 12));
    tables.map(&mut rig, VA - 0x1000, &Page::new(page, 12));
    assert_eq!(load(&rig, &tables, VA - 0x1000), Err(FaultType::Pte));
    assert_eq!(load(&rig, &tables, VA + 0x1000), Ok(2));
    assert_ne!(rig.stale_hits(), 0);
    rig.invalidate(tables.root);
    assert_eq!(load(&rig, &tables, VA - 0x1000), Ok(2));
    assert_eq!(rig.stale_hits(), 0);
}

#[test]
fn directories_are_cached_and_levels_count() {
    let (mut rig, mut tables) = warm(Config::default());
    let mut channel = Channel::kernel(&mut rig);
    let far = VA + (1 << 21);
    assert_eq!(load(&rig, &tables, far), Err(FaultType::Pde));
    let page = rig.sys();
    rig.write(page, 3);
    tables.map(&mut rig, far, &Page::new(page, 12));
    // PTEs only: the invalid PDE0 stays.
    channel.run(&rig, &invalidate_range(tables.root, far, 12, 1, 0));
    assert_eq!(load(&rig, &tables, far), Err(FaultType::Pde));
    channel.run(&rig, &invalidate_range(tables.root, far, 12, 2, 0));
    assert_eq!(load(&rig, &tables, far), Ok(3));
    // The first page's PTE is not in the range, so it is cached still.
    tables.unmap(&mut rig, VA, 12);
    assert_eq!(load(&rig, &tables, VA), Ok(1));
    // 2 MiB PTEs count as PDE0.
    let huge = rig.pages(Aperture::SysCoherent, 512, 1 << 21);
    rig.write(huge, 4);
    let at = far + (1 << 21);
    let at = at >> 21 << 21;
    tables.map(&mut rig, at, &Page::new(huge, 21));
    assert_eq!(load(&rig, &tables, at), Ok(4));
    tables.unmap(&mut rig, at, 21);
    channel.run(&rig, &invalidate_range(tables.root, at, 21, 1, 0));
    assert_eq!(load(&rig, &tables, at), Ok(4));
    channel.run(&rig, &invalidate_range(tables.root, at, 21, 2, 0));
    assert_eq!(load(&rig, &tables, at), Err(FaultType::Pde));
}

#[test]
fn ranges_and_page_directories_are_kept_apart() {
    let (mut rig, mut tables) = warm(Config::default());
    let mut channel = Channel::kernel(&mut rig);
    let mut other = Tables::new(&mut rig, &[Aperture::Vid]);
    let page = rig.sys();
    rig.write(page, 5);
    other.map(&mut rig, VA, &Page::new(page, 12));
    assert_eq!(load(&rig, &other, VA), Ok(5));
    tables.unmap(&mut rig, VA, 12);
    other.unmap(&mut rig, VA, 12);
    // Another range, another directory.
    channel.run(&rig, &invalidate_range(tables.root, VA + 0x1000, 12, 0, 0));
    assert_eq!(load(&rig, &tables, VA), Ok(1));
    channel.run(&rig, &invalidate_range(tables.root, VA, 16, 0, 0));
    assert_eq!(load(&rig, &tables, VA), Err(FaultType::Pte));
    assert_eq!(load(&rig, &other, VA), Ok(5));
    // All directories.
    channel.run(&rig, &mem_op(1 << 11, 0, 1 | 1 << 5, OP_INVALIDATE));
    assert_eq!(load(&rig, &other, VA), Err(FaultType::Pte));
    assert_eq!(rig.stale_hits(), 0);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn by_pf_registers_an_address_range() {
    let (mut rig, mut tables) = warm(Config::default());
    tables.unmap(&mut rig, VA, 12);
    let trigger = |va: u64, bits: u32| {
        rig.set(0x10_0cb4, ((va >> 12) << 4) as u32);
        rig.set(0x10_0ce8, (va >> 40) as u32);
        rig.set(0x10_0cb8, (tables.root.addr >> 12 << 4) as u32 | 2);
        rig.set(0x10_0cec, (tables.root.addr >> 40) as u32);
        rig.set(0x10_0e68, 4);
        rig.set(0x10_0cbc, 1 << 31 | 1 << 7 | bits);
        rig.wait("invalidate", || rig.reg(0x10_0cbc) >> 31 == 0);
    };
    trigger(VA - 0x1000, 0);
    assert_eq!(load(&rig, &tables, VA), Ok(1));
    // With USE_SIZE: sixteen pages.
    trigger(VA - 0x1000, 1 << 22);
    assert_eq!(load(&rig, &tables, VA), Err(FaultType::Pte));
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn the_virtual_function_has_no_addresses() {
    let rig = Rig::v2();
    rig.set(0xb8_30b0, 1 << 31 | 1 << 7);
    assert_eq!(rig.guest_errors(), 1);
    assert_eq!(rig.reg(0xb8_30b0) >> 31, 0);
}

#[test]
fn hub_only_leaves_the_harts_alone() {
    let (mut rig, mut tables) = warm(Config::default());
    let mut channel = Channel::kernel(&mut rig);
    tables.unmap(&mut rig, VA, 12);
    let pdb = tables.root;
    let [c, d] = [pdb.addr as u32 | 2 << 10 | 1 << 5, (pdb.addr >> 32) as u32];
    channel.run(&rig, &mem_op(0, 0, c | 1 << 1, d | OP_INVALIDATE));
    assert_eq!(load(&rig, &tables, VA), Ok(1));
    channel.run(&rig, &mem_op(0, 0, c, d | OP_INVALIDATE));
    assert_eq!(load(&rig, &tables, VA), Err(FaultType::Pte));
}

#[test]
fn a_permission_fault_on_a_hit_does_not_walk_again() {
    let mut rig = Rig::v2();
    let mut tables = Tables::new(&mut rig, &[Aperture::Vid]);
    let page = Page::new(rig.sys(), 12);
    tables.map(
        &mut rig,
        VA,
        &Page {
            read_only: true,
            ..page
        },
    );
    let space = rig.space(0, tables.root);
    let write = |rig: &Rig| {
        rig.engine
            .try_touch(&space, 0, VA, Access::Write)
            .map_err(|f| f.ty)
    };
    assert_eq!(write(&rig), Err(FaultType::ReadOnly));
    tables.map(&mut rig, VA, &page);
    assert_eq!(write(&rig), Err(FaultType::ReadOnly));
    rig.invalidate(tables.root);
    assert!(write(&rig).is_ok());
}

#[test]
fn without_tlb_nothing_is_stale() {
    let (mut rig, mut tables) = warm(Config {
        tlb: TlbMode::None,
        ..Config::default()
    });
    tables.unmap(&mut rig, VA, 12);
    assert_eq!(load(&rig, &tables, VA), Err(FaultType::Pte));
    assert_eq!(rig.stale_hits(), 0);
}

#[test]
fn random_tlbs_forget_sometime() {
    let (mut rig, mut tables) = warm(Config {
        tlb: TlbMode::Random,
        ..Config::default()
    });
    tables.unmap(&mut rig, VA, 12);
    let n = (0..100_000).position(|_| load(&rig, &tables, VA).is_err());
    assert!(n.is_some_and(|n| n > 0), "{n:?}");
}

#[test]
fn a_directory_that_changed_is_found_by_a_full_shadow_walk() {
    let config = Config {
        full_shadow_walk: true,
        ..Config::default()
    };
    let (rig, tables) = warm(config);
    let root = tables.root.offset((VA >> 47) * 8);
    let entry = rig.read(root);
    rig.write(root, 0);
    assert_eq!(load(&rig, &tables, VA), Ok(1));
    assert_eq!(rig.stale_hits(), 1);
    rig.write(root, entry);
    rig.invalidate(tables.root);
    assert_eq!(rig.stale_hits(), 0);
}

/// An acknowledgement comes only after the access that uses the old
/// translation was made.
#[test]
fn acknowledgement_is_a_grace_period() {
    let (mut rig, mut tables) = warm(Config::default());
    let mut channel = Channel::kernel(&mut rig);
    tables.unmap(&mut rig, VA, 12);
    let space = rig.space(0, tables.root);
    let done = AtomicBool::new(false);
    let sem = channel.sem;
    std::thread::scope(|scope| {
        let guard = rig.engine.utlbs[0].enter();
        let found = guard.translate(&space, VA, Access::Write).expect("cached");
        scope.spawn(|| {
            channel.run(&rig, &invalidate_range(tables.root, VA, 12, 0, 0));
            done.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!done.load(Ordering::SeqCst));
        assert_eq!(
            rig.read32(sem),
            0,
            "no acknowledgement while an access is in flight"
        );
        found.ptr.store(8, 9);
        drop(guard);
    });
    assert!(done.load(Ordering::SeqCst));
    assert_eq!(load(&rig, &tables, VA), Err(FaultType::Pte));
}

/// The same for a holder that never lets go but comes by the checkpoint.
#[test]
fn a_checkpoint_is_as_good_as_leaving() {
    let (mut rig, mut tables) = warm(Config::default());
    tables.unmap(&mut rig, VA, 12);
    let space = rig.space(0, tables.root);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut guard = rig.engine.utlbs[0].enter();
            while !stop.load(Ordering::SeqCst) {
                guard.checkpoint();
            }
            assert!(guard.translate(&space, VA, Access::Read).is_err());
        });
        rig.invalidate(tables.root);
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn acknowledgements_can_be_late_or_lost() {
    let delay = Duration::from_millis(60);
    let inject = Inject {
        ack_delay: delay,
        ack_lost_every: 3,
        ..Inject::default()
    };
    let (mut rig, tables) = warm(Config {
        inject,
        ..Config::default()
    });
    let mut channel = Channel::kernel(&mut rig);
    let start = Instant::now();
    rig.invalidate(tables.root);
    assert!(start.elapsed() >= delay);
    let start = Instant::now();
    let op = invalidate_range(tables.root, VA, 12, 0, 0);
    channel.run(&rig, &op);
    assert!(start.elapsed() >= delay);
    // The third is lost, by whichever way it was asked for.
    rig.set(0xb8_30b0, 1 << 31 | 1 << 7 | 3);
    std::thread::sleep(3 * delay);
    assert_eq!(rig.reg(0xb8_30b0) >> 31, 1);
    rig.device.reset();
    assert_eq!(rig.reg(0xb8_30b0) >> 31, 0);
}

#[test]
fn a_delayed_access_holds_the_acknowledgement_back() {
    let delay = Duration::from_millis(800);
    let inject = Inject {
        access_delay_every: 1,
        access_delay: delay,
        ..Inject::default()
    };
    let (rig, tables) = warm(Config {
        inject,
        ..Config::default()
    });
    let started = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            started.store(true, Ordering::SeqCst);
            load(&rig, &tables, VA)
        });
        while !started.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        std::thread::sleep(delay / 4);
        let start = Instant::now();
        rig.invalidate(tables.root);
        assert!(start.elapsed() >= delay / 4);
    });
}

#[test]
fn a_targeted_operation_names_one_directory() {
    let mut rig = Rig::v2();
    let mut channel = Channel::kernel(&mut rig);
    channel.push(&rig, &mem_op(0, 0, 1, OP_TARGETED));
    rig.wait("the channel to stop", || {
        channel.status(&rig) & 1 << 22 != 0
    });
    assert_eq!(channel.error(&rig), [1, 0x34, 0]);
    assert_eq!(rig.guest_errors(), 1);
}

/// Walks race with changes: after an acknowledgement nobody sees what was
/// before it, and memory may be mapped anew meanwhile.
#[test]
fn nothing_old_is_seen_after_an_acknowledgement() {
    const ROUNDS: u64 = 2000;
    let (mut rig, mut tables) = warm(Config::default());
    let pages: Vec<_> = (0..8).map(|_| rig.sys()).collect();
    let at = tables.entry(&mut rig, VA, 12);
    let space = rig.space(0, tables.root);
    let acked = AtomicU64::new(0);
    rig.write(at, pte(rig.version(), &Page::new(pages[0], 12)));
    rig.write(pages[0], 0);
    rig.invalidate(tables.root);
    let op = Invalidate {
        pdb: Some(tables.root),
        range: Some((VA, VA + 0xfff)),
        level: 1,
        hub_only: false,
    };
    std::thread::scope(|scope| {
        for group in 0..3 {
            let (rig, space, acked) = (&rig, &space, &acked);
            scope.spawn(move || loop {
                let before = acked.load(Ordering::SeqCst);
                let seen = rig.engine.try_touch(space, group, VA, Access::Read);
                assert!(seen.expect("always mapped") >= before);
                if before == ROUNDS {
                    return;
                }
            });
        }
        for n in 1..=ROUNDS {
            let page = pages[n as usize % pages.len()];
            rig.write(page, n);
            rig.write(at, pte(rig.version(), &Page::new(page, 12)));
            rig.core().mmu.invalidate(&op, true);
            acked.store(n, Ordering::SeqCst);
            if n % 100 == 0 {
                rig.device
                    .dma_map(0x1000_0000, 0x1000, &rig.ram, 0, true)
                    .unwrap();
                rig.device.dma_unmap(0x1000_0000, 0x1000);
            }
        }
    });
    assert_eq!(rig.stale_hits(), 0);
}
