// SPDX-License-Identifier: GPL-2.0

//! One page that is to have a PTE of its own.

use super::*;

impl Bench {
    /// Commits `page` exclusively; returns which pages were flushed.
    fn grab(&mut self, page: usize, bus: u64) -> Result<Option<Range<usize>>> {
        let target = Target::System(bus).offset(page);
        let Target::System(addr) = target else {
            return Err(EINVAL);
        };
        self.leaf.hold(page, target);
        let mut flushed = None;
        let mut reserve = FakeReserve(3);
        let slot = Slot::exclusive(addr);
        let flush = |_: &FakeTables, pages| flushed = Some(pages);
        self.leaf
            .commit_page(&mut self.tables, (page, slot), &mut reserve, flush)?;
        self.check()?;
        assert!(self.leaf.slot(page) == slot);
        Ok(flushed)
    }
}

#[kunit_tests(rsvm_svm_leaf_page)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_its_own_leaves_its_neighbours() -> Result {
        // Nothing there; the same again; a page that a 4 KiB PTE maps.
        let mut bench = Bench::new()?;
        assert_eq!(bench.grab(5, BUS)?, None);
        assert_eq!(bench.grab(5, BUS)?, None);
        bench.map(6..7, BUS, RO)?;
        assert_eq!(bench.grab(6, BUS)?, None);
        assert!(bench.leaf.slot(5).is_exclusive());

        // Large PTEs around it.
        for size in [PageSize::Size64K, PageSize::Size2M] {
            let mut bench = Bench::new()?;
            let start = pte_start(100, size);
            let pages = start..start + size.pages();
            bench.map(pages.clone(), BUS, RW)?;
            assert!(bench.leaf.slot(100).size() == size);
            assert_eq!(bench.grab(100, BUS)?, Some(pages.clone()));
            for page in pages.filter(|&page| page != 100) {
                let slot = bench.leaf.slot(page);
                assert!(slot.is_live() && slot.size() == PageSize::Size4K && slot.prot() == RW);
            }
        }
        Ok(())
    }
}
