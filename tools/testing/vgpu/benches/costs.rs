// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Measures the hot paths of the device. Run it with `cargo bench`.

#[allow(dead_code)]
#[path = "../tests/common/mod.rs"]
mod common;

use common::asm::assemble;
use common::driver::{self, Channel};
use common::machine::Machine;
use common::tables::{Page, Tables};
use rsvm_vgpu::compute;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::engine::ComputeEngine;
use rsvm_vgpu::mem::Aperture;
use rsvm_vgpu::mmu::{Access, Client, Invalidate, Utlb};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 100;
/// Pages that are mapped: as many as a uTLB has entries.
const PAGES: u64 = 512;
const SMALL: u64 = 0x7f12_3440_0000;
/// 2 MiB.
const LARGE: u64 = SMALL + (1 << 30);
const CODE: u64 = SMALL + (2 << 30);

/// Prints the time of one of `n` events, from the fastest of many short rounds:
/// other programs use the CPUs, too.
fn report(what: &str, n: u64, mut events: impl FnMut()) {
    let mut round = || {
        let start = Instant::now();
        events();
        start.elapsed()
    };
    let best = (0..ROUNDS).map(|_| round()).min().unwrap_or(Duration::ZERO);
    println!("{:>9.1} ns  {what}", best.as_nanos() as f64 / n as f64);
}

fn invalidates(machine: &Machine, tables: &Tables, utlbs: &[Arc<Utlb>]) {
    const N: u64 = 100;
    let space = machine.space(0, tables.root);
    let fill = |va: u64| {
        for utlb in utlbs {
            let guard = utlb.enter();
            for page in 0..PAGES {
                guard
                    .translate(&space, va + page * 0x1000, Access::Read)
                    .expect("mapped");
            }
        }
    };
    let invalidate = |what: &str, range: Option<(u64, u64)>| {
        let op = Invalidate {
            pdb: Some(tables.root),
            range,
            ..Invalidate::ALL
        };
        let what = format!("invalidate of {what}");
        report(&what, N, || {
            (0..N).for_each(|_| machine.core().mmu.invalidate(&op, true))
        });
    };
    let other = SMALL + (1 << 35);
    let page = |va| Some((va, va + 0xfff));
    invalidate("all, empty uTLBs", None);
    invalidate("4 KiB, empty uTLBs", page(other));
    fill(SMALL);
    invalidate("4 KiB elsewhere, uTLBs full of 4 KiB pages", page(other));
    fill(LARGE);
    invalidate("4 KiB elsewhere, uTLBs full of a 2 MiB page", page(other));
}

fn translations(machine: &Machine, tables: &Tables, utlb: &Utlb) {
    const N: u64 = 100_000;
    let space = machine.space(0, tables.root);
    let guard = utlb.enter();
    report("translate and load", N, || {
        for i in 0..N {
            let va = SMALL + i % PAGES * 0x1000;
            let found = guard.translate(&space, va, Access::Read);
            std::hint::black_box(found.expect("mapped").ptr.load(8));
        }
    });
}

/// Measures an instruction of a hart that executes hardly anything else.
fn instructions(
    machine: &mut Machine,
    tables: &mut Tables,
    engine: &dyn ComputeEngine,
    instruction: &str,
) {
    const REPEAT: usize = 16;
    const TURNS: u64 = 1000;
    let body = format!("{instruction}\n").repeat(REPEAT);
    let code = assemble(&format!(
        "li t1, {TURNS}\n1:\n{body}addi t1, t1, -1\nbnez t1, 1b\nret"
    ));
    let page = machine.sys();
    for (i, word) in code.chunks(4).enumerate() {
        let word = u32::from_le_bytes(word.try_into().expect("a whole instruction"));
        machine.write32(page.offset(i as u64 * 4), word);
    }
    tables.map(machine, CODE, &Page::new(page, 12));
    machine.invalidate(tables.root);
    let ctx = machine.ctx(5, 0, tables.root);
    report(
        &format!("instruction: {instruction}"),
        TURNS * REPEAT as u64,
        || {
            let halves = |v: u64| [v as u32, (v >> 32) as u32];
            let args = [halves(CODE), halves(SMALL), halves(1), [0, 0]];
            for (i, &data) in args.as_flattened().iter().enumerate() {
                engine.method(&ctx, 0x200 + i as u32 * 4, data);
            }
            while !engine.idle(0) {
                std::thread::yield_now();
            }
        },
    );
}

/// Counts how often threads of that name went to sleep.
fn sleeps(thread: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let status = tasks.map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).unwrap());
    status
        .filter(|s| s.starts_with(&format!("Name:\t{thread}\n")))
        .filter_map(|s| {
            let count = s.lines().find(|l| l.starts_with("voluntary"))?;
            count.split_whitespace().last()?.parse::<u64>().ok()
        })
        .sum()
}

fn releases(machine: &mut Machine) {
    /// Releases of one GP entry, and the number of such entries.
    const RELEASES: u32 = 128;
    const ENTRIES: u64 = 40;
    const NON_INCREASING: u32 = 3 << 29;
    let mut channel = Channel::kernel(machine);
    let mut push = driver::release(driver::SEM_VA + 8, 1);
    push.push(NON_INCREASING | RELEASES << 16 | 0x6c >> 2);
    push.resize(push.len() + RELEASES as usize, 1);
    channel.run(machine, &push);
    let entry = driver::PUSH_VA | (push.len() as u64) << 42;
    let before = sleeps("runlist1");
    report("release by the host", ENTRIES * u64::from(RELEASES), || {
        for _ in 0..ENTRIES {
            channel.raw_entry(machine, entry);
        }
        channel.run(machine, &[]);
    });
    println!(
        "{:>9}     times the other runlist was woken",
        sleeps("runlist1") - before
    );
}

fn main() {
    let config = Config {
        groups: 1,
        ..Config::default()
    };
    let mut engine = None;
    let mut machine = Machine::new(config, |core| {
        let started = compute::start(core.clone()).expect("threads");
        engine.insert(started).clone()
    });
    let engine = engine.expect("started");
    // 19 with those of one group, two runlists and the copy engine.
    let utlbs: Vec<_> = (1..16)
        .map(|n| machine.core().mmu.add_utlb(Client::group(n)))
        .collect();
    let mut tables = Tables::new(&mut machine, &[Aperture::Vid]);
    let memory = machine.pages(Aperture::SysCoherent, PAGES, PAGES * 0x1000);
    for page in 0..PAGES {
        let to = Page::new(memory.offset(page * 0x1000), 12);
        tables.map(&mut machine, SMALL + page * 0x1000, &to);
    }
    tables.map(&mut machine, LARGE, &Page::new(memory, 21));
    invalidates(&machine, &tables, &utlbs);
    translations(&machine, &tables, &utlbs[0]);
    for instruction in ["add t0, t0, a0", "ld t0, 0(a0)", "sd t0, 0(a0)"] {
        instructions(&mut machine, &mut tables, &*engine, instruction);
    }
    releases(&mut machine);
}
