// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The interpreter loop.

use super::decode::Op;
use super::decode::PAGE_BYTES;
use super::softfloat::F32;
use super::softfloat::F64;
use super::Bus;
use super::Exception;
use super::Exit;
use super::Hart;

use super::fp::BOX;

const PAGE_MASK: u64 = !(PAGE_BYTES as u64 - 1);

impl Hart {
    /// Executes at most `budget` instructions.
    pub fn run<B: Bus>(&mut self, bus: &mut B, budget: u64) -> Exit<B::Stop> {
        let mut left = budget;
        let exit = self.execute(bus, &mut left);
        self.instret += budget - left;
        exit
    }

    /// `left` counts down with each instruction retired.
    fn execute<B: Bus>(&mut self, bus: &mut B, left: &mut u64) -> Exit<B::Stop> {
        let budget = *left;
        'page: loop {
            let page_va = self.pc & PAGE_MASK;
            if *left == 0 {
                return Exit::Budget;
            }
            if self.pc & 3 != 0 {
                return Exit::Exception(Exception::MisalignedFetch);
            }
            let page = match bus.fetch(self.pc) {
                Ok(page) => page,
                Err(stop) => return Exit::Stop(stop),
            };
            let mut pc = self.pc;
            loop {
                if *left == 0 {
                    self.pc = pc;
                    return Exit::Budget;
                }
                let i = page.at(pc);
                let mut next = pc.wrapping_add(4);
                let imm = i64::from(i.imm) as u64;
                macro_rules! leave {
                    ($exit:expr) => {{
                        self.pc = pc;
                        return $exit;
                    }};
                }
                macro_rules! attempt {
                    ($access:expr) => {
                        match $access {
                            Ok(v) => v,
                            Err(stop) => leave!(Exit::Stop(stop)),
                        }
                    };
                }
                macro_rules! x {
                    ($r:ident) => {
                        self.x[i.$r as usize & 63]
                    };
                }
                // Binary operation on two values, widened to 64 bits.
                macro_rules! alu {
                    (|$a:ident, $b:ident| $e:expr, $rhs:expr) => {{
                        let ($a, $b) = (x!(rs1), $rhs);
                        x!(rd) = $e as u64;
                    }};
                }
                // The same on the low halves, sign-extended.
                macro_rules! aluw {
                    (|$a:ident, $b:ident| $e:expr, $rhs:expr) => {{
                        let ($a, $b) = (x!(rs1) as u32, $rhs as u32);
                        x!(rd) = $e as i32 as u64;
                    }};
                }
                macro_rules! branch {
                    (|$a:ident, $b:ident| $e:expr) => {{
                        let ($a, $b) = (x!(rs1), x!(rs2));
                        if $e {
                            next = pc.wrapping_add(imm);
                            if next & 3 != 0 {
                                leave!(Exit::Exception(Exception::MisalignedFetch));
                            }
                        }
                    }};
                }
                macro_rules! load {
                    ($size:expr, |$v:ident| $e:expr) => {{
                        let $v = attempt!(bus.load(x!(rs1).wrapping_add(imm), $size));
                        x!(rd) = $e;
                    }};
                }
                macro_rules! store {
                    ($size:expr, $v:expr) => {{
                        let v = $v;
                        attempt!(bus.store(x!(rs1).wrapping_add(imm), $size, v))
                    }};
                }
                macro_rules! aligned {
                    ($size:expr) => {{
                        let va = x!(rs1);
                        if va & ($size - 1) != 0 {
                            leave!(Exit::Exception(Exception::MisalignedAtomic));
                        }
                        va
                    }};
                }
                macro_rules! legal {
                    ($e:expr) => {
                        if $e.is_none() {
                            leave!(Exit::Exception(Exception::IllegalInstruction));
                        }
                    };
                }
                match i.op {
                    Op::Illegal => leave!(Exit::Exception(Exception::IllegalInstruction)),
                    Op::Lui => x!(rd) = imm,
                    Op::Auipc => x!(rd) = pc.wrapping_add(imm),
                    Op::Jal => {
                        let target = pc.wrapping_add(imm);
                        if target & 3 != 0 {
                            leave!(Exit::Exception(Exception::MisalignedFetch));
                        }
                        x!(rd) = next;
                        next = target;
                    }
                    Op::Jalr => {
                        let target = x!(rs1).wrapping_add(imm) & !1;
                        if target & 3 != 0 {
                            leave!(Exit::Exception(Exception::MisalignedFetch));
                        }
                        x!(rd) = next;
                        next = target;
                    }
                    Op::Beq => branch!(|a, b| a == b),
                    Op::Bne => branch!(|a, b| a != b),
                    Op::Blt => branch!(|a, b| (a as i64) < b as i64),
                    Op::Bge => branch!(|a, b| a as i64 >= b as i64),
                    Op::Bltu => branch!(|a, b| a < b),
                    Op::Bgeu => branch!(|a, b| a >= b),
                    Op::Lb => load!(1, |v| v as i8 as u64),
                    Op::Lh => load!(2, |v| v as i16 as u64),
                    Op::Lw => load!(4, |v| v as i32 as u64),
                    Op::Ld => load!(8, |v| v),
                    Op::Lbu => load!(1, |v| v),
                    Op::Lhu => load!(2, |v| v),
                    Op::Lwu => load!(4, |v| v),
                    Op::Sb => store!(1, x!(rs2) & 0xff),
                    Op::Sh => store!(2, x!(rs2) & 0xffff),
                    Op::Sw => store!(4, x!(rs2) & 0xffff_ffff),
                    Op::Sd => store!(8, x!(rs2)),
                    Op::Flw => {
                        let v = attempt!(bus.load(x!(rs1).wrapping_add(imm), 4));
                        self.f[i.rd as usize & 31] = v | BOX;
                    }
                    Op::Fld => {
                        let v = attempt!(bus.load(x!(rs1).wrapping_add(imm), 8));
                        self.f[i.rd as usize & 31] = v;
                    }
                    Op::Fsw => store!(4, self.f[i.rs2 as usize & 31] & 0xffff_ffff),
                    Op::Fsd => store!(8, self.f[i.rs2 as usize & 31]),
                    Op::Addi => alu!(|a, b| a.wrapping_add(b), imm),
                    Op::Slti => alu!(|a, b| (a as i64) < b as i64, imm),
                    Op::Sltiu => alu!(|a, b| a < b, imm),
                    Op::Xori => alu!(|a, b| a ^ b, imm),
                    Op::Ori => alu!(|a, b| a | b, imm),
                    Op::Andi => alu!(|a, b| a & b, imm),
                    Op::Slli => alu!(|a, b| a << (b & 63), imm),
                    Op::Srli => alu!(|a, b| a >> (b & 63), imm),
                    Op::Srai => alu!(|a, b| a as i64 >> (b & 63), imm),
                    Op::Addiw => aluw!(|a, b| a.wrapping_add(b), imm),
                    Op::Slliw => aluw!(|a, b| a << (b & 31), imm),
                    Op::Srliw => aluw!(|a, b| a >> (b & 31), imm),
                    Op::Sraiw => aluw!(|a, b| a as i32 >> (b & 31), imm),
                    Op::Add => alu!(|a, b| a.wrapping_add(b), x!(rs2)),
                    Op::Sub => alu!(|a, b| a.wrapping_sub(b), x!(rs2)),
                    Op::Sll => alu!(|a, b| a << (b & 63), x!(rs2)),
                    Op::Slt => alu!(|a, b| (a as i64) < b as i64, x!(rs2)),
                    Op::Sltu => alu!(|a, b| a < b, x!(rs2)),
                    Op::Xor => alu!(|a, b| a ^ b, x!(rs2)),
                    Op::Srl => alu!(|a, b| a >> (b & 63), x!(rs2)),
                    Op::Sra => alu!(|a, b| a as i64 >> (b & 63), x!(rs2)),
                    Op::Or => alu!(|a, b| a | b, x!(rs2)),
                    Op::And => alu!(|a, b| a & b, x!(rs2)),
                    Op::Addw => aluw!(|a, b| a.wrapping_add(b), x!(rs2)),
                    Op::Subw => aluw!(|a, b| a.wrapping_sub(b), x!(rs2)),
                    Op::Sllw => aluw!(|a, b| a << (b & 31), x!(rs2)),
                    Op::Srlw => aluw!(|a, b| a >> (b & 31), x!(rs2)),
                    Op::Sraw => aluw!(|a, b| a as i32 >> (b & 31), x!(rs2)),
                    Op::Mul => alu!(|a, b| a.wrapping_mul(b), x!(rs2)),
                    Op::Mulh => {
                        alu!(
                            |a, b| (i128::from(a as i64) * i128::from(b as i64)) >> 64,
                            x!(rs2)
                        )
                    }
                    Op::Mulhsu => {
                        alu!(|a, b| (i128::from(a as i64) * i128::from(b)) >> 64, x!(rs2))
                    }
                    Op::Mulhu => alu!(|a, b| (u128::from(a) * u128::from(b)) >> 64, x!(rs2)),
                    Op::Div => alu!(|a, b| div(a as i64, b as i64), x!(rs2)),
                    Op::Divu => alu!(|a, b| a.checked_div(b).unwrap_or(u64::MAX), x!(rs2)),
                    Op::Rem => alu!(|a, b| rem(a as i64, b as i64), x!(rs2)),
                    Op::Remu => alu!(|a, b| a.checked_rem(b).unwrap_or(a), x!(rs2)),
                    Op::Mulw => aluw!(|a, b| a.wrapping_mul(b), x!(rs2)),
                    // 64-bit division of sign-extended halves cannot overflow.
                    Op::Divw => aluw!(|a, b| div((a as i32).into(), (b as i32).into()), x!(rs2)),
                    Op::Divuw => aluw!(|a, b| a.checked_div(b).unwrap_or(u32::MAX), x!(rs2)),
                    Op::Remw => aluw!(|a, b| rem((a as i32).into(), (b as i32).into()), x!(rs2)),
                    Op::Remuw => aluw!(|a, b| a.checked_rem(b).unwrap_or(a), x!(rs2)),
                    Op::Fence => bus.fence(),
                    Op::FenceI => {
                        bus.fence_i();
                        *left -= 1;
                        self.pc = next;
                        continue 'page;
                    }
                    Op::Ecall => leave!(Exit::Ecall),
                    Op::Ebreak => leave!(Exit::Exception(Exception::Breakpoint)),
                    Op::Csrrw | Op::Csrrs | Op::Csrrc | Op::Csrrwi | Op::Csrrsi | Op::Csrrci => {
                        let instret = self.instret + (budget - *left);
                        legal!(self.csr(i, bus, instret));
                    }
                    Op::Lr32 => {
                        let va = aligned!(4);
                        x!(rd) = attempt!(bus.load_reserved(va, 4)) as i32 as u64;
                    }
                    Op::Lr64 => {
                        let va = aligned!(8);
                        x!(rd) = attempt!(bus.load_reserved(va, 8));
                    }
                    Op::Sc32 => {
                        let va = aligned!(4);
                        let v = x!(rs2) & 0xffff_ffff;
                        x!(rd) = u64::from(!attempt!(bus.store_conditional(va, 4, v)));
                    }
                    Op::Sc64 => {
                        let va = aligned!(8);
                        let v = x!(rs2);
                        x!(rd) = u64::from(!attempt!(bus.store_conditional(va, 8, v)));
                    }
                    Op::Amo32(op) => {
                        let va = aligned!(4);
                        let arg = x!(rs2) as i32 as u64;
                        x!(rd) = attempt!(bus.amo(va, 4, op, arg)) as i32 as u64;
                    }
                    Op::Amo64(op) => {
                        let va = aligned!(8);
                        let arg = x!(rs2);
                        x!(rd) = attempt!(bus.amo(va, 8, op, arg));
                    }
                    Op::Fp32(op) => legal!(self.fp::<F32>(op, i)),
                    Op::Fp64(op) => legal!(self.fp::<F64>(op, i)),
                }
                *left -= 1;
                if next & PAGE_MASK != page_va {
                    self.pc = next;
                    continue 'page;
                }
                pc = next;
            }
        }
    }
}

/// Division by zero gives all ones; overflow wraps.
fn div(a: i64, b: i64) -> i64 {
    if b == 0 {
        -1
    } else {
        a.wrapping_div(b)
    }
}

/// The remainder of a division by zero is the dividend.
fn rem(a: i64, b: i64) -> i64 {
    if b == 0 {
        a
    } else {
        a.wrapping_rem(b)
    }
}
