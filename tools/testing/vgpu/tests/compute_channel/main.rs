// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The compute engine behind channels: everything through registers and memory,
//! as a driver does it.

#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;
mod rig;

use common::asm::assemble;
use common::driver::{self, Channel};
use common::tables::{Page, Tables};
use rig::Rig;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::config::MmuVersion;
use rsvm_vgpu::mem::{Aperture, PhysAddr};

const CODE: u64 = 0x7f12_3456_7000;
const DATA: u64 = 0x5555_5555_5000;
const VECTOR_PFIFO_SUBTREE: usize = 136 / 64;

/// Methods to launch a grid.
fn launch(pc: u64, arg: u64, n: u64) -> Vec<u32> {
    let halves = |v: u64| [v as u32, (v >> 32) as u32];
    let [pc, arg, n] = [pc, arg, n].map(halves);
    let mut dwords = driver::inc(1, driver::SET_OBJECT, &[driver::CLASS_COMPUTE]);
    dwords.extend(driver::inc(
        1,
        0x200,
        &[pc[0], pc[1], arg[0], arg[1], n[0], n[1], 0, 0],
    ));
    dwords
}

/// Methods to release a 64-bit value, with the non-stall interrupt.
fn release(va: u64, value: u64) -> Vec<u32> {
    let [lo, hi] = [va as u32, (va >> 32) as u32];
    driver::inc(1, 0x1b00, &[lo, hi, value as u32, (value >> 32) as u32, 1])
}

struct Process {
    channel: Channel,
    mirror: Tables,
    /// Every page that a fault asked for.
    pages: std::collections::BTreeMap<u64, PhysAddr>,
}

impl Process {
    fn new(rig: &mut Rig, chid: u32, veid: u8) -> Self {
        let (channel, mirror) = Channel::user(rig, chid, veid);
        Process {
            channel,
            mirror,
            pages: Default::default(),
        }
    }

    /// Puts a page in place, filled with `code`, but does not map it yet.
    fn load(&mut self, rig: &mut Rig, va: u64, code: &[u8]) {
        let page = rig.sys();
        for (i, word) in code.chunks(4).enumerate() {
            rig.write32(
                page.offset(i as u64 * 4),
                u32::from_le_bytes(word.try_into().unwrap()),
            );
        }
        self.pages.insert(va, page);
    }

    fn serve(&mut self, rig: &mut Rig, va: u64) {
        let page = *self.pages.entry(va).or_insert_with(|| rig.sys());
        self.mirror.map(rig, va, &Page::new(page, 12));
    }

    fn word(&self, rig: &Rig, va: u64) -> u64 {
        self.pages
            .get(&(va & !0xfff))
            .map_or(0, |page| rig.read(page.offset(va & 0xfff)))
    }

    fn engine(&self, rig: &Rig) -> u32 {
        let base = if rig.version() == MmuVersion::V2 {
            64
        } else {
            384
        };
        base + u32::from(self.channel.veid)
    }
}

/// Serves all faults, as a driver does, until `done`.
fn serve_until(
    rig: &mut Rig,
    processes: &mut [&mut Process],
    what: &str,
    done: impl Fn(&Rig, &[&mut Process]) -> bool,
) -> usize {
    let mut batches = 0;
    rig.patiently(what, |rig| {
        if done(rig, processes) {
            return true;
        }
        let faults = rig.faults();
        if faults.is_empty() {
            return false;
        }
        batches += 1;
        for fault in faults {
            let owner = processes.iter_mut().find(|p| p.engine(rig) == fault.engine);
            let owner = owner.expect("a fault of an unknown engine");
            assert_eq!(fault.inst, owner.channel.inst.addr);
            owner.serve(rig, fault.va);
        }
        rig.replay();
        false
    });
    batches
}

#[test]
fn a_kernel_runs_on_memory_that_was_never_mapped() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        let mut rig = Rig::new(Config {
            mmu,
            ..Config::default()
        });
        let mut p = Process::new(&mut rig, 5, 17);
        driver::submit(&mut rig, 1, &[&p.channel]);
        // Squares of the index, 8 bytes apart.
        let code = assemble("mul t0, a1, a1\nslli t1, a1, 3\nadd t1, t1, a0\nsd t0, 0(t1)\nret");
        p.load(&mut rig, CODE, &code);
        let fence = DATA + 0x10_0000;
        let mut push = launch(CODE, DATA, 3000);
        push.extend(release(fence, 0xfeed_0000_0001));
        p.channel.push(&rig, &push);
        serve_until(&mut rig, &mut [&mut p], "the fence", |rig, p| {
            p[0].word(rig, fence) != 0
        });
        assert_eq!(p.word(&rig, fence), 0xfeed_0000_0001);
        for i in 0..3000 {
            assert_eq!(p.word(&rig, DATA + i * 8), i * i);
        }
        // 6 pages of data, code, fence; nothing else was asked for.
        assert_eq!(p.pages.len(), 8);
        rig.wait("the non-stall interrupt", || rig.messages(0) > 0);
        assert_eq!(rig.reg(0xb8_1000) & 1, 1);
        assert_eq!((rig.guest_errors(), rig.stale_hits()), (0, 0));
    }
}

