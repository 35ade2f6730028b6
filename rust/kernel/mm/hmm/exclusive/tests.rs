// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::mm::{
    memremap::{
        LivePagemap,
        HUGE_PAGES, //
    },
    migrate::MigrateBuf,
    space::Reason,
    testing::*, //
};
use core::ptr;

/// A 2 MiB page, and as much to find it in.
const HUGE: usize = 2 << 20;

/// Takes `page` and maps it.
fn grab(
    f: &Fixture,
    session: &mut MmSession<'_, Fake>,
    interval: &IntervalRef<Fake>,
    page: PageRange,
) -> Result<Result<(), Reject>, ExclusiveError> {
    let mut buf = PfnBuf::new(1).map_err(|_| ExclusiveError::Fault(FaultError::NoMemory))?;
    let exclusive = session.make_exclusive(interval, page, TIMEOUT, &mut buf)?;
    assert!(mmap_is_locked(f.space.mm()));
    let mut supplies = f
        .supplies()
        .map_err(|_| ExclusiveError::Fault(FaultError::NoMemory))?;
    let result = exclusive.commit().map(|mut commit| {
        assert_eq!(commit.range().start(), page.start());
        assert!(commit.map(&mut supplies).is_ok());
        assert!(commit.guard.slot(page.start()).is_exclusive());
    });
    Ok(result)
}

fn last(f: &Fixture) -> Option<Reason> {
    f.last().map(|(_, reason)| reason)
}

#[kunit_tests(rust_mm_hmm_exclusive)]
mod cases {
    use super::*;

    /// The space is told before a CPU gets the page, however the page was used before.
    #[test]
    fn taken_and_given_back() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let mut session = f.session()?;
        let handle = session.node(range.start())?;
        let page = nth(range, 3)?;

        // Neither present before, nor a neighbour touched.
        assert_eq!(grab(&f, &mut session, &handle, page), Ok(Ok(())));
        assert_eq!(f.entered(), 1 << 3);
        assert!(!mmap_is_locked(f.space.mm()));
        write_all(page)?;
        assert_eq!(f.entered(), 0);
        assert_eq!(last(&f), Some(Reason::Clear));

        // Mapped by the device as any page before: that may stay.
        assert_eq!(f.enter(&session, &handle, range)?, PAGES);
        let revokes = f.revokes();
        assert_eq!(grab(&f, &mut session, &handle, page), Ok(Ok(())));
        assert_eq!(f.entered(), 0xff);
        assert_eq!(f.revokes(), revokes);
        write_all(range)?;
        assert_eq!(f.entered(), 0xff & !(1 << 3));

