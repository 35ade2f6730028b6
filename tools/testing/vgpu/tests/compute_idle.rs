// SPDX-License-Identifier: GPL-2.0 OR MIT
//! An engine whose harts all wait takes no CPU time. Alone in its process, so
//! that the process's time is the engine's.

#[allow(dead_code)]
mod common;
#[allow(dead_code)]
#[path = "compute_engine/rig.rs"]
mod rig;

use common::asm::assemble;
use rig::Rig;
use rsvm_vgpu::config::Config;
use std::time::Duration;

/// CPU time of this process.
fn cpu() -> Duration {
    // SAFETY: The structure is plain data that the call fills.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        assert_eq!(
            libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time),
            0
        );
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn used_while_asleep() -> Duration {
    let before = cpu();
    std::thread::sleep(Duration::from_millis(500));
    cpu() - before
}

#[test]
fn waiting_takes_no_time() {
    const CODE: u64 = 0x1000_0000;
    const LIMIT: Duration = Duration::from_millis(20);
    let mut rig = Rig::new(Config {
        compute_threads: 2,
        ..Config::default()
    });
    assert!(used_while_asleep() < LIMIT, "with nothing to do");

    let mirror = rig.mirror(1);
    rig.load(
        &mirror,
        CODE,
        &assemble("slli t0, a1, 12\nadd a0, a0, t0\nld t1, 0(a0)\nret"),
    );
    rig.launch(&mirror, CODE, 0x2000_0000, 1024, 0);
    assert_eq!(rig.settled_faults(1024).len(), 1024);
    assert!(used_while_asleep() < LIMIT, "with all harts parked");

    let spinning = rig.mirror(2);
    rig.load(&spinning, CODE, &assemble("1: j 1b"));
    rig.launch(&spinning, CODE, 0, 1, 1);
    assert!(used_while_asleep() > LIMIT, "with one that runs");
}
