// SPDX-License-Identifier: GPL-2.0

//! One page that is to have a PTE of its own.

use super::*;

impl Bench {
    /// Commits `page` exclusively; returns which pages were flushed.
    fn grab(&mut self, page: usize, place: u64) -> Result<Option<Range<usize>>> {
        let offset = place + (page * PAGE_SIZE) as u64;
        let slot = self.leaf.prepare_object(page, offset, RW).ok_or(EAGAIN)?;
        let slot = Slot::exclusive_of(slot);
        let mut flushed = None;
        let mut reserve = FakeReserve(3);
        let flush = |_: &FakeTables, pages| flushed = Some(pages);
        self.leaf
            .commit_page(&mut self.tables, (page, slot), &mut reserve, None, flush)?;
        self.check()?;
        assert!(self.leaf.slot(page) == slot);
        Ok(flushed)
    }
}

#[kunit_tests(rust_mm_space_leaf_page)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_its_own_leaves_its_neighbours() -> Result {
        // Nothing there; the same again; a page that a 4 KiB PTE maps.
        let mut bench = Bench::new()?;
        assert_eq!(bench.grab(5, PLACE)?, None);
        assert_eq!(bench.grab(5, PLACE)?, None);
        bench.map(6..7, PLACE, RO)?;
        assert_eq!(bench.grab(6, PLACE)?, None);
        assert!(bench.leaf.slot(5).is_exclusive());

        // Large PTEs around it.
        for size in [PageSize::Size64K, PageSize::Size2M] {
            let mut bench = Bench::new()?;
            let start = pte_start(100, size);
            let pages = start..start + size.pages();
            bench.map(pages.clone(), PLACE, RW)?;
            assert!(bench.leaf.slot(100).size() == size);
            assert_eq!(bench.grab(100, PLACE)?, Some(pages.clone()));
            for page in pages.filter(|&page| page != 100) {
                let slot = bench.leaf.slot(page);
                assert!(slot.is_live() && slot.size() == PageSize::Size4K && slot.prot().write);
            }
        }
        Ok(())
    }
}
