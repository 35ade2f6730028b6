// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Binary32 and binary64 arithmetic as RISC-V defines it: five rounding modes,
//! accrued exception flags, canonical NaNs, tininess detected after rounding.
//!
//! Values travel as bit patterns in a `u64`. [`host`] asks the host's floating
//! point where that provably gives the same bits and flags, and [`arith`], which
//! is integer arithmetic throughout, for the rest.

mod arith;
mod convert;
mod host;

pub use convert::*;
pub use host::*;

/// Invalid operation.
pub const NV: u8 = 0x10;
/// Division by zero.
pub const DZ: u8 = 0x08;
/// Overflow.
pub const OF: u8 = 0x04;
/// Underflow.
pub const UF: u8 = 0x02;
/// Inexact.
pub const NX: u8 = 0x01;

/// Rounding modes in the encoding of `frm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Rne,
    /// Towards zero.
    Rtz,
    /// Towards minus infinity.
    Rdn,
    /// Towards plus infinity.
    Rup,
    /// To nearest, ties away from zero.
    Rmm,
}

impl Round {
    /// Decodes a 3-bit static mode; 5..=7 are not modes.
    pub fn from_bits(bits: u8) -> Option<Round> {
        use Round::*;
        [Rne, Rtz, Rdn, Rup, Rmm].get(usize::from(bits)).copied()
    }
}

/// A floating-point format.
pub trait Format: HostFormat {
    /// Bits of the trailing significand.
    const MAN: u32;
    /// Bits of the exponent.
    const EXP: u32;
}

/// binary32.
pub struct F32;
/// binary64.
pub struct F64;

impl Format for F32 {
    const MAN: u32 = 23;
    const EXP: u32 = 8;
}
impl Format for F64 {
    const MAN: u32 = 52;
    const EXP: u32 = 11;
}

const fn man_mask<F: Format>() -> u64 {
    (1 << F::MAN) - 1
}
const fn exp_max<F: Format>() -> u64 {
    (1 << F::EXP) - 1
}
const fn bias<F: Format>() -> i32 {
    (1 << (F::EXP - 1)) - 1
}
const fn sign_bit<F: Format>() -> u64 {
    1 << (F::MAN + F::EXP)
}
const fn inf<F: Format>(neg: bool) -> u64 {
    zero::<F>(neg) | (exp_max::<F>() << F::MAN)
}
const fn zero<F: Format>(neg: bool) -> u64 {
    if neg {
        sign_bit::<F>()
    } else {
        0
    }
}
/// The canonical quiet NaN.
pub const fn nan<F: Format>() -> u64 {
    inf::<F>(false) | (1 << (F::MAN - 1))
}
fn exp_field<F: Format>(a: u64) -> u64 {
    (a >> F::MAN) & exp_max::<F>()
}
fn is_neg<F: Format>(a: u64) -> bool {
    a & sign_bit::<F>() != 0
}
fn is_nan<F: Format>(a: u64) -> bool {
    a & !sign_bit::<F>() > inf::<F>(false)
}
fn is_snan<F: Format>(a: u64) -> bool {
    is_nan::<F>(a) && a & (1 << (F::MAN - 1)) == 0
}
fn is_zero<F: Format>(a: u64) -> bool {
    a & !sign_bit::<F>() == 0
}
fn is_inf<F: Format>(a: u64) -> bool {
    a & !sign_bit::<F>() == inf::<F>(false)
}

/// A finite value other than zero: `sig / 2^63 * 2^exp`, top bit of `sig` set.
#[derive(Clone, Copy)]
struct Unpacked {
    neg: bool,
    exp: i32,
    sig: u64,
}

fn unpack<F: Format>(a: u64) -> Unpacked {
    let (neg, e, man) = (
        is_neg::<F>(a),
        exp_field::<F>(a) as i32,
        a & man_mask::<F>(),
    );
    if e == 0 {
        let lz = man.leading_zeros();
        return Unpacked {
            neg,
            exp: 1 - bias::<F>() + (63 - F::MAN) as i32 - lz as i32,
            sig: man << lz,
        };
    }
    Unpacked {
        neg,
        exp: e - bias::<F>(),
        sig: (man | (1 << F::MAN)) << (63 - F::MAN),
    }
}

