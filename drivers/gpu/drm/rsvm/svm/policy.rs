// SPDX-License-Identifier: GPL-2.0

//! Where pages are to be: what users ask for by range, and what is done if they ask for nothing.
//!
//! By default pages move to device memory when the device uses them, if a whole granule can go: a
//! piece that is present, or wanted, as a whole. What the CPU wanted back soon after that stays in
//! system memory for a while ([`residency`](super::residency)), so that it does not bounce.
//!
//! Atomics by themselves need no move: on system memory they are done with the CPUs kept away.

use super::device::LEAF_PAGES;
use crate::vram::PageSet;
use core::ops::Range;
use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    }, //
};

mod choose;

pub(crate) use self::choose::View;

/// Ranges of a space that can differ in their attributes.
const MAX_REGIONS: usize = 1 << 14;

/// Where pages are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Any,
    System,
    Vram,
}

/// What atomics of the device need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicMode {
    /// As `System`; what only the device uses moves to device memory as soon as that shows.
    Auto,
    /// That no CPU has the page meanwhile.
    System,
    /// That the page is in device memory, or else the same.
    Vram,
    /// Nothing: they are atomic for the device alone.
    Device,
}

/// What users ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) preferred: Location,
    pub(crate) atomic: AtomicMode,
    /// How many pages move at once: a power of two, at most [`LEAF_PAGES`].
    pub(crate) granule: usize,
    pub(crate) no_migrate: bool,
}

impl Attributes {
    pub(crate) const DEFAULT: Self = Self {
        preferred: Location::Any,
        atomic: AtomicMode::Auto,
        granule: 16,
        no_migrate: false,
    };

    fn may_migrate(&self) -> bool {
        !self.no_migrate && self.preferred != Location::System
    }
}

/// Pages from `start` on have `attributes`. Where they end is the key.
struct Region {
    start: usize,
    attributes: Attributes,
}

/// The attributes of all pages of a space. Pages are numbered from address zero on.
///
/// # Invariants
///
/// Regions are not empty, do not overlap, and have other attributes than the default.
pub(crate) struct Policy {
    regions: RBTree<usize, Region>,
    count: usize,
}

impl Policy {
    pub(crate) fn new() -> Self {
        Self {
            regions: RBTree::new(),
            count: 0,
        }
    }

    /// The attributes of `page`, and the page from which on they may be others.
    pub(crate) fn get(&self, page: usize) -> (Attributes, usize) {
        match self.regions.cursor_lower_bound(&(page + 1)) {
            None => (Attributes::DEFAULT, usize::MAX),
            Some(cursor) => {
                let (&end, region) = cursor.current();
                if region.start <= page {
                    (region.attributes, end)
                } else {
                    (Attributes::DEFAULT, region.start)
                }
            }
        }
    }

    /// From `page` on, how many pages have the same attributes; at most `most`.
    pub(crate) fn same(&self, page: usize, most: usize) -> usize {
        let (attributes, mut end) = self.get(page);
        while end - page < most {
            let (other, next) = self.get(end);
            if other != attributes {
                break;
            }
            end = next;
        }
        most.min(end - page)
    }

    /// Changes the attributes of `pages`, which are not none, with `change`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOSPC` if there were too many regions. Nothing is changed then.
    pub(crate) fn set(&mut self, pages: Range<usize>, change: impl Fn(&mut Attributes)) -> Result {
        // All that lies in or touches the range, as it will be: with neighbours, which may merge.
        let from = pages.start.saturating_sub(1);
        let mut pieces: KVVec<(Range<usize>, Attributes)> = KVVec::new();
        let mut add = |piece: Range<usize>, attributes: Attributes| {
            match pieces.last_mut() {
                Some((last, same)) if *same == attributes && last.end == piece.start => {
                    last.end = piece.end;
                }
                _ => pieces.push((piece, attributes), GFP_KERNEL)?,
            }
            Ok::<_, Error>(())
        };
        let mut page = from;
        while page <= pages.end {
            let (attributes, end) = self.get(page);
            // The region that begins before the range is taken from its start.
            let start = if page == from && attributes != Attributes::DEFAULT {
                self.start_of(page)
            } else {
                page
            };
            let mut changed = attributes;
            change(&mut changed);
            for (part, attributes) in [
                (start..end.min(pages.start), attributes),
                (start.max(pages.start)..end.min(pages.end), changed),
                (start.max(pages.end)..end, attributes),
            ] {
                if !part.is_empty() {
                    add(part, attributes)?;
                }
            }
            page = end;
        }

        let mut removed = 0;
        let mut page = from;
        while page <= pages.end {
            let (attributes, end) = self.get(page);
            removed += usize::from(attributes != Attributes::DEFAULT);
            page = end;
        }
        pieces.retain(|(_, attributes)| *attributes != Attributes::DEFAULT);
        if self.count - removed + pieces.len() > MAX_REGIONS {
            return Err(ENOSPC);
        }
        let mut nodes = KVVec::with_capacity(pieces.len(), GFP_KERNEL)?;
        for (piece, attributes) in &pieces {
            let region = Region {
                start: piece.start,
                attributes: *attributes,
            };
            let node = RBTreeNodeReservation::new(GFP_KERNEL)?.into_node(piece.end, region);
            nodes.push(node, GFP_KERNEL)?;
        }

        // From here on nothing fails.
        self.count = self.count - removed + pieces.len();
        for _ in 0..removed {
            // The first one that ends behind `from`.
            let key = self
                .regions
                .cursor_lower_bound(&(from + 1))
                .map(|cursor| *cursor.current().0);
            if let Some(key) = key {
                self.regions.remove(&key);
            }
        }
        for node in nodes {
            self.regions.insert(node);
        }
        Ok(())
    }

