// SPDX-License-Identifier: GPL-2.0

//! The leaf against page tables that are plain arrays and check their contract.

mod page;

use super::*;
use crate::svm::{
    bound::{
        Bindings,
        Bound,
        Buffer,
        Places, //
    },
    device::{
        Cancel,
        Flushed,
        Pdb,
        Prot,
        Transfer,
        UnderWay,
        Wedged, //
    }, //
};
use crate::vram::Vram;
use kernel::{
    device,
    mm::{
        addr::PageRange,
        memremap::{
            NoDeviceMemory,
            Pagemap, //
        },
    },
    sync::Arc, //
};

const BASE: usize = 0x7f12_3440_0000;
const RW: Prot = Prot {
    write: true,
    atomic: false,
};
const RO: Prot = Prot {
    write: false,
    atomic: false,
};
/// A bus address that is a multiple of 2 MiB.
const BUS: u64 = 0x1_4000_0000;

/// A device that nobody asks anything.
struct FakeMmu;

/// Nothing is bound.
struct NoBindings;

impl Buffer for () {
    fn with_places<R>(&self, _: &dyn Fn() -> bool, _: impl FnOnce(Places<'_>) -> R) -> Result<R> {
        Err(ENOENT)
    }
}

impl Bindings for NoBindings {
    type Buffer = ();

    fn first(&self, _: PageRange) -> Option<Bound<()>> {
        None
    }

    fn is_free(&self, _: PageRange) -> bool {
        true
    }

    fn next_of(&self, _: VirtAddr, _: &dyn Fn(&()) -> bool) -> Option<PageRange> {
        None
    }
}

/// How many tables a reserve holds.
#[derive(Default)]
struct FakeReserve(usize);

impl Mmu for FakeMmu {
    type Tables = FakeTables;
    type Reserve = FakeReserve;
    type InFlight = ();
    type Bindings = NoBindings;
    type Memory = NoDeviceMemory;
    type UnderWay<'a> = ();

    fn new_tables(&self) -> Result<FakeTables> {
        FakeTables::new()
    }

    fn refill(&self, reserve: &mut FakeReserve) -> Result {
        reserve.0 = 3;
        Ok(())
    }

    fn take_demotion(reserve: &mut FakeReserve) -> FakeReserve {
        let taken = reserve.0.min(1);
        reserve.0 -= taken;
        FakeReserve(taken)
    }

    fn with_dma_device<R>(&self, _: impl FnOnce(&device::Device<device::Bound>) -> R) -> Option<R> {
        None
    }

    fn invalidate(&self, _: &FakeTables, _: Option<PageRange>) {}

    fn invalidate_later(&self, _: &FakeTables, _: PageRange) {}

    fn wait(&self, (): ()) -> Flushed {
        Flushed::acknowledged()
    }

    fn complete(&self, _: Pdb, _: &[PageRange], _: &[Cancel]) -> Result<(), Wedged> {
        Ok(())
    }

    fn replay(&self, _tables: Pdb, _range: PageRange) -> Result<(), Wedged> {
        Ok(())
    }

    fn next_report(&self) -> u64 {
        0
    }

    fn next_read(&self) -> u64 {
        0
    }

    fn read_reports(&self) {}

    fn is_gone(&self) -> bool {
        false
    }

    fn memory(&self) -> Option<(&Pagemap<NoDeviceMemory>, &Arc<Vram>)> {
        None
    }

    fn transfer(&self, _: Option<&mut ()>, _: &mut dyn Iterator<Item = Transfer>) -> Result<()> {
        Err(ENODEV)
    }
}

impl UnderWay for () {
    fn arrive(&mut self) -> Result<Option<usize>> {
        Ok(None)
    }
}

type Pte = Option<(Target, Prot)>;

/// The PTEs of one leaf, by size, and which tables are hooked.
struct FakeTables {
    small: KVec<Pte>,
    big: KVec<Pte>,
    huge: Pte,
    has_small: bool,
    has_big: bool,
    /// Something was written over something else.
    broken: bool,
}

impl FakeTables {
    fn new() -> Result<Self> {
        Ok(Self {
            small: KVec::from_elem(None, LEAF_PAGES, GFP_KERNEL)?,
            big: KVec::from_elem(None, LEAF_PAGES / PAGES_64K, GFP_KERNEL)?,
            huge: None,
            has_small: false,
            has_big: false,
            broken: false,
        })
    }

