// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Faults, replays, cancels.

use crate::common::asm::assemble;
use crate::rig::Rig;
use crate::rig::ATOMIC_DISABLE;
use crate::rig::PAGE;
use crate::rig::RO;
use crate::CODE;
use crate::DATA;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::fault::Replay;
use rsvm_vgpu::mmu::Cancel;
use rsvm_vgpu::mmu::CancelAccess;

const GCC: u32 = 0x11;

/// Each invocation adds its index to a word in a page of its own.
const TOUCH: &str = "
        slli t0, a1, 12
        add  t0, t0, a0
        ld   t1, 0(t0)
        add  t1, t1, a1
        sd   t1, 0(t0)
        ret
";

#[test]
fn a_whole_grid_faults_at_once_and_completes_after_replay() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(7);
    let code = rig.pages(1);
    rig.fill(code, &assemble(TOUCH));
    rig.launch(&mirror, CODE, DATA, 1024, 0);

    // Every group misses the code, once.
    let fetch = rig.settled_faults(16);
    assert_eq!(fetch.len(), 16);
    for p in &fetch {
        assert_eq!((p.va, p.ty, p.access, p.client), (CODE, 0, 0, GCC));
        assert_eq!((p.engine, p.replayable), (64 + 7, true));
    }
    rig.map(&mirror, CODE, code, RO);
    rig.replay();

    // Then 1024 harts wait for a page each, before anyone served one.
    let mut reads = rig.settled_faults(1024);
    reads.sort_by_key(|p| p.va);
    assert_eq!(reads.len(), 1024);
    let mut clients: Vec<u32> = reads.iter().map(|p| p.client).collect();
    clients.sort();
    clients.dedup();
    let t1: Vec<u32> = (0..8).chain(0x21..0x29).collect();
    assert_eq!(clients, t1, "each group reports as its own client");
    let ram = rig.pages(1024);
    for (i, p) in reads.iter().enumerate() {
        assert_eq!((p.va, p.access), (DATA + i as u64 * PAGE, 0));
        rig.write(ram + i as u64 * PAGE, 1 << 32);
        rig.map(&mirror, p.va, ram + i as u64 * PAGE, RO);
    }
    rig.replay();

    // Mapped read-only, the stores are refused with another reason.
    let writes = rig.settled_faults(1024);
    assert_eq!(writes.len(), 1024);
    assert!(writes.iter().all(|p| (p.ty, p.access) == (6, 1)));
    for i in 0..1024 {
        assert_eq!(rig.read(ram + i * PAGE), 1 << 32, "nothing was stored");
        rig.map(&mirror, DATA + i * PAGE, ram + i * PAGE, 0);
    }
    rig.replay();
    rig.wait_idle(&mirror);
    for i in 0..1024 {
        assert_eq!(
            rig.read(ram + i * PAGE),
            (1 << 32) + i,
            "each instruction ran once"
        );
    }
    assert!(rig.faults().is_empty());
}

#[test]
fn replay_without_service_faults_again() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(7);
    rig.load(&mirror, CODE, &assemble(TOUCH));
    rig.launch(&mirror, CODE, DATA, 3, 1);
    for _ in 0..5 {
        let mut faults = rig.settled_faults(3);
        faults.sort_by_key(|p| p.va);
        assert_eq!(
            faults.iter().map(|p| p.va).collect::<Vec<_>>(),
            [DATA, DATA + PAGE, DATA + 2 * PAGE]
        );
        rig.replay();
        assert_eq!(
            rig.faults().len(),
            3,
            "refaults are in the buffer when the replay is acknowledged"
        );
        rig.replay();
    }
    rig.engine.kill(7);
    assert!(rig.engine.idle(7));
}

#[test]
fn a_refused_access_is_tried_again_without_its_code() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(0);
    let code = assemble("li t0, 5\nsd t0, 0(a0)\nsd t0, 8(a0)\nret");
    rig.load(&mirror, CODE, &code);
    rig.launch(&mirror, CODE, DATA, 1, 1);
    assert_eq!(rig.settled_faults(1)[0].va, DATA);
    rig.unmap(&mirror, CODE);
    let ram = rig.pages(1);
    rig.map(&mirror, DATA, ram, 0);
    rig.replay();
    assert_eq!(rig.read(ram), 5, "the store was fetched before");
    let fetch = rig.settled_faults(1)[0].va;
    assert_eq!(
        (fetch, rig.read(ram + 8)),
        (CODE, 0),
        "the one behind it was not"
    );
    rig.load(&mirror, CODE, &code);
    rig.replay();
    rig.wait_idle(&mirror);
    assert_eq!(rig.read(ram + 8), 5);
}

