// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Comparisons, classification and conversions.

use super::*;

/// Key in which finite and infinite values are ordered; both zeros are 0.
fn order<F: Format>(a: u64) -> i64 {
    let magnitude = (a & !sign_bit::<F>()) as i64;
    if is_neg::<F>(a) {
        -magnitude
    } else {
        magnitude
    }
}

/// Quiet equality.
pub fn eq<F: Format>(a: u64, b: u64, fl: &mut u8) -> bool {
    if is_nan::<F>(a) || is_nan::<F>(b) {
        propagate::<F>(&[a, b], fl);
        return false;
    }
    order::<F>(a) == order::<F>(b)
}

/// Signalling less-than.
pub fn lt<F: Format>(a: u64, b: u64, fl: &mut u8) -> bool {
    if is_nan::<F>(a) || is_nan::<F>(b) {
        *fl |= NV;
        return false;
    }
    order::<F>(a) < order::<F>(b)
}

/// Signalling less-or-equal.
pub fn le<F: Format>(a: u64, b: u64, fl: &mut u8) -> bool {
    if is_nan::<F>(a) || is_nan::<F>(b) {
        *fl |= NV;
        return false;
    }
    order::<F>(a) <= order::<F>(b)
}

/// minimumNumber (or maximumNumber): a quiet NaN loses, -0 is less than +0.
pub fn min_max<F: Format>(a: u64, b: u64, max: bool, fl: &mut u8) -> u64 {
    if is_snan::<F>(a) || is_snan::<F>(b) {
        *fl |= NV;
    }
    match (is_nan::<F>(a), is_nan::<F>(b)) {
        (true, true) => return nan::<F>(),
        (true, _) => return b,
        (_, true) => return a,
        _ => {}
    }
    let key = |v| (order::<F>(v), !is_neg::<F>(v));
    if (key(a) < key(b)) != max {
        a
    } else {
        b
    }
}

/// The one-hot class mask of FCLASS.
pub fn classify<F: Format>(a: u64) -> u64 {
    let neg = is_neg::<F>(a);
    let bit = if is_nan::<F>(a) {
        if is_snan::<F>(a) {
            8
        } else {
            9
        }
    } else {
        let size = if is_inf::<F>(a) {
            3
        } else if exp_field::<F>(a) != 0 {
            2
        } else if is_zero::<F>(a) {
            0
        } else {
            1
        };
        if neg {
            3 - size
        } else {
            4 + size
        }
    };
    1 << bit
}

/// To an integer of `bits` (32 or 64); out of range and NaN saturate with NV.
/// The result is sign-extended from `bits`, also when unsigned.
pub fn to_int<F: Format>(a: u64, bits: u32, signed: bool, rm: Round, fl: &mut u8) -> u64 {
    let neg = is_neg::<F>(a) && !is_nan::<F>(a);
    let max = (u64::MAX >> (64 - bits)) >> u32::from(signed);
    let limit = match (neg, signed) {
        (false, _) => max,
        (true, true) => max + 1,
        (true, false) => 0,
    };
    let magnitude = if is_nan::<F>(a) || is_inf::<F>(a) {
        None
    } else if is_zero::<F>(a) {
        Some((0, false))
    } else {
        let u = unpack::<F>(a);
        if u.exp > 63 {
            None
        } else {
            // Two fraction bits, the lower one sticky, are enough to round.
            let wide = u128::from(u.sig) << 2;
            let fixed = shr_jam(wide, (63 - u.exp) as u32);
            let (int, low) = ((fixed >> 2) as u64, (fixed & 3) as u64);
            let up = rounds_up(((int & 1) << 2) | low, 2, neg, rm);
            int.checked_add(u64::from(up)).map(|v| (v, low != 0))
        }
    };
    let value = match magnitude {
        Some((v, inexact)) if v <= limit => {
            if inexact {
                *fl |= NX;
            }
            v
        }
        _ => {
            *fl |= NV;
            limit
        }
    };
    let value = if neg { value.wrapping_neg() } else { value };
    if bits == 32 {
        value as i32 as u64
    } else {
        value
    }
}

/// From an integer held in a register; 32-bit ones use the low half.
pub fn from_int<F: Format>(v: u64, bits: u32, signed: bool, rm: Round, fl: &mut u8) -> u64 {
    let v = match (bits, signed) {
        (32, true) => v as i32 as u64,
        (32, false) => v as u32 as u64,
        _ => v,
    };
    if v == 0 {
        return 0;
    }
    let neg = signed && (v as i64) < 0;
    let magnitude = if neg { v.wrapping_neg() } else { v };
    let lz = magnitude.leading_zeros();
    round_pack::<F>(
        Unpacked {
            neg,
            exp: 63 - lz as i32,
            sig: magnitude << lz,
        },
        rm,
        fl,
    )
}

/// Between formats.
pub fn convert<From: Format, To: Format>(a: u64, rm: Round, fl: &mut u8) -> u64 {
    if is_nan::<From>(a) {
        propagate::<From>(&[a], fl);
        return nan::<To>();
    }
    let neg = is_neg::<From>(a);
    if is_inf::<From>(a) {
        return inf::<To>(neg);
    }
    if is_zero::<From>(a) {
        return zero::<To>(neg);
    }
    round_pack::<To>(unpack::<From>(a), rm, fl)
}
