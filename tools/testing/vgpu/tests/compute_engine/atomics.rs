// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Atomics: among harts, against the CPU, and reservations.

use crate::common::asm::assemble;
use crate::common::tables::Page;
use crate::rig::Mirror;
use crate::rig::Rig;
use crate::rig::PAGE;
use crate::CODE;
use crate::DATA;
use rsvm_vgpu::config::Config;
use std::sync::atomic::Ordering;
use std::time::Duration;

const HARTS: u64 = 512;
const ADDS: u64 = 200;

fn adds(instructions: &str) -> Vec<u8> {
    assemble(&format!(
        "
        li   t2, {ADDS}
        li   t0, 1
    1:  {instructions}
        addi t2, t2, -1
        bnez t2, 1b
        ret
        "
    ))
}

const AMO: &str = "amoadd.d x0, t0, (a0)";
const CAS: &str = "
    2:  lr.d t3, (a0)
        add  t3, t3, t0
        sc.d t4, t3, (a0)
        bnez t4, 2b";
/// A lock by swap, around a plain increment.
const LOCK: &str = "
        addi t5, a0, 128
    2:  amoswap.w.aq t3, t0, (t5)
        bnez t3, 2b
        ld   t4, 0(a0)
        addi t4, t4, 1
        sd   t4, 0(a0)
        amoswap.w.rl x0, x0, (t5)";

#[test]
fn harts_lose_no_updates_among_each_other() {
    for (what, vram) in [
        (AMO, false),
        (AMO, true),
        (CAS, false),
        (CAS, true),
        (LOCK, false),
    ] {
        let mut rig = Rig::new(Config {
            compute_threads: 2,
            ..Config::default()
        });
        let mirror = rig.mirror(0);
        rig.load(&mirror, CODE, &adds(what));
        let ram = rig.pages(1);
        let vid = rig.vram(1, PAGE);
        if vram {
            rig.map_page(&mirror, DATA, &Page::new(vid, 12));
        } else {
            rig.map(&mirror, DATA, ram, 0);
        }
        rig.launch(&mirror, CODE, DATA, HARTS, 0);
        rig.wait_idle(&mirror);
        let sum = if vram {
            rig.read_at(vid)
        } else {
            rig.read(ram)
        };
        assert_eq!(sum, HARTS * ADDS, "{what}");
        assert_eq!(rig.core.atomics.lost_updates(), 0);
    }
}

/// What compilers make of a byte's or half's addition: LR/SC around the word,
/// whose other parts other harts count in.
#[test]
fn parts_of_a_word_are_counted_by_reservations() {
    // a1 is the hart's index; t5 its shift, t6 the mask of its part.
    for (bits, lanes) in [(8u64, 4u64), (16, 2)] {
        let code = assemble(&format!(
            "
            andi t5, a1, {}
            li   t0, {bits}
            mul  t5, t5, t0
            li   t6, (1 << {bits}) - 1
            sll  t6, t6, t5
            li   t0, 1
            sll  t0, t0, t5
            li   t2, {ADDS}
        1:  lr.w.aqrl t3, (a0)
            add  t4, t3, t0
            xor  t4, t4, t3
            and  t4, t4, t6
            xor  t4, t4, t3
            sc.w.rl t4, t4, (a0)
            bnez t4, 1b
            addi t2, t2, -1
            bnez t2, 1b
            ret
            ",
            lanes - 1
        ));
        for vram in [false, true] {
            let mut rig = Rig::new(Config {
                compute_threads: 2,
                ..Config::default()
            });
            let mirror = rig.mirror(0);
            rig.load(&mirror, CODE, &code);
            let ram = rig.pages(1);
            let vid = rig.vram(1, PAGE);
            if vram {
                rig.map_page(&mirror, DATA, &Page::new(vid, 12));
            } else {
                rig.map(&mirror, DATA, ram, 0);
            }
            rig.launch(&mirror, CODE, DATA, HARTS, 0);
            rig.wait_idle(&mirror);
            let word = if vram {
                rig.read_at(vid)
            } else {
                rig.read(ram)
            };
            let part = HARTS / lanes * ADDS % (1 << bits);
            let want = (0..lanes).fold(0, |sum, lane| sum | part << (lane * bits));
            assert_eq!(word, want, "{bits} bits, device memory: {vram}");
        }
    }
}

