// SPDX-License-Identifier: GPL-2.0 OR MIT
//! From a machine word to an [`Insn`], once per word of a code page.

/// Index of the register that takes what is written to x0.
pub const SINK: u8 = 32;

/// Instructions in a code page.
pub const PAGE_INSNS: usize = 1024;
/// Bytes in a code page.
pub const PAGE_BYTES: usize = PAGE_INSNS * 4;

/// `rm` field that selects the mode in `frm`.
pub const RM_DYNAMIC: u8 = 7;

/// Read-modify-write of an AMO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmoOp {
    Swap,
    Add,
    Xor,
    And,
    Or,
    Min,
    Max,
    Minu,
    Maxu,
}

impl AmoOp {
    /// The value to store; `old` and `arg` are sign-extended from the width.
    pub fn apply(self, old: u64, arg: u64) -> u64 {
        let (signed_old, signed_arg) = (old as i64, arg as i64);
        match self {
            AmoOp::Swap => arg,
            AmoOp::Add => old.wrapping_add(arg),
            AmoOp::Xor => old ^ arg,
            AmoOp::And => old & arg,
            AmoOp::Or => old | arg,
            AmoOp::Min => signed_old.min(signed_arg) as u64,
            AmoOp::Max => signed_old.max(signed_arg) as u64,
            // Sign extension keeps the unsigned order.
            AmoOp::Minu => old.min(arg),
            AmoOp::Maxu => old.max(arg),
        }
    }
}

/// Floating-point operations; the format stands beside them in [`Op`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpOp {
    Madd,
    Msub,
    Nmsub,
    Nmadd,
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
    Sgnj,
    Sgnjn,
    Sgnjx,
    Min,
    Max,
    Le,
    Lt,
    Eq,
    Class,
    /// From the other format to this one.
    Convert,
    ToW,
    ToWu,
    ToL,
    ToLu,
    FromW,
    FromWu,
    FromL,
    FromLu,
    MoveToX,
    MoveFromX,
}

/// Operations. `32` and `64` are widths in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Illegal,
    Lui,
    Auipc,
    Jal,
    Jalr,
    Beq,
    Bne,
    Blt,
    Bge,
    Bltu,
    Bgeu,
    Lb,
    Lh,
    Lw,
    Ld,
    Lbu,
    Lhu,
    Lwu,
    Sb,
    Sh,
    Sw,
    Sd,
    Flw,
    Fld,
    Fsw,
    Fsd,
    Addi,
    Slti,
    Sltiu,
    Xori,
    Ori,
    Andi,
    Slli,
    Srli,
    Srai,
    Addiw,
    Slliw,
    Srliw,
    Sraiw,
    Add,
    Sub,
    Sll,
    Slt,
    Sltu,
    Xor,
    Srl,
    Sra,
    Or,
    And,
    Addw,
    Subw,
    Sllw,
    Srlw,
    Sraw,
    Mul,
    Mulh,
    Mulhsu,
    Mulhu,
    Div,
    Divu,
    Rem,
    Remu,
    Mulw,
    Divw,
    Divuw,
    Remw,
    Remuw,
    Fence,
    FenceI,
    Ecall,
    Ebreak,
    /// The CSR number is in `imm`.
    Csrrw,
    Csrrs,
    Csrrc,
    /// As above with `rs1` as an immediate.
    Csrrwi,
    Csrrsi,
    Csrrci,
    Lr32,
    Lr64,
    Sc32,
    Sc64,
    Amo32(AmoOp),
    Amo64(AmoOp),
    /// `imm` holds rm (7:0) and rs3 (15:8).
    Fp32(FpOp),
    Fp64(FpOp),
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    pub op: Op,
    /// Destination; x0 became [`SINK`].
    pub rd: u8,
    pub rs1: u8,
    pub rs2: u8,
    pub imm: i32,
}

/// A page of code, decoded.
pub struct CodePage {
    insns: Box<[Insn; PAGE_INSNS]>,
}

