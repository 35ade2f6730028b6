// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Operands worth trying.

use rsvm_vgpu::rng::Rng;

const BOX: u64 = 0xffff_ffff << 32;

/// Exponents near half the range put products and quotients at its ends.
fn f64_of(rng: &mut Rng, man: u64) -> u64 {
    let exp = match rng.below(5) {
        0 => rng.below(2048),
        1 => rng.below(4),
        2 => 1023 / 2 - 28 + rng.below(56),
        3 => 1023 + 1024 / 2 - 28 + rng.below(56),
        _ => 1023 - 4 + rng.below(70),
    };
    (rng.below(2) << 63) | (exp << 52) | man
}

fn f32_of(rng: &mut Rng, man: u64) -> u64 {
    let exp = match rng.below(5) {
        0 => rng.below(256),
        1 => rng.below(4),
        2 => 127 / 2 - 14 + rng.below(28),
        3 => 127 + 128 / 2 - 14 + rng.below(28),
        _ => 127 - 4 + rng.below(70),
    };
    BOX | (rng.below(2) << 31) | (exp << 23) | man
}

/// Few significand bits make ties and exact results likely.
fn man(rng: &mut Rng, width: u32) -> u64 {
    let random = rng.next() & ((1 << width) - 1);
    match rng.below(6) {
        0 => 0,
        1 => (1 << width) - 1,
        2 => random & !((1 << (width / 2)) - 1),
        3 => 1 << rng.below(width.into()),
        4 => (1 << width) - (1 << rng.below(width.into())),
        _ => random,
    }
}

/// One 64-bit operand: a double, a boxed or badly boxed float, or an integer.
pub fn value(rng: &mut Rng) -> u64 {
    const SPECIAL: [u64; 26] = [
        0,
        1 << 63,
        0x7ff0 << 48,
        0xfff0 << 48,
        0x7ff8 << 48,
        0xfff8_0000_0000_1234,
        0x7ff0_0000_0000_0001, // signalling
        0xfff7_ffff_ffff_ffff,
        1,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x3ff0_0000_0000_0000,
        0x3ff0_0000_0000_0001,
        0x3fef_ffff_ffff_ffff,
        0x41df_ffff_ffe0_0000, // 2^31 - 0.5
        0x41e0_0000_0000_0000, // 2^31
        0xc1e0_0000_0010_0000, // just below -2^31
        0x41ef_ffff_fff0_0000, // 2^32 - 0.5
        0x43e0_0000_0000_0000, // 2^63
        0xc3e0_0000_0000_0000,
        0x43f0_0000_0000_0000, // 2^64
        0x43df_ffff_ffff_ffff,
        0xbfe0_0000_0000_0000, // -0.5
        0xbfec_cccc_cccc_cccd, // -0.9
        0x47ef_ffff_f000_0000, // rounds to infinity as binary32
    ];
    const SPECIAL32: [u64; 16] = [
        0,
        0x8000_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        0xffbf_ffff,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x3f80_0000,
        0x4f00_0000,
        0x4f80_0000,
        0x5f80_0000,
        0xbf00_0000,
    ];
    match rng.below(10) {
        0 => SPECIAL[rng.below(SPECIAL.len() as u64) as usize],
        1 => BOX | SPECIAL32[rng.below(SPECIAL32.len() as u64) as usize],
        2..=4 => {
            let man = man(rng, 52);
            f64_of(rng, man)
        }
        5..=7 => {
            let man = man(rng, 23);
            f32_of(rng, man)
        }
        8 => [
            0,
            1,
            u64::MAX,
            1 << 63,
            i64::MAX as u64,
            1 << 31,
            0xffff_ffff,
        ][rng.below(7) as usize],
        _ => {
            let shift = rng.below(64);
            (rng.next() as i64 >> shift) as u64
        }
    }
}
