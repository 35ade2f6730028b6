// SPDX-License-Identifier: GPL-2.0

//! A leaf with page tables that are plain arrays and check their contract.
//!
//! It maps pages of an object, at places in device memory that the test chooses.

mod page;

use super::*;
use crate::mm::testing::{
    DmaDevice,
    Fake,
    FakeReserve,
    FakeTables, //
};

/// Number of a leaf.
const INDEX: usize = 0x3f_891a;
const RW: bool = true;
const RO: bool = false;
/// An offset in device memory that is a multiple of 2 MiB.
const PLACE: u64 = 0x1_4000_0000;

/// A leaf, its tables, and the memory that a commit needs.
struct Bench {
    leaf: KBox<Leaf<Fake>>,
    tables: FakeTables,
    window: KVec<Slot>,
    flushes: usize,
    last: FlushId,
    _device: DmaDevice,
}

impl Bench {
    fn new() -> Result<Self> {
        let device = DmaDevice::new()?;
        let dma = DmaMap::new(&device.handle, LEAF_PAGES)?;
        let mut leaf = KBox::init(Leaf::new(dma), GFP_KERNEL)?;
        leaf.place(VirtAddr::new(INDEX * super::super::LEAF_SIZE));
        Ok(Self {
            leaf,
            tables: FakeTables::new(INDEX)?,
            window: KVec::from_elem(Slot::FREE, LEAF_PAGES, GFP_KERNEL)?,
            flushes: 0,
            last: FlushId(0),
            _device: device,
        })
    }

    /// Maps `pages` with the right to write or without, page *i* of the leaf lying at `place` + *i*
    /// pages, and checks that the device sees exactly what the shadow says.
    fn map(
        &mut self,
        pages: Range<usize>,
        place: u64,
        write: bool,
    ) -> Result<Written<FakeReserve>> {
        self.map_with(pages, place, write, &mut FakeReserve(3))
    }

    fn map_with(
        &mut self,
        pages: Range<usize>,
        place: u64,
        write: bool,
        reserve: &mut FakeReserve,
    ) -> Result<Written<FakeReserve>> {
        self.window.fill(Slot::FREE);
        for page in pages {
            let offset = place + (page * PAGE_SIZE) as u64;
            let slot = self.leaf.prepare_object(page, offset, write);
            self.window[page] = slot.unwrap_or_default();
        }
        let window: &mut Window = self.window.as_mut_slice().try_into().map_err(|_| EINVAL)?;
        let flushes = &mut self.flushes;
        let flush = |_: &FakeTables, _| *flushes += 1;
        let (done, result) = self
            .leaf
            .commit(&mut self.tables, window, reserve, None, flush);
        self.check()?;
        result.map(|()| done)
    }

    /// Revokes `hit`; returns the pages that the device has to forget.
    fn revoke(&mut self, hit: Range<usize>) -> Result<(Option<Range<usize>>, Revoked)> {
        self.last = FlushId(self.last.0 + 1);
        let mut stats = Revoked::default();
        let pages = self
            .leaf
            .revoke(&mut self.tables, hit, self.last, &mut stats);
        self.check()?;
        Ok((pages, stats))
    }

    /// All flushes so far are acknowledged.
    fn acknowledge(&mut self) {
        for flush in 1..=self.last.0 {
            self.leaf.acknowledged(None, FlushId(flush), 0..LEAF_PAGES);
        }
    }

    fn check(&self) -> Result {
        let (mut used, mut leaving) = (0, 0);
        for page in 0..LEAF_PAGES {
            let slot = self.leaf.slot(page);
            let shadow = slot.is_live().then(|| (slot.target(), slot.prot()));
            let (walked, claims) = self.tables.walk(page);
            if walked != shadow || claims > 1 || slot.is_bare() {
                return Err(EIO);
            }
            used += usize::from(!slot.is_free());
            leaving += usize::from(slot.leaves_with().is_some());
        }
        if self.tables.broken || (used, leaving) != (self.leaf.used, self.leaf.leaving) {
            return Err(EIO);
        }
        Ok(())
    }

    fn live(&self) -> usize {
        (0..LEAF_PAGES)
            .filter(|&page| self.leaf.slot(page).is_live())
            .count()
    }
}

#[kunit_tests(rust_mm_space_leaf)]
mod cases {
    use super::*;