impl CodePage {
    /// Decodes the words of a page, lowest address first.
    pub fn new(words: &[u32; PAGE_INSNS]) -> Self {
        let mut insns = Box::new([ILLEGAL; PAGE_INSNS]);
        for (insn, &word) in insns.iter_mut().zip(words) {
            *insn = decode(word);
        }
        CodePage { insns }
    }

    /// The instruction at a byte offset; only bits 11:2 count.
    #[inline(always)]
    pub fn at(&self, pc: u64) -> Insn {
        self.insns[(pc >> 2) as usize % PAGE_INSNS]
    }
}

const ILLEGAL: Insn = Insn {
    op: Op::Illegal,
    rd: SINK,
    rs1: 0,
    rs2: 0,
    imm: 0,
};

fn bits(w: u32, lo: u32, n: u32) -> u32 {
    (w >> lo) & ((1 << n) - 1)
}

fn imm_i(w: u32) -> i32 {
    w as i32 >> 20
}

fn imm_s(w: u32) -> i32 {
    ((w as i32 >> 25) << 5) | bits(w, 7, 5) as i32
}

fn imm_b(w: u32) -> i32 {
    let low = (bits(w, 7, 1) << 11) | (bits(w, 25, 6) << 5) | (bits(w, 8, 4) << 1);
    ((w as i32 >> 31) << 12) | low as i32
}

fn imm_j(w: u32) -> i32 {
    let low = (bits(w, 12, 8) << 12) | (bits(w, 20, 1) << 11) | (bits(w, 21, 10) << 1);
    ((w as i32 >> 31) << 20) | low as i32
}

/// Decodes one word; anything not in RV64IMAFD_Zicsr_Zifencei user level is
/// [`Op::Illegal`].
pub fn decode(w: u32) -> Insn {
    match try_decode(w) {
        Some((op, imm)) => {
            let rd = bits(w, 7, 5) as u8;
            // Floating-point destinations are told apart from x0 by the op.
            let fp_rd = match op {
                Op::Flw | Op::Fld => true,
                Op::Fp32(f) | Op::Fp64(f) => !writes_x(f),
                _ => false,
            };
            Insn {
                op,
                rd: if rd == 0 && !fp_rd { SINK } else { rd },
                rs1: bits(w, 15, 5) as u8,
                rs2: bits(w, 20, 5) as u8,
                imm,
            }
        }
        None => ILLEGAL,
    }
}

/// Whether the destination is an integer register.
fn writes_x(op: FpOp) -> bool {
    use FpOp::*;
    matches!(op, Le | Lt | Eq | Class | ToW | ToWu | ToL | ToLu | MoveToX)
}

