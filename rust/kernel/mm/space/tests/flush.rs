// SPDX-License-Identifier: GPL-2.0

//! Which flush a page waits for.

use super::*;

/// What happens to page 3 of a range while two flushes are under way, of which the second is its own.
#[derive(Default)]
struct Outcome {
    /// Pages mapped for DMA when each of the flushes was acknowledged.
    held: [u32; 2],
    acknowledged: usize,
}

/// Pages 2 to 4 go; 2 and 4 are mapped through `low`. After `low` was told, which starts a flush of
/// them, and before `high` is told, page 3 is committed through `high`.
fn race(
    f: &Fixture,
    session: &MmSession<'_, Fake>,
    low: &IntervalRef<Fake>,
    high: &IntervalRef<Fake>,
    range: PageRange,
) -> Result<Outcome> {
    write_all(range)?;
    for page in [2, 4] {
        assert_eq!(f.enter(session, low, nth(range, page)?)?, 1);
    }
    let mut buf = PfnBuf::new(1)?;
    let mut snapshot = Some(look(session, high, nth(range, 3)?, &mut buf)?);
    // Made beforehand, as nothing may be allocated in a callback.
    let mut supplies = f.supplies()?;
    let mut committed = None;
    let outcome = Arc::pin_init(new_mutex!(Outcome::default(), "kunit::outcome"), GFP_KERNEL)?;
    let seen = outcome.clone();
    let (space, base) = (f.space.clone(), range);
    f.space.ops().when_acknowledged(KBox::new(
        move |_| {
            let mut seen = seen.lock();
            let guard = space.lock();
            let pages = base.iter_pages().enumerate();
            let held = pages
                .map(|(i, addr)| u32::from(guard.frame(addr).is_some()) << i)
                .sum();
            let count = seen.acknowledged;
            if let Some(place) = seen.held.get_mut(count) {
                *place = held;
            }
            seen.acknowledged += 1;
        },
        GFP_KERNEL,
    )?);
    let bystander = Bystander::new(f.space.mm(), span(range, 1, PAGES)?, || {
        if let Some(snapshot) = snapshot.take() {
            committed = Some(snapshot.commit().map(|mut commit| {
                let mapped = commit.map(&mut supplies, |_| Some(false));
                mapped.is_ok_and(|mapped| !mapped.is_partial)
            }));
        }
    })?;
    zap(session.mm(), span(range, 2, 5)?);
    drop(bystander);
    f.space
        .ops()
        .when_acknowledged(KBox::new(|_| (), GFP_KERNEL)?);
    assert_eq!(committed, Some(Ok(true)));
    let outcome = core::mem::take(&mut *outcome.lock());
    Ok(outcome)
}

/// Revokes `page` in another thread, with a device that does not acknowledge. Returns when the page is
/// leaving.
fn revoke_elsewhere(f: &Fixture, page: PageRange) -> Result<Arc<Completion>> {
    let space = f.space.clone();
    let waits = f.waits();
    let done = elsewhere(GFP_KERNEL, move || {
        let _ = space.revoke(page, |_, _| Ok(()));
    })?;
    while f.waits() == waits {
        pause();
    }
    Ok(done)
}

#[kunit_tests(rust_mm_space_flush)]
mod cases {
    use super::*;

