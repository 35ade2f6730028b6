// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Program generator.
//!
//! x31 points into the scratch area, x30 at the log, x29 at the operands; x28
//! is clobbered freely and x0..=x27 and f0..=f31 are what programs compute with.

use crate::elf::Program;
use crate::elf::DATA;
use crate::elf::RECORD;
use crate::pool;
use crate::Mix;
use rsvm_vgpu::rng::Rng;

const OPERANDS: usize = 256;
const SCRATCH: usize = 8192;
/// Offsets in the data segment.
const SCRATCH_AT: usize = OPERANDS * 8;
const LOG_AT: usize = SCRATCH_AT + SCRATCH;
/// Where x31 points: reachable both ways by a 12-bit offset.
const SCRATCH_BASE: u64 = DATA + (SCRATCH_AT + SCRATCH / 2) as u64;
const STEPS: usize = 3000;

const BASE: u32 = 31;
const LOG: u32 = 30;
const POOL: u32 = 29;
const TEMP: u32 = 28;
const FREE: u64 = 28;

/// Bits `hi:lo` of `v`, at `to` of an instruction.
fn put(v: u32, hi: u32, lo: u32, to: u32) -> u32 {
    ((v >> lo) % (2 << (hi - lo))) << to
}
fn r(op: u32, f3: u32, f7: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    op + (rd << 7) + (f3 << 12) + (rs1 << 15) + (rs2 << 20) + (f7 << 25)
}
fn i(op: u32, f3: u32, rd: u32, rs1: u32, imm: i32) -> u32 {
    op + (rd << 7) + (f3 << 12) + (rs1 << 15) + put(imm as u32, 11, 0, 20)
}
fn s(op: u32, f3: u32, rs1: u32, rs2: u32, imm: i32) -> u32 {
    let imm = imm as u32;
    r(op, f3, 0, 0, rs1, rs2) + put(imm, 4, 0, 7) + put(imm, 11, 5, 25)
}
fn b(f3: u32, rs1: u32, rs2: u32, to: i32) -> u32 {
    let to = to as u32;
    let low = put(to, 4, 1, 8) + put(to, 11, 11, 7);
    r(0x63, f3, 0, 0, rs1, rs2) + low + put(to, 10, 5, 25) + put(to, 12, 12, 31)
}
fn csr(f3: u32, rd: u32, rs1: u32, number: u32) -> u32 {
    0x73 + (rd << 7) + (f3 << 12) + (rs1 << 15) + (number << 20)
}
const FFLAGS: u32 = 1;
const FRM: u32 = 2;
const FCSR: u32 = 3;

struct Gen {
    rng: Rng,
    code: Vec<u32>,
    logged: Vec<usize>,
}

impl Gen {
    fn pick(&mut self, choices: &[u32]) -> u32 {
        choices[self.rng.below(choices.len() as u64) as usize]
    }
    fn reg(&mut self) -> u32 {
        self.rng.below(FREE) as u32
    }
    fn freg(&mut self) -> u32 {
        self.rng.below(32) as u32
    }
    fn imm12(&mut self) -> i32 {
        self.rng.below(4096) as i32 - 2048
    }
    fn push(&mut self, word: u32) {
        self.code.push(word);
    }
    /// Loads a constant below 2^31 into a register.
    fn constant(&mut self, rd: u32, value: u64) {
        let low = (value as i32) << 20 >> 20;
        let high = (value as u32).wrapping_sub(low as u32);
        self.push(high | (rd << 7) | 0x37);
        self.push(i(0x1b, 0, rd, rd, low));
    }
    /// An operand of the pool into an integer register.
    fn reload(&mut self, rd: u32) {
        let at = self.rng.below(OPERANDS as u64) as i32 * 8;
        self.push(i(0x03, 3, rd, POOL, at));
    }
    fn reload_f(&mut self, rd: u32) {
        let at = self.rng.below(OPERANDS as u64) as i32 * 8;
        self.push(i(0x07, 3, rd, POOL, at));
    }
    /// Logs a register and the flags; the instruction before is to blame.
    fn log(&mut self, reg: u32, float: bool) {
        self.logged.push(self.code.len() - 1);
        self.push(s(if float { 0x27 } else { 0x23 }, 3, LOG, reg, 0));
        self.push(csr(2, TEMP, 0, FCSR));
        self.push(s(0x23, 3, LOG, TEMP, 8));
        self.push(i(0x13, 0, LOG, LOG, RECORD as i32));
        if self.rng.one_in(3) {
            self.push(csr(5, 0, 0, FFLAGS)); // csrrwi
        }
    }

    fn operands(&mut self) -> (u32, u32, u32) {
        let (rd, rs1, rs2) = (self.reg(), self.reg(), self.reg());
        if self.rng.one_in(2) && rs1 != 0 {
            self.reload(rs1);
        }
        if self.rng.one_in(2) && rs2 != 0 {
            self.reload(rs2);
        }
        (rd, rs1, rs2)
    }

