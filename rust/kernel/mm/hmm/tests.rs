// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::{
    mm::{
        addr::Pfn,
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
    }, //
};

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

/// Whether the device may write to page `index` of `range`, if it may access it.
fn writable(f: &Fixture, range: PageRange, index: usize) -> Result<Option<bool>> {
    let slot = f.space.lock().slot(nth(range, index)?.start());
    Ok(slot.rights().map(|prot| prot.write))
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
        let handle = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;

        let two = PageRange::from_len(nth(range, 2)?.start(), 2 * PAGE_SIZE)?;
        fault(&session, &handle, two, true)?;
        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(2));
        assert_eq!(f.entered(), 0b1100);
        assert_eq!(writable(&f, range, 2)?, Some(true));

        // A read of untouched memory gives the zero page, which nobody may write to.
        let page = nth(range, 6)?;
        fault(&session, &handle, page, false)?;
        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(3));
        assert_eq!(writable(&f, range, 6)?, Some(false));

        // Writing replaces it, which takes the old entry away.
        fault(&session, &handle, page, true)?;
        assert_eq!(f.entered(), 0b1100);
        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(3));
        assert_eq!(writable(&f, range, 6)?, Some(true));

        // A snapshot of nothing is no error.
        munmap(range)?;
        let handle = session.node(range.start())?;
        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(0));

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
            let handle = session.node(range.start())?;
            let page = nth(range, page)?;
            let result = session.fault_in(&handle, page, write, TIMEOUT, &mut buf);
            assert_eq!(result, expected);
        }

        // A range with one bad page.
        let handle = session.node(hole.start())?;
        let result = session.fault_in(&handle, hole, true, TIMEOUT, &mut buf);
        assert_eq!(result, Err(FaultError::NoMapping));

        // Not covered by the interval; no room in the buffer.
        let result = session.fault_in(&handle, none, false, TIMEOUT, &mut buf);
        assert_eq!(result, Err(FaultError::Invalid));
        let mut small = PfnBuf::new(1)?;
        let result = session.fault_in(&handle, hole, true, TIMEOUT, &mut small);
        assert_eq!(result, Err(FaultError::Invalid));

        Ok(())
    }

    /// From the snapshot to its end, whichever, nobody gets the lock for writing.
    #[test]
    fn locked_snapshot() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let mm = f.space.mm();
        let mut session = f.session()?;
        let handle = session.node(range.start())?;
        let page = nth(range, 3)?;
        let within = session.insert_within(&handle, page)?;
        let own = within.handle();
        let mut buf = PfnBuf::new(PAGES)?;
        let clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR;
        write_all(range)?;
        assert!(!mmap_is_locked(mm));

        let held = session.lock_mappings().map_err(|_| EINTR)?;
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

        // Nothing is there, which is no error; not covered; no room. Another page keeps the node.
        assert_eq!(f.enter(&session, &handle, nth(range, 0)?)?, 1);
        munmap(nth(range, 5)?)?;
        let held = session.lock_mappings().map_err(|_| EINTR)?;
        let seen = held.snapshot(&handle, range, &mut buf);
        assert_eq!(f.commit(seen.map_err(|_| EBUSY)?), Ok(PAGES - 1));
        let error = held.snapshot(&own, range, &mut buf).err();
        assert_eq!(error, Some(FaultError::Invalid));
        let mut small = PfnBuf::new(1)?;
        let error = held.snapshot(&handle, range, &mut small).err();
        assert_eq!(error, Some(FaultError::Invalid));

        // Of a space that was closed.
        f.space.close();
        let seen = held.snapshot(&own, page, &mut buf).map_err(|_| EBUSY)?;
        assert_eq!(f.commit(seen), Err(Reject::Closed));
        drop(held);

        within.remove(&session);
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
        let handle = session.node(range.start())?;
        let within = session.insert_within(&handle, nth(range, QUIET)?)?;
        let mut buf = PfnBuf::new(PAGES)?;

        let stop = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let started = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let others = (f.space.clone(), stop.clone(), started.clone());
        let done = elsewhere(GFP_KERNEL, move || {
            let (space, stop, started) = others;
            started.complete_all();
            if let Some(session) = space.enter() {
                while !stop.load(Relaxed) {
                    for page in (0..PAGES).filter(|page| *page != QUIET) {
                        let _ = nth(range, page).map(|page| zap(session.mm(), page));
                    }
                }
            }
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

        // Calm: the device may access the pages that the process has there.
        let is_there = |addr| f.space.lock().slot(addr).is_system();
        let mapped: KVec<bool> = {
            let mut mapped = KVec::new();
            for addr in range.iter_pages() {
                mapped.push(is_there(addr), GFP_KERNEL)?;
            }
            mapped
        };
        let frames = frames(&f, range)?;
        let mut actual = [None; PAGES];
        let seen = look(&session, &handle, range, &mut buf)?;
        f.commit_with(seen, |index, page| actual[index] = Some(page.pfn))
            .map_err(|_| EAGAIN)?;
        for index in 0..PAGES {
            assert!(!mapped[index] || frames[index].is_some() && frames[index] == actual[index]);
        }

        within.remove(&session);
        Ok(())
    }

    /// A page that is mapped gains the right to write in place, and keeps its DMA mapping until its
    /// flush is acknowledged.
    #[test]
    fn rights_grow_in_place() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let handle = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;
        write_all(range)?;

        let seen = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(seen), Ok(PAGES));
        // The same again changes nothing.
        let mut supplies = f.supplies()?;
        let seen = look(&session, &handle, range, &mut buf)?;
        let mut commit = seen.commit().map_err(|_| EAGAIN)?;
        let mapped = commit.map(&mut supplies, |_| Some(false))?;
        assert_eq!(mapped, Mapped::default());
        // More rights need no flush, fewer do. A page that is not chosen is left alone.
        let mapped = commit.map(&mut supplies, |page| (page == 1).then_some(true))?;
        assert_eq!((mapped.ptes, f.waits()), ([1, 0, 0], 0));
        let mapped = commit.map(&mut supplies, |page| (page == 1).then_some(false))?;
        assert_eq!((mapped.ptes, f.waits()), ([1, 0, 0], 1));
        drop(commit);
        assert_eq!((f.entered(), f.held()), (0xff, 0xff));
        Ok(())
    }

    /// The device wrote to a page of a file that the CPU only read: the mark is the only trace.
    #[test]
    fn revoke_marks_file_pages_dirty() -> Result {
        let range = map_shmem(PAGES, PROT_RW)?;
        let page = nth(range, 0)?;
        let f = Fixture::new(page)?;
        let session = f.session()?;
        let handle = session.node(page.start())?;
        let mut buf = PfnBuf::new(PAGES)?;

        fault(&session, &handle, page, false)?;
        let seen = look(&session, &handle, page, &mut buf)?;
        let mut pfn = None;
        f.commit_with(seen, |_, found| {
            pfn = Some(found.pfn).filter(|_| found.writable)
        })
        .map_err(|_| EAGAIN)?;
        let pfn = pfn.ok_or(ENOENT)?;

        // SAFETY: The page stays in its file to the end of the test.
        assert!(!unsafe { folio_is_dirty(pfn) });
        f.space.revoke(page, |_, _| Ok(()))?;
        // SAFETY: As above.
        assert!(unsafe { folio_is_dirty(pfn) });
        Ok(())
    }
}

/// The frames behind the pages of `range`, as the space remembers them.
fn frames(f: &Fixture, range: PageRange) -> Result<[Option<Pfn>; PAGES]> {
    let guard = f.space.lock();
    let mut frames = [None; PAGES];
    for (frame, addr) in frames.iter_mut().zip(range.iter_pages()) {
        *frame = guard.frame(addr);
    }
    Ok(frames)
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
