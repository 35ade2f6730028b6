// SPDX-License-Identifier: GPL-2.0

//! Which pages of a pagemap are in use.

use super::HUGE_PAGES;
use crate::{
    mm::zone_device::Order,
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed,
        Release, //
    }, //
};

const BITS: usize = u64::BITS as usize;
const HUGE_WORDS: usize = HUGE_PAGES / BITS;

/// A bit for each page, free to change in any context.
///
/// It makes a wrong index of the driver an error: to initialise the `struct page` of a page in use
/// would break memory management.
pub(in crate::mm) struct Claims(KVVec<Atomic<u64>>);

impl Claims {
    /// For a multiple of [`HUGE_PAGES`] pages.
    pub(super) fn new(pages: usize) -> Result<Self> {
        let mut words = KVVec::with_capacity(pages / BITS, GFP_KERNEL)?;
        for _ in 0..pages / BITS {
            words.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self(words))
    }

    /// Claims all pages of a folio, or none with [`EBUSY`]. The index is right.
    pub(super) fn claim(&self, first: usize, order: Order) -> Result {
        match order {
            Order::Page => {
                let (word, bit) = (&self.0[first / BITS], 1 << (first % BITS));
                let mut old = word.load(Relaxed);
                while old & bit == 0 {
                    match word.cmpxchg(old, old | bit, Full) {
                        Ok(_) => return Ok(()),
                        Err(now) => old = now,
                    }
                }
                Err(EBUSY)
            }
            Order::Huge => {
                let words = &self.0[first / BITS..][..HUGE_WORDS];
                for (index, word) in words.iter().enumerate() {
                    if word.cmpxchg(0, u64::MAX, Full).is_err() {
                        for claimed in &words[..index] {
                            claimed.store(0, Release);
                        }
                        return Err(EBUSY);
                    }
                }
                Ok(())
            }
        }
    }

    /// Gives back claimed pages: one, or those of a large folio.
    pub(super) fn release(&self, first: usize, pages: usize) {
        if pages == HUGE_PAGES {
            for word in &self.0[first / BITS..][..HUGE_WORDS] {
                word.store(0, Release);
            }
            return;
        }
        for page in first..first + pages {
            let (word, bit) = (&self.0[page / BITS], 1 << (page % BITS));
            let mut old = word.load(Relaxed);
            while let Err(now) = word.cmpxchg(old, old & !bit, Full) {
                old = now;
            }
        }
    }

    /// The claims of pages `first` to `first + HUGE_PAGES`, a multiple of that.
    pub(in crate::mm) fn window(&self, first: usize) -> Option<[u64; HUGE_WORDS]> {
        let words = self.0.get(first / BITS..)?.get(..HUGE_WORDS)?;
        Some(core::array::from_fn(|index| words[index].load(Relaxed)))
    }
}