    fn integer(&mut self) {
        let (rd, rs1, rs2) = self.operands();
        let f3 = self.rng.below(8) as u32;
        match self.rng.below(12) {
            0 => {
                let f7 = if f3 == 0 || f3 == 5 {
                    self.pick(&[0, 0x20])
                } else {
                    0
                };
                self.push(r(0x33, f3, f7, rd, rs1, rs2));
            }
            1 => self.push(r(0x33, f3, 1, rd, rs1, rs2)),
            2 => {
                let (f3, f7) =
                    [(0, 0), (0, 32), (1, 0), (5, 0), (5, 32)][self.rng.below(5) as usize];
                self.push(r(0x3b, f3, f7, rd, rs1, rs2));
            }
            3 => {
                let f3 = self.pick(&[0, 4, 5, 6, 7]);
                self.push(r(0x3b, f3, 1, rd, rs1, rs2));
            }
            4 => {
                let imm = match f3 {
                    1 => self.rng.below(64) as i32,
                    5 => (self.rng.below(64) | (self.rng.below(2) << 10)) as i32,
                    _ => self.imm12(),
                };
                self.push(i(0x13, f3, rd, rs1, imm));
            }
            5 => {
                let (f3, imm) = match self.rng.below(4) {
                    0 => (0, self.imm12()),
                    1 => (1, self.rng.below(32) as i32),
                    2 => (5, self.rng.below(32) as i32),
                    _ => (5, self.rng.below(32) as i32 | 0x400),
                };
                self.push(i(0x1b, f3, rd, rs1, imm));
            }
            6 => {
                let op = self.pick(&[0x17, 0x37]);
                let word = (self.rng.next() as u32 & 0xffff_f000) | (rd << 7) | op;
                self.push(word);
            }
            7 | 8 => {
                // Any alignment.
                let at = self.imm12();
                let f3 = self.rng.below(4) as u32;
                self.push(s(0x23, f3, BASE, rs2, at));
                let f3 = self.rng.below(7) as u32;
                let near = (at + self.rng.below(15) as i32 - 7).clamp(-2048, 2047);
                self.push(i(0x03, f3, rd, BASE, near));
            }
            9 => return self.branch(rd, rs1, rs2),
            10 => {
                let f3 = self.pick(&[1, 2, 3, 5, 6, 7]);
                let number = self.pick(&[FFLAGS, FRM, FCSR]);
                self.push(csr(f3, rd, rs1, number));
            }
            _ => {
                let fence = self.pick(&[0x0ff0_000f, 0x0000_100f, 0x8330_000f]);
                self.push(fence);
            }
        }
        if rd == 0 {
            return self.log(0, false);
        }
        self.log(rd, false);
    }

    /// A conditional or unconditional jump over up to three instructions.
    fn branch(&mut self, rd: u32, rs1: u32, rs2: u32) {
        let skip = 1 + self.rng.below(3) as i32;
        let to = 4 + skip * 4;
        match self.rng.below(4) {
            0 => {
                // jal
                let to = to as u32;
                self.push((((to >> 1) & 0x3ff) << 21) | (rd << 7) | 0x6f);
            }
            1 => {
                // auipc, jalr; bit 0 of the target is dropped
                self.push((TEMP << 7) | 0x17);
                let bit = self.rng.below(2) as i32;
                self.push(i(0x67, 0, rd, TEMP, (to + 4) | bit));
            }
            _ => {
                let f3 = self.pick(&[0, 1, 4, 5, 6, 7]);
                self.push(b(f3, rs1, rs2, to));
            }
        }
        for _ in 0..skip {
            let (rd, imm) = (self.reg(), self.imm12());
            self.push(i(0x13, 0, rd, rd, imm));
        }
        // A short loop backwards, counted down in x28.
        if self.rng.one_in(3) {
            let n = 1 + self.rng.below(9) as i32;
            self.push(i(0x13, 0, TEMP, 0, n));
            let (rd, rs) = (self.reg(), self.reg());
            self.push(r(0x33, 0, 0, rd, rd, rs));
            self.push(i(0x13, 0, TEMP, TEMP, -1));
            self.push(b(1, TEMP, 0, -8));
        }
        self.log(rd, false);
    }

    fn atomic(&mut self) {
        let (rd, _, rs2) = self.operands();
        let f3 = self.pick(&[2, 3]);
        let size = if f3 == 2 { 4 } else { 8 };
        let at = self.rng.below(16) as i32 * size;
        let order = self.rng.below(4) as u32;
        self.push(i(0x13, 0, TEMP, BASE, at));
        let amo = |f5: u32, rd, rs2| r(0x2f, f3, (f5 << 2) | order, rd, TEMP, rs2);
        if self.rng.one_in(4) {
            self.push(amo(2, rd, 0)); // lr
            self.log_amo(rd);
            self.push(i(0x13, 0, TEMP, BASE, at));
            self.push(amo(2, rd, 0));
            let rd = self.reg();
            self.push(amo(3, rd, rs2)); // sc succeeds
            self.log_amo(rd);
            self.push(i(0x13, 0, TEMP, BASE, at));
            self.push(amo(3, rd, rs2)); // and fails without a reservation
            self.log_amo(rd);
        } else {
            let f5 = self.pick(&[0, 1, 4, 8, 12, 16, 20, 24, 28]);
            self.push(amo(f5, rd, rs2));
            self.log_amo(rd);
        }
        let rd = self.reg();
        self.push(i(0x03, 3, rd, BASE, at & !7));
        self.log(rd, false);
    }

