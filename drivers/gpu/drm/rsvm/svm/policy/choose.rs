// SPDX-License-Identifier: GPL-2.0

//! Which pages of a leaf move to device memory when the device faults.

use super::{
    AtomicMode,
    Attributes,
    Location,
    Policy, //
};
use crate::{
    svm::device::{
        Access,
        LEAF_PAGES, //
    },
    vram::PageSet, //
};
use core::ops::Range;

/// What is known of the pages of a leaf.
pub(crate) struct View<'a> {
    pub(crate) wanted: &'a [Option<Access>],
    /// In system memory.
    pub(crate) system: PageSet,
    /// In device memory.
    pub(crate) device: PageSet,
    /// Came back a short time ago.
    pub(crate) remote: PageSet,
    /// Only the device uses atomics there.
    pub(crate) alone: PageSet,
    /// Bound to something else than memory of the process.
    pub(crate) bound: PageSet,
    /// All of it is a piece of system memory as large.
    pub(crate) is_huge: bool,
}

impl View<'_> {
    /// Which pages of the leaf, whose first page is `first`, are to move to device memory.
    pub(crate) fn chosen(&self, policy: &Policy, first: usize) -> PageSet {
        let mut chosen = PageSet::default();
        policy.for_each(first, |pages, attributes| {
            self.choose(pages, attributes, &mut chosen);
        });
        chosen
    }

    /// Adds those of `pages`, which have `attributes`, that are to move.
    fn choose(&self, pages: Range<usize>, attributes: &Attributes, chosen: &mut PageSet) {
        let mut next = pages.start;
        for page in pages.clone() {
            let Some(access) = self.wanted[page] else {
                continue;
            };
            if page < next || self.device.contains(page) {
                continue;
            }
            let mut must = false;
            if access == Access::Atomic {
                match attributes.atomic {
                    AtomicMode::Vram => must = !attributes.no_migrate,
                    AtomicMode::Auto if self.alone.contains(page) => (),
                    AtomicMode::Device => (),
                    AtomicMode::Auto | AtomicMode::System => continue,
                }
            }
            let may = attributes.may_migrate() && !self.remote.contains(page);
            if !may && !must {
                continue;
            }
            let whole = self.is_huge && pages == (0..LEAF_PAGES);
            let size = if whole {
                LEAF_PAGES
            } else {
                attributes.granule
            };
            let start = page & !(size - 1);
            let granule = start.max(pages.start)..(start + size).min(pages.end);
            let is_there = |page: &usize| {
                self.system.contains(*page)
                    || self.device.contains(*page)
                    || self.wanted[*page].is_some()
            };
            let fill = attributes.preferred == Location::Vram;
            let can_go = |page: usize| !self.device.contains(page) && !self.bound.contains(page);
            if fill || must || granule.clone().all(|page| is_there(&page)) {
                let goes = granule.clone().filter(|page| fill || is_there(page));
                goes.filter(|&page| can_go(page))
                    .for_each(|page| chosen.insert(page));
                next = granule.end;
            }
        }
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(rsvm_svm_policy_choose)]
mod tests {
    use super::*;
    use kernel::prelude::*;

    fn pages(range: Range<usize>) -> PageSet {
        let mut set = PageSet::default();
        range.for_each(|page| set.insert(page));
        set
    }

    /// What moves of a leaf of which `wanted` and `system` are as given.
    fn chosen(
        policy: &Policy,
        wanted: Range<usize>,
        access: Access,
        system: Range<usize>,
    ) -> PageSet {
        let mut list = [None; LEAF_PAGES];
        list[wanted].fill(Some(access));
        let view = View {
            wanted: &list,
            is_huge: system == (0..LEAF_PAGES),
            system: pages(system),
            device: PageSet::default(),
            remote: pages(400..416),
            bound: PageSet::default(),
            alone: pages(96..112),
        };
        view.chosen(policy, 0)
    }

    #[test]
    fn whole_granules_move() -> Result {
        let mut policy = Policy::new();
        // Present as a whole, or not.
        assert_eq!(chosen(&policy, 20..21, Access::Read, 16..32), pages(16..32));
        assert!(chosen(&policy, 20..21, Access::Read, 16..31).is_empty());
        assert!(chosen(&policy, 20..21, Access::Read, 0..0).is_empty());
        // Wanted as a whole, or together with what is present.
        assert_eq!(chosen(&policy, 30..70, Access::Write, 0..0), pages(32..64));
        assert_eq!(
            chosen(&policy, 30..32, Access::Write, 16..30),
            pages(16..32)
        );
        // A large page stays in one piece.
        assert_eq!(
            chosen(&policy, 3..4, Access::Write, 0..LEAF_PAGES),
            PageSet::FULL
        );
        // What came back stays.
        assert!(chosen(&policy, 400..416, Access::Write, 400..416).is_empty());

        policy.set(0..64, |attributes| attributes.preferred = Location::Vram)?;
        assert_eq!(chosen(&policy, 20..21, Access::Read, 0..0), pages(16..32));
        policy.set(0..64, |attributes| attributes.no_migrate = true)?;
        assert!(chosen(&policy, 20..21, Access::Write, 0..64).is_empty());
        let pinned = policy.matching(0, |attributes| attributes.no_migrate);
        assert_eq!(pinned, pages(0..64));
        Ok(())
    }

    #[test]
    fn atomics_move_by_their_mode() -> Result {
        let mut policy = Policy::new();
        let atomic = Access::Atomic;
        // Where the device is alone.
        assert!(chosen(&policy, 20..21, atomic, 16..32).is_empty());
        assert_eq!(chosen(&policy, 97..98, atomic, 96..112), pages(96..112));

        policy.set(0..512, |attributes| attributes.atomic = AtomicMode::System)?;
        assert!(chosen(&policy, 97..98, atomic, 96..112).is_empty());
        // Other accesses move what they always do.
        assert_eq!(
            chosen(&policy, 97..98, Access::Write, 96..112),
            pages(96..112)
        );

        policy.set(0..512, |attributes| attributes.atomic = AtomicMode::Device)?;
        assert_eq!(chosen(&policy, 20..21, atomic, 16..32), pages(16..32));

        // Whatever else holds, but that they may never move.
        policy.set(0..512, |attributes| attributes.atomic = AtomicMode::Vram)?;
        assert_eq!(chosen(&policy, 400..401, atomic, 400..402), pages(400..402));
        let mut both = pages(16..17);
        both.insert(20);
        assert_eq!(chosen(&policy, 20..21, atomic, 16..17), both);
        policy.set(0..512, |attributes| attributes.no_migrate = true)?;
        assert!(chosen(&policy, 20..21, atomic, 16..32).is_empty());
        Ok(())
    }
}