    fn page(va: VirtAddr) -> usize {
        va.as_usize() / PAGE_SIZE % LEAF_PAGES
    }

    /// What the device finds when it walks to `page`, and how many PTEs claim it.
    fn walk(&self, page: usize) -> (Pte, usize) {
        let at = |pte: Pte, pages: usize| pte.map(|(t, prot)| (t.offset(page % pages), prot));
        let found = [
            at(self.huge, LEAF_PAGES),
            at(self.big[page / PAGES_64K], PAGES_64K),
            at(self.small[page], 1),
        ];
        let count = found.iter().flatten().count();
        (found.into_iter().flatten().next(), count)
    }
}

fn take(reserve: &mut FakeReserve, has: &mut bool) -> Result {
    if !*has {
        reserve.0 = reserve.0.checked_sub(1).ok_or(ENOMEM)?;
        *has = true;
    }
    Ok(())
}

impl Tables for FakeTables {
    type Mmu = FakeMmu;

    fn pdb(&self) -> Pdb {
        Pdb(1)
    }

    fn map(
        &mut self,
        va: VirtAddr,
        size: PageSize,
        target: Target,
        prot: Prot,
        reserve: &mut FakeReserve,
    ) -> Result {
        let page = Self::page(va);
        let pte = Some((target, prot));
        self.broken |= !target.is_aligned(size) || page % size.pages() != 0;
        match size {
            PageSize::Size4K => {
                take(reserve, &mut self.has_small)?;
                self.broken |= self.huge.is_some() || self.big[page / PAGES_64K].is_some();
                self.small[page] = pte;
            }
            PageSize::Size64K => {
                take(reserve, &mut self.has_big)?;
                let under = &self.small[page..page + PAGES_64K];
                self.broken |= self.huge.is_some() || under.iter().any(Option::is_some);
                self.big[page / PAGES_64K] = pte;
            }
            PageSize::Size2M => {
                self.broken |= self.has_small || self.has_big;
                self.huge = pte;
            }
        }
        Ok(())
    }

    fn clear(&mut self, va: VirtAddr, size: PageSize) {
        let page = Self::page(va);
        let pte = match size {
            PageSize::Size4K => &mut self.small[page],
            PageSize::Size64K => &mut self.big[page / PAGES_64K],
            PageSize::Size2M => &mut self.huge,
        };
        self.broken |= pte.take().is_none();
    }

    fn demote(
        &mut self,
        _: VirtAddr,
        reserve: &mut FakeReserve,
        entry: impl FnMut(usize) -> Option<(Target, Prot)>,
    ) -> Result {
        take(reserve, &mut self.has_small)?;
        self.broken |= self.huge.take().is_none();
        for (pte, new) in self.small.iter_mut().zip((0..LEAF_PAGES).map(entry)) {
            *pte = new;
        }
        Ok(())
    }

    fn unhook_leaf(&mut self, _: VirtAddr) -> FakeReserve {
        let valid = |ptes: &[Pte]| ptes.iter().any(Option::is_some);
        self.broken |= valid(&self.small) || valid(&self.big);
        let tables = usize::from(self.has_small) + usize::from(self.has_big);
        self.has_small = false;
        self.has_big = false;
        FakeReserve(tables)
    }
}

/// A leaf, its tables, and what a commit needs.
struct Bench {
    leaf: KBox<Leaf<FakeTables>>,
    tables: FakeTables,
    window: KVec<Slot>,
    flushes: usize,
}

impl Bench {
    fn new() -> Result<Self> {
        let mut leaf = KBox::init(Leaf::new(), GFP_KERNEL)?;
        leaf.place(VirtAddr::new(BASE));
        Ok(Self {
            leaf,
            tables: FakeTables::new()?,
            window: KVec::from_elem(Slot::default(), LEAF_PAGES, GFP_KERNEL)?,
            flushes: 0,
        })
    }

