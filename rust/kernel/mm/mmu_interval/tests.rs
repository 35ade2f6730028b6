// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::{
    mm::{
        addr::VirtAddr,
        hmm::{
            PfnBuf,
            Reject, //
        },
        testing::*,
        Mm, //
    },
    page::PAGE_SIZE,
    prelude::*,
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
use core::ptr;

#[kunit_tests(rust_mm_mmu_interval)]
mod cases {
    use super::*;

    /// Entries go exactly where the memory went, after a flush, and the rest stays.
    #[test]
    fn munmap_revokes() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        assert_eq!(f.enter(&session, &interval.handle(), range)?, PAGES);
        assert_eq!(f.entered(), 0xff);

        let gone = nth(range, 2)?;
        munmap(gone)?;
        assert_eq!(f.entered(), 0xff & !(1 << 2));
        assert_eq!(f.space.waits.load(Relaxed), 1);
        {
            let guard = f.space.lock.lock();
            assert!(guard.book().last == Some((gone, Reason::Unmap)));
            assert_eq!(guard.book().flushed, 1);
        }

        // What was not entered needs no flush.
        munmap(gone)?;
        zap(session.mm(), nth(range, 3)?);
        zap(session.mm(), nth(range, 3)?);
        assert_eq!(f.space.waits.load(Relaxed), 2);

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// A change between snapshot and commit is seen, wherever in the interval it is.
    #[test]
    fn collision_rejects() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let mut buf = PfnBuf::new(PAGES)?;
        write_all(range)?;

        let handle = interval.handle();
        let snapshot = look(&session, &handle, range, &mut buf)?;
        zap(session.mm(), nth(range, 7)?);
        assert_eq!(f.commit(snapshot), Err(Reject::Collided));
        assert_eq!(f.entered(), 0);

        let snapshot = look(&session, &handle, range, &mut buf)?;
        munmap(nth(range, 0)?)?;
        assert_eq!(f.commit(snapshot), Err(Reject::Collided));