#[test]
fn an_exception_stops_its_channel_and_says_where() {
    let mut rig = Rig::new(Config::default());
    let mut bad = Process::new(&mut rig, 3, 1);
    let mut good = Process::new(&mut rig, 4, 2);
    driver::submit(&mut rig, 1, &[&bad.channel, &good.channel]);
    rig.set(0x2140, 1 << 29);
    bad.load(&mut rig, CODE, &assemble("nop\nnop\n.word 0xffffffff"));
    let count = assemble("1: ld t0, 0(a0)\naddi t0, t0, 1\nsd t0, 0(a0)\nj 1b");
    good.load(&mut rig, CODE, &count);
    good.channel.push(&rig, &launch(CODE, DATA, 1));
    bad.channel.push(&rig, &launch(CODE, DATA, 900));
    serve_until(
        &mut rig,
        &mut [&mut bad, &mut good],
        "the exception",
        |rig, p| p[0].channel.status(rig) & 1 << 23 != 0,
    );
    let pc = CODE + 8;
    assert_eq!(bad.channel.error(&rig), [4, pc as u32, (pc >> 32) as u32]);
    assert_eq!(rig.reg(0x2100) & 1 << 29, 1 << 29);
    rig.wait("the interrupt", || rig.messages(VECTOR_PFIFO_SUBTREE) > 0);

    // The other one goes on counting.
    serve_until(&mut rig, &mut [&mut bad, &mut good], "a count", |rig, p| {
        p[1].word(rig, DATA) > 0
    });
    let before = good.word(&rig, DATA);
    rig.wait("more counts", || good.word(&rig, DATA) > before);
    assert_eq!(good.channel.status(&rig) & 3 << 22, 0);
    assert_eq!(rig.guest_errors(), 0);
}

#[test]
fn a_cancel_by_address_stops_the_channel() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        let mut rig = Rig::new(Config {
            mmu,
            ..Config::default()
        });
        let mut p = Process::new(&mut rig, 9, 40);
        driver::submit(&mut rig, 1, &[&p.channel]);
        p.load(&mut rig, CODE, &assemble("sd a1, 0(a0)\nret"));
        p.serve(&mut rig, CODE);
        p.channel.push(&rig, &launch(CODE, DATA + 8, 64));
        let fault = rig.one_fault();
        assert_eq!((fault.va, fault.access, fault.replayable), (DATA, 1, true));
        rig.cancel(p.channel.mirror, fault.va, fault.engine);
        rig.wait("ENG_FAULTED", || p.channel.status(&rig) & 1 << 23 != 0);
        let va = DATA + 8;
        assert_eq!(p.channel.error(&rig), [5, va as u32, (va >> 32) as u32]);
        let fatal = rig.fatal_faults();
        assert_eq!(fatal.len(), 1);
        assert_eq!(
            (fatal[0].va, fatal[0].engine, fatal[0].replayable),
            (DATA, p.engine(&rig), false)
        );
        assert!(rig.faults().is_empty(), "no hart is left to fault");
    }
}

#[test]
fn an_outstanding_fault_holds_the_preempt_up() {
    let mut rig = Rig::new(Config::default());
    let mut p = Process::new(&mut rig, 9, 0);
    driver::submit(&mut rig, 1, &[&p.channel]);
    p.load(&mut rig, CODE, &assemble("sd a1, 0(a0)\nret"));
    p.channel.push(&rig, &launch(CODE, DATA, 1));
    let fault = rig.one_fault();
    p.channel.disable(&rig);
    driver::preempt(&rig, 9);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(driver::preempting(&rig));
    rig.cancel(p.channel.mirror, fault.va, fault.engine);
    rig.wait("the preempt", || !driver::preempting(&rig));
}

#[test]
fn an_endless_kernel_is_torn_down_and_its_queue_works_again() {
    let mut rig = Rig::new(Config {
        compute_threads: 2,
        ..Config::default()
    });
    let mut p = Process::new(&mut rig, 9, 0);
    driver::submit(&mut rig, 1, &[&p.channel]);
    let count = "slli t1, a1, 3\nadd a0, a0, t1\n1: addi t0, t0, 1\nsd t0, 0(a0)\nj 1b";
    p.load(&mut rig, CODE, &assemble(count));
    p.channel.push(&rig, &launch(CODE, DATA, 1024));
    serve_until(&mut rig, &mut [&mut p], "counts", |rig, p| {
        p[0].word(rig, DATA + 0x1ff8) > 0
    });
    p.channel.disable(&rig);
    // Faults of harts that came late hold the preempt up until they are served.
    driver::preempt(&rig, 9);
    serve_until(&mut rig, &mut [&mut p], "the preempt", |rig, _| {
        !driver::preempting(rig)
    });
    let sum = |rig: &Rig, p: &Process| (0..1024).map(|i| p.word(rig, DATA + i * 8)).sum::<u64>();
    let stopped = sum(&rig, &p);
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(sum(&rig, &p), stopped);
    driver::submit(&mut rig, 1, &[]);
    p.channel.unbind(&rig);
    rig.invalidate(p.channel.mirror);

    // The same ids, for somebody else.
    let mut q = Process::new(&mut rig, 9, 0);
    driver::submit(&mut rig, 1, &[&q.channel]);
    q.load(&mut rig, CODE, &assemble("sd a2, 0(a0)\nret"));
    q.channel.push(&rig, &launch(CODE, DATA, 77));
    serve_until(&mut rig, &mut [&mut q], "the store", |rig, q| {
        q[0].word(rig, DATA) == 77
    });
    assert_eq!(sum(&rig, &p), stopped, "a hart of the old queue lives");
    assert_eq!((rig.guest_errors(), rig.stale_hits()), (0, 0));
}