    /// Commits `prot` for `pages`, page *i* of the leaf lying at `bus` + *i* pages, and checks that
    /// the device sees exactly what the shadow says.
    fn map(&mut self, pages: Range<usize>, bus: u64, prot: Prot) -> Result<Commit<FakeReserve>> {
        self.map_with(pages, bus, prot, &mut FakeReserve(3))
    }

    fn map_with(
        &mut self,
        pages: Range<usize>,
        bus: u64,
        prot: Prot,
        reserve: &mut FakeReserve,
    ) -> Result<Commit<FakeReserve>> {
        self.window
            .iter_mut()
            .for_each(|slot| *slot = Slot::default());
        for page in pages {
            let target = Target::System(bus).offset(page);
            self.leaf.hold(page, target);
            self.window[page] = Slot::live(target, prot);
        }
        let window: &mut Window = self.window.as_mut_slice().try_into().map_err(|_| EINVAL)?;
        let flushes = &mut self.flushes;
        let (done, result) = self
            .leaf
            .commit(&mut self.tables, window, reserve, |_, _| *flushes += 1);
        self.check()?;
        result.map(|()| done)
    }

    fn revoke(&mut self, hit: Range<usize>) -> Result<Option<Revoked>> {
        let revoked = self.leaf.revoke(&mut self.tables, hit);
        self.check()?;
        Ok(revoked)
    }

    fn check(&self) -> Result {
        let mut held = 0;
        for page in 0..LEAF_PAGES {
            let slot = self.leaf.slot(page);
            let shadow = slot.is_live().then(|| (slot.target(), slot.prot()));
            let (walked, claims) = self.tables.walk(page);
            if walked != shadow || claims > 1 {
                return Err(EIO);
            }
            held += usize::from(slot.is_held());
        }
        if self.tables.broken || held != self.leaf.held {
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

#[kunit_tests(rsvm_svm_leaf)]
mod cases {
    use super::*;

    #[test]
    fn contiguous_and_aligned_becomes_one_pte() -> Result {
        let mut bench = Bench::new()?;
        let done = bench.map(0..LEAF_PAGES, BUS, RW)?;
        assert_eq!(done.ptes, [0, 0, 1]);
        assert_eq!(done.mapped, Some(0..LEAF_PAGES));
        assert_eq!(done.flushed, None);
        Ok(())
    }

    #[test]
    fn a_target_off_by_64k_or_4k_limits_the_size() -> Result {
        let done = Bench::new()?.map(0..LEAF_PAGES, BUS + 0x1_0000, RW)?;
        assert_eq!(done.ptes, [0, 32, 0]);
        let done = Bench::new()?.map(0..LEAF_PAGES, BUS + 0x1000, RW)?;
        assert_eq!(done.ptes, [512, 0, 0]);
        Ok(())
    }

    #[test]
    fn a_hole_costs_only_its_64k_group() -> Result {
        let mut bench = Bench::new()?;
        let done = bench.map(1..LEAF_PAGES, BUS, RW)?;
        assert_eq!(done.ptes, [15, 31, 0]);
        assert_eq!(done.mapped, Some(1..LEAF_PAGES));
        Ok(())
    }

    #[test]
    fn mixed_rights_split_only_where_they_meet() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..LEAF_PAGES, BUS, RO)?;
        let done = bench.map(20..21, BUS, RW)?;
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
        bench.map(0..LEAF_PAGES, BUS, RO)?;
        let done = bench.map(0..LEAF_PAGES, BUS, RW)?;
        assert_eq!((done.ptes, bench.flushes), ([0, 0, 1], 0));
        // The same once more does nothing at all.
        let done = bench.map(0..LEAF_PAGES, BUS, RW)?;
        assert_eq!((done.ptes, done.mapped), ([0, 0, 0], None));
        Ok(())
    }

    #[test]
    fn fewer_rights_flush() -> Result {
        let mut bench = Bench::new()?;
        bench.map(3..4, BUS, RW)?;
        bench.map(3..4, BUS, RO)?;
        assert_eq!(bench.flushes, 1);
        assert!(!bench.leaf.slot(3).prot().write);
        Ok(())
    }

    #[test]
    fn small_ptes_grow_into_large_ones() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..7, BUS, RW)?;
        let done = bench.map(7..16, BUS, RW)?;
        assert_eq!((done.ptes, bench.flushes), ([0, 1, 0], 1));
        let done = bench.map(16..LEAF_PAGES, BUS, RW)?;
        assert_eq!((done.ptes, bench.flushes), ([0, 0, 1], 2));
        assert_eq!(done.flushed, Some(0..LEAF_PAGES));
        Ok(())
    }

