// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::mm::{
    hmm::ReadPage,
    mmu_interval::Reason,
    testing::*, //
};
use core::ptr;

/// A 2 MiB page, and as much to find it in.
const HUGE: usize = 2 << 20;

/// Takes `page` and enters it as entry `index`.
fn grab(
    f: &Fixture,
    session: &mut MmSession<'_, Fake>,
    interval: &IntervalRef<Fake>,
    page: PageRange,
    index: usize,
) -> Result<Result<(), Reject>, ExclusiveError> {
    let mut buf = PfnBuf::new(1).map_err(|_| ExclusiveError::Fault(FaultError::NoMemory))?;
    let exclusive = session.make_exclusive(interval, page, TIMEOUT, &mut buf)?;
    assert!(mmap_is_locked(f.set.mm()));
    let mut guard = f.space.lock.lock();
    let result = exclusive.commit(&mut guard).map(|mut commit| {
        assert_eq!(commit.range().start(), page.start());
        let (pt, _, found) = commit.split();
        pt.entries[index] = Some((found.pfn(), true));
    });
    drop(guard);
    Ok(result)
}

fn last(f: &Fixture) -> Option<Reason> {
    let guard = f.space.lock.lock();
    guard.book().last.map(|(_, reason)| reason)
}

#[kunit_tests(rust_mm_hmm_exclusive)]
mod cases {
    use super::*;