    fn start_of(&self, page: usize) -> usize {
        let cursor = self.regions.cursor_lower_bound(&(page + 1));
        cursor.map_or(page, |cursor| cursor.current().1.start)
    }

    /// Calls `f` with the attributes of all pages of a leaf, whose first page is `first`, and the
    /// pages of the leaf that have them.
    fn for_each(&self, first: usize, mut f: impl FnMut(Range<usize>, &Attributes)) {
        let mut page = 0;
        while page < LEAF_PAGES {
            let (attributes, end) = self.get(first + page);
            let end = end.saturating_sub(first).min(LEAF_PAGES);
            f(page..end, &attributes);
            page = end;
        }
    }

    /// Which pages of a leaf, whose first page is `first`, have attributes that are `wanted`.
    pub(crate) fn matching(&self, first: usize, wanted: impl Fn(&Attributes) -> bool) -> PageSet {
        let mut found = PageSet::default();
        self.for_each(first, |pages, attributes| {
            if wanted(attributes) {
                pages.for_each(|page| found.insert(page));
            }
        });
        found
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_svm_policy)]
mod tests {
    use super::*;

    const VRAM: Attributes = Attributes {
        preferred: Location::Vram,
        ..Attributes::DEFAULT
    };

    fn vram(attributes: &mut Attributes) {
        attributes.preferred = Location::Vram;
    }

    fn any(attributes: &mut Attributes) {
        attributes.preferred = Location::Any;
    }

    fn check(policy: &Policy, expected: &[(usize, usize, Attributes)]) {
        assert_eq!(policy.count, expected.len());
        assert!(policy
            .regions
            .iter()
            .map(|(&end, region)| (region.start, end, region.attributes))
            .eq(expected.iter().copied()));
    }

    #[test]
    fn ranges_split_and_merge() -> Result {
        let mut policy = Policy::new();
        policy.set(10..20, vram)?;
        check(&policy, &[(10, 20, VRAM)]);
        policy.set(20..30, vram)?;
        policy.set(5..10, vram)?;
        check(&policy, &[(5, 30, VRAM)]);
        policy.set(12..14, any)?;
        check(&policy, &[(5, 12, VRAM), (14, 30, VRAM)]);
        assert_eq!(policy.get(11), (VRAM, 12));
        assert_eq!(policy.get(12), (Attributes::DEFAULT, 14));
        assert_eq!(policy.get(30), (Attributes::DEFAULT, usize::MAX));
        assert_eq!(policy.same(5, 100), 7);
        assert_eq!(policy.same(14, 10), 10);
        // Another attribute of a part keeps the first one.
        policy.set(0..8, |attributes| attributes.no_migrate = true)?;
        let pinned = Attributes {
            no_migrate: true,
            ..VRAM
        };
        let default_pinned = Attributes {
            no_migrate: true,
            ..Attributes::DEFAULT
        };
        check(
            &policy,
            &[
                (0, 5, default_pinned),
                (5, 8, pinned),
                (8, 12, VRAM),
                (14, 30, VRAM),
            ],
        );
        policy.set(0..100, |attributes| *attributes = Attributes::DEFAULT)?;
        check(&policy, &[]);
        Ok(())
    }

    #[test]
    fn too_many_regions_change_nothing() -> Result {
        let mut policy = Policy::new();
        for i in 0..MAX_REGIONS {
            policy.set(2 * i..2 * i + 1, vram)?;
        }
        let next = 2 * MAX_REGIONS;
        assert_eq!(policy.set(next..next + 1, vram), Err(ENOSPC));
        assert_eq!(policy.get(next).0, Attributes::DEFAULT);
        // Fewer is fine.
        policy.set(0..next, vram)?;
        check(&policy, &[(0, next, VRAM)]);
        Ok(())
    }
}
