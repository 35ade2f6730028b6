// SPDX-License-Identifier: GPL-2.0 OR MIT
//! LR/SC reservations.
//!
//! A line of memory hashes to a word that counts the stores to lines that
//! somebody reserved. A store-conditional succeeds only if the count is what the
//! load-reserved saw; values are never compared.

use crate::mem::HostPtr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

const WORDS: usize = 1024;
/// Set while somebody may hold a reservation; the count is above it.
const RESERVED: u64 = 1;

/// What a hart holds between LR and SC.
#[derive(Clone, Copy, Debug)]
pub struct Reservation {
    /// Virtual address of the LR.
    pub va: u64,
    pub size: usize,
    /// What the LR read.
    pub loaded: u64,
    /// What the uTLB had applied at the LR: any later invalidate ends it.
    pub epoch: u64,
    /// The word's value when it was reserved; none for private memory.
    pub word: Option<u64>,
}

/// The lines reserved. All calls for a line are made under its lock in the
/// atomic unit if several threads run harts.
pub struct Reservations {
    words: Box<[AtomicU64; WORDS]>,
}

impl Reservations {
    pub fn new() -> Self {
        Reservations {
            words: Box::new(std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }

    fn word(&self, p: HostPtr<'_>) -> &AtomicU64 {
        let line = p.as_ptr() as usize >> 6;
        &self.words[(line ^ (line >> 10)) % WORDS]
    }

    /// Reserves the line of `p`; returns what [`Reservations::holds`] wants.
    pub fn reserve(&self, p: HostPtr<'_>) -> u64 {
        self.word(p).fetch_or(RESERVED, Ordering::Relaxed) | RESERVED
    }

    pub fn holds(&self, p: HostPtr<'_>, word: u64) -> bool {
        self.word(p).load(Ordering::Relaxed) == word
    }

    /// A store to the line of `p` ends all reservations of it.
    #[inline]
    pub fn kill(&self, p: HostPtr<'_>) {
        let word = self.word(p);
        if word.load(Ordering::Relaxed) & RESERVED != 0 {
            // Clears the bit and counts. Lines that share the word may race
            // here: the count then differs all the same.
            word.fetch_add(1, Ordering::Relaxed);
        }
    }
}