    fn log_amo(&mut self, rd: u32) {
        self.log(rd, false);
    }

    fn float(&mut self) {
        let fmt = self.rng.below(2) as u32;
        let (rd, rs1, rs2, rs3) = (self.freg(), self.freg(), self.freg(), self.freg());
        for reg in [rs1, rs2, rs3] {
            if !self.rng.one_in(4) {
                self.reload_f(reg);
            }
        }
        if self.rng.one_in(4) {
            let mode = self.rng.below(5) as u32;
            self.push(csr(5, 0, mode, FRM));
        }
        let rm = self.pick(&[0, 1, 2, 3, 4, 7]);
        let op = |f7: u32, f3, rd, rs1, rs2| r(0x53, f3, (f7 << 2) | fmt, rd, rs1, rs2);
        let fused = |opcode, rd, rs3: u32| r(opcode, rm, (rs3 << 2) | fmt, rd, rs1, rs2);
        let (x, xs) = (self.reg(), self.reg());
        let opcode = self.pick(&[0x43, 0x47, 0x4b, 0x4f]);
        let (word, to_x) = match self.rng.below(16) {
            0..=4 => {
                let f5 = self.rng.below(4) as u32;
                (op(f5, rm, rd, rs1, rs2), false)
            }
            5 => (op(0x0b, rm, rd, rs1, 0), false),
            6 | 7 => (fused(opcode, rd, rs3), false),
            8 => {
                // What rounding the product lost: cancellation to the last bit.
                let t = self.freg();
                self.push(op(2, rm, t, rs1, rs2));
                (fused(opcode, rd, t), false)
            }
            9 => {
                let f3 = self.rng.below(3) as u32;
                (op(4, f3, rd, rs1, rs2), false)
            }
            10 => {
                let f3 = self.rng.below(2) as u32;
                (op(5, f3, rd, rs1, rs2), false)
            }
            11 => (op(8, rm, rd, rs1, 1 - fmt), false),
            12 => {
                let f3 = self.rng.below(3) as u32;
                (op(0x14, f3, x, rs1, rs2), true)
            }
            13 => {
                let kind = self.rng.below(4) as u32;
                (op(0x18, rm, x, rs1, kind), true)
            }
            14 => {
                self.reload(xs.max(1));
                let kind = self.rng.below(4) as u32;
                (op(0x1a, rm, rd, xs.max(1), kind), false)
            }
            _ => match self.rng.below(4) {
                0 => (op(0x1c, 0, x, rs1, 0), true),
                1 => (op(0x1c, 1, x, rs1, 0), true),
                2 => (op(0x1e, 0, rd, xs, 0), false),
                _ => {
                    // Through memory, which drops or adds the box.
                    self.push(s(0x27, 2 + fmt, BASE, rs1, 16));
                    (i(0x07, 3 - fmt, rd, BASE, 16), false)
                }
            },
        };
        self.push(word);
        self.log(if to_x { x } else { rd }, !to_x);
    }
}

/// The program of a seed.
pub fn program(mix: Mix, seed: u64) -> Program {
    let mut g = Gen {
        rng: Rng::new(seed),
        code: Vec::new(),
        logged: Vec::new(),
    };
    let mut data = Vec::new();
    for _ in 0..(OPERANDS + SCRATCH / 8) {
        data.extend(pool::value(&mut g.rng).to_le_bytes());
    }
    g.constant(BASE, SCRATCH_BASE);
    g.constant(LOG, DATA + LOG_AT as u64);
    g.constant(POOL, DATA);
    for reg in 1..FREE as u32 {
        g.reload(reg);
    }
    for reg in 0..32 {
        g.reload_f(reg);
    }
    for _ in 0..STEPS {
        match (mix, g.rng.below(10)) {
            (Mix::Integer, _) | (_, 0) => g.integer(),
            (Mix::Atomic, _) => g.atomic(),
            (Mix::Float, _) => {
                // CSR writes of the integer part may have left no valid mode.
                g.push(csr(7, 0, 4, FRM)); // csrrci: 5..=7 become 1..=3
                g.float();
            }
        }
    }
    // All registers, then the whole data segment to standard output.
    for reg in 0..32u32 {
        g.push(s(0x23, 3, LOG, reg, reg as i32 * 16));
        g.push(s(0x27, 3, LOG, reg, reg as i32 * 16 + 8));
    }
    data.resize(LOG_AT + g.logged.len() * RECORD + 512, 0);
    g.constant(10, 1);
    g.constant(11, DATA);
    g.constant(12, data.len() as u64);
    g.constant(17, 64);
    g.push(0x73);
    g.constant(10, 0);
    g.constant(17, 93);
    g.push(0x73);
    Program {
        code: g.code,
        data,
        log: LOG_AT,
        logged: g.logged,
    }
}
