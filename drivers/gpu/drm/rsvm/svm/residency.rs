// SPDX-License-Identifier: GPL-2.0

//! Pages that bounce between device and system memory.
//!
//! A leaf remembers for each group of 64 KiB when it came to device memory, and when the CPU took
//! it back. A group that came back before its minimum residency was over is *remote* for a while:
//! the device uses it in system memory. So is one that was evicted: with more in use than fits, to
//! fetch it at once would evict something else that is in use. Under the space's page-table lock; bounded, for it is part
//! of the leaf.

use super::device::{
    PageSize,
    LEAF_PAGES, //
};
use crate::vram::PageSet;
use core::ops::Range;

/// Pages of a group.
pub(crate) const GROUP: usize = PageSize::Size64K.pages();
const GROUPS: usize = LEAF_PAGES / GROUP;

/// For how many times the minimum residency a group is remote.
const REMOTE_FACTOR: u32 = 20;

/// A time in milliseconds; wraps around after weeks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Millis(u32);

impl Millis {
    pub(crate) fn now() -> Self {
        use kernel::time::{
            Instant,
            Monotonic, //
        };
        // CAST: Wraps around, see above.
        Self((Instant::<Monotonic>::now().as_nanos() / 1_000_000) as u32)
    }

    fn since(self, then: Self) -> u32 {
        self.0.wrapping_sub(then.0)
    }
}

/// How many times the device takes pages of a group for atomics, with none for the CPU in between,
/// until it counts as the only one that uses them.
const ALONE: u8 = 4;

/// When the pages of a leaf came and went.
pub(crate) struct Residency {
    arrived: [Option<Millis>; GROUPS],
    came_back: [Option<Millis>; GROUPS],
    /// How many times the device took pages for atomics since the CPU last did.
    grabs: [u8; GROUPS],
    /// Groups that came back since somebody asked, a bit for each.
    news: u32,
    /// The first page of device memory of a large folio that was mapped here last. A hint: when a
    /// part is unmapped, core first splits the mapping, which takes everything from the shadow.
    huge: Option<u32>,
}

impl Default for Residency {
    fn default() -> Self {
        Self::new()
    }
}

impl Residency {
    const fn new() -> Self {
        Self {
            arrived: [None; GROUPS],
            came_back: [None; GROUPS],
            grabs: [0; GROUPS],
            news: 0,
            huge: None,
        }
    }

    /// `page` was mapped in device memory.
    pub(crate) fn arrive(&mut self, page: usize, now: Millis) {
        self.arrived[page / GROUP] = Some(now);
        self.grabs[page / GROUP] = 0;
    }

    /// The device took `page`, in system memory, away from all CPUs. Tells whether by that it
    /// became the only one to use the group.
    pub(crate) fn grab(&mut self, page: usize) -> bool {
        let grabs = &mut self.grabs[page / GROUP];
        *grabs = grabs.saturating_add(1);
        *grabs == ALONE
    }

    /// The CPU took `page` back, in system memory.
    pub(super) fn hand_over(&mut self, page: usize) {
        self.grabs[page / GROUP] = 0;
    }

    /// Pages on which only the device uses atomics.
    pub(crate) fn alone(&self) -> PageSet {
        let mut alone = PageSet::default();
        for (group, &grabs) in self.grabs.iter().enumerate() {
            if grabs >= ALONE {
                (group * GROUP..(group + 1) * GROUP).for_each(|page| alone.insert(page));
            }
        }
        alone
    }

    /// The leaf is 2 MiB of device memory in one piece, from page `first` on.
    pub(crate) fn arrive_huge(&mut self, first: u32) {
        self.huge = Some(first);
    }

    /// Some pages of the leaf are unmapped: which large folio has to be split, if there was one.
    pub(super) fn take_huge(&mut self) -> Option<u32> {
        self.huge.take()
    }