/// All that the harts propose, of which the word ends as the least or the most,
/// signed or not.
#[test]
fn the_least_and_the_most_win() {
    for (instruction, start, want) in [
        ("amomin.w", 5u64, (-(HARTS as i64)) as u64 & 0xffff_ffff),
        ("amomax.w", 0xffff_f000, 0),
        ("amominu.w", 0xffff_fff0, 0),
        ("amomaxu.w", 5, 0xffff_ffff),
        ("amomin.d", 5, -(HARTS as i64) as u64),
        ("amomax.d", -4096i64 as u64, 0),
        ("amominu.d", u64::MAX - 15, 0),
        ("amomaxu.d", 5, u64::MAX),
    ] {
        let mut rig = Rig::new(Config {
            compute_threads: 2,
            ..Config::default()
        });
        let mirror = rig.mirror(0);
        let text = format!("neg t0, a1\n{instruction} x0, t0, (a0)\nret");
        rig.load(&mirror, CODE, &assemble(&text));
        let ram = rig.pages(1);
        rig.map(&mirror, DATA, ram, 0);
        rig.write(ram, start);
        // Proposals are 0, -1, and so on.
        rig.launch(&mirror, CODE, DATA, HARTS + 1, 0);
        rig.wait_idle(&mirror);
        assert_eq!(rig.read(ram), want, "{instruction}");
    }
}

#[test]
fn the_cpu_loses_updates_and_they_are_counted() {
    for what in [AMO, CAS] {
        let mut config = Config::default();
        config.inject.atomic_window = Duration::from_micros(20);
        let mut rig = Rig::new(config);
        let mirror = rig.mirror(0);
        rig.load(&mirror, CODE, &adds(what));
        let ram = rig.pages(1);
        rig.map(&mirror, DATA, ram, 0);
        // A CPU that counts in the same word, atomically as it thinks, until one
        // of its counts is lost.
        let mut made = 0;
        rig.wait("a lost update", |rig| {
            rig.launch(&mirror, CODE, DATA, HARTS, 0);
            made += HARTS * ADDS;
            while !rig.engine.idle(0) {
                for _ in 0..100 {
                    rig.word(ram).fetch_add(1, Ordering::SeqCst);
                }
                made += 100;
            }
            let missing = made - rig.read(ram);
            let lost = rig.core.atomics.lost_updates();
            assert_eq!(lost > 0, missing > 0, "{what}: {missing} updates went");
            assert!(lost <= missing, "{what}: {lost} counted, {missing} missing");
            lost > 0
        });
    }
}

/// LR, tell the world, wait until told to go on, SC; the SC's result goes to
/// word 2. Word 0 is reserved, word 8 (another line) is said, word 16 waited for.
const HELD: &str = "
        lr.d t0, (a0)
        li   t1, 1
        sd   t1, 64(a0)
    1:  ld   t2, 128(a0)
        beqz t2, 1b
        sc.d t3, t1, (a0)
        addi t3, t3, 10
        sd   t3, 192(a0)
        ret
";

fn held(rig: &mut Rig, mirror: &Mirror) -> u64 {
    rig.load(mirror, CODE, &assemble(HELD));
    let ram = rig.pages(1);
    rig.map(mirror, DATA, ram, 0);
    rig.write(ram, 7);
    rig.launch(mirror, CODE, DATA, 1, 1);
    rig.wait("the reservation", |rig| rig.read(ram + 64) == 1);
    ram
}

fn result(rig: &mut Rig, mirror: &Mirror, ram: u64) -> u64 {
    rig.write(ram + 128, 1);
    rig.wait_idle(mirror);
    rig.read(ram + 192)
}

#[test]
fn a_reservation_lasts_until_something_ends_it() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(0);
    let ram = held(&mut rig, &mirror);
    assert_eq!(
        result(&mut rig, &mirror, ram),
        10,
        "nothing happened, so the SC succeeds"
    );
    assert_eq!(rig.read(ram), 1);
}

#[test]
fn an_invalidate_ends_a_reservation() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(0);
    let ram = held(&mut rig, &mirror);
    rig.invalidate();
    assert_eq!(result(&mut rig, &mirror, ram), 11);
    assert_eq!(rig.read(ram), 7);
}

#[test]
fn a_store_of_the_same_value_by_another_hart_ends_a_reservation() {
    for (store, line, want) in [
        ("sd t0, 0(a0)", 0, 11),
        ("sd t0, 8(a0)", 8, 11),
        ("sd t0, 256(a0)", 256, 10),
    ] {
        let mut rig = Rig::new(Config::default());
        let mirror = rig.mirror(0);
        let other = rig.mirror(1);
        let ram = held(&mut rig, &mirror);
        rig.write(ram + line, 7);
        rig.load(&other, CODE, &assemble(&format!("li t0, 7\n{store}\nret")));
        rig.map(&other, DATA, ram, 0);
        rig.launch(&other, CODE, DATA, 1, 1);
        rig.wait_idle(&other);
        assert_eq!(result(&mut rig, &mirror, ram), want, "{store}");
    }
}

#[test]
fn a_write_by_the_cpu_is_not_seen_by_the_reservation() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(0);
    let ram = held(&mut rig, &mirror);
    rig.write(ram, 1000);
    assert_eq!(result(&mut rig, &mirror, ram), 10, "hardware cannot know");
    assert_eq!(rig.read(ram), 1);
    assert_eq!(rig.core.atomics.lost_updates(), 1, "but the model does");
}