/// Shifts right; bits shifted out are or-ed into bit 0.
fn shr_jam(v: u128, n: u32) -> u128 {
    match n {
        0 => v,
        1..=127 => (v >> n) | u128::from(v << (128 - n) != 0),
        _ => u128::from(v != 0),
    }
}

/// Whether `sig` is to be rounded up (in magnitude) where its low `n` bits go.
fn rounds_up(sig: u64, n: u32, neg: bool, rm: Round) -> bool {
    let (low, half) = (sig & ((1 << n) - 1), 1u64 << (n - 1));
    match rm {
        Round::Rne => low > half || low == half && (sig >> n) & 1 == 1,
        Round::Rtz => false,
        Round::Rdn => neg && low != 0,
        Round::Rup => !neg && low != 0,
        Round::Rmm => low >= half,
    }
}

/// Rounds `sig / 2^63 * 2^exp` (top bit of `sig` set, bit 0 sticky) and packs it.
fn round_pack<F: Format>(u: Unpacked, rm: Round, fl: &mut u8) -> u64 {
    let n = 63 - F::MAN;
    let e = u.exp + bias::<F>();
    let sign = zero::<F>(u.neg);
    if e < 1 {
        let sig = shr_jam(u.sig.into(), (1 - e) as u32) as u64;
        let m = (sig >> n) + u64::from(rounds_up(sig, n, u.neg, rm));
        if sig & ((1 << n) - 1) != 0 {
            *fl |= NX;
            let carries = e == 0
                && (u.sig >> n) + u64::from(rounds_up(u.sig, n, u.neg, rm))
                    > man_mask::<F>() * 2 + 1;
            if !carries {
                *fl |= UF;
            }
        }
        // A carry into bit MAN is the exponent field becoming 1, as it should.
        return sign | m;
    }
    if u.sig & ((1 << n) - 1) != 0 {
        *fl |= NX;
    }
    let m = (u.sig >> n) + u64::from(rounds_up(u.sig, n, u.neg, rm));
    // The hidden bit, or the carry out of it, adds to the exponent field.
    let packed = ((e as u64 - 1) << F::MAN).wrapping_add(m);
    if packed >= inf::<F>(false) {
        *fl |= OF | NX;
        let to_inf = match rm {
            Round::Rne | Round::Rmm => true,
            Round::Rtz => false,
            Round::Rdn => u.neg,
            Round::Rup => !u.neg,
        };
        return sign | (inf::<F>(false) - u64::from(!to_inf));
    }
    sign | packed
}

/// As [`round_pack`] from a wide significand that may have leading zeros:
/// `sig / 2^127 * 2^exp`. `sig` must not be zero.
fn round_pack_wide<F: Format>(neg: bool, exp: i32, sig: u128, rm: Round, fl: &mut u8) -> u64 {
    let lz = sig.leading_zeros();
    let sig = sig << lz;
    let sig64 = (sig >> 64) as u64 | u64::from(sig as u64 != 0);
    round_pack::<F>(
        Unpacked {
            neg,
            exp: exp - lz as i32,
            sig: sig64,
        },
        rm,
        fl,
    )
}

/// A NaN result; signalling operands raise NV.
fn propagate<F: Format>(ops: &[u64], fl: &mut u8) -> u64 {
    if ops.iter().any(|&a| is_snan::<F>(a)) {
        *fl |= NV;
    }
    nan::<F>()
}

