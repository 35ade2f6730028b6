// SPDX-License-Identifier: GPL-2.0 OR MIT
//! VEIDs share the engine; endless kernels end when told to.

use crate::common::asm::assemble;
use crate::rig::Mirror;
use crate::rig::Rig;
use crate::rig::RO;
use crate::CODE;
use crate::DATA;
use rsvm_vgpu::config::Config;
use std::time::Duration;

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

/// Counts to a million, at the same pace as [`COUNT`], and stores by how much the
/// crowd's 1024 words behind its own page went on meanwhile.
const OBSERVE: &str = "
        li   t6, 0x1000
        add  t6, t6, a0
        li   s1, 0
        li   s2, 2
    1:  li   s0, 0
        mv   t0, t6
        li   t1, 1024
    2:  ld   t2, 0(t0)
        add  s0, s0, t2
        addi t0, t0, 8
        addi t1, t1, -1
        bnez t1, 2b
        sub  s1, s0, s1
        addi s2, s2, -1
        beqz s2, 4f
        li   t3, 1000000
    3:  addi t4, t4, 1
        sd   t4, 8(a0)
        bne  t4, t3, 3b
        j    1b
    4:  sd   s1, 0(a0)
        ret
";

/// One hart measures the crowd, so that the host's load has no part in it.
#[test]
fn time_is_shared_by_veid_not_by_hart() {
    let mut rig = Rig::new(Config::default());
    let (many, one) = (rig.mirror(10), rig.mirror(11));
    let crowd = count(&mut rig, &many, 1024);
    let single = rig.pages(1);
    rig.load(&one, CODE, &assemble(OBSERVE));
    rig.map(&one, DATA, single, 0);
    for page in 1..=2 {
        let at = crowd + (page - 1) * 0x1000;
        rig.map(&one, DATA + page * 0x1000, at, RO);
    }
    rig.launch(&one, CODE, DATA, 1, 1);
    rig.wait_idle(&one);
    // Three instructions to a count, here and there.
    let ratio = rig.read(single) as f64 / 1e6;
    assert!(
        (0.95..1.05).contains(&ratio),
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
    for _ in 0..50 {
        rig.launch(&other, CODE, DATA, 500, 0);
        rig.wait_idle(&other);
    }
    for i in 0..500 {
        assert_eq!(rig.read(out + i * 8), i);
    }
    assert!(!rig.engine.idle(10));
    rig.engine.kill(10);
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
        rig.invalidate();
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
