// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Floating-point instructions: registers, NaN boxing and rounding modes around
//! [`softfloat`](super::softfloat).

use super::decode::FpOp;
use super::decode::Insn;
use super::decode::RM_DYNAMIC;
use super::softfloat as sf;
use super::softfloat::Format;
use super::softfloat::Round;
use super::softfloat::F32;
use super::softfloat::F64;
use super::Hart;

/// What stands above a binary32 value in a register.
pub(super) const BOX: u64 = 0xffff_ffff << 32;

/// A format as it lies in a 64-bit register.
pub(super) trait Boxed: Format {
    /// The format on the other side of a conversion.
    type Other: Boxed;
    const SIGN: u64;
    fn unbox(reg: u64) -> u64;
    fn boxed(value: u64) -> u64;
    /// A raw move to an integer register.
    fn to_x(reg: u64) -> u64;
}

impl Boxed for F32 {
    type Other = F64;
    const SIGN: u64 = 1 << 31;
    #[inline(always)]
    fn unbox(reg: u64) -> u64 {
        if reg >> 32 == 0xffff_ffff {
            reg & 0xffff_ffff
        } else {
            sf::nan::<F32>()
        }
    }
    #[inline(always)]
    fn boxed(value: u64) -> u64 {
        value | BOX
    }
    #[inline(always)]
    fn to_x(reg: u64) -> u64 {
        reg as i32 as u64
    }
}

impl Boxed for F64 {
    type Other = F32;
    const SIGN: u64 = 1 << 63;
    #[inline(always)]
    fn unbox(reg: u64) -> u64 {
        reg
    }
    #[inline(always)]
    fn boxed(value: u64) -> u64 {
        value
    }
    #[inline(always)]
    fn to_x(reg: u64) -> u64 {
        reg
    }
}

impl Hart {
    /// Executes a floating-point operation; `None` is an illegal instruction (a
    /// dynamic rounding mode that does not exist).
    #[inline]
    pub(super) fn fp<F: Boxed>(&mut self, op: FpOp, insn: Insn) -> Option<()> {
        use FpOp::*;
        let raw = self.f[insn.rs1 as usize & 31];
        let a = F::unbox(raw);
        let b = F::unbox(self.f[insn.rs2 as usize & 31]);
        let x = self.x[insn.rs1 as usize & 63];
        let mut fl = self.fflags;
        let static_rm = insn.imm as u8;
        let rm = Round::from_bits(if static_rm == RM_DYNAMIC {
            self.frm
        } else {
            static_rm
        });
        let to_int = |bits, signed, fl: &mut u8| Some(sf::to_int::<F>(a, bits, signed, rm?, fl));
        let from_int =
            |bits, signed, fl: &mut u8| Some(sf::from_int::<F>(x, bits, signed, rm?, fl));
        let fma = |negate_product: bool, negate_c: bool, fl: &mut u8| {
            let c = F::unbox(self.f[(insn.imm >> 8) as usize & 31]);
            let sign = |on| if on { F::SIGN } else { 0 };
            Some(sf::fma::<F>(
                a ^ sign(negate_product),
                b,
                c ^ sign(negate_c),
                rm?,
                fl,
            ))
        };
        let (to_f, to_x) = match op {
            Madd => (fma(false, false, &mut fl)?, None),
            Msub => (fma(false, true, &mut fl)?, None),
            Nmsub => (fma(true, false, &mut fl)?, None),
            Nmadd => (fma(true, true, &mut fl)?, None),
            Add => (sf::add::<F>(a, b, rm?, &mut fl), None),
            Sub => (sf::sub::<F>(a, b, rm?, &mut fl), None),
            Mul => (sf::mul::<F>(a, b, rm?, &mut fl), None),
            Div => (sf::div::<F>(a, b, rm?, &mut fl), None),
            Sqrt => (sf::sqrt::<F>(a, rm?, &mut fl), None),
            Sgnj => (a & !F::SIGN | b & F::SIGN, None),
            Sgnjn => (a & !F::SIGN | !b & F::SIGN, None),
            Sgnjx => (a ^ b & F::SIGN, None),
            Min => (sf::min_max::<F>(a, b, false, &mut fl), None),
            Max => (sf::min_max::<F>(a, b, true, &mut fl), None),
            Convert => {
                let other = F::Other::unbox(raw);
                (sf::convert::<F::Other, F>(other, rm?, &mut fl), None)
            }
            FromW => (from_int(32, true, &mut fl)?, None),
            FromWu => (from_int(32, false, &mut fl)?, None),
            FromL => (from_int(64, true, &mut fl)?, None),
            FromLu => (from_int(64, false, &mut fl)?, None),
            MoveFromX => (x & (F::SIGN | (F::SIGN - 1)), None),
            Le => (0, Some(sf::le::<F>(a, b, &mut fl).into())),
            Lt => (0, Some(sf::lt::<F>(a, b, &mut fl).into())),
            Eq => (0, Some(sf::eq::<F>(a, b, &mut fl).into())),
            Class => (0, Some(sf::classify::<F>(a))),
            ToW => (0, Some(to_int(32, true, &mut fl)?)),
            ToWu => (0, Some(to_int(32, false, &mut fl)?)),
            ToL => (0, Some(to_int(64, true, &mut fl)?)),
            ToLu => (0, Some(to_int(64, false, &mut fl)?)),
            MoveToX => (0, Some(F::to_x(raw))),
        };
        self.fflags = fl;
        match to_x {
            Some(v) => self.x[insn.rd as usize & 63] = v,
            None => self.f[insn.rd as usize & 31] = F::boxed(to_f),
        }
        Some(())
    }
}