        Ok(())
    }

    /// A page that is exclusive already is taken again by the first attempt: what core mm tells when
    /// it takes it back is older than the sequence.
    #[test]
    fn again_and_again() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let mut session = f.session()?;
        let handle = session.node(range.start())?;
        for _ in 0..4 {
            for index in 0..PAGES {
                let page = nth(range, index)?;
                assert_eq!(grab(&f, &mut session, &handle, page), Ok(Ok(())));
            }
        }
        assert_eq!(f.entered(), 0xff);
        Ok(())
    }

    /// Two spaces of one process take it from each other.
    #[test]
    fn two_spaces() -> Result {
        let range = map_anon(PROT_RW)?;
        let (f, g) = (Fixture::new(range)?, Fixture::new(range)?);
        let (mut in_f, mut in_g) = (f.session()?, g.session()?);
        let (of_f, of_g) = (in_f.node(range.start())?, in_g.node(range.start())?);
        let page = nth(range, 0)?;
        for _ in 0..2 {
            assert_eq!(grab(&f, &mut in_f, &of_f, page), Ok(Ok(())));
            assert_eq!((f.entered(), g.entered()), (1, 0));
            assert_eq!(grab(&g, &mut in_g, &of_g, page), Ok(Ok(())));
            assert_eq!((f.entered(), g.entered()), (0, 1));
        }
        Ok(())
    }

    /// A huge page costs one collision, the pages in it none.
    #[test]
    fn in_a_huge_page() -> Result {
        let map = map_anon_len(2 * HUGE)?;
        let start = map.start().as_usize().next_multiple_of(HUGE);
        let huge = PageRange::from_len(VirtAddr::new(start), HUGE)?;
        advise_huge(huge)?;
        write_all(huge)?;
        let f = Fixture::new(huge)?;
        let mut session = f.session()?;
        let handle = session.node(huge.start())?;

        let page = nth(huge, 0)?;
        let first = grab(&f, &mut session, &handle, page);
        if first != Ok(Ok(())) {
            assert_eq!(first, Ok(Err(Reject::Collided)));
            assert_eq!(grab(&f, &mut session, &handle, page), Ok(Ok(())));
        }
        let page = nth(huge, 1)?;
        assert_eq!(grab(&f, &mut session, &handle, page), Ok(Ok(())));
        assert_eq!(f.entered(), 0b11);
        write_all(huge)?;
        assert_eq!(f.entered(), 0);
        Ok(())
    }

    /// What changes between the two is noticed, and nothing stays locked.
    #[test]
    fn collisions() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let mut session = f.session()?;
        let handle = session.node(range.start())?;
        let page = nth(range, 2)?;
        let mut buf = PfnBuf::new(1)?;
        let clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR;
        let own = bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE;

        let taken = session.make_exclusive(&handle, page, TIMEOUT, &mut buf);
        let taken = taken.map_err(|_| EFAULT)?;
        announce(f.space.mm(), page, own, f.space.owner(), true)?;
        assert!(taken.commit().is_ok());
        announce(f.space.mm(), page, clear, ptr::null_mut(), true)?;
        assert!(matches!(taken.commit(), Err(Reject::Collided)));
        drop(taken);
        assert!(!mmap_is_locked(f.space.mm()));
        // Would wait for ever, were the folio still locked.
        write_all(page)?;
        assert_eq!(grab(&f, &mut session, &handle, page), Ok(Ok(())));

        f.space.close();
        let result = grab(&f, &mut session, &handle, page);
        assert_eq!(result, Ok(Err(Reject::Closed)));
        Ok(())
    }

    #[test]
    fn refused() -> Result {
        let read_only = map_anon(PROT_READ)?;
        let hole = map_anon(PROT_RW)?;
        munmap(nth(hole, 4)?)?;
        let shared = map_shmem(2, PROT_RW)?;
        let f = Fixture::new(hole)?;
        let mut session = f.session()?;
        let fault = |error| Err(ExclusiveError::Fault(error));
        let cases = [
            (read_only, 0, fault(FaultError::Protection)),
            (hole, 4, fault(FaultError::NoMapping)),
            (shared, 0, Err(ExclusiveError::Unsupported)),
            (shared, 2, fault(FaultError::NoBacking)),
            (hole, 3, Ok(Ok(()))),
        ];
        for (range, index, expected) in cases {
            let handle = session.node(range.start())?;
            let page = nth(range, index)?;
            let result = grab(&f, &mut session, &handle, page);
            assert_eq!(result, expected);
            assert!(!mmap_is_locked(f.space.mm()));
        }

        // More than a page; not covered.
        let handle = session.node(hole.start())?;
        let invalid = fault(FaultError::Invalid);
        assert_eq!(grab(&f, &mut session, &handle, hole), invalid);
        let page = nth(read_only, 0)?;
        assert_eq!(grab(&f, &mut session, &handle, page), invalid);

        // Known beforehand.
        assert!(session.first_unsupported(hole).is_none());
        assert!(session.first_unsupported(read_only).is_none());
        let found = session.first_unsupported(shared).ok_or(ENOENT)?;
        assert_eq!(found.start(), shared.start());
        assert_eq!(found.pages(), PAGES);

        Ok(())
    }

    /// One exclusive folio per thread, however many sessions and spaces it has. Meanwhile it does not
    /// look into memory either.
    #[test]
    fn one_folio_per_thread() -> Result {
        let (one, two) = (map_anon(PROT_RW)?, map_anon(PROT_RW)?);
        let (f, g) = (Fixture::new(one)?, Fixture::new(two)?);
        let (mut in_f, mut again, mut in_g) = (f.session()?, f.session()?, g.session()?);
        let (of_f, of_g) = (in_f.node(one.start())?, in_g.node(two.start())?);
        let also_f = again.node(one.start())?;
        write_all(one)?;
        write_all(two)?;
        let mut buf = PfnBuf::new(1)?;
        let mut other = PfnBuf::new(1)?;
        let page = nth(two, 0)?;

        let held = in_f.make_exclusive(&of_f, nth(one, 0)?, TIMEOUT, &mut buf);
        let held = held.map_err(|_| EFAULT)?;
        let refused = Some(ExclusiveError::Fault(FaultError::Invalid));
        let second = again
            .make_exclusive(&also_f, nth(one, 1)?, TIMEOUT, &mut other)
            .err();
        let elsewhere = in_g.make_exclusive(&of_g, page, TIMEOUT, &mut other).err();
        let look = in_g.snapshot(&of_g, page, TIMEOUT, &mut other).err();
        drop(held);
        assert_eq!((second, elsewhere), (refused, refused));
        assert_eq!(look, Some(FaultError::Invalid));
        // Afterwards it may.
        assert_eq!(grab(&g, &mut in_g, &of_g, page), Ok(Ok(())));
        Ok(())
    }

    /// A page in the space's own device memory is brought home by the first attempt, in the thread that
    /// makes it. That change is one with which the attempt collides.
    #[test]
    fn from_device_memory() -> Result {
        let range = map_anon(PROT_RW)?;
        let pages = HUGE_PAGES as u32;
        let (device, ram) = (DmaDevice::new()?, Ram::new(pages)?);
        let live = LivePagemap::new(device.bound(), pages, c"kunit", ram)?;
        {
            let f = Fixture::with_pagemap(range, live.clone())?;
            let mut session = f.session()?;
            let page = nth(range, 1)?;
            write_all(page)?;
            let mut buf = MigrateBuf::new()?;
            let collected = session.migrate(page, false, &mut buf)?.ok_or(ENOENT)?;
            let filled = collected.fill(|_, order| live.folio(0, order).ok());
            let filled = filled.flushed();
            for copy in filled.copies() {
                live.data().copy_in(&filled, &copy)?;
            }
            assert_eq!(filled.install(|_| true).pages(), 1);
            let node = session.node(range.start())?;
            let collided = Ok(Err(Reject::Collided));
            assert_eq!(grab(&f, &mut session, &node, page), collided);
            assert_eq!(live.in_use(), 0);
            assert_eq!(grab(&f, &mut session, &node, page), Ok(Ok(())));
        }
        munmap(range)?;
        Ok(())
    }
}
