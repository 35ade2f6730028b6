// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Launches, hart state, releases and engine exceptions.

use crate::common::asm::assemble;
use crate::rig::Rig;
use crate::rig::PAGE;
use crate::CODE;
use crate::DATA;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::engine::Progress;

#[test]
fn every_invocation_runs_once_with_its_own_stack() {
    let code = assemble(
        "
        sd   a1, -8(sp)           # own stack: others write theirs meanwhile
        li   t2, 50
    1:  addi t2, t2, -1
        bnez t2, 1b
        ld   t0, -8(sp)
        csrr t1, 0xcc0
        bne  t0, t1, bad
        csrr t1, 0xcc1
        bne  a2, t1, bad
        csrr t3, 0xcc2            # group number and index in it
        csrr t4, 0xcc3
        slli t0, t0, 3
        add  t0, t0, a0
        ld   t1, 0(t0)
        slli t3, t3, 16
        add  t1, t1, t3
        add  t1, t1, t4
        addi t1, t1, 1
        sd   t1, 0(t0)
        ret
    bad: ebreak
        ",
    );
    for (threads, n, group) in [
        (1, 5000u64, 7u64),
        (2, 3000, 64),
        (1, 700, 0),
        (2, 1, 1),
        (1, 129, 33),
    ] {
        let mut rig = Rig::new(Config {
            compute_threads: threads,
            ..Config::default()
        });
        let mirror = rig.mirror(3);
        rig.load(&mirror, CODE, &code);
        let pages = (n * 8).div_ceil(PAGE);
        let out = rig.pages(pages);
        for i in 0..pages {
            rig.map(&mirror, DATA + i * PAGE, out + i * PAGE, 0);
        }
        rig.launch(&mirror, CODE, DATA, n, group as u32);
        rig.wait_idle(&mirror);
        let width = if group == 0 { 64 } else { group };
        for i in 0..n {
            assert_eq!(
                rig.read(out + i * 8),
                ((i / width) << 16) + i % width + 1,
                "invocation {i}"
            );
        }
        assert!(rig.faults().is_empty());
    }
}

#[test]
fn initial_registers_are_as_documented() {
    let mut text = String::new();
    for reg in 1..32 {
        // gp is used for addressing once it has been stored.
        let base = if reg <= 3 { "a0" } else { "gp" };
        if reg == 4 {
            text += "mv gp, a0\n";
        }
        text += &format!("sd x{reg}, {}({base})\n", reg * 8);
    }
    for reg in 0..32 {
        text += &format!("fsd f{reg}, {}(gp)\n", 256 + reg * 8);
    }
    text += "frcsr t0\nsd t0, 0(gp)\nli a7, 93\necall\n";
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(0);
    rig.load(&mirror, CODE, &assemble(&text));
    let out = rig.pages(1);
    rig.map(&mirror, DATA, out, 0);
    rig.launch(&mirror, CODE, DATA, 1, 1);
    rig.wait_idle(&mirror);
    for reg in 0..64u64 {
        let want = match reg {
            1 => 0x1_0000_0000_0000,
            2 => 0x1_0000_0001_1000,
            10 => DATA,
            12 => 1,
            _ => 0,
        };
        assert_eq!(rig.read(out + reg * 8), want, "register {reg}");
    }
}

#[test]
fn release_comes_after_the_grid_and_survives_a_fault() {
    let code = assemble(
        "
        li   t0, 200000
    1:  addi t0, t0, -1
        bnez t0, 1b
        slli t1, a1, 3
        add  t1, t1, a0
        sd   a1, 0(t1)
        ret
        ",
    );
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(9);
    rig.load(&mirror, CODE, &code);
    let out = rig.pages(2);
    rig.map(&mirror, DATA, out, 0);
    rig.launch(&mirror, CODE, DATA, 100, 1);
    // The grid is there: what must wait, waits.
    assert_eq!(rig.method(&mirror, 0x110, 0), Progress::Busy);
    assert_eq!(rig.method(&mirror, 0x21c, 0), Progress::Busy);
    rig.method64(&mirror, 0x1b00, DATA + PAGE + 8);
    rig.method64(&mirror, 0x1b08, 0x1122_3344_5566_7788);
    rig.wait("the grid's end", |rig| {
        rig.method(&mirror, 0x1b10, 1) == Progress::Done
    });
    for i in 1..100 {
        assert_eq!(
            rig.read(out + i * 8),
            i,
            "released before invocation {i} ended"
        );
    }
    let faults = rig.settled_faults(1);
    assert_eq!(faults.len(), 1);
    assert_eq!(
        (faults[0].va, faults[0].access, faults[0].engine),
        (DATA + PAGE, 1, 64 + 9)
    );
    assert!(!rig.engine.idle(9));
    rig.map(&mirror, DATA + PAGE, out + PAGE, 0);
    rig.replay();
    rig.wait_idle(&mirror);
    assert_eq!(rig.read(out + PAGE + 8), 0x1122_3344_5566_7788);
    let leaf0 = rig.core.intr.leaf(0);
    assert_eq!(leaf0 & 1, 1, "the non-stall interrupt is vector 0");
}

