// SPDX-License-Identifier: GPL-2.0

//! A bit for each chunk, set in any context.

use kernel::{
    alloc::KVVec,
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    }, //
};

/// Bits for `count` chunks.
pub(super) fn bits(count: usize) -> Result<KVVec<Atomic<u64>>> {
    let mut words = KVVec::new();
    for _ in 0..count.div_ceil(64) {
        words.push(Atomic::new(0), GFP_KERNEL)?;
    }
    Ok(words)
}

/// Sets a bit.
pub(super) fn set_bit(words: &[Atomic<u64>], bit: usize) {
    let (word, mask) = (&words[bit / 64], 1 << (bit % 64));
    let mut old = word.load(Relaxed);
    while let Err(now) = word.cmpxchg(old, old | mask, Full) {
        old = now;
    }
}

/// Clears all bits, and calls `f` with those that were set.
pub(super) fn take_bits(words: &[Atomic<u64>], mut f: impl FnMut(usize)) {
    for (i, word) in words.iter().enumerate() {
        if word.load(Relaxed) == 0 {
            continue;
        }
        let mut set = word.xchg(0, Full);
        while set != 0 {
            // CAST: Widening.
            f(i * 64 + set.trailing_zeros() as usize);
            set &= set - 1;
        }
    }
}
