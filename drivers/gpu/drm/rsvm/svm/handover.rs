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
const LONGEST_US: u32 = 20_000;
/// Pages remembered.
const PAGES: usize = 256;

/// Length of a turn.
pub(crate) fn quantum() -> Delta {
    Delta::from_micros(QUANTUM_US.load(Relaxed).min(LONGEST_US).into())
}

/// If the device wants a page back within this time, both want it at the same time. Else it is used
/// by the one and then by the other.
const CONTENDED: Delta = Delta::from_millis(500);

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The CPU's, for so long yet.
    Cpu(Delta),
    /// The device's, for a quantum: the CPU will want the page back, which it took so long ago.
    Device(Delta),
    /// The device's, as long as it likes.
    Free,
}

/// Page `page`, counted from address zero, was taken by the CPU.
#[derive(Clone, Copy)]
struct Taken {
    page: usize,
    at: Instant<Monotonic>,
    /// The device wanted it back soon. That stays so however long it has to wait for its turn.
    wanted: bool,
}

/// Pages that the CPU took back from the device, in no order.
pub(crate) struct Handovers(KVec<Taken>);

impl Handovers {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(KVec::with_capacity(PAGES, GFP_KERNEL)?))
    }

    /// The CPU took `page` from the device.
    pub(super) fn take(&mut self, page: usize, at: Instant<Monotonic>) {
        let taken = Taken {
            page,
            at,
            wanted: false,
        };
        if let Some(same) = self.0.iter_mut().find(|taken| taken.page == page) {
            *same = taken;
        } else if self.0.len() < PAGES {
            // There is room.
            let _ = self.0.push_within_capacity(taken);
        } else if let Some(oldest) = self.0.iter_mut().max_by_key(|taken| at - taken.at) {
            *oldest = taken;
        }
    }

    /// Forgets `pages`.
    pub(crate) fn forget(&mut self, pages: Range<usize>) {
        self.0.retain(|taken| !pages.contains(&taken.page));
    }

    /// Whether both want `page`, which the device wants at `now`.
    pub(crate) fn is_contended(&mut self, page: usize, now: Instant<Monotonic>) -> bool {
        self.turn(page, now, quantum()) != Turn::Free
    }

    /// Whose turn it is with `page`, which the device wants at `now`.
    pub(crate) fn turn(&mut self, page: usize, now: Instant<Monotonic>, quantum: Delta) -> Turn {
        let Some(taken) = self.0.iter_mut().find(|taken| taken.page == page) else {
            return Turn::Free;
        };
        let passed = now - taken.at;
        taken.wanted |= passed < CONTENDED;
        if !taken.wanted {
            Turn::Free
        } else if passed < quantum {
            Turn::Cpu(quantum - passed)
        } else {
            Turn::Device(passed)
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
        let ms = Delta::from_millis;
        let after = |time| start + ms(time);
        assert_eq!(handovers.turn(7, start, quantum), Turn::Free);

        handovers.take(7, start);
        assert!(handovers.is_contended(7, start));
        assert_eq!(handovers.turn(7, start, quantum), Turn::Cpu(quantum));
        assert_eq!(handovers.turn(7, after(1), quantum), Turn::Cpu(ms(1)));
        assert_eq!(handovers.turn(7, after(2), quantum), Turn::Device(ms(2)));
        // However long it waits.
        assert_eq!(
            handovers.turn(7, after(9999), quantum),
            Turn::Device(ms(9999))
        );
        assert_eq!(handovers.turn(8, after(1), quantum), Turn::Free);
        // Taken again.
        handovers.take(7, after(50));
        assert_eq!(handovers.turn(7, after(51), quantum), Turn::Cpu(ms(1)));
        // Without a quantum nobody waits for a turn of the CPU.
        assert_eq!(handovers.turn(7, after(50), ms(0)), Turn::Device(ms(0)));
        handovers.forget(6..8);
        assert_eq!(handovers.turn(7, after(51), quantum), Turn::Free);
        // It was not wanted for a while.
        handovers.take(7, start);
        assert_eq!(handovers.turn(7, start + CONTENDED, quantum), Turn::Free);
        Ok(())
    }

    #[test]
    fn the_oldest_makes_room() -> Result {
        let mut handovers = Handovers::new()?;
        let start = Instant::<Monotonic>::now();
        let at = |page: usize| start + Delta::from_micros(page as i64);
        for page in 0..=PAGES {
            handovers.take(page, at(page));
        }
        let now = at(PAGES);
        assert!(!handovers.is_contended(0, now));
        assert!((1..=PAGES).all(|page| handovers.is_contended(page, now)));
        Ok(())
    }
}
