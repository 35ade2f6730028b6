// SPDX-License-Identifier: GPL-2.0 OR MIT
//! VEIDs share the engine; endless kernels end when told to.

use crate::asm::assemble;
use crate::rig::Mirror;
use crate::rig::Rig;
use crate::CODE;
use crate::DATA;
use rsvm_vgpu::config::Config;
use std::time::Duration;
use std::time::Instant;

/// Counts in a word of its own for ever.
const COUNT: &str = "
        slli t0, a1, 3
        add  a0, a0, t0
    1:  addi t1, t1, 1
        sd   t1, 0(a0)
        j    1b
";

/// A grid of `harts` endless counters; returns where they count.
fn count(rig: &mut Rig, mirror: &Mirror, harts: u64) -> u64 {
    rig.load(mirror, CODE, &assemble(COUNT));
    let ram = rig.pages(2);
    rig.map(mirror, DATA, ram, 0);
    rig.map(mirror, DATA + 0x1000, ram + 0x1000, 0);
    rig.launch(mirror, CODE, DATA, harts, 0);
    ram
}

fn total(rig: &Rig, ram: u64, harts: u64) -> u64 {
    (0..harts).map(|i| rig.read(ram + i * 8)).sum()
}

#[test]
fn time_is_shared_by_veid_not_by_hart() {
    let mut rig = Rig::new(Config::default());
    let (many, one) = (rig.mirror(10), rig.mirror(11));
    let crowd = count(&mut rig, &many, 1024);
    let single = count(&mut rig, &one, 1);
    rig.wait("the first count", |rig| rig.read(single) > 0);
    let before = (total(&rig, crowd, 1024), rig.read(single));
    std::thread::sleep(Duration::from_millis(300));
    let after = (total(&rig, crowd, 1024), rig.read(single));
    let (crowd, single) = (after.0 - before.0, after.1 - before.1);
    assert!(crowd > 0 && single > 0);
    let ratio = crowd as f64 / single as f64;
    assert!(
        (0.4..2.5).contains(&ratio),
        "1024 harts counted {ratio} times what one did"
    );
}

#[test]
fn an_endless_kernel_does_not_hold_others_up_and_can_be_killed() {
    let mut rig = Rig::new(Config {
        compute_threads: 2,
        ..Config::default()
    });
    let (endless, other) = (rig.mirror(10), rig.mirror(11));
    let counters = count(&mut rig, &endless, 1024);
    rig.load(
        &other,
        CODE,
        &assemble("slli t0, a1, 3\nadd a0, a0, t0\nsd a1, 0(a0)\nret"),
    );
    let out = rig.pages(1);
    rig.map(&other, DATA, out, 0);
    let start = Instant::now();
    for _ in 0..50 {
        rig.launch(&other, CODE, DATA, 500, 0);
        rig.wait_idle(&other);
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    for i in 0..500 {
        assert_eq!(rig.read(out + i * 8), i);
    }
    assert!(!rig.engine.idle(10));
    let start = Instant::now();
    rig.engine.kill(10);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let at_death = total(&rig, counters, 1024);
    assert!(at_death > 0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(total(&rig, counters, 1024), at_death, "a dead hart stored");
    // The VEID is as good as new.
    count(&mut rig, &endless, 1);
    rig.engine.reset();
    assert!(rig.engine.idle(10) && rig.engine.idle(11));
}

#[test]
fn preempt_stops_and_resume_goes_on() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(63);
    let counter = count(&mut rig, &mirror, 1);
    rig.wait("the first count", |rig| rig.read(counter) > 0);
    rig.wait("the preempt", |rig| rig.engine.preempt(63));
    let stopped = rig.read(counter);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.read(counter), stopped);
    rig.engine.resume(63);
    rig.wait("more counts", |rig| rig.read(counter) > stopped);
}

#[test]
fn an_invalidate_is_acknowledged_only_when_no_store_can_follow() {
    let mut rig = Rig::new(Config {
        compute_threads: 2,
        ..Config::default()
    });
    let mirror = rig.mirror(1);
    let ram = count(&mut rig, &mirror, 512);
    for round in 0..30 {
        rig.wait("a store", |rig| rig.read(ram + 8 * (round * 7 % 512)) > 0);
        rig.unmap(&mirror, DATA);
        let start = Instant::now();
        rig.invalidate();
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        // The page is somebody else's now.
        for i in 0..512 {
            rig.write(ram + i * 8, u64::MAX);
        }
        std::thread::sleep(Duration::from_millis(3));
        for i in 0..512 {
            assert_eq!(
                rig.read(ram + i * 8),
                u64::MAX,
                "a store after the acknowledgement"
            );
            rig.write(ram + i * 8, 0);
        }
        rig.map(&mirror, DATA, ram, 0);
        rig.replay();
    }
    rig.engine.kill(1);
    rig.invalidate();
    assert_eq!(rig.core.mmu.stale_hits(), 0);
}