fn invalid<F: Format>(fl: &mut u8) -> u64 {
    *fl |= NV;
    nan::<F>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(v: f64) -> u64 {
        v.to_bits()
    }

    #[test]
    fn subnormal_boundary_detects_tininess_after_rounding() {
        // Largest subnormal plus almost half an ulp: rounds to the least normal.
        let mut fl = 0;
        let a = 0x0010_0000_0000_0000u64;
        let r = mul::<F64>(a, f(1.0 - f64::EPSILON / 2.0), Round::Rne, &mut fl);
        // At unbounded exponent the product keeps 53 bits: tiny, inexact.
        assert_eq!((r, fl), (a, UF | NX));
        let mut fl = 0;
        let r = mul::<F64>(a, f(0.5), Round::Rne, &mut fl);
        assert_eq!((r, fl), (a >> 1, 0));
    }

    #[test]
    fn overflow_by_mode() {
        let max = f(f64::MAX);
        for (rm, want) in [
            (Round::Rne, f(f64::INFINITY)),
            (Round::Rtz, max),
            (Round::Rdn, max),
            (Round::Rup, f(f64::INFINITY)),
            (Round::Rmm, f(f64::INFINITY)),
        ] {
            let mut fl = 0;
            assert_eq!(add::<F64>(max, max, rm, &mut fl), want, "{rm:?}");
            assert_eq!(fl, OF | NX);
        }
    }

    #[test]
    fn fma_of_inf_and_zero_is_invalid_even_with_a_quiet_nan() {
        let mut fl = 0;
        let r = fma::<F64>(f(f64::INFINITY), 0, nan::<F64>(), Round::Rne, &mut fl);
        assert_eq!((r, fl), (nan::<F64>(), NV));
    }

    #[test]
    fn conversions_saturate() {
        let mut fl = 0;
        assert_eq!(to_int::<F64>(f(-0.75), 32, false, Round::Rtz, &mut fl), 0);
        assert_eq!(fl, NX);
        let mut fl = 0;
        assert_eq!(to_int::<F64>(f(-0.75), 32, false, Round::Rne, &mut fl), 0);
        assert_eq!(fl, NV);
        let mut fl = 0;
        assert_eq!(
            to_int::<F64>(f(4294967295.0), 32, false, Round::Rne, &mut fl),
            u64::MAX
        );
        assert_eq!(fl, 0);
        assert_eq!(
            to_int::<F64>(nan::<F64>(), 64, true, Round::Rne, &mut fl),
            i64::MAX as u64
        );
        assert_eq!(fl, NV);
    }

    #[test]
    fn the_host_agrees_with_integer_arithmetic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        fn both<F: Format>(a: u64, b: u64, c: u64) {
            for before in [0, NX] {
                let check = |what, host: &dyn Fn(&mut u8) -> u64, soft: &dyn Fn(&mut u8) -> u64| {
                    let (mut hf, mut sf) = (before, before);
                    let (h, s) = (host(&mut hf), soft(&mut sf));
                    assert_eq!((h, hf), (s, sf), "{what} of {a:#x} {b:#x} {c:#x}");
                };
                let rm = Round::Rne;
                check("add", &|fl| add::<F>(a, b, rm, fl), &|fl| {
                    arith::add::<F>(a, b, rm, fl)
                });
                check("mul", &|fl| mul::<F>(a, b, rm, fl), &|fl| {
                    arith::mul::<F>(a, b, rm, fl)
                });
                check("div", &|fl| div::<F>(a, b, rm, fl), &|fl| {
                    arith::div::<F>(a, b, rm, fl)
                });
                check("sqrt", &|fl| sqrt::<F>(a, rm, fl), &|fl| {
                    arith::sqrt::<F>(a, rm, fl)
                });
                check("fma", &|fl| fma::<F>(a, b, c, rm, fl), &|fl| {
                    arith::fma::<F>(a, b, c, rm, fl)
                });
            }
        }
        for i in 0..300_000u32 {
            // Fewer significand bits make exact results and ties likely.
            let keep = !0u64 << [0, 30, 40, 48][i as usize % 4];
            let (a, b, c) = (next() & keep, next() & keep, next() & keep);
            both::<F64>(a, b, c);
            // Close exponents: cancellation.
            let near = |v: u64| v & !(0x7fc << 52) | (0x3fc << 52);
            both::<F64>(near(a), near(b), near(c));
            let keep = (!0u64 << [0, 8, 16, 20][i as usize % 4]) & 0xffff_ffff;
            let (a, b, c) = ((a >> 32) & keep, (b >> 32) & keep, (c >> 32) & keep);
            both::<F32>(a, b, c);
            let near = |v: u64| v & !(0xfc << 23) | (0x7c << 23);
            both::<F32>(near(a), near(b), near(c));
        }
    }
}
