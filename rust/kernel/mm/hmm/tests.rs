// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::{
    mm::{
        addr::Pfn,
        mmu_interval::IntervalSet,
        testing::*, //
    },
    page::PAGE_SIZE,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Completion, //
    },
    workqueue, //
};

/// Stands for a device's acknowledgement.
struct Ack;

fn fault(
    session: &MmSession<'_, Fake>,
    interval: &IntervalRef<Fake>,
    range: PageRange,
    write: bool,
) -> Result {
    let mut buf = PfnBuf::new(PAGES)?;
    session
        .fault_in(interval, range, write, TIMEOUT, &mut buf)
        .map_err(|_| EFAULT)
}

#[kunit_tests(rust_mm_hmm)]
mod cases {
    use super::*;

    /// What is faulted in is what was asked for and no neighbour; the snapshot shows both.
    #[test]
    fn fault_in_then_look() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let mut buf = PfnBuf::new(PAGES)?;

        let two = PageRange::from_len(nth(range, 2)?.start(), 2 * PAGE_SIZE)?;
        fault(&session, &handle, two, true)?;
        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(2));
        assert_eq!(f.entered(), 0b1100);
        assert!(f.space.lock.lock().pt().entries[2].is_some_and(|(_, writable)| writable));

        // A read of untouched memory gives the zero page, which nobody may write to.
        let page = nth(range, 6)?;
        fault(&session, &handle, page, false)?;
        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(3));
        assert!(f.space.lock.lock().pt().entries[6].is_some_and(|(_, writable)| !writable));

        // Writing replaces it, which takes the old entry away.
        fault(&session, &handle, page, true)?;
        assert_eq!(f.entered(), 0b1100);
        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(3));
        assert!(f.space.lock.lock().pt().entries[6].is_some_and(|(_, writable)| writable));

        // A snapshot of nothing is no error.
        munmap(range)?;
        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(0));

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    #[test]
    fn fault_errors() -> Result {
        let none = map_anon(PROT_NONE)?;
        let read_only = map_anon(PROT_READ)?;
        let hole = map_anon(PROT_RW)?;
        munmap(nth(hole, 4)?)?;
        let short = map_shmem(2, PROT_RW)?;
        let f = Fixture::new(none)?;
        let session = f.session()?;
        let mut buf = PfnBuf::new(PAGES)?;

        let cases = [
            (none, 0, false, Err(FaultError::Protection)),
            (none, 0, true, Err(FaultError::Protection)),
            (read_only, 0, false, Ok(())),
            (read_only, 0, true, Err(FaultError::Protection)),
            (hole, 3, true, Ok(())),
            (hole, 4, true, Err(FaultError::NoMapping)),
            (hole, 4, false, Err(FaultError::NoMapping)),
            (short, 1, true, Ok(())),
            (short, 2, true, Err(FaultError::NoBacking)),
        ];
        for (range, page, write, expected) in cases {
            let interval = session.insert(range, f.mirror())?;
            let page = nth(range, page)?;
            let result = session.fault_in(&interval.handle(), page, write, TIMEOUT, &mut buf);
            assert_eq!(result, expected);
        }

        // A range with one bad page.
        let interval = session.insert(hole, f.mirror())?;
        let handle = interval.handle();
        let result = session.fault_in(&handle, hole, true, TIMEOUT, &mut buf);
        assert_eq!(result, Err(FaultError::NoMapping));

        // Not covered by the interval; no room in the buffer.
        let result = session.fault_in(&handle, none, false, TIMEOUT, &mut buf);
        assert_eq!(result, Err(FaultError::Invalid));
        let mut small = PfnBuf::new(1)?;
        let result = session.fault_in(&handle, hole, true, TIMEOUT, &mut small);
        assert_eq!(result, Err(FaultError::Invalid));

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// From the snapshot to its end, whichever, nobody gets the lock for writing.
    #[test]
    fn locked_snapshot() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let mm = f.set.mm();
        let mut session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let page = nth(range, 3)?;
        let within = session.insert_within(&interval.handle(), page)?;
        let own = within.handle();
        let mut buf = PfnBuf::new(PAGES)?;
        let clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR;
        write_all(range)?;
        assert!(!mmap_is_locked(mm));

        let held = session.hold_mappings().map_err(|_| EINTR)?;
        assert!(mmap_is_locked(mm));
        let seen = held.snapshot(&own, page, &mut buf).map_err(|_| EBUSY)?;
        // Beside the interval.
        announce(mm, nth(range, 4)?, clear, core::ptr::null_mut(), true)?;
        assert_eq!(f.commit(seen), Ok(1));
        assert_eq!(f.entered(), 1 << 3);
        // For the device to use it.
        assert!(mmap_is_locked(mm));

        // In it.
        let seen = held.snapshot(&own, page, &mut buf).map_err(|_| EBUSY)?;
        announce(mm, page, clear, core::ptr::null_mut(), true)?;
        assert_eq!(f.commit(seen), Err(Reject::Collided));
        assert_eq!(f.entered(), 0);
        drop(held);
        assert!(!mmap_is_locked(mm));

        // Nothing is there, which is no error; not covered; no room.
        let outer = interval.handle();
        munmap(nth(range, 5)?)?;
        let held = session.hold_mappings().map_err(|_| EINTR)?;
        let seen = held.snapshot(&outer, range, &mut buf);
        assert_eq!(f.commit(seen.map_err(|_| EBUSY)?), Ok(PAGES - 1));
        let error = held.snapshot(&own, range, &mut buf).err();
        assert_eq!(error, Some(FaultError::Invalid));
        let mut small = PfnBuf::new(1)?;
        let error = held.snapshot(&outer, range, &mut small).err();
        assert_eq!(error, Some(FaultError::Invalid));

        // Of an interval that was killed.
        let dead = within.kill(&mut f.space.lock.lock()).map_err(|_| EINVAL)?;
        let seen = held.snapshot(&own, page, &mut buf).map_err(|_| EBUSY)?;
        assert_eq!(f.commit(seen), Err(Reject::Dead));
        drop(held);

        dead.remove();
        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// While others change the memory all the time nothing stale is entered, and a page that they
    /// leave alone gets through.
    #[test]
    fn storm() -> Result {
        const QUIET: usize = 3;
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let within = session.insert_within(&handle, nth(range, QUIET)?)?;
        let mut buf = PfnBuf::new(PAGES)?;

        let stop = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let started = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let others = (f.set.clone(), stop.clone(), started.clone(), done.clone());
        workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
            let (set, stop, started, done) = others;
            started.complete_all();
            if let Some(session) = IntervalSet::enter(&set) {
                while !stop.load(Relaxed) {
                    for page in (0..PAGES).filter(|page| *page != QUIET) {
                        let _ = nth(range, page).map(|page| zap(session.mm(), page));
                    }
                }
            }
            done.complete_all();
        })?;

        started.wait_for_completion();

        let mut tally = [0; 2];
        let mut quiet = Ok(0);
        // Long enough for some collisions, wherever it runs.
        for turn in 0..20_000 {
            if turn >= 500 && tally[0] >= 5 {
                break;
            }
            let result = session.fault_in(&handle, range, true, 1, &mut buf);
            if !matches!(result, Ok(()) | Err(FaultError::Busy)) {
                tally = [0; 2];
                break;
            }
            if let Ok(seen) = session.snapshot(&handle, range, 1, &mut buf) {
                tally[usize::from(f.commit(seen).is_ok())] += 1;
            }
            if quiet.is_ok() {
                quiet = f.enter(&session, &within.handle(), nth(range, QUIET)?);
            }
        }
        stop.store(true, Relaxed);
        done.wait_for_completion();
        pr_info!("storm: {} collided, {} committed\n", tally[0], tally[1]);
        assert_eq!(quiet, Ok(1));
        assert!(tally != [0; 2]);

        // Calm: what the device may access is what the process has there.
        let entered = f.space.lock.lock().pt().entries;
        let mut actual = [None; PAGES];
        let seen = look(&session, &handle, range, &mut buf)?;
        f.commit_with(seen, |index, pages| {
            actual[index] = pages.get(index).map(|page| page.pfn());
        })
        .map_err(|_| EAGAIN)?;
        for (entered, actual) in entered.iter().zip(actual) {
            assert!(entered.is_none_or(|(pfn, _)| actual == Some(pfn)));
        }

        drop((interval, within));
        f.set.barrier();
        Ok(())
    }

    #[test]
    fn dma_map_states() -> Result {
        let device = DmaDevice::new()?;
        let dev = device.bound();
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let mut buf = PfnBuf::new(PAGES)?;
        write_all(range)?;

        assert!(DmaMap::<Ack>::new(dev, 0).is_err());
        let mut map = DmaMap::<Ack>::new(dev, PAGES)?;
        assert!(!map.is_live(0..PAGES));

        let seen = look(&session, &interval.handle(), range, &mut buf)?;
        let mut results = [None; 6];
        f.commit_with(seen, |index, pages| {
            let (Some(page), Some(last)) = (pages.get(index), pages.get(PAGES - 1)) else {
                return;
            };
            if index != 0 {
                return;
            }
            results = [
                Some(map.map(dev, 0, page).map(|_| ())),
                // The right to write comes later.
                page.writable()
                    .map(|page| map.map(dev, 0, page).map(|_| ())),
                // Reading only does not take it away.
                Some(map.map(dev, 0, page).map(|_| ())),
                Some(map.map(dev, 0, last).map(|_| ())),
                Some(map.map(dev, PAGES, page).map(|_| ())),
                Some(map.map(dev, 1, last).map(|_| ())),
            ];
        })
        .map_err(|_| EAGAIN)?;
        let yes = Some(Ok(()));
        let expected = [yes, yes, yes, Some(Err(EBUSY)), Some(Err(EINVAL)), yes];
        assert!(results == expected);

        let (first, second) = (map.get(0).ok_or(ENOENT)?, map.get(1).ok_or(ENOENT)?);
        assert!(first.writable && !second.writable);
        assert!(first.addr != second.addr && first.pfn != second.pfn);
        assert!(map.get(2).is_none() && map.get(PAGES).is_none());
        assert!(map.is_live(0..1) && map.is_live(1..usize::MAX) && !map.is_live(2..PAGES));

        // Only the writable one is dirty.
        let revoked = map.revoke(0..PAGES);
        assert_eq!((revoked.pages, revoked.dirtied), (2, 1));
        assert!(map.revoke(0..PAGES) == Revoked::default());
        assert!(map.get(0).is_none() && !map.is_live(0..PAGES));

        // The device may still use it.
        let mut again = None;
        let seen = look(&session, &interval.handle(), range, &mut buf)?;
        f.commit_with(seen, |index, pages| {
            if index == 0 {
                again = pages.get(0).map(|page| map.map(dev, 0, page).map(|_| ()));
            }
        })
        .map_err(|_| EAGAIN)?;
        assert!(again == Some(Err(EAGAIN)));

        // Now it does not.
        map.unmap(dev, 0..1, &Ack)?;
        let seen = look(&session, &interval.handle(), range, &mut buf)?;
        f.commit_with(seen, |index, pages| {
            if index == 0 {
                again = pages.get(0).map(|page| map.map(dev, 0, page).map(|_| ()));
            }
        })
        .map_err(|_| EAGAIN)?;
        assert!(again == Some(Ok(())));

        let other = DmaDevice::new()?;
        assert!(map.unmap(other.bound(), 0..1, &Ack) == Err(EINVAL));
        map.revoke(0..PAGES);
        map.free(dev, &Ack)?;

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// The device wrote to a page of a file that the CPU only read: the mark is the only trace.
    #[test]
    fn revoke_marks_file_pages_dirty() -> Result {
        let device = DmaDevice::new()?;
        let dev = device.bound();
        let range = map_shmem(PAGES, PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let mut buf = PfnBuf::new(PAGES)?;
        let mut map = DmaMap::<Ack>::new(dev, PAGES)?;

        fault(&session, &handle, nth(range, 0)?, false)?;
        let seen = look(&session, &handle, range, &mut buf)?;
        let mut pfn = None;
        f.commit_with(seen, |index, pages| {
            let writable = pages.get(index).and_then(|page| page.writable());
            if let (0, Some(page)) = (index, writable) {
                pfn = Some(page.pfn());
                let _ = map.map(dev, index, page);
            }
        })
        .map_err(|_| EAGAIN)?;
        let pfn = pfn.ok_or(ENOENT)?;

        // SAFETY: The page stays mapped to the end of the test.
        assert!(!unsafe { folio_is_dirty(pfn) });
        let revoked = map.revoke(0..PAGES);
        assert_eq!((revoked.pages, revoked.dirtied), (1, 1));
        // SAFETY: As above.
        assert!(unsafe { folio_is_dirty(pfn) });

        map.free(dev, &Ack)?;
        drop(interval);
        f.set.barrier();
        Ok(())
    }
}

/// # Safety
///
/// `pfn` has a `struct page` that stays.
unsafe fn folio_is_dirty(pfn: Pfn) -> bool {
    // SAFETY: By the caller's promise.
    unsafe {
        let folio = bindings::page_folio(bindings::pfn_to_page(pfn.as_usize()));
        bindings::folio_test_dirty(folio)
    }
}
