// SPDX-License-Identifier: GPL-2.0

//! To the device.

use super::*;
use crate::new_mutex;

#[kunit_tests(rust_mm_migrate_there)]
mod cases {
    use super::*;

    /// Pages go to the device and come back when a CPU reads them.
    #[test]
    fn small_pages() -> Result {
        let mut bench = Bench::small(16, true)?;
        assert_eq!(bench.send_all(false, 32)?, 16);
        assert_eq!(bench.located()?, (16, 16));
        assert_eq!(bench.pagemap().in_use(), 16);
        // A second time there is nothing to move.
        assert_eq!(bench.send_all(false, 64)?, 0);
        assert!(bench.check(bench.range, 1)?);
        assert_eq!(bench.located()?, (0, 0));
        assert_eq!(bench.pagemap().in_use(), 0);
        assert_eq!(bench.ram().0.freed.load(Relaxed), 16);
        assert!(bench.end()?);
        Ok(())
    }

    /// What gets no device memory, and what was not copied, stays where it is.
    #[test]
    fn part_of_it() -> Result {
        let mut bench = Bench::small(16, true)?;
        let range = bench.range;
        let moved = bench.send(
            range,
            false,
            0,
            |page, _| page % 2 == 0,
            |copy| copy.page != 4,
        )?;
        assert_eq!(moved, 7);
        assert_eq!(bench.located()?, (7, 7));
        assert_eq!(bench.pagemap().in_use(), 7);
        assert!(bench.check(range, 1)?);
        assert!(bench.end()?);
        Ok(())
    }

    /// 2 MiB in one piece, both ways.
    #[test]
    fn huge_page() -> Result {
        let mut bench = Bench::huge(true)?;
        assert_eq!(bench.send_all(true, 512)?, HUGE_PAGES);
        assert_eq!(bench.located()?, (HUGE_PAGES, HUGE_PAGES));
        assert!(bench.check(bench.range, 1)?);
        let ram = bench.ram();
        assert_eq!(ram.0.faults.load(Relaxed), 1);
        assert_eq!(ram.0.splits.load(Relaxed), 0);
        assert_eq!(bench.pagemap().in_use(), 0);
        // It is one piece again.
        assert_eq!(bench.send_all(true, 0)?, HUGE_PAGES);
        assert!(bench.pagemap().folio(511, Order::Page).is_err());
        assert!(bench.end()?);
        Ok(())
    }

    /// 2 MiB of memory go to small pages of the device, but not if there is none for the first.
    #[test]
    fn huge_to_small() -> Result {
        let mut bench = Bench::huge(true)?;
        let range = bench.range;
        let small = |page: usize, order| order == Order::Page && page != 0;
        assert_eq!(bench.send(range, true, 0, small, |_| true)?, 0);
        assert_eq!(bench.pagemap().in_use(), 0);
        let small = |page: usize, order| order == Order::Page && page != 7;
        assert_eq!(bench.send(range, true, 0, small, |_| true)?, HUGE_PAGES - 1);
        assert_eq!(bench.located()?, (HUGE_PAGES - 1, HUGE_PAGES - 1));
        assert!(bench.check(range, 1)?);
        assert_eq!(bench.pagemap().in_use(), 0);
        assert!(bench.end()?);
        Ok(())
    }

    /// Part of a large page: it is split first.
    #[test]
    fn part_of_huge() -> Result {
        let mut bench = Bench::huge(true)?;
        let part = PageRange::from_len(nth(bench.range, 100)?.start(), 50 * PAGE_SIZE)?;
        assert_eq!(bench.send(part, false, 0, |_, _| true, |_| true)?, 50);
        assert_eq!(bench.located()?, (50, 50));
        assert!(bench.check(bench.range, 1)?);
        assert!(bench.end()?);
        Ok(())
    }

    /// Memory that nobody touched yet is allocated on the device.
    #[test]
    fn holes() -> Result {
        let mut bench = Bench::small(16, false)?;
        let range = bench.range;
        assert_eq!(
            bench.send(range, false, 0, |page, _| page < 8, |_| true)?,
            8
        );
        assert_eq!(bench.located()?, (8, 8));
        for addr in range.iter_pages() {
            assert_eq!(read(addr.as_usize() + 8)?, 0);
        }
        assert!(bench.end()?);
        Ok(())
    }