fn try_decode(w: u32) -> Option<(Op, i32)> {
    let (funct3, funct7) = (bits(w, 12, 3), bits(w, 25, 7));
    Some(match w & 0x7f {
        0x37 => (Op::Lui, (w & 0xffff_f000) as i32),
        0x17 => (Op::Auipc, (w & 0xffff_f000) as i32),
        0x6f => (Op::Jal, imm_j(w)),
        0x67 if funct3 == 0 => (Op::Jalr, imm_i(w)),
        0x63 => {
            let op = [
                Some(Op::Beq),
                Some(Op::Bne),
                None,
                None,
                Some(Op::Blt),
                Some(Op::Bge),
                Some(Op::Bltu),
                Some(Op::Bgeu),
            ];
            (op[funct3 as usize]?, imm_b(w))
        }
        0x03 => {
            let op = [Op::Lb, Op::Lh, Op::Lw, Op::Ld, Op::Lbu, Op::Lhu, Op::Lwu];
            (*op.get(funct3 as usize)?, imm_i(w))
        }
        0x23 => (
            *[Op::Sb, Op::Sh, Op::Sw, Op::Sd].get(funct3 as usize)?,
            imm_s(w),
        ),
        0x07 => (if_width(funct3, Op::Flw, Op::Fld)?, imm_i(w)),
        0x27 => (if_width(funct3, Op::Fsw, Op::Fsd)?, imm_s(w)),
        0x13 => op_imm(w, funct3)?,
        0x1b => match (funct3, funct7) {
            (0, _) => (Op::Addiw, imm_i(w)),
            (1, 0) => (Op::Slliw, bits(w, 20, 5) as i32),
            (5, 0) => (Op::Srliw, bits(w, 20, 5) as i32),
            (5, 0x20) => (Op::Sraiw, bits(w, 20, 5) as i32),
            _ => return None,
        },
        0x33 => (op_reg(funct3, funct7)?, 0),
        0x3b => {
            let op = match (funct7, funct3) {
                (0, 0) => Op::Addw,
                (0x20, 0) => Op::Subw,
                (0, 1) => Op::Sllw,
                (0, 5) => Op::Srlw,
                (0x20, 5) => Op::Sraw,
                (1, 0) => Op::Mulw,
                (1, 4) => Op::Divw,
                (1, 5) => Op::Divuw,
                (1, 6) => Op::Remw,
                (1, 7) => Op::Remuw,
                _ => return None,
            };
            (op, 0)
        }
        // Unused fields of fences are to be ignored.
        0x0f => match funct3 {
            0 => (Op::Fence, 0),
            1 => (Op::FenceI, 0),
            _ => return None,
        },
        0x73 => match (funct3, w) {
            (0, 0x0000_0073) => (Op::Ecall, 0),
            (0, 0x0010_0073) => (Op::Ebreak, 0),
            (0 | 4, _) => return None,
            _ => {
                let op = [
                    Op::Csrrw,
                    Op::Csrrs,
                    Op::Csrrc,
                    Op::Illegal,
                    Op::Csrrwi,
                    Op::Csrrsi,
                    Op::Csrrci,
                ];
                (op[funct3 as usize - 1], bits(w, 20, 12) as i32)
            }
        },
        0x2f => (amo(w, funct3)?, 0),
        0x43 => fused(w, FpOp::Madd)?,
        0x47 => fused(w, FpOp::Msub)?,
        0x4b => fused(w, FpOp::Nmsub)?,
        0x4f => fused(w, FpOp::Nmadd)?,
        0x53 => fp(w, funct3)?,
        _ => return None,
    })
}

fn if_width(funct3: u32, single: Op, double: Op) -> Option<Op> {
    match funct3 {
        2 => Some(single),
        3 => Some(double),
        _ => None,
    }
}

fn op_imm(w: u32, funct3: u32) -> Option<(Op, i32)> {
    let shamt = bits(w, 20, 6) as i32;
    Some(match (funct3, bits(w, 26, 6)) {
        (0, _) => (Op::Addi, imm_i(w)),
        (1, 0) => (Op::Slli, shamt),
        (2, _) => (Op::Slti, imm_i(w)),
        (3, _) => (Op::Sltiu, imm_i(w)),
        (4, _) => (Op::Xori, imm_i(w)),
        (5, 0) => (Op::Srli, shamt),
        (5, 0x10) => (Op::Srai, shamt),
        (6, _) => (Op::Ori, imm_i(w)),
        (7, _) => (Op::Andi, imm_i(w)),
        _ => return None,
    })
}

fn op_reg(funct3: u32, funct7: u32) -> Option<Op> {
    let base = [
        Op::Add,
        Op::Sll,
        Op::Slt,
        Op::Sltu,
        Op::Xor,
        Op::Srl,
        Op::Or,
        Op::And,
    ];
    let muldiv = [
        Op::Mul,
        Op::Mulh,
        Op::Mulhsu,
        Op::Mulhu,
        Op::Div,
        Op::Divu,
        Op::Rem,
        Op::Remu,
    ];
    match (funct7, funct3) {
        (0, f) => Some(base[f as usize]),
        (1, f) => Some(muldiv[f as usize]),
        (0x20, 0) => Some(Op::Sub),
        (0x20, 5) => Some(Op::Sra),
        _ => None,
    }
}