    #[test]
    fn contiguous_and_aligned_becomes_one_pte() -> Result {
        let mut bench = Bench::new()?;
        let done = bench.map(0..LEAF_PAGES, PLACE, RW)?;
        assert_eq!(done.ptes, [0, 0, 1]);
        assert_eq!(done.mapped, Some(0..LEAF_PAGES));
        assert_eq!(bench.flushes, 0);
        Ok(())
    }

    #[test]
    fn a_target_off_by_64k_or_4k_limits_the_size() -> Result {
        let done = Bench::new()?.map(0..LEAF_PAGES, PLACE + 0x1_0000, RW)?;
        assert_eq!(done.ptes, [0, 32, 0]);
        let done = Bench::new()?.map(0..LEAF_PAGES, PLACE + 0x1000, RW)?;
        assert_eq!(done.ptes, [512, 0, 0]);
        Ok(())
    }

    #[test]
    fn a_hole_costs_only_its_64k_group() -> Result {
        let mut bench = Bench::new()?;
        let done = bench.map(1..LEAF_PAGES, PLACE, RW)?;
        assert_eq!(done.ptes, [15, 31, 0]);
        assert_eq!(done.mapped, Some(1..LEAF_PAGES));
        Ok(())
    }

    #[test]
    fn mixed_rights_split_only_where_they_meet() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..LEAF_PAGES, PLACE, RO)?;
        let done = bench.map(20..21, PLACE, RW)?;
        assert_eq!(done.ptes, [16, 31, 0]);
        // The 2 MiB PTE had to go first.
        assert_eq!(bench.flushes, 1);
        assert!(bench.leaf.slot(20).prot().write);
        assert!(!bench.leaf.slot(21).prot().write);
        Ok(())
    }

    #[test]
    fn more_rights_in_place_need_no_flush() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..LEAF_PAGES, PLACE, RO)?;
        let done = bench.map(0..LEAF_PAGES, PLACE, RW)?;
        assert_eq!((done.ptes, bench.flushes), ([0, 0, 1], 0));
        // The same once more does nothing at all.
        let done = bench.map(0..LEAF_PAGES, PLACE, RW)?;
        assert_eq!((done.ptes, done.mapped), ([0, 0, 0], None));
        Ok(())
    }

    #[test]
    fn fewer_rights_flush() -> Result {
        let mut bench = Bench::new()?;
        bench.map(3..4, PLACE, RW)?;
        bench.map(3..4, PLACE, RO)?;
        assert_eq!(bench.flushes, 1);
        assert!(!bench.leaf.slot(3).prot().write);
        Ok(())
    }

    #[test]
    fn small_ptes_grow_into_large_ones() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..7, PLACE, RW)?;
        let done = bench.map(7..16, PLACE, RW)?;
        assert_eq!((done.ptes, bench.flushes), ([0, 1, 0], 1));
        let done = bench.map(16..LEAF_PAGES, PLACE, RW)?;
        assert_eq!((done.ptes, bench.flushes), ([0, 0, 1], 2));
        Ok(())
    }

    #[test]
    fn a_partial_hit_clears_exactly_the_hit_pages() -> Result {
        for place in [PLACE, PLACE + 0x1_0000, PLACE + 0x1000] {
            let mut bench = Bench::new()?;
            bench.map(0..LEAF_PAGES, place, RW)?;
            let (pages, revoked) = bench.revoke(17..40)?;
            let pages = pages.ok_or(ENOENT)?;
            assert!(pages.start <= 17 && pages.end >= 40);
            let is_large = place != PLACE + 0x1000;
            assert!((revoked.demoted > 0) == is_large);
            assert_eq!((bench.live(), revoked.pages), (LEAF_PAGES - 23, 23));
            assert!((17..40).all(|page| bench.leaf.slot(page).leaves_with() == Some(bench.last)));
        }
        Ok(())
    }

    #[test]
    fn a_whole_hit_does_not_demote() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..LEAF_PAGES, PLACE, RW)?;
        let (_, revoked) = bench.revoke(0..LEAF_PAGES)?;
        assert_eq!((revoked.demoted, revoked.pages), (0, LEAF_PAGES));
        assert_eq!(bench.live(), 0);
        Ok(())
    }

    #[test]
    fn without_a_table_the_large_pte_goes_as_a_whole() -> Result {
        for (place, gone) in [(PLACE, 0..LEAF_PAGES), (PLACE + 0x1_0000, 16..32)] {
            let mut bench = Bench::new()?;
            bench.map(0..LEAF_PAGES, place, RW)?;
            bench.leaf.reserve = FakeReserve(0);
            let (pages, revoked) = bench.revoke(20..21)?;
            assert_eq!(
                (bench.live(), revoked.pages),
                (LEAF_PAGES - gone.len(), gone.len())
            );
            assert_eq!(pages, Some(gone));
        }
        Ok(())
    }

    #[test]
    fn demoted_twice_and_whole_again() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..LEAF_PAGES, PLACE, RW)?;
        bench.revoke(5..6)?;
        bench.revoke(400..401)?;
        assert_eq!(bench.live(), LEAF_PAGES - 2);
        bench.acknowledge();
        assert_eq!(bench.map(0..LEAF_PAGES, PLACE, RW)?.ptes, [0, 0, 1]);
        // The table that demotion had used came back for the next one.
        assert_eq!(bench.revoke(5..6)?.1.demoted, 1);
        Ok(())
    }

    /// A flush frees the pages that left with it or before, and none that left later.
    #[test]
    fn a_page_leaves_with_its_own_flush() -> Result {
        for (first, left) in [(1, 1), (2, 0)] {
            let mut bench = Bench::new()?;
            bench.map(8..10, PLACE, RW)?;
            assert_eq!(bench.revoke(8..9)?.0, Some(8..9));
            // A later change of both has to wait for both.
            assert_eq!(bench.revoke(8..10)?.0, Some(8..10));
            let at = |page: usize| bench.leaf.slot(page).leaves_with();
            assert_eq!((at(8), at(9)), (Some(FlushId(1)), Some(FlushId(2))));
            bench.leaf.acknowledged(None, FlushId(first), 8..10);
            bench.check()?;
            assert_eq!(bench.leaf.used, left);
            bench.leaf.acknowledged(None, FlushId(3 - first), 8..10);
            assert_eq!(bench.leaf.used, 0);
            assert_eq!(bench.revoke(8..10)?.0, None);
        }
        // A flush that does not cover a page says nothing about it.
        let mut bench = Bench::new()?;
        bench.map(8..10, PLACE, RW)?;
        bench.revoke(8..9)?;
        bench.revoke(9..10)?;
        bench.leaf.acknowledged(None, FlushId(2), 9..10);
        assert_eq!(bench.leaf.used, 1);
        Ok(())
    }

    /// Nothing is mapped over a page that is leaving.
    #[test]
    fn a_leaving_page_stays_out() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..LEAF_PAGES, PLACE, RW)?;
        bench.revoke(5..6)?;
        let done = bench.map(0..LEAF_PAGES, PLACE, RW)?;
        assert_eq!((done.ptes, bench.live()), ([0, 31, 0], LEAF_PAGES - 1));
        bench.acknowledge();
        assert_eq!(bench.map(5..6, PLACE, RW)?.ptes, [0, 0, 1]);
        Ok(())
    }

    #[test]
    fn an_exhausted_reserve_leaves_shadow_and_tables_equal() -> Result {
        let mut bench = Bench::new()?;
        let failed = bench.map_with(0..1, PLACE, RW, &mut FakeReserve(0));
        assert_eq!(failed.err(), Some(ENOMEM));
        assert_eq!(bench.live(), 0);
        assert_eq!(bench.map(0..1, PLACE, RW)?.ptes, [1, 0, 0]);
        Ok(())
    }

    /// The tables of a leaf that dies stay until the device has forgotten them.
    #[test]
    fn a_dying_leaf_keeps_its_tables() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..1, PLACE, RW)?;
        bench.revoke(0..1)?;
        let second = FlushId(2);
        bench.leaf.kill(&mut bench.tables, second);
        assert!(bench.leaf.is_dying() && !bench.leaf.is_gone());
        assert_eq!((bench.leaf.unhooked.0, bench.tables.has_small), (1, false));
        bench.leaf.acknowledged(None, FlushId(1), 0..1);
        assert!(!bench.leaf.is_gone());
        bench.leaf.acknowledged(None, second, 0..LEAF_PAGES);
        assert!(bench.leaf.is_gone());
        Ok(())
    }
}