#[test]
fn a_page_crossing_store_writes_nothing_until_both_pages_are_there() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(0);
    let code = "li t0, -1\nli t1, 0x1000\nadd a0, a0, t1\nsd t0, -3(a0)\nld t2, -3(a0)\nsd t2, 64(a0)\nret";
    rig.load(&mirror, CODE, &assemble(code));
    let ram = rig.pages(2);
    rig.map(&mirror, DATA, ram, 0);
    rig.launch(&mirror, CODE, DATA, 1, 1);
    let faults = rig.settled_faults(1);
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].va, faults[0].access), (DATA + PAGE, 1));
    assert_eq!(
        rig.read(ram + PAGE - 8),
        0,
        "the first half waits for the second"
    );
    rig.map(&mirror, DATA + PAGE, ram + PAGE, 0);
    rig.replay();
    rig.wait_idle(&mirror);
    assert_eq!(rig.read(ram + PAGE - 8), 0xffff_ff00_0000_0000);
    assert_eq!(rig.read(ram + PAGE), 0xff_ffff_ffff);
    assert_eq!(rig.read(ram + PAGE + 64), u64::MAX);
}

#[test]
fn atomics_are_refused_where_the_pte_says_so() {
    for (instruction, bits, fault) in [
        ("amoadd.d t0, a1, (a0)", RO, Some((6, 2))),
        ("amoadd.d t0, a1, (a0)", ATOMIC_DISABLE, Some((0xf, 2))),
        ("lr.d t0, (a0)", ATOMIC_DISABLE, Some((0xf, 2))),
        ("lr.d t0, (a0)", RO, Some((6, 2))),
        ("amoadd.d t0, a1, (a0)", 0, None),
        ("lr.d t0, (a0)", 0, None),
        ("sd a1, 0(a0)", ATOMIC_DISABLE, None),
        ("sd a1, 0(a0)", RO, Some((6, 1))),
        ("ld t0, 0(a0)", RO | ATOMIC_DISABLE, None),
    ] {
        let mut rig = Rig::new(Config::default());
        let mirror = rig.mirror(0);
        rig.load(&mirror, CODE, &assemble(&format!("{instruction}\nret")));
        let ram = rig.pages(1);
        rig.map(&mirror, DATA, ram, bits);
        rig.launch(&mirror, CODE, DATA, 1, 1);
        match fault {
            None => rig.wait_idle(&mirror),
            Some(want) => {
                let faults = rig.settled_faults(1);
                assert_eq!(faults.len(), 1, "{instruction} {bits:#x}");
                assert_eq!(
                    (faults[0].ty, faults[0].access),
                    want,
                    "{instruction} {bits:#x}"
                );
                rig.map(&mirror, DATA, ram, 0);
                rig.replay();
                rig.wait_idle(&mirror);
            }
        }
    }
}

#[test]
fn a_cancel_kills_its_veid_and_replays_the_others() {
    let mut rig = Rig::new(Config::default());
    let (bad, good) = (rig.mirror(1), rig.mirror(2));
    for mirror in [&bad, &good] {
        rig.load(mirror, CODE, &assemble(TOUCH));
        rig.launch(mirror, CODE, DATA, 100, 0);
    }
    let faults = rig.settled_faults(200);
    assert_eq!(faults.len(), 200);
    let ram = rig.pages(100);
    for i in 0..100 {
        rig.map(&good, DATA + i * PAGE, ram + i * PAGE, 0);
    }
    // What is not parked there does not match.
    let cancel = |va, access| {
        Replay::Cancel(Cancel::Va {
            pdb: bad.channel.space.pdb,
            va,
            engine: 64 + 1,
            access,
        })
    };
    rig.maintain(cancel(DATA + 5 * PAGE, CancelAccess::WriteAndAtomic));
    rig.wait_idle(&good);
    assert!(!rig.engine.idle(1), "a read was not to be cancelled");
    rig.settled_faults(100);
    rig.maintain(cancel(DATA + 5 * PAGE, CancelAccess::All));
    assert_eq!(rig.error(&bad), (5, DATA + 5 * PAGE));
    let fatal = rig.fatal_faults();
    assert_eq!(fatal.len(), 1);
    assert!(!fatal[0].replayable);
    assert_eq!((fatal[0].va, fatal[0].engine), (DATA + 5 * PAGE, 64 + 1));
    for i in 0..100 {
        assert_eq!(rig.read(ram + i * PAGE), i);
    }
    assert!(rig.engine.preempt(1), "no hart of it is left");
}

#[test]
fn a_fault_that_cannot_be_replayed_stops_the_veid() {
    let mut rig = Rig::new(Config::default());
    let mut mirror = rig.mirror(1);
    mirror.channel.space.replay_data = false;
    rig.load(&mirror, CODE, &assemble(TOUCH));
    rig.launch(&mirror, CODE, DATA, 1, 1);
    rig.wait("the end", |rig| rig.error(&mirror).0 != 0);
    assert_eq!(rig.error(&mirror), (5, DATA));
    let fatal = rig.fatal_faults();
    assert_eq!(fatal.len(), 1);
    assert_eq!((fatal[0].va, fatal[0].access), (DATA, 0));
    assert!(rig.faults().is_empty());
}