    /// Nested intervals: a page stays mapped for DMA until the flush of its own PTE was
    /// acknowledged, whenever it was committed.
    #[test]
    fn nested_commit_keeps_flush_before_unmap() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let outer = session.node(range.start())?;
        let inner = session.insert_within(&outer, nth(range, 3)?)?;
        let outcome = race(&f, &session, &outer, &inner.handle(), range)?;
        // Both flushes began before the first was acknowledged: that frees pages 2 and 4 alone.
        assert_eq!(outcome.acknowledged, 2);
        assert_eq!(outcome.held, [0b11100, 0b01000]);
        assert_eq!((f.entered(), f.held()), (0, 0));
        inner.remove(&session);
        Ok(())
    }

    /// The same for two intervals of which neither lies in the other.
    #[test]
    fn overlapping_commit_keeps_flush_before_unmap() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let low = session.insert_within(&node, span(range, 0, 5)?)?;
        let high = session.insert_within(&node, span(range, 3, PAGES)?)?;
        let outcome = race(&f, &session, &low.handle(), &high.handle(), range)?;
        assert_eq!(outcome.held, [0b11100, 0b01000]);
        assert_eq!((f.entered(), f.held()), (0, 0));
        low.remove(&session);
        high.remove(&session);
        Ok(())
    }

    /// Both of two intervals that watch the same page are told, and each goes its two passes.
    #[test]
    fn passes_overlap() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let within = session.insert_within(&node, nth(range, 3)?)?;
        assert_eq!(f.enter(&session, &node, range)?, PAGES);

        zap(session.mm(), nth(range, 3)?);
        assert_eq!(
            (f.entered(), f.held()),
            (0xff & !(1 << 3), 0xff & !(1 << 3))
        );
        // One cleared the PTE. The other found the page leaving, and has a flush of its own.
        assert_eq!((f.revokes(), f.waits()), (2, 2));
        within.remove(&session);
        Ok(())
    }

    /// A large PTE goes as a whole for one page of it. A change of another page of it does not return
    /// before the device has forgotten that page, too.
    #[test]
    fn change_waits_for_all_that_a_large_pte_mapped() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let leaf = PageRange::block(range.start(), Alignment::new::<LEAF_SIZE>())?;
        // Enough for the 2 MiB PTE, and nothing to demote it into.
        let mut supplies = f.supplies()?;
        supplies.reserve = FakeReserve(0);
        session.node(range.start())?;
        let mapped = f
            .space
            .lock()
            .map_object(leaf, true, &mut supplies, |page| {
                Some((page * PAGE_SIZE) as u64)
            })?;
        assert_eq!(mapped.ptes, [0, 0, 1]);

        f.space.ops().is_slow.store(true, Relaxed);
        let done = revoke_elsewhere(&f, nth(range, 0)?)?;
        let entered = f.entered();
        // Another thread changes another page, and waits for a flush.
        let waits = f.waits();
        let is_changed = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let other = (f.space.clone(), is_changed.clone());
        let page = nth(range, 5)?;
        let changed = elsewhere(GFP_KERNEL, move || {
            let (space, is_changed) = other;
            let _ = announce(space.mm(), page, CLEAR, ptr::null_mut(), true);
            is_changed.store(true, Relaxed);
        })?;
        // A change that must not wait is refused.
        let nonblocking = announce(f.space.mm(), nth(range, 6)?, CLEAR, ptr::null_mut(), false);
        while f.waits() == waits && !is_changed.load(Relaxed) {
            pause();
        }
        let flushes = f.waits() - waits;
        f.space.ops().is_slow.store(false, Relaxed);
        done.wait_for_completion();
        changed.wait_for_completion();
        assert_eq!((entered, flushes), (0, 1));
        assert!(nonblocking == Err(EAGAIN));
        Ok(())
    }

    /// A page that is leaving is not mapped anew before the device has forgotten it; the pages beside
    /// it are.
    #[test]
    fn leaving_pages_stay_out() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;
        assert_eq!(f.enter(&session, &node, range)?, PAGES);

        f.space.ops().is_slow.store(true, Relaxed);
        let done = revoke_elsewhere(&f, nth(range, 5)?)?;
        let snapshot = look(&session, &node, range, &mut buf)?;
        let early = f.commit(snapshot);
        let entered = f.entered();
        f.space.ops().is_slow.store(false, Relaxed);
        done.wait_for_completion();
        assert_eq!((early, entered), (Ok(PAGES), 0xff & !(1 << 5)));
        assert_eq!(f.enter(&session, &node, range)?, PAGES);
        assert_eq!(f.entered(), 0xff);
        Ok(())
    }

    /// Two flushes are under way far from each other: a page between them can be mapped.
    #[test]
    fn commit_between_distant_flushes_succeeds() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        let mut buf = PfnBuf::new(PAGES)?;
        write_all(range)?;
        for page in [0, PAGES - 1] {
            assert_eq!(f.enter(&session, &node, nth(range, page)?)?, 1);
        }
        f.space.ops().is_slow.store(true, Relaxed);
        let low = revoke_elsewhere(&f, nth(range, 0)?)?;
        let high = revoke_elsewhere(&f, nth(range, PAGES - 1)?)?;
        let snapshot = look(&session, &node, nth(range, 3)?, &mut buf)?;
        let between = f.commit(snapshot);
        let entered = f.entered();
        f.space.ops().is_slow.store(false, Relaxed);
        low.wait_for_completion();
        high.wait_for_completion();
        assert_eq!((between, entered), (Ok(1), 1 << 3));
        Ok(())
    }

    /// A leaf whose tables the device may still know is not used again, and no other is affected.
    #[test]
    fn dying_leaf_stays_out() -> Result {
        let range = map_anon(PROT_RW)?;
        let f = Fixture::new(range)?;
        let session = f.session()?;
        let node = session.node(range.start())?;
        assert_eq!(f.enter(&session, &node, range)?, PAGES);
        munmap(nth(range, 7)?)?;

        // The worker removes the node when the rest goes, with a slow device.
        f.space.ops().is_slow.store(true, Relaxed);
        let space = f.space.clone();
        let done = elsewhere(GFP_KERNEL, move || space.close())?;
        while f.entered() != 0 {
            pause();
        }
        // A change must wait, though the node is going.
        let change = announce(f.space.mm(), nth(range, 1)?, CLEAR, ptr::null_mut(), false);
        let held = f.held();
        f.space.ops().is_slow.store(false, Relaxed);
        done.wait_for_completion();
        assert!(change == Err(EAGAIN));
        assert_eq!((held, f.held()), (0x7f, 0));
        Ok(())
    }
}
