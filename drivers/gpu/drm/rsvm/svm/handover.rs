// SPDX-License-Identifier: GPL-2.0

//! Whose turn it is with a page that both CPU and device run atomics on.
//!
//! To hand such a page over takes far longer than an atomic. So after the CPU took a page back, the
//! device leaves it alone for a *quantum*, and then keeps it for one, whatever the number of threads
//! that wait on either side. A page that only one of them uses is never waited for. Whoever else
//! takes a page away, reclaim or migration, counts as the CPU.
//!
//! Under the space's page-table lock. Of a bounded number of pages it is known when the CPU took
//! them; to forget one costs a quantum of fairness.

use core::ops::Range;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// Length of a turn in microseconds.
pub(crate) static QUANTUM_US: Atomic<u32> = Atomic::new(2000);

/// The longest turn: everybody who wants to change mappings waits for the device's.
const LONGEST: u32 = 100_000;
/// For how long a page is contended after the CPU took it.
const CONTENDED: Delta = Delta::from_millis(100);
/// Pages remembered; a power of two.
const PAGES: usize = 256;

/// Length of a turn.
pub(crate) fn quantum() -> Delta {
    Delta::from_micros(QUANTUM_US.load(Relaxed).min(LONGEST).into())
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The CPU's, for so long yet.
    Cpu(Delta),
    /// The device's, for a quantum: the CPU will want the page back.
    Device,
    /// The device's, as long as it likes.
    Free,
}

/// Page `page`, counted from address zero, was taken by the CPU.
#[derive(Clone, Copy)]
struct Taken {
    page: usize,
    at: Instant<Monotonic>,
}

/// Pages that the CPU took back from the device.
pub(crate) struct Handovers(KVec<Option<Taken>>);

impl Handovers {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(KVec::from_elem(None, PAGES, GFP_KERNEL)?))
    }

    /// The CPU took `page` from the device.
    pub(super) fn take(&mut self, page: usize, at: Instant<Monotonic>) {
        self.0[page % PAGES] = Some(Taken { page, at });
    }

    /// Forgets `pages`.
    pub(crate) fn forget(&mut self, pages: Range<usize>) {
        for place in &mut self.0 {
            if place.is_some_and(|taken| pages.contains(&taken.page)) {
                *place = None;
            }
        }
    }

    fn taken(&self, page: usize) -> Option<Instant<Monotonic>> {
        let taken = self.0[page % PAGES].filter(|taken| taken.page == page)?;
        Some(taken.at)
    }

    /// Whether the CPU took `page` from the device a short time before `now`.
    pub(crate) fn is_contended(&self, page: usize, now: Instant<Monotonic>) -> bool {
        self.taken(page).is_some_and(|at| now - at < CONTENDED)
    }

    /// Whose turn it is at `now` with `page`.
    pub(crate) fn turn(&self, page: usize, now: Instant<Monotonic>, quantum: Delta) -> Turn {
        let Some(at) = self.taken(page) else {
            return Turn::Free;
        };
        let passed = now - at;
        if passed < quantum {
            Turn::Cpu(quantum - passed)
        } else if passed < CONTENDED {
            Turn::Device
        } else {
            Turn::Free
        }
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_svm_handover)]
mod tests {
    use super::*;

    #[test]
    fn turns_alternate() -> Result {
        let mut handovers = Handovers::new()?;
        let quantum = Delta::from_millis(2);
        let start = Instant::<Monotonic>::now();
        let after = |ms| start + Delta::from_millis(ms);
        assert_eq!(handovers.turn(7, start, quantum), Turn::Free);
        assert!(!handovers.is_contended(7, start));

        handovers.take(7, start);
        assert!(handovers.is_contended(7, after(99)));
        assert!(!handovers.is_contended(7, after(100)));
        assert_eq!(handovers.turn(7, start, quantum), Turn::Cpu(quantum));
        let half = Delta::from_millis(1);
        assert_eq!(handovers.turn(7, after(1), quantum), Turn::Cpu(half));
        assert_eq!(handovers.turn(7, after(2), quantum), Turn::Device);
        assert_eq!(handovers.turn(7, after(99), quantum), Turn::Device);
        assert_eq!(handovers.turn(7, after(100), quantum), Turn::Free);
        assert_eq!(handovers.turn(8, after(1), quantum), Turn::Free);
        // Without a quantum nobody waits for a turn of the CPU.
        let none = Delta::from_millis(0);
        assert_eq!(handovers.turn(7, start, none), Turn::Device);
        Ok(())
    }

    #[test]
    fn a_page_in_the_same_place_is_another_page() -> Result {
        let mut handovers = Handovers::new()?;
        let now = Instant::<Monotonic>::now();
        handovers.take(7, now);
        handovers.take(7 + PAGES, now);
        let known = |handovers: &Handovers, page| handovers.is_contended(page, now);
        assert!(!known(&handovers, 7) && known(&handovers, 7 + PAGES));
        handovers.take(9, now);
        handovers.forget(8..10);
        assert!(!known(&handovers, 9) && known(&handovers, 7 + PAGES));
        Ok(())
    }
}
