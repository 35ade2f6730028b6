// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::{
    bindings,
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
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Completion, //
    }, //
};
use core::ptr;

mod flush;

const CLEAR: bindings::mmu_notifier_event = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR;

#[kunit_tests(rust_mm_space)]
mod cases {
    use super::*;

    /// Pages go exactly where the memory went, after a flush, and the rest stays.
    #[test]
    fn munmap_revokes() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        assert_eq!(f.enter(&session, &node, range)?, PAGES);
        assert_eq!((f.entered(), f.held()), (0xff, 0xff));

        let gone = nth(range, 2)?;
        munmap(gone)?;
        assert_eq!(
            (f.entered(), f.held()),
            (0xff & !(1 << 2), 0xff & !(1 << 2))
        );
        assert_eq!(f.waits(), 1);
        assert!(f.last() == Some((gone, Reason::Unmap)));

        // A page that is not mapped needs no flush.
        munmap(gone)?;
        zap(session.mm(), nth(range, 3)?);
        zap(session.mm(), nth(range, 3)?);
        assert_eq!(f.waits(), 2);
        Ok(())
    }

    /// A change between snapshot and commit is seen, wherever in the interval it is.
    #[test]
    fn collision_rejects() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;
        write_all(range)?;
        // So that the node stays.
        assert_eq!(f.enter(&session, &node, nth(range, 6)?)?, 1);

        let snapshot = look(&session, &node, range, &mut buf)?;
        zap(session.mm(), nth(range, 7)?);
        assert_eq!(f.commit(snapshot), Err(Reject::Collided));
        assert_eq!(f.entered(), 1 << 6);

        let snapshot = look(&session, &node, range, &mut buf)?;
        munmap(nth(range, 0)?)?;
        assert_eq!(f.commit(snapshot), Err(Reject::Collided));

        // The rest.
        let snapshot = look(&session, &node, range, &mut buf)?;
        assert_eq!(f.commit(snapshot), Ok(PAGES - 2));
        assert_eq!(f.entered(), 0x7e);
        Ok(())
    }

    /// A closed space maps nothing, and is told of nothing.
    #[test]
    fn closed_rejects() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let within = session.insert_within(&node, nth(range, 1)?)?;
        let mut buf = PfnBuf::new(PAGES)?;
        let mut buf_within = PfnBuf::new(1)?;
        assert_eq!(f.enter(&session, &node, range)?, PAGES);
        let snapshot = look(&session, &node, range, &mut buf)?;
        let one = look(&session, &within.handle(), nth(range, 1)?, &mut buf_within)?;

        f.space.close();
        assert_eq!((f.entered(), f.held(), f.waits()), (0, 0, 1));
        assert_eq!(f.commit(snapshot), Err(Reject::Closed));
        assert_eq!(f.commit(one), Err(Reject::Closed));
        assert!(session
            .node(range.start())
            .is_err_and(|error| error == ESHUTDOWN));
        let mut supplies = Supplies::new()?;
        let object = f
            .space
            .lock()
            .map_object(range, true, &mut supplies, |_| Some(0));
        assert_eq!(object, Err(ESHUTDOWN));

        drop(within);
        f.space.barrier();
        let revokes = f.revokes();
        munmap(nth(range, 5)?)?;
        assert_eq!((f.revokes(), f.waits()), (revokes, 1));
        Ok(())
    }

    /// A node in which nothing is mapped any more ends, when nobody refers to it.
    #[test]
    fn empty_nodes_end() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        assert_eq!(f.enter(&session, &node, range)?, PAGES);
        // A part of it does not end the node.
        munmap(nth(range, 0)?)?;
        let mut buf = PfnBuf::new(PAGES)?;
        let snapshot = look(&session, &node, range, &mut buf)?;
        assert_eq!(f.commit(snapshot), Ok(PAGES - 1));

        // Nor does the end of it all, as long as somebody refers to the node.
        munmap(range)?;
        f.space.settle();
        let snapshot = look(&session, &node, range, &mut buf)?;
        assert_eq!(f.commit(snapshot), Ok(0));
        assert!(f.space.lock().has_leaf(leaf_index(range.start())));
        drop(node);
        while f.space.lock().has_leaf(leaf_index(range.start())) {
            pause();
        }
        // Another one can be had.
        let node = session.node(range.start())?;
        let snapshot = look(&session, &node, range, &mut buf)?;
        assert_eq!(f.commit(snapshot), Ok(0));
        Ok(())
    }

    /// A session looks through intervals of its own space only.
    #[test]
    fn other_spaces() -> Result {
        let range = map_anon(PROT_RW)?;
        let (f, other) = (Fixture::new(range)?, Fixture::new(range)?);
        let (session, theirs) = (f.session()?, other.session()?);
        let node = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;
        assert!(theirs.insert_within(&node, range).is_err());
        assert!(theirs.snapshot(&node, range, TIMEOUT, &mut buf).is_err());
        Ok(())
    }

    /// A page gets through though its surroundings change, and stays mapped when the small
    /// interval ends.
    #[test]
    fn interval_within() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let page = nth(range, 3)?;
        let mut buf = PfnBuf::new(PAGES)?;
        let mut buf_within = PfnBuf::new(1)?;
        write_all(range)?;
        // Not in the node.
        let outside = PageRange::new(
            page.start(),
            VirtAddr::new(node.range().end().as_usize() + PAGE_SIZE),
        )?;
        assert!(session.insert_within(&node, outside).is_err());

        let within = session.insert_within(&node, page)?;
        let outer_look = look(&session, &node, range, &mut buf)?;
        let inner_look = look(&session, &within.handle(), page, &mut buf_within)?;
        zap(session.mm(), nth(range, 4)?);
        assert_eq!(f.commit(outer_look), Err(Reject::Collided));
        assert_eq!(f.commit(inner_look), Ok(1));
        assert_eq!(f.entered(), 1 << 3);

        let revokes = f.revokes();
        let handle = within.handle();
        within.remove(&session);
        assert_eq!((f.entered(), f.revokes()), (1 << 3, revokes));
        let ended = look(&session, &handle, page, &mut buf_within)?;
        assert_eq!(f.commit(ended), Err(Reject::Dead));
        // The outer one still watches it.
        zap(session.mm(), page);
        assert_eq!(f.entered(), 0);
        Ok(())
    }

    /// A change that must not sleep is refused before anything happens, but only if need be.
    #[test]
    fn nonblocking() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;
        assert_eq!(f.enter(&session, &node, nth(range, 0)?)?, 1);
        let try_change = |page| {
            announce(
                f.space.mm(),
                nth(range, page)?,
                CLEAR,
                ptr::null_mut(),
                false,
            )
        };

        // Mapped: refused, and neither the page nor the sequence changed.
        let snapshot = look(&session, &node, range, &mut buf)?;
        assert!(try_change(0) == Err(EAGAIN));
        assert_eq!(f.entered(), 1);
        assert_eq!(f.commit(snapshot), Ok(1));

        // Locked by another thread: refused.
        let refused = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let other = (f.space.clone(), refused.clone());
        let page = nth(range, 5)?;
        let guard = f.space.lock();
        let spawned = elsewhere(GFP_NOWAIT, move || {
            let (space, refused) = other;
            let result = announce(space.mm(), page, CLEAR, ptr::null_mut(), false);
            refused.store(result == Err(EAGAIN), Relaxed);
        });
        if let Ok(done) = &spawned {
            done.wait_for_completion();
        }
        drop(guard);
        assert!(spawned.is_ok() && refused.load(Relaxed));

        // Neither: granted, and seen by a commit.
        let snapshot = look(&session, &node, range, &mut buf)?;
        assert!(try_change(5).is_ok());
        assert_eq!(f.commit(snapshot), Err(Reject::Collided));
        assert_eq!(f.revokes(), 0);
        Ok(())
    }

    /// Only the space's own exclusive access leaves its pages alone.
    #[test]
    fn exclusive_owner() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;
        assert_eq!(f.enter(&session, &node, range)?, PAGES);
        let owner = f.space.owner();
        let exclusive = bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE;
        let migrate = bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE;

        let snapshot = look(&session, &node, range, &mut buf)?;
        announce(f.space.mm(), nth(range, 0)?, exclusive, owner, true)?;
        assert_eq!(f.entered(), 0xff);
        assert_eq!(f.commit(snapshot), Ok(PAGES));

        announce(
            f.space.mm(),
            nth(range, 0)?,
            exclusive,
            ptr::null_mut(),
            true,
        )?;
        assert_eq!(f.entered(), 0xfe);
        announce(f.space.mm(), nth(range, 1)?, migrate, owner, true)?;
        assert_eq!(f.entered(), 0xfc);
        Ok(())
    }

    /// A process ends: its pages go first, and no session of it begins any more.
    #[test]
    fn release() -> Result {
        let range = PageRange::from_len(VirtAddr::new(0x10000), PAGES * PAGE_SIZE)?;
        // SAFETY: No requirements. The result has one user.
        let raw = unsafe { bindings::mm_alloc() };
        if raw.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: Valid, and it takes a reference of its own.
        let f = Fixture::make(unsafe { Mm::from_raw(raw) }.into(), range, None)?;
        let mut supplies = f.supplies()?;
        let mapped = f
            .space
            .lock()
            .map_object(range, false, &mut supplies, |_| Some(0));
        assert!(mapped.is_ok());

        // SAFETY: Gives up the user of `mm_alloc`.
        unsafe { bindings::mmput(raw) };
        // The session of `Space::new` was dropped asynchronously and may be the last.
        while f.revokes() == 0 {
            pause();
        }
        assert!(f
            .last()
            .is_some_and(|(_, reason)| reason == Reason::Release));
        assert!(f.session().is_err());
        Ok(())
    }

    /// The misuses of mapping that only show at run time are errors.
    #[test]
    fn map_errors() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;
        write_all(range)?;

        // Supplies of another space are for another device.
        let other = Fixture::new(range)?;
        let mut theirs = other.supplies()?;
        let mut commit = look(&session, &node, range, &mut buf)?
            .commit()
            .map_err(|_| EAGAIN)?;
        assert_eq!(commit.map(&mut theirs, |_| Some(false)), Err(EAGAIN));
        drop(commit);

        // Without supplies nothing is mapped.
        let mut empty = Supplies::new()?;
        let mut commit = look(&session, &node, range, &mut buf)?
            .commit()
            .map_err(|_| EAGAIN)?;
        assert_eq!(commit.map(&mut empty, |_| Some(false)), Err(EAGAIN));
        drop(commit);
        assert_eq!((f.entered(), f.held()), (0, 0));

        // With a leaf but no tables, likewise.
        f.space.prepare(&mut empty, leaf_index(range.start()))?;
        let mut commit = look(&session, &node, range, &mut buf)?
            .commit()
            .map_err(|_| EAGAIN)?;
        let mapped = commit.map(&mut empty, |_| Some(false))?;
        assert!(mapped.is_partial && mapped.pages.is_none());
        drop(commit);
        assert_eq!((f.entered(), f.held()), (0, 0));

        // A range of two leaves; a page of the process where an object is, and the other way round.
        let mut supplies = f.supplies()?;
        let end = VirtAddr::new(range.start().as_usize() + LEAF_SIZE + PAGE_SIZE);
        let across = PageRange::new(range.start(), end)?;
        let object = |range, supplies: &mut _| {
            f.space.lock().map_object(range, true, supplies, |page| {
                Some((page * PAGE_SIZE) as u64)
            })
        };
        assert_eq!(object(across, &mut supplies), Err(EINVAL));
        assert!(object(nth(range, 0)?, &mut supplies)?.pages.is_some());
        assert_eq!(f.enter(&session, &node, range)?, PAGES);
        assert_eq!((f.entered(), f.held()), (0xff, 0xfe));
        assert!(object(nth(range, 1)?, &mut supplies)?.pages.is_none());
        assert_eq!(f.held(), 0xfe);
        Ok(())
    }
}
