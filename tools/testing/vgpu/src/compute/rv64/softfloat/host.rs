// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Arithmetic by the host's floating point, which rounds to nearest even, where
//! it is known what flags the operation raises.

use super::arith;
use super::exp_field;
use super::exp_max;
use super::is_neg;
use super::sign_bit;
use super::Format;
use super::Round;
use super::F32;
use super::F64;
use super::NX;

/// The host's operations on a format, and whether their results were exact.
///
/// The `exact` functions get finite operands and results that are not subnormal;
/// `None` is "cannot tell".
pub trait HostFormat {
    fn add(a: u64, b: u64) -> u64;
    fn add_exact(a: u64, b: u64, r: u64) -> Option<bool>;
    fn mul(a: u64, b: u64) -> u64;
    fn mul_exact(a: u64, b: u64, r: u64) -> Option<bool>;
    fn div(a: u64, b: u64) -> u64;
    fn div_exact(a: u64, b: u64, r: u64) -> Option<bool>;
    fn sqrt(a: u64) -> u64;
    fn sqrt_exact(a: u64, r: u64) -> Option<bool>;
    fn fma(a: u64, b: u64, c: u64) -> u64;
    fn fma_exact(a: u64, b: u64, c: u64, r: u64) -> Option<bool>;
}

macro_rules! operations {
    ($host:ty, $bits:ty) => {
        fn add(a: u64, b: u64) -> u64 {
            (<$host>::from_bits(a as $bits) + <$host>::from_bits(b as $bits))
                .to_bits()
                .into()
        }
        fn add_exact(a: u64, b: u64, r: u64) -> Option<bool> {
            let value = |v| <$host>::from_bits(v as $bits);
            let (a, b, r) = (value(a), value(b), value(r));
            // What rounding took from the sum (Knuth's TwoSum).
            let t = r - a;
            Some((a - (r - t)) + (b - t) == 0.0)
        }
        fn mul(a: u64, b: u64) -> u64 {
            (<$host>::from_bits(a as $bits) * <$host>::from_bits(b as $bits))
                .to_bits()
                .into()
        }
        fn div(a: u64, b: u64) -> u64 {
            (<$host>::from_bits(a as $bits) / <$host>::from_bits(b as $bits))
                .to_bits()
                .into()
        }
        fn sqrt(a: u64) -> u64 {
            <$host>::from_bits(a as $bits).sqrt().to_bits().into()
        }
        fn fma(a: u64, b: u64, c: u64) -> u64 {
            let (a, b) = (
                <$host>::from_bits(a as $bits),
                <$host>::from_bits(b as $bits),
            );
            a.mul_add(b, <$host>::from_bits(c as $bits))
                .to_bits()
                .into()
        }
    };
}

/// A binary32 value as binary64, in which products of two are exact.
fn wide(v: u64) -> f64 {
    f32::from_bits(v as u32).into()
}

impl HostFormat for F32 {
    operations!(f32, u32);
    fn mul_exact(a: u64, b: u64, r: u64) -> Option<bool> {
        Some(wide(a) * wide(b) == wide(r))
    }
    fn div_exact(a: u64, b: u64, r: u64) -> Option<bool> {
        Some(wide(r) * wide(b) == wide(a))
    }
    fn sqrt_exact(a: u64, r: u64) -> Option<bool> {
        Some(wide(r) * wide(r) == wide(a))
    }
    fn fma_exact(a: u64, b: u64, c: u64, r: u64) -> Option<bool> {
        let product = wide(a) * wide(b);
        let sum = product + wide(c);
        // A sum that binary64 cannot hold is none of binary32 either.
        let exact = F64::add_exact(product.to_bits(), wide(c).to_bits(), sum.to_bits())?;
        Some(exact && sum == wide(r))
    }
}

/// Below this exponent field the error of a product may not be representable.
const TINY: u64 = 128;

/// Whether `a * b` is `p`, if that can be told.
fn product_is(a: u64, b: u64, p: u64) -> Option<bool> {
    let far = (TINY..exp_max::<F64>()).contains(&exp_field::<F64>(p));
    far.then(|| F64::fma(a, b, p ^ sign_bit::<F64>()) << 1 == 0)
}