        // What is left.
        let snapshot = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(snapshot), Ok(PAGES - 2));
        assert_eq!(f.entered(), 0x7e);

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    #[test]
    fn killed_rejects() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let within = session.insert_within(&handle, nth(range, 1)?)?;
        let mut buf = PfnBuf::new(PAGES)?;
        let mut buf_within = PfnBuf::new(1)?;
        assert_eq!(f.enter(&session, &handle, range)?, PAGES);

        let snapshot = look(&session, &handle, range, &mut buf)?;
        let one = look(&session, &within.handle(), nth(range, 1)?, &mut buf_within)?;

        let dead = interval.kill(&mut f.space.lock.lock());
        let dead = dead.map_err(|_| EINVAL)?;
        assert_eq!(f.entered(), 0);
        assert!(handle.is_dead());
        assert_eq!(f.commit(snapshot), Err(Reject::Dead));
        // It relied on the other one to see changes.
        assert_eq!(f.commit(one), Err(Reject::Dead));

        assert_eq!(f.space.waits.load(Relaxed), 0);
        dead.remove();
        assert_eq!(f.space.waits.load(Relaxed), 1);

        // Nobody is asked any more, and there is nothing to commit through.
        let revokes = f.space.lock.lock().book().revokes;
        munmap(nth(range, 5)?)?;
        assert_eq!(f.space.lock.lock().book().revokes, revokes);
        let snapshot = look(&session, &handle, range, &mut buf)?;
        assert_eq!(f.commit(snapshot), Err(Reject::Dead));

        drop(within);
        f.set.barrier();
        Ok(())
    }

    #[test]
    fn wrong_space_rejects() -> Result {
        let range = map_anon(PROT_RW)?;
        let (f, other) = (Fixture::new(range)?, Fixture::new(range)?);
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let mut buf = PfnBuf::new(PAGES)?;

        let snapshot = look(&session, &interval.handle(), range, &mut buf)?;
        assert_eq!(other.commit(snapshot), Err(Reject::WrongSpace));

        // An interval comes back from the wrong lock alive.
        let interval = interval.kill(&mut other.space.lock.lock());
        let Err(interval) = interval else {
            return Err(EINVAL);
        };
        assert!(!interval.handle().is_dead());

        // Nor can the session of another set be used with it.
        let theirs = other.session()?;
        assert!(theirs.insert_within(&interval.handle(), range).is_err());
        assert!(theirs
            .snapshot(&interval.handle(), range, TIMEOUT, &mut buf)
            .is_err());

        drop(interval);
        f.set.barrier();
        other.set.barrier();
        Ok(())
    }

    /// A page gets through though its surroundings change, and stays entered when the small
    /// interval goes.
    #[test]
    fn interval_within() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let page = nth(range, 3)?;
        let mut buf = PfnBuf::new(PAGES)?;
        let mut buf_within = PfnBuf::new(1)?;
        write_all(range)?;

        let beyond = PageRange::from_len(range.end(), page.len())?;
        assert!(session.insert_within(&handle, beyond).is_err());

        let within = session.insert_within(&handle, page)?;
        let wide = look(&session, &handle, range, &mut buf)?;
        let narrow = look(&session, &within.handle(), page, &mut buf_within)?;
        zap(session.mm(), nth(range, 0)?);
        assert_eq!(f.commit(wide), Err(Reject::Collided));
        assert_eq!(f.commit(narrow), Ok(1));

        let dead = within.kill(&mut f.space.lock.lock());
        dead.map_err(|_| EINVAL)?.remove();
        assert_eq!(f.entered(), 1 << 3);

        // Now the outer one alone watches it.
        munmap(page)?;
        assert_eq!(f.entered(), 0);

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// Both of two intervals that watch the same page are asked, and each goes its two passes.
    #[test]
    fn passes_overlap() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let within = session.insert_within(&handle, nth(range, 3)?)?;
        assert_eq!(f.enter(&session, &handle, range)?, PAGES);

        zap(session.mm(), nth(range, 3)?);
        assert_eq!(f.entered(), 0xff & !(1 << 3));
        // One cleared the entry. The other found nothing, but the flush was on its way.
        assert_eq!(f.space.lock.lock().book().revokes, 2);
        assert_eq!(f.space.lock.lock().book().flushes, 1);
        assert_eq!(f.space.waits.load(Relaxed), 2);
        assert_eq!(f.space.lock.lock().book().flushed, 2);

        drop((interval, within));
        f.set.barrier();
        Ok(())
    }

    /// Entries are gone, but the device may still know them: whoever comes next waits as well.
    #[test]
    fn unacknowledged_is_flushed_again() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        assert_eq!(f.enter(&session, &interval.handle(), range)?, PAGES);

        let dead = interval.kill(&mut f.space.lock.lock());
        let dead = dead.map_err(|_| EINVAL)?;
        let no_owner = ptr::null_mut();
        let clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR;
        assert!(announce(f.set.mm(), range, clear, no_owner, false) == Err(EAGAIN));
        assert_eq!(f.space.lock.lock().book().flushes, 0);
        announce(f.set.mm(), range, clear, no_owner, true)?;
        assert_eq!(f.space.lock.lock().book().flushes, 1);
        assert_eq!(f.space.waits.load(Relaxed), 1);

        dead.remove();
        assert_eq!(f.space.waits.load(Relaxed), 2);
        assert_eq!(f.space.lock.lock().book().flushed, 2);
        f.set.barrier();
        Ok(())
    }

    /// What the driver took away is not entered again before the device forgot it: that
    /// acknowledgement would be taken for one of the new entry.
    #[test]
    fn nothing_enters_before_the_flush() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let mut buf = PfnBuf::new(PAGES)?;
        assert_eq!(f.enter(&session, &handle, range)?, PAGES);

        f.space.is_slow.store(true, Relaxed);
        let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let other = (f.mirror(), done.clone());
        let page = nth(range, 5)?;
        workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
            let (mirror, done) = other;
            let _ = withdraw(&mirror, page, |_| Ok(()));
            done.complete_all();
        })?;
        while f.entered() == 0xff {
            pause();
        }
        let early = f.commit(look(&session, &handle, range, &mut buf)?);
        let beside = f.commit(look(&session, &handle, nth(range, 4)?, &mut buf)?);
        f.space.is_slow.store(false, Relaxed);
        done.wait_for_completion();
        assert_eq!((early, beside), (Err(Reject::Collided), Ok(1)));
        assert_eq!(f.enter(&session, &handle, range)?, PAGES);

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// Who must not sleep is turned away before anything changes, but only if need be.
    #[test]
    fn nonblocking() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let mut buf = PfnBuf::new(PAGES)?;
        assert_eq!(f.enter(&session, &handle, nth(range, 0)?)?, 1);
        let try_change = |page| {
            let clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR;
            announce(f.set.mm(), nth(range, page)?, clear, ptr::null_mut(), false)
        };

        // Live: refused, and neither the entry nor the sequence changed.
        let snapshot = look(&session, &handle, range, &mut buf)?;
        assert!(try_change(0) == Err(EAGAIN));
        assert_eq!(f.entered(), 1);
        assert_eq!(f.commit(snapshot), Ok(1));

        // Locked by another thread: refused.
        let refused = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let other = (f.set.clone(), refused.clone(), done.clone());
        let page = nth(range, 5)?;
        let guard = f.space.lock.lock();
        let spawned = workqueue::system_dfl().try_spawn(GFP_NOWAIT, move || {
            let (set, refused, done) = other;
            let clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR;
            let result = announce(set.mm(), page, clear, ptr::null_mut(), false);
            refused.store(result == Err(EAGAIN), Relaxed);
            done.complete_all();
        });
        if spawned.is_ok() {
            done.wait_for_completion();
        }
        drop(guard);
        assert!(spawned.is_ok() && refused.load(Relaxed));

        // Neither: granted, and seen by a commit.
        let snapshot = look(&session, &handle, range, &mut buf)?;
        assert!(try_change(5).is_ok());
        assert_eq!(f.commit(snapshot), Err(Reject::Collided));
        assert_eq!(f.space.lock.lock().book().revokes, 0);

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// Only the space's own exclusive access leaves its entries alone.
    #[test]
    fn exclusive_owner() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        let handle = interval.handle();
        let mut buf = PfnBuf::new(PAGES)?;
        assert_eq!(f.enter(&session, &handle, range)?, PAGES);
        let owner = f.space.lock.owner();
        let exclusive = bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE;
        let migrate = bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE;

        let snapshot = look(&session, &handle, range, &mut buf)?;
        announce(f.set.mm(), nth(range, 0)?, exclusive, owner, true)?;
        assert_eq!(f.entered(), 0xff);
        assert_eq!(f.commit(snapshot), Ok(PAGES));

        announce(f.set.mm(), nth(range, 0)?, exclusive, ptr::null_mut(), true)?;
        assert_eq!(f.entered(), 0xfe);
        announce(f.set.mm(), nth(range, 1)?, migrate, owner, true)?;
        assert_eq!(f.entered(), 0xfc);

        drop(interval);
        f.set.barrier();
        Ok(())
    }

    /// Whatever is dropped in whatever state is gone after the barrier, its mirror too.
    #[test]
    fn barrier_waits_for_removals() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        for page in 0..PAGES {
            let page = nth(range, page)?;
            let interval = session.insert(page, f.mirror())?;
            assert_eq!(f.enter(&session, &interval.handle(), page)?, 1);
            let mut guard = f.space.lock.lock();
            if page.start().as_usize() & bindings::PAGE_SIZE == 0 {
                // Alive, with the lock held.
                drop(interval);
            } else {
                drop(interval.kill(&mut guard).map_err(|_| EINVAL)?);
            }
            drop(guard);
        }
        f.set.barrier();
        assert_eq!(f.entered(), 0);
        assert_eq!(f.space.mirrors.load(Relaxed), 0);
        assert_eq!(f.space.waits.load(Relaxed), PAGES as i32);
        // None is left to be asked.
        let revokes = f.space.lock.lock().book().revokes;
        munmap(range)?;
        assert_eq!(f.space.lock.lock().book().revokes, revokes);
        Ok(())
    }

    /// A process ends: its entries go first, and nobody enters it any more.
    #[test]
    fn release() -> Result {
        let range = PageRange::from_len(VirtAddr::new(0x10000), PAGES * PAGE_SIZE)?;
        // SAFETY: No requirements. The result has one user.
        let raw = unsafe { bindings::mm_alloc() };
        if raw.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: Valid, and it takes a reference of its own.
        let f = Fixture::of_mm(unsafe { Mm::from_raw(raw) }.into(), range)?;
        let session = f.session()?;
        let interval = session.insert(range, f.mirror())?;
        drop(session);

        // SAFETY: Gives up the user of `mm_alloc`.
        unsafe { bindings::mmput(raw) };
        // The session's was dropped asynchronously and may be the last.
        while f.space.lock.lock().book().revokes == 0 {
            pause();
        }
        assert!(f.space.lock.lock().book().last == Some((range, Reason::Release)));
        assert!(f.session().is_err());

        drop(interval);
        f.set.barrier();
        Ok(())
    }
}