    /// A large hole is filled with one large folio, or small ones without gaps, or not at all.
    #[test]
    fn huge_holes() -> Result {
        let mut bench = Bench::huge(false)?;
        let range = bench.range;
        let gap = |page: usize, order| order == Order::Page && page != 300;
        assert_eq!(bench.send(range, true, 0, gap, |_| true)?, 0);
        let small = |_, order| order == Order::Page;
        assert_eq!(
            bench.send(range, true, 0, small, |copy| copy.page != 300)?,
            0
        );
        assert_eq!(bench.pagemap().in_use(), 0);
        assert_eq!(bench.located()?, (0, 0));

        assert_eq!(bench.send(range, true, 0, small, |_| true)?, HUGE_PAGES);
        assert_eq!(bench.located()?, (HUGE_PAGES, HUGE_PAGES));
        assert_eq!(read(range.start().as_usize())?, 0);

        madvise(range, bindings::MADV_DONTNEED)?;
        assert_eq!(bench.pagemap().in_use(), 0);
        assert_eq!(bench.send_all(true, 512)?, HUGE_PAGES);
        assert_eq!(bench.located()?, (HUGE_PAGES, HUGE_PAGES));
        assert_eq!(read(range.start().as_usize() + 8)?, 0);
        assert_eq!(bench.pagemap().in_use(), 0);
        assert!(bench.end()?);
        Ok(())
    }

    /// Whatever is dropped, memory is as before and no device page in use.
    #[test]
    fn early_drop() -> Result {
        for huge in [false, true] {
            let mut bench = if huge {
                Bench::huge(true)?
            } else {
                Bench::small(16, true)?
            };
            let (range, pages) = (bench.range, bench.range.pages());
            let pagemap = bench.pagemap();
            let mut session = bench.f.session()?;

            let collected = session.migrate(range, huge, &mut bench.buf)?;
            let collected = collected.ok_or(ENOENT)?.flushed();
            let found: usize = collected.sources().map(|source| source.order.pages()).sum();
            assert_eq!(found, pages);
            drop(collected);

            drop(session.migrate(range, huge, &mut bench.buf)?);

            let collected = session.migrate(range, huge, &mut bench.buf)?;
            // CAST: Small.
            let filled = collected
                .ok_or(ENOENT)?
                .fill(|page, order| pagemap.folio(page as u32, order).ok());
            assert_eq!(pagemap.in_use(), pages);
            drop(filled);
            assert_eq!(pagemap.in_use(), 0);

            let device = DmaDevice::new()?;
            let collected = session.migrate(range, huge, &mut bench.buf)?;
            // CAST: Small.
            let mapped = collected
                .ok_or(ENOENT)?
                .fill(|page, order| pagemap.folio(page as u32, order).ok())
                .map(device.bound())
                .flushed();
            assert!(mapped
                .copies()
                .all(|(copy, addr)| addr.is_some() && !copy.hole));
            let copied: usize = mapped.copies().map(|(copy, _)| copy.pages).sum();
            assert_eq!(copied, pages);
            drop(mapped);
            assert_eq!(pagemap.in_use(), 0);

            // Nothing was copied.
            let collected = session.migrate(range, huge, &mut bench.buf)?;
            // CAST: Small.
            let installed = collected
                .ok_or(ENOENT)?
                .fill(|page, order| pagemap.folio(page as u32, order).ok())
                .map(device.bound())
                .flushed()
                .install(|_| false);
            assert_eq!(installed.pages(), 0);
            drop(installed);
            assert_eq!(pagemap.in_use(), 0);
            drop((session, pagemap));
            assert_eq!(bench.located()?, (0, 0));
            assert!(bench.check(range, 1)?);
            assert!(bench.end()?);
        }
        Ok(())
    }