    #[test]
    fn kinds_of_pages() {
        assert!(<AtomicPage<'_> as DevicePage>::ATOMIC && <AtomicPage<'_> as DevicePage>::WRITABLE);
        assert!(!<ReadPage<'_> as DevicePage>::ATOMIC);
    }

    /// Core tells before a CPU gets the page, whoever had it how before.
    #[test]
    fn taken_and_given_back() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let mut session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let page = nth(range, 3)?;

        // Neither present before, nor a neighbour touched.
        assert_eq!(grab(&f, &mut session, &handle, page, 3), Ok(Ok(())));
        assert_eq!(f.entered(), 1 << 3);
        assert!(!mmap_is_locked(f.set.mm()));
        write_all(page)?;
        assert_eq!(f.entered(), 0);
        assert_eq!(last(&f), Some(Reason::Clear));

        // Mapped by the device as any page before: that may stay.
        assert_eq!(f.enter(&session, &handle, range)?, PAGES);
        let revokes = f.space.lock.lock().book().revokes;
        assert_eq!(grab(&f, &mut session, &handle, page, 3), Ok(Ok(())));
        assert_eq!(f.entered(), 0xff);
        assert_eq!(f.space.lock.lock().book().revokes, revokes);
        write_all(range)?;
        assert_eq!(f.entered(), 0xff & !(1 << 3));

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// A page that is exclusive already is taken again by the first attempt: what core tells when
    /// it takes it back is older than the sequence.
    #[test]
    fn again_and_again() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let mut session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        for _ in 0..4 {
            for index in 0..PAGES {
                let page = nth(range, index)?;
                assert_eq!(grab(&f, &mut session, &handle, page, index), Ok(Ok(())));
            }
        }
        assert_eq!(f.entered(), 0xff);
        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// Two spaces of one process take it from each other.
    #[test]
    fn two_spaces() -> Result {
        let range = map_anon(PROT_RW)?;
        let (f, g) = (Fixture::new(range)?, Fixture::new(range)?);
        let (mut in_f, mut in_g) = (f.session()?, g.session()?);
        let (of_f, of_g) = (
            in_f.insert(range, f.mirror())?,
            in_g.insert(range, g.mirror())?,
        );
        let page = nth(range, 0)?;
        for _ in 0..2 {
            assert_eq!(grab(&f, &mut in_f, &of_f.handle(), page, 0), Ok(Ok(())));
            assert_eq!((f.entered(), g.entered()), (1, 0));
            assert_eq!(grab(&g, &mut in_g, &of_g.handle(), page, 0), Ok(Ok(())));
            assert_eq!((f.entered(), g.entered()), (0, 1));
        }
        drop((of_f, of_g));
        f.set.barrier();
        g.set.barrier();
        Ok(())
    }

    /// A huge page costs one collision, the pages in it none.
    #[test]
    fn in_a_huge_page() -> Result {
        let map = map_anon_len(2 * HUGE)?;
        let start = map.start().as_usize().next_multiple_of(HUGE);
        let huge = PageRange::from_len(VirtAddr::new(start), HUGE)?;
        madvise(huge, bindings::MADV_HUGEPAGE)?;
        write_all(huge)?;
        let f = Fixture::new(huge)?;
        let mut session = f.session()?;
        let interval = session.insert(huge, f.mirror())?;
        let handle = interval.handle();

        let page = nth(huge, 0)?;
        let first = grab(&f, &mut session, &handle, page, 0);
        if first != Ok(Ok(())) {
            assert_eq!(first, Ok(Err(Reject::Collided)));
            assert_eq!(grab(&f, &mut session, &handle, page, 0), Ok(Ok(())));
        }
        let page = nth(huge, 1)?;
        assert_eq!(grab(&f, &mut session, &handle, page, 1), Ok(Ok(())));
        assert_eq!(f.entered(), 0b11);
        let entries = f.space.lock.lock().pt().entries;
        let frame = |i: usize| entries[i].map(|(pfn, _)| pfn.as_usize());
        // They are of one folio, if there was a huge page to be had.
        pr_info!("huge: {:?} {:?}\n", frame(0), frame(1));
        write_all(huge)?;
        assert_eq!(f.entered(), 0);
        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// What changes between the two is noticed, and nothing stays locked.
    #[test]
    fn collisions() -> Result {
        let range = map_anon(PROT_RW)?;
        let (f, other) = (Fixture::new(range)?, Fixture::new(range)?);
        let mut session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let page = nth(range, 2)?;
        let mut buf = PfnBuf::new(1)?;
        let clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR;
        let own = bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE;

        let taken = session.make_exclusive(&handle, page, TIMEOUT, &mut buf);
        let taken = taken.map_err(|_| EFAULT)?;
        assert!(matches!(
            taken.commit(&mut other.space.lock.lock()),
            Err(Reject::WrongSpace)
        ));
        announce(f.set.mm(), page, own, f.space.lock.owner(), true)?;
        assert!(taken.commit(&mut f.space.lock.lock()).is_ok());
        announce(f.set.mm(), page, clear, ptr::null_mut(), true)?;
        assert!(matches!(
            taken.commit(&mut f.space.lock.lock()),
            Err(Reject::Collided)
        ));
        drop(taken);
        assert!(!mmap_is_locked(f.set.mm()));
        // Would wait for ever, were the folio still locked.
        write_all(page)?;
        assert_eq!(grab(&f, &mut session, &handle, page, 2), Ok(Ok(())));

        let dead = interval
            .kill(&mut f.space.lock.lock())
            .map_err(|_| EINVAL)?;
        let result = grab(&f, &mut session, &handle, page, 2);
        assert_eq!(result, Ok(Err(Reject::Dead)));
        dead.remove();
        f.set.barrier();
        other.set.barrier();
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
            let interval = session.insert(range, f.mirror())?;
            let page = nth(range, index)?;
            let result = grab(&f, &mut session, &interval.handle(), page, index);
            assert_eq!(result, expected);
            assert!(!mmap_is_locked(f.set.mm()));
        }

        // More than a page; not covered.
        let interval = session.insert(hole, f.mirror())?;
        let handle = interval.handle();
        let invalid = fault(FaultError::Invalid);
        assert_eq!(grab(&f, &mut session, &handle, hole, 0), invalid);
        let page = nth(read_only, 0)?;
        assert_eq!(grab(&f, &mut session, &handle, page, 0), invalid);

        // Known beforehand.
        assert!(session.first_unsupported(hole).is_none());
        assert!(session.first_unsupported(read_only).is_none());
        let found = session.first_unsupported(shared).ok_or(ENOENT)?;
        assert_eq!(found.start(), shared.start());
        assert_eq!(found.pages(), PAGES);

        drop(interval);
        f.set.barrier();
        Ok(())
    }
}
