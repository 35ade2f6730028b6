// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The arithmetic operations, in integers.

use super::*;

pub fn add<F: Format>(a: u64, b: u64, rm: Round, fl: &mut u8) -> u64 {
    if is_nan::<F>(a) || is_nan::<F>(b) {
        return propagate::<F>(&[a, b], fl);
    }
    let differ = is_neg::<F>(a) != is_neg::<F>(b);
    match (is_inf::<F>(a), is_inf::<F>(b)) {
        (true, true) if differ => return invalid::<F>(fl),
        (true, _) => return a,
        (_, true) => return b,
        _ => {}
    }
    match (is_zero::<F>(a), is_zero::<F>(b)) {
        (true, true) if differ => return zero::<F>(rm == Round::Rdn),
        (true, _) => return b,
        (_, true) => return a,
        _ => {}
    }
    let (a, b) = (unpack::<F>(a), unpack::<F>(b));
    add_wide::<F>(
        (a.neg, a.exp, u128::from(a.sig) << 64),
        (b.neg, b.exp, u128::from(b.sig) << 64),
        rm,
        fl,
    )
}

/// Adds two values given as sign, exponent and 128-bit significand with the top
/// bit set and at least 20 zero bits at the bottom, so that the sum of values
/// close enough to cancel is exact.
fn add_wide<F: Format>(a: (bool, i32, u128), b: (bool, i32, u128), rm: Round, fl: &mut u8) -> u64 {
    let (hi, lo) = if (a.1, a.2) >= (b.1, b.2) {
        (a, b)
    } else {
        (b, a)
    };
    let big = hi.2 >> 1;
    let small = shr_jam(lo.2 >> 1, (hi.1 - lo.1) as u32);
    let sum = if hi.0 == lo.0 {
        big + small
    } else {
        big - small
    };
    if sum == 0 {
        return zero::<F>(rm == Round::Rdn);
    }
    round_pack_wide::<F>(hi.0, hi.1 + 1, sum, rm, fl)
}

pub fn mul<F: Format>(a: u64, b: u64, rm: Round, fl: &mut u8) -> u64 {
    if is_nan::<F>(a) || is_nan::<F>(b) {
        return propagate::<F>(&[a, b], fl);
    }
    let neg = is_neg::<F>(a) != is_neg::<F>(b);
    if is_inf::<F>(a) || is_inf::<F>(b) {
        if is_zero::<F>(a) || is_zero::<F>(b) {
            return invalid::<F>(fl);
        }
        return inf::<F>(neg);
    }
    if is_zero::<F>(a) || is_zero::<F>(b) {
        return zero::<F>(neg);
    }
    let (a, b) = (unpack::<F>(a), unpack::<F>(b));
    let product = u128::from(a.sig) * u128::from(b.sig);
    round_pack_wide::<F>(neg, a.exp + b.exp + 1, product, rm, fl)
}

pub fn div<F: Format>(a: u64, b: u64, rm: Round, fl: &mut u8) -> u64 {
    if is_nan::<F>(a) || is_nan::<F>(b) {
        return propagate::<F>(&[a, b], fl);
    }
    let neg = is_neg::<F>(a) != is_neg::<F>(b);
    match (is_inf::<F>(a), is_inf::<F>(b)) {
        (true, true) => return invalid::<F>(fl),
        (true, _) => return inf::<F>(neg),
        (_, true) => return zero::<F>(neg),
        _ => {}
    }
    match (is_zero::<F>(a), is_zero::<F>(b)) {
        (true, true) => return invalid::<F>(fl),
        (true, _) => return zero::<F>(neg),
        (_, true) => {
            *fl |= DZ;
            return inf::<F>(neg);
        }
        _ => {}
    }
    let (a, b) = (unpack::<F>(a), unpack::<F>(b));
    let (n, d) = (u128::from(a.sig) << 63, u128::from(b.sig));
    let q = ((n / d) << 64) | u128::from(n % d != 0);
    round_pack_wide::<F>(neg, a.exp - b.exp, q, rm, fl)
}

pub fn sqrt<F: Format>(a: u64, rm: Round, fl: &mut u8) -> u64 {
    if is_nan::<F>(a) {
        return propagate::<F>(&[a], fl);
    }
    if is_zero::<F>(a) {
        return a;
    }
    if is_neg::<F>(a) {
        return invalid::<F>(fl);
    }
    if is_inf::<F>(a) {
        return a;
    }
    let u = unpack::<F>(a);
    let odd = u.exp.rem_euclid(2);
    let n = u128::from(u.sig) << (63 + odd);
    let root = n.isqrt();
    let sig = root as u64 | u64::from(root * root != n);
    round_pack::<F>(
        Unpacked {
            neg: false,
            exp: (u.exp - odd) / 2,
            sig,
        },
        rm,
        fl,
    )
}

/// `a * b + c`, rounded once.
pub fn fma<F: Format>(a: u64, b: u64, c: u64, rm: Round, fl: &mut u8) -> u64 {
    let inf_zero = is_inf::<F>(a) && is_zero::<F>(b) || is_zero::<F>(a) && is_inf::<F>(b);
    if inf_zero {
        return invalid::<F>(fl);
    }
    if is_nan::<F>(a) || is_nan::<F>(b) || is_nan::<F>(c) {
        return propagate::<F>(&[a, b, c], fl);
    }
    let neg = is_neg::<F>(a) != is_neg::<F>(b);
    if is_inf::<F>(a) || is_inf::<F>(b) {
        if is_inf::<F>(c) && is_neg::<F>(c) != neg {
            return invalid::<F>(fl);
        }
        return inf::<F>(neg);
    }
    if is_inf::<F>(c) {
        return c;
    }
    if is_zero::<F>(a) || is_zero::<F>(b) {
        return add::<F>(zero::<F>(neg), c, rm, fl);
    }
    let (a, b) = (unpack::<F>(a), unpack::<F>(b));
    let product = u128::from(a.sig) * u128::from(b.sig);
    let lz = product.leading_zeros();
    let (exp, product) = (a.exp + b.exp + 1 - lz as i32, product << lz);
    if is_zero::<F>(c) {
        return round_pack_wide::<F>(neg, exp, product, rm, fl);
    }
    let c = unpack::<F>(c);
    add_wide::<F>(
        (neg, exp, product),
        (c.neg, c.exp, u128::from(c.sig) << 64),
        rm,
        fl,
    )
}