/// A copy that is under way holds nobody up, and nobody holds a copy up.
#[test]
fn copies_and_kernels_run_at_once() {
    let mut rig = Rig::new(Config::default());
    let mut kernel = Channel::kernel(&mut rig);
    let mut p = Process::new(&mut rig, 5, 17);
    let mut endless = Process::new(&mut rig, 6, 18);
    driver::submit(&mut rig, 1, &[&p.channel, &endless.channel]);
    endless.load(&mut rig, CODE, &assemble("1: j 1b"));
    endless.serve(&mut rig, CODE);
    endless.channel.push(&rig, &launch(CODE, DATA, 1024));
    let (src, dst) = (rig.sys(), rig.page(Aperture::Vid));
    rig.write(src, 5);
    let copy = |dst: PhysAddr, payload: u32| {
        let mut push = driver::inc(4, driver::SET_OBJECT, &[driver::CLASS_COPY]);
        push.extend(driver::inc(4, 0x260, &[1, 0]));
        push.extend(driver::inc(
            4,
            0x400,
            &[
                (src.addr >> 32) as u32,
                src.addr as u32,
                0,
                dst.addr as u32,
                0,
                0,
                8,
                1,
            ],
        ));
        push.extend(driver::inc(4, 0x240, &[0, driver::SEM_VA as u32, payload]));
        push.extend(driver::inc(
            4,
            0x300,
            &[2 | 1 << 2 | 1 << 3 | 3 << 7 | 3 << 12],
        ));
        push
    };
    // Past a kernel that never ends.
    kernel.push(&rig, &copy(dst, 1));
    rig.wait("the copy", || rig.read32(kernel.sem) == 1);
    assert_eq!(rig.read(dst), 5);
    // A kernel from start to end, with faults, while a copy is held.
    rig.set(0xf0_2008, u32::MAX);
    kernel.push(&rig, &copy(dst.offset(8), 2));
    p.load(
        &mut rig,
        CODE,
        &assemble("slli t0, a1, 12\nadd a0, a0, t0\nsd a2, 0(a0)\nret"),
    );
    let fence = DATA + 0x10_0000;
    let mut push = launch(CODE, DATA, 100);
    push.extend(release(fence, 7));
    p.channel.push(&rig, &push);
    serve_until(&mut rig, &mut [&mut p], "the fence", |rig, p| {
        p[0].word(rig, fence) == 7
    });
    assert_eq!((rig.read32(kernel.sem), rig.read(dst.offset(8))), (1, 0));
    rig.set(0xf0_2008, 0);
    rig.wait("the copy", || rig.read32(kernel.sem) == 2);
    assert_eq!(rig.read(dst.offset(8)), 5);
    assert_eq!((rig.guest_errors(), rig.stale_hits()), (0, 0));
}

#[test]
fn lost_updates_show_in_their_register() {
    let mut rig = Rig::new(Config::default());
    let mut p = Process::new(&mut rig, 2, 3);
    driver::submit(&mut rig, 1, &[&p.channel]);
    let code = "lr.d t0, (a0)\nsd a2, 64(a0)\n1: ld t1, 128(a0)\nbeqz t1, 1b\nsc.d t2, t1, (a0)\nsd a2, 192(a0)\nret";
    p.load(&mut rig, CODE, &assemble(code));
    p.channel.push(&rig, &launch(CODE, DATA, 1));
    serve_until(&mut rig, &mut [&mut p], "the LR", |rig, p| {
        p[0].word(rig, DATA + 64) == 1
    });
    assert_eq!(rig.reg(0xf0_0014), 0);
    let page = p.pages[&DATA];
    rig.write(page, 5);
    rig.write(page.offset(128), 1);
    rig.wait("the SC", || p.word(&rig, DATA + 192) == 1);
    assert_eq!(
        p.word(&rig, DATA),
        1,
        "the SC succeeded over the CPU's write"
    );
    assert_eq!(rig.reg(0xf0_0014), 1);
}