impl HostFormat for F64 {
    operations!(f64, u64);
    fn mul_exact(a: u64, b: u64, r: u64) -> Option<bool> {
        product_is(a, b, r)
    }
    fn div_exact(a: u64, b: u64, r: u64) -> Option<bool> {
        product_is(r, b, a)
    }
    fn sqrt_exact(a: u64, r: u64) -> Option<bool> {
        product_is(r, r, a)
    }
    fn fma_exact(a: u64, b: u64, c: u64, r: u64) -> Option<bool> {
        // With an exact product it is an addition.
        let product = F64::mul(a, b);
        if product_is(a, b, product)? {
            F64::add_exact(product, c, r)
        } else {
            None
        }
    }
}

/// Operands from which nothing but NX can be raised, unless by the result.
fn usable<F: Format>(rm: Round, operands: &[u64]) -> bool {
    let normal = |&a: &u64| (1..exp_max::<F>()).contains(&exp_field::<F>(a));
    rm == Round::Rne && operands.iter().all(normal)
}

/// The host's result, if it is far enough from the ends of the range, and if its
/// exactness is known or does not matter any more.
#[inline]
fn accept<F: Format>(r: u64, exact: impl FnOnce() -> Option<bool>, fl: &mut u8) -> Option<u64> {
    if !(2..exp_max::<F>()).contains(&exp_field::<F>(r)) {
        return None;
    }
    if *fl & NX == 0 && !exact()? {
        *fl |= NX;
    }
    Some(r)
}

/// `a + b`.
#[inline]
pub fn add<F: Format>(a: u64, b: u64, rm: Round, fl: &mut u8) -> u64 {
    let r = F::add(a, b);
    let host = usable::<F>(rm, &[a, b]).then(|| accept::<F>(r, || F::add_exact(a, b, r), fl));
    host.flatten()
        .unwrap_or_else(|| arith::add::<F>(a, b, rm, fl))
}

/// `a - b`.
#[inline]
pub fn sub<F: Format>(a: u64, b: u64, rm: Round, fl: &mut u8) -> u64 {
    // The sign of a NaN does not matter: results are canonical.
    add::<F>(a, b ^ sign_bit::<F>(), rm, fl)
}

/// `a * b`.
#[inline]
pub fn mul<F: Format>(a: u64, b: u64, rm: Round, fl: &mut u8) -> u64 {
    let r = F::mul(a, b);
    let host = usable::<F>(rm, &[a, b]).then(|| accept::<F>(r, || F::mul_exact(a, b, r), fl));
    host.flatten()
        .unwrap_or_else(|| arith::mul::<F>(a, b, rm, fl))
}

/// `a / b`.
#[inline]
pub fn div<F: Format>(a: u64, b: u64, rm: Round, fl: &mut u8) -> u64 {
    let r = F::div(a, b);
    let host = usable::<F>(rm, &[a, b]).then(|| accept::<F>(r, || F::div_exact(a, b, r), fl));
    host.flatten()
        .unwrap_or_else(|| arith::div::<F>(a, b, rm, fl))
}

/// The square root of `a`.
#[inline]
pub fn sqrt<F: Format>(a: u64, rm: Round, fl: &mut u8) -> u64 {
    let r = F::sqrt(a);
    let host = (usable::<F>(rm, &[a]) && !is_neg::<F>(a))
        .then(|| accept::<F>(r, || F::sqrt_exact(a, r), fl));
    host.flatten()
        .unwrap_or_else(|| arith::sqrt::<F>(a, rm, fl))
}

/// `a * b + c`, rounded once.
#[inline]
pub fn fma<F: Format>(a: u64, b: u64, c: u64, rm: Round, fl: &mut u8) -> u64 {
    let host = usable::<F>(rm, &[a, b, c]).then(|| {
        let r = F::fma(a, b, c);
        accept::<F>(r, || F::fma_exact(a, b, c, r), fl)
    });
    host.flatten()
        .unwrap_or_else(|| arith::fma::<F>(a, b, c, rm, fl))
}