fn amo(w: u32, funct3: u32) -> Option<Op> {
    let double = match funct3 {
        2 => false,
        3 => true,
        _ => return None,
    };
    // aq and rl (26:25) change nothing: all atomics are sequentially consistent.
    let op = match bits(w, 27, 5) {
        0x00 => AmoOp::Add,
        0x01 => AmoOp::Swap,
        0x02 if bits(w, 20, 5) == 0 => return Some(if double { Op::Lr64 } else { Op::Lr32 }),
        0x03 => return Some(if double { Op::Sc64 } else { Op::Sc32 }),
        0x04 => AmoOp::Xor,
        0x08 => AmoOp::Or,
        0x0c => AmoOp::And,
        0x10 => AmoOp::Min,
        0x14 => AmoOp::Max,
        0x18 => AmoOp::Minu,
        0x1c => AmoOp::Maxu,
        _ => return None,
    };
    Some(if double { Op::Amo64(op) } else { Op::Amo32(op) })
}

/// `rm` and rs3 of a rounding operation; 5 and 6 are reserved.
fn rounding(w: u32) -> Option<i32> {
    let rm = bits(w, 12, 3);
    (rm != 5 && rm != 6).then_some((rm | (bits(w, 27, 5) << 8)) as i32)
}

fn format(fmt: u32, op: FpOp) -> Option<Op> {
    match fmt {
        0 => Some(Op::Fp32(op)),
        1 => Some(Op::Fp64(op)),
        _ => None,
    }
}

fn fused(w: u32, op: FpOp) -> Option<(Op, i32)> {
    Some((format(bits(w, 25, 2), op)?, rounding(w)?))
}

fn fp(w: u32, funct3: u32) -> Option<(Op, i32)> {
    use FpOp::*;
    let (fmt, rs2) = (bits(w, 25, 2), bits(w, 20, 5));
    let integer = |ops: [FpOp; 4]| ops.get(rs2 as usize).copied();
    let (op, rounds) = match (bits(w, 27, 5), funct3) {
        (0x00, _) => (Add, true),
        (0x01, _) => (Sub, true),
        (0x02, _) => (Mul, true),
        (0x03, _) => (Div, true),
        (0x0b, _) if rs2 == 0 => (Sqrt, true),
        (0x04, 0) => (Sgnj, false),
        (0x04, 1) => (Sgnjn, false),
        (0x04, 2) => (Sgnjx, false),
        (0x05, 0) => (Min, false),
        (0x05, 1) => (Max, false),
        // rs2 names the source format, which must be the other one.
        (0x08, _) if fmt < 2 && rs2 == 1 - fmt => (Convert, true),
        (0x14, 0) => (Le, false),
        (0x14, 1) => (Lt, false),
        (0x14, 2) => (Eq, false),
        (0x18, _) => (integer([ToW, ToWu, ToL, ToLu])?, true),
        (0x1a, _) => (integer([FromW, FromWu, FromL, FromLu])?, true),
        (0x1c, 0) if rs2 == 0 => (MoveToX, false),
        (0x1c, 1) if rs2 == 0 => (Class, false),
        (0x1e, 0) if rs2 == 0 => (MoveFromX, false),
        _ => return None,
    };
    Some((format(fmt, op)?, if rounds { rounding(w)? } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immediates_are_sign_extended() {
        // sw x1, -4(x2); beq x0, x0, -4096; jal x0, -1048576
        assert_eq!(decode(0xfe11_2e23).imm, -4);
        assert_eq!(decode(0x8000_0063).imm, -4096);
        assert_eq!(decode(0x8000_006f).imm, -1_048_576);
    }

    #[test]
    fn compressed_and_reserved_words_are_illegal() {
        for word in [
            0x0000_0000, // also the defined illegal instruction
            0xffff_ffff,
            0x0000_4501, // c.li a0, 0
            0x1050_0073, // wfi
            0x3020_0073, // mret
            0x0400_7053, // fadd.h
            0x0000_5053, // fadd.s with rm = 5
            0x1010_202f, // lr.w with rs2 = 1
            0x4010_1013, // slli with bit 30
        ] {
            assert_eq!(decode(word).op, Op::Illegal, "{word:#x}");
        }
    }

    #[test]
    fn x0_is_a_sink_but_f0_is_not() {
        assert_eq!(decode(0x0010_0013).rd, SINK); // addi x0, x0, 1
        assert_eq!(decode(0x0000_7053).rd, 0); // fadd.s f0, f0, f0
        assert_eq!(decode(0xa000_2053).rd, SINK); // feq.s x0, f0, f0
    }
}