#[test]
fn bad_methods_are_refused() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(1);
    for (method, data) in [
        (0x100, 0),
        (0x220, 0),
        (0x218, 65),
        (0x1b10, 2),
        (0x1b14, 0),
    ] {
        assert_eq!(
            rig.method(&mirror, method, data),
            Progress::Bad,
            "{method:#x}"
        );
    }
    rig.method64(&mirror, 0x1b00, DATA + 4);
    assert_eq!(
        rig.method(&mirror, 0x1b10, 0),
        Progress::Bad,
        "misaligned semaphore"
    );
}

#[test]
fn a_launch_sees_code_that_the_cpu_has_replaced() {
    let store = |value: u32| assemble(&format!("li t0, {value}\nsd t0, 0(a0)\nret\n"));
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(2);
    let (code, out) = (rig.pages(1), rig.pages(1));
    rig.map(&mirror, CODE, code, 0);
    rig.map(&mirror, DATA, out, 0);
    for value in 1..5 {
        rig.fill(code, &store(value));
        rig.launch(&mirror, CODE, DATA, 1, 1);
        rig.wait_idle(&mirror);
        assert_eq!(rig.read(out), u64::from(value));
    }
}

#[test]
fn fence_i_makes_own_stores_to_code_visible() {
    let code = assemble(
        "
        auipc t0, 0               # page start
        lw   t1, 64(t0)           # the instruction to put in place
        sw   t1, 48(t0)
        fence.i
        j    target
        .balign 16
        .skip 16
    target:
        li   a3, 1                # offset 48: replaced
        sd   a3, 0(a0)
        ret
        .balign 16
        li   a3, 2                # offset 64
        ",
    );
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(2);
    let (page, out) = (rig.pages(1), rig.pages(1));
    assert_eq!(
        &code[48..52],
        &assemble("li a3, 1")[..],
        "layout of the kernel"
    );
    assert_eq!(
        &code[64..68],
        &assemble("li a3, 2")[..],
        "layout of the kernel"
    );
    rig.fill(page, &code);
    rig.map(&mirror, CODE, page, 0);
    rig.map(&mirror, DATA, out, 0);
    rig.launch(&mirror, CODE, DATA, 1, 1);
    rig.wait_idle(&mirror);
    assert_eq!(rig.read(out), 2);
}

#[test]
fn an_exception_empties_the_veid() {
    for (what, pc, text) in [
        ("illegal instruction", CODE + 8, ".word 0"),
        ("compressed instruction", CODE + 8, ".word 0x45014501"),
        ("breakpoint", CODE + 8, "ebreak"),
        ("unknown call", CODE + 12, "li a7, 64\necall"),
        (
            "misaligned AMO",
            CODE + 12,
            "addi a0, a0, 4\namoadd.d t0, t1, (a0)",
        ),
        ("misaligned LR", CODE + 12, "addi a0, a0, 2\nlr.w t0, (a0)"),
        (
            "jump into the stack",
            0x1_0000_0001_1000 - 16,
            "addi sp, sp, -16\njr sp",
        ),
        ("misaligned jump", CODE + 12, "addi ra, ra, 2\nret"),
    ] {
        let mut rig = Rig::new(Config::default());
        let mirror = rig.mirror(5);
        // All others of the grid spin.
        let code = assemble(&format!("addi t0, a1, -37\n1: bnez t0, 1b\n{text}\nret\n"));
        rig.load(&mirror, CODE, &code);
        let out = rig.pages(1);
        rig.map(&mirror, DATA, out, 0);
        rig.launch(&mirror, CODE, DATA, 200, 0);
        rig.method64(&mirror, 0x1b00, DATA);
        rig.method64(&mirror, 0x1b08, 1);
        // Somebody tries to release all the time, as a PBDMA that is kicked.
        rig.wait(what, |rig| {
            assert_eq!(rig.method(&mirror, 0x1b10, 0), Progress::Busy, "{what}");
            rig.error(&mirror).0 != 0
        });
        assert_eq!(rig.error(&mirror), (4, pc), "{what}");
        assert!(rig.engine.preempt(5), "{what}: nothing is left");
        // The dead channel's release must never come through.
        assert_eq!(rig.method(&mirror, 0x1b10, 0), Progress::Busy, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(rig.read(out), 0, "{what}: released");
        rig.engine.kill(5);
        rig.engine.resume(5);
        rig.method64(&mirror, 0x1b00, DATA);
        rig.method64(&mirror, 0x1b08, 1);
        assert_eq!(rig.method(&mirror, 0x1b10, 0), Progress::Done);
        rig.wait_idle(&mirror);
        assert_eq!(rig.read(out), 1, "{what}: a new channel works");
    }
}