    #[test]
    fn a_partial_hit_clears_exactly_the_hit_pages() -> Result {
        for bus in [BUS, BUS + 0x1_0000, BUS + 0x1000] {
            let mut bench = Bench::new()?;
            bench.map(0..LEAF_PAGES, bus, RW)?;
            let revoked = bench.revoke(17..40)?.ok_or(ENOENT)?;
            assert!(revoked.pages.start <= 17 && revoked.pages.end >= 40);
            assert_eq!(revoked.demoted, bus != BUS + 0x1000);
            assert_eq!(bench.live(), LEAF_PAGES - 23);
            assert!((17..40).all(|page| bench.leaf.slot(page).is_held()));
            assert!((17..40).all(|page| !bench.leaf.slot(page).is_live()));
        }
        Ok(())
    }

    #[test]
    fn a_whole_hit_does_not_demote() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..LEAF_PAGES, BUS, RW)?;
        let revoked = bench.revoke(0..LEAF_PAGES)?.ok_or(ENOENT)?;
        assert!(!revoked.demoted);
        assert_eq!(bench.live(), 0);
        Ok(())
    }

    #[test]
    fn without_a_table_the_large_pte_goes_as_a_whole() -> Result {
        for (bus, gone) in [(BUS, 0..LEAF_PAGES), (BUS + 0x1_0000, 16..32)] {
            let mut bench = Bench::new()?;
            bench.map(0..LEAF_PAGES, bus, RW)?;
            bench.leaf.reserve = FakeReserve(0);
            let revoked = bench.revoke(20..21)?.ok_or(ENOENT)?;
            assert_eq!(revoked.pages, gone);
            assert_eq!(bench.live(), LEAF_PAGES - gone.len());
        }
        Ok(())
    }

    #[test]
    fn demoted_twice_and_whole_again() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..LEAF_PAGES, BUS, RW)?;
        bench.revoke(5..6)?;
        bench.revoke(400..401)?;
        assert_eq!(bench.live(), LEAF_PAGES - 2);
        bench.leaf.retire(0..LEAF_PAGES);
        assert_eq!(bench.map(0..LEAF_PAGES, BUS, RW)?.ptes, [0, 0, 1]);
        // The table that demotion had used came back for the next one.
        assert!(bench.revoke(5..6)?.ok_or(ENOENT)?.demoted);
        Ok(())
    }

    #[test]
    fn a_page_is_hit_until_its_flush_was_acknowledged() -> Result {
        let mut bench = Bench::new()?;
        bench.map(8..10, BUS, RW)?;
        bench.map(9..10, BUS, RO)?;
        assert!(bench.revoke(8..10)?.is_some());
        // Somebody else's invalidation has to wait as well.
        assert!(bench.leaf.is_hit(9..10));
        assert!(bench.revoke(9..10)?.is_some());
        bench.leaf.retire(0..LEAF_PAGES);
        assert!(bench.revoke(8..10)?.is_none());
        assert!(bench.leaf.is_empty());
        Ok(())
    }

    #[test]
    fn an_exhausted_reserve_leaves_shadow_and_tables_equal() -> Result {
        let mut bench = Bench::new()?;
        let failed = bench.map_with(0..1, BUS, RW, &mut FakeReserve(0));
        assert_eq!(failed.err(), Some(ENOMEM));
        assert_eq!(bench.live(), 0);
        assert_eq!(bench.map(0..1, BUS, RW)?.ptes, [1, 0, 0]);
        Ok(())
    }

    #[test]
    fn tables_of_an_empty_leaf_come_out() -> Result {
        let mut bench = Bench::new()?;
        bench.map(0..1, BUS, RW)?;
        bench.revoke(0..1)?;
        bench.leaf.retire(0..1);
        bench.leaf.unhook(&mut bench.tables);
        assert_eq!(bench.leaf.unhooked.0, 1);
        assert!(!bench.tables.has_small);
        Ok(())
    }
}