    /// The CPU takes `page` back, which should have stayed `minimum` ms.
    pub(super) fn come_back(&mut self, page: usize, now: Millis, minimum: u32) {
        let group = page / GROUP;
        if self.arrived[group].is_some_and(|then| now.since(then) < minimum) {
            self.came_back[group] = Some(now);
            self.news |= 1 << group;
        }
    }

    /// `page` has to make room: it would soon be in somebody else's way again.
    pub(super) fn evict(&mut self, page: usize, now: Millis) {
        self.came_back[page / GROUP] = Some(now);
    }

    /// Pages that are remote.
    pub(crate) fn remote(&self, now: Millis, minimum: u32) -> PageSet {
        let mut remote = PageSet::default();
        for (group, then) in self.came_back.iter().enumerate() {
            let span = minimum.saturating_mul(REMOTE_FACTOR);
            if then.is_some_and(|then| now.since(then) < span) {
                (group * GROUP..(group + 1) * GROUP).for_each(|page| remote.insert(page));
            }
        }
        remote
    }

    /// A run of pages that became remote and was not returned before.
    pub(crate) fn take_news(&mut self) -> Option<Range<usize>> {
        // CAST: At most 32.
        let start = self.news.trailing_zeros() as usize;
        if start == GROUPS {
            return None;
        }
        let len = (self.news >> start).trailing_ones() as usize;
        for group in start..start + len {
            self.news &= !(1 << group);
        }
        Some(start * GROUP..(start + len) * GROUP)
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(rsvm_svm_residency)]
mod tests {
    use super::*;

    #[test]
    fn what_came_back_too_soon_is_remote() {
        let mut residency = Residency::new();
        // Around the end of the clock.
        let at = |ms: u32| Millis(ms.wrapping_sub(40));
        residency.come_back(3, at(0), 50);
        assert!(residency.remote(at(0), 50).is_empty());
        residency.arrive(20, at(0));
        residency.arrive(40, at(0));
        residency.come_back(21, at(49), 50);
        residency.come_back(41, at(50), 50);
        let remote = residency.remote(at(60), 50);
        assert!(remote.iter().eq(16..32));
        assert_eq!(residency.take_news(), Some(16..32));
        assert_eq!(residency.take_news(), None);
        assert!(!residency.remote(at(49 + 20 * 50 - 1), 50).is_empty());
        assert!(residency.remote(at(49 + 20 * 50), 50).is_empty());
    }

    #[test]
    fn what_was_evicted_is_remote() {
        let mut residency = Residency::new();
        residency.evict(100, Millis(7));
        assert!(residency.remote(Millis(8), 50).iter().eq(96..112));
        assert_eq!(residency.take_news(), None);
        assert!(residency.remote(Millis(7 + 20 * 50), 50).is_empty());
    }

    #[test]
    fn news_are_runs() {
        let mut residency = Residency::new();
        for page in [0, 16, 496] {
            residency.arrive(page, Millis(0));
            residency.come_back(page, Millis(1), 50);
        }
        assert_eq!(residency.take_news(), Some(0..32));
        assert_eq!(residency.take_news(), Some(496..512));
        assert_eq!(residency.take_news(), None);
    }

    #[test]
    fn who_grabs_again_and_again_is_alone() {
        let mut residency = Residency::new();
        for page in 16..19 {
            assert!(!residency.grab(page));
        }
        assert!(residency.alone().is_empty());
        assert!(residency.grab(16));
        assert!(!residency.grab(17));
        let alone = residency.alone();
        assert!((0..LEAF_PAGES).all(|page| alone.contains(page) == (16..32).contains(&page)));
        residency.hand_over(31);
        assert!(residency.alone().is_empty());
        assert_eq!((0..=ALONE).filter(|_| residency.grab(0)).count(), 1);
        assert!(residency.alone().contains(0));
        residency.arrive(5, Millis::now());
        assert!(residency.alone().is_empty());
    }
}