#[test]
fn parked_harts_hold_a_preempt_up() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(4);
    rig.load(&mirror, CODE, &assemble(TOUCH));
    rig.launch(&mirror, CODE, DATA, 1, 1);
    rig.settled_faults(1);
    assert!(
        !rig.engine.preempt(4),
        "an outstanding fault blocks the preempt"
    );
    let ram = rig.pages(1);
    rig.map(&mirror, DATA, ram, 0);
    rig.replay();
    assert!(rig.engine.preempt(4), "the access was made");
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!rig.engine.idle(4), "and nothing more while preempted");
    rig.engine.resume(4);
    rig.wait_idle(&mirror);
}

#[test]
fn a_full_buffer_loses_nothing() {
    let mut config = Config::default();
    config.inject.fault_buffer_entries = Some(32);
    let mut rig = Rig::new(config);
    let mirror = rig.mirror(0);
    rig.load(&mirror, CODE, &assemble(TOUCH));
    rig.launch(&mirror, CODE, DATA, 1024, 0);
    let ram = rig.pages(1024);
    let mut rounds = 0;
    rig.wait("the end of the grid", |rig| {
        if rig.engine.idle(0) {
            return true;
        }
        let faults = rig.faults();
        for p in &faults {
            rig.map(&mirror, p.va, ram + (p.va - DATA), 0);
        }
        if !faults.is_empty() {
            rounds += 1;
            // The buffer takes packets again once its overflow is acknowledged.
            rig.clear_overflow();
            rig.replay();
        }
        false
    });
    assert!(rounds >= 1024 / 32);
    for i in 0..1024 {
        assert_eq!(rig.read(ram + i * PAGE), i);
    }
}

/// A buffer too small for the harts of one VEID, which nobody serves, is no
/// reason for another VEID to starve, wherever its hart is.
#[test]
fn a_full_buffer_starves_nobody() {
    for group in [64, 1] {
        let mut config = Config::default();
        config.inject.fault_buffer_entries = Some(24);
        let mut rig = Rig::new(config);
        let (blocked, other) = (rig.mirror(1), rig.mirror(2));
        for mirror in [&blocked, &other] {
            rig.load(mirror, CODE, &assemble(TOUCH));
        }
        rig.launch(&blocked, CODE, DATA, 64, group);
        rig.settled_faults(23);
        rig.launch(&other, CODE, DATA, 3, 1);
        let ram = rig.pages(3);
        rig.wait("the other VEID", |rig| {
            if rig.engine.idle(2) {
                return true;
            }
            for p in rig.faults().iter().filter(|p| p.engine == 64 + 2) {
                rig.map(&other, p.va, ram + (p.va - DATA), 0);
            }
            rig.clear_overflow();
            rig.replay();
            false
        });
        for i in 0..3 {
            assert_eq!(rig.read(ram + i * PAGE), i);
        }
        rig.engine.kill(1);
    }
}

/// Wherever the round of a replay begins: of two harts that miss one page, one
/// asks for it.
#[test]
fn pages_of_two_harts_are_asked_for_in_any_order() {
    let mut config = Config::default();
    config.inject.fault_buffer_entries = Some(24);
    let mut rig = Rig::new(config);
    let mirror = rig.mirror(1);
    // Harts i and 63 - i touch page i.
    let code = "li t0, 63\nsub t0, t0, a1\nblt t0, a1, 1f\nmv t0, a1\n1: slli t0, t0, 12\nadd t0, t0, a0\nld t1, 0(t0)\nret";
    rig.load(&mirror, CODE, &assemble(code));
    rig.launch(&mirror, CODE, DATA, 64, 64);
    rig.settled_faults(23);
    let ram = rig.pages(32);
    rig.clear_overflow();
    // Nobody is served at first, and the round begins elsewhere then.
    rig.replay();
    rig.faults();
    rig.clear_overflow();
    rig.wait("the end", |rig| {
        rig.replay();
        for p in rig.faults() {
            rig.map(&mirror, p.va, ram + (p.va - DATA), 0);
        }
        rig.clear_overflow();
        rig.engine.idle(1)
    });
}

#[test]
fn the_stack_window_bypasses_the_mmu_and_has_edges() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(0);
    let code = assemble(
        "
        li   t0, 0x10000
        sub  t1, sp, t0           # the lowest byte of the window
        sd   a1, 0(t1)
        ld   t2, 0(t1)
        amoadd.d t3, t2, (t1)
        lr.w t4, (t1)
        sc.w t5, t0, (t1)
        bnez t5, bad
        sd   a1, -8(t1)           # below it: memory, which is not mapped
    bad: ebreak
        ",
    );
    rig.load(&mirror, CODE, &code);
    rig.launch(&mirror, CODE, DATA, 1, 1);
    let faults = rig.settled_faults(1);
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].va, faults[0].access), (0x1_0000_0000_0000, 1));
}