    /// A migration waits for its own flush when it copies. Until then a change that hits the same pages
    /// has another one, for exactly those that the device may still reach.
    #[test]
    fn flush_is_deferred() -> Result {
        let mut bench = Bench::small(PAGES, true)?;
        let all = bench.range;
        let (mine, other) = (span(all, 0, 4)?, span(all, 2, 6)?);
        let pagemap = bench.pagemap();
        let mut session = bench.f.session()?;
        let node = session.node(all.start())?;
        bench.f.enter(&session, &node, all)?;
        // With room from the beginning: who waits for a flush may be about to free memory.
        let flushes = KVec::with_capacity(64, GFP_KERNEL)?;
        let flushes = Arc::pin_init(new_mutex!(flushes, "kunit::flushes"), GFP_KERNEL)?;
        let log = flushes.clone();
        let hook = move |flush| assert!(log.lock().push_within_capacity(flush).is_ok());
        bench
            .f
            .space
            .ops()
            .when_acknowledged(KBox::new(hook, GFP_KERNEL)?);

        let collected = session.migrate(mine, false, &mut bench.buf)?;
        let collected = collected.ok_or(ENOENT)?;
        assert_eq!((bench.f.entered(), bench.f.held()), (0xf0, 0xff));
        assert_eq!(bench.f.waits(), 0);
        // Two of its pages are mapped, the others leave with the flush of the migration. This one is
        // started later and covers them, so they need not wait for that.
        bench.f.space.revoke(other, |_, _| Ok(()))?;
        assert_eq!((bench.f.entered(), bench.f.held()), (0xc0, 0xc3));
        // None is mapped.
        bench.f.space.revoke(mine, |_, _| Ok(()))?;
        assert_eq!(bench.f.held(), 0xc0);
        let device = DmaDevice::new()?;
        // CAST: Small.
        let filled = collected.fill(|page, order| pagemap.folio(page as u32, order).ok());
        let (mapped, copies) = filled.map(device.bound()).copy(|flush, mapped| {
            assert!(flush.is_some());
            mapped.copies().map(|(copy, _)| copy.pages).sum::<usize>()
        });
        drop(mapped);
        assert_eq!((copies, bench.f.held()), (4, 0xc0));
        assert_eq!(flushes.lock()[..], [other, span(all, 0, 2)?, mine]);
        bench.f.space.revoke(mine, |_, _| Ok(()))?;
        assert_eq!(bench.f.waits(), 3);

        drop((node, session, pagemap));
        assert!(bench.check(bench.range, 1)?);
        assert!(bench.end()?);
        Ok(())
    }

    /// Folios of the wrong size or pagemap are given back.
    #[test]
    fn wrong_folios() -> Result {
        let mut bench = Bench::small(4, true)?;
        let (device, ram) = (DmaDevice::new()?, Ram::new(HUGE_PAGES as u32)?);
        let other = LivePagemap::new(device.bound(), HUGE_PAGES as u32, c"kunit", ram)?;
        let pagemap = bench.pagemap();
        let mut session = bench.f.session()?;
        let collected = session.migrate(bench.range, false, &mut bench.buf)?;
        let filled = collected.ok_or(ENOENT)?.fill(|page, _| match page {
            0 => pagemap.folio(0, Order::Huge).ok(),
            1 => other.folio(0, Order::Page).ok(),
            _ => None,
        });
        assert!(filled.is_empty());
        drop(filled);
        assert_eq!(pagemap.in_use() + other.in_use(), 0);
        drop((session, pagemap));
        assert!(bench.check(bench.range, 1)?);
        assert!(bench.end()?);
        Ok(())
    }

    /// What never can go to a device.
    #[test]
    fn errors() -> Result {
        let mut bench = Bench::small(16, true)?;
        let range = bench.range;
        let shared = map_shmem(PAGES, PROT_RW)?;
        write_all(shared)?;
        let mut session = bench.f.session()?;
        let across = PageRange::from_len(nth(range, 1)?.start(), LEAF_SIZE)?;
        let nothing = PageRange::from_len(VirtAddr::new(0x10000), PAGE_SIZE)?;
        for (range, error) in [(across, EINVAL), (shared, EINVAL), (nothing, ENOENT)] {
            let result = session.migrate(range, false, &mut bench.buf);
            assert!(result.is_err_and(|given| given == error));
        }
        // The end of the mapping is the end of the migration.
        munmap(nth(range, 10)?)?;
        let collected = session.migrate(range, false, &mut bench.buf)?;
        assert_eq!(collected.ok_or(ENOENT)?.range().pages(), 10);
        Ok(())
    }
}
