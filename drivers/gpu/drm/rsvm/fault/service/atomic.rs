// SPDX-License-Identifier: GPL-2.0

//! Atomics of the device on system memory.
//!
//! On the bus an atomic is a load and a store, between which a CPU may write. So the page is taken
//! away from all CPUs first, exclusively for this space, and a CPU that touches it gets it back when
//! the PTE is gone and the device has acknowledged that.
//!
//! While its folio is locked no CPU gets the page. For a page that the device lost a short time ago
//! the lock is released when the device acknowledged that each access which waited was translated or
//! reported again; if none of this page was reported, all of them have been translated by the new
//! PTE, and whoever revokes it waits for them. That makes one access for each grab, at least, however
//! many CPUs fight for the page; and it is kept for a quantum, see
//! [`handover`](crate::svm::handover). A page that nobody fights for needs none of this: one replay
//! for all of them follows, and if one is lost before, the next grab of it is such a one.
//!
//! Pages are taken one by one, since two of them may have the same folio, and after all other faults
//! of the turn were served, which may take the lock of any folio.
//!
//! Locks: mmap_lock for reading, then the folio, both from `make_exclusive()` to the end of the grab;
//! the page-table lock inside. Then those of the fault buffers and of invalidation, one after the
//! other, neither of which is held elsewhere while memory is touched.

use super::{
    leaf::{
        page_in_leaf,
        patience,
        Missed, //
    },
    Scratch, //
};
use crate::{
    fault::{
        batch::{
            pages,
            Page, //
        },
        Reason, //
    },
    svm::{
        bound::Bindings,
        counters::Stopwatch,
        device::{
            Access,
            Mmu, //
        },
        handover::{
            quantum,
            Turn, //
        },
        mirror::Mirrored,
        residency::GROUP,
        space::Space, //
    },
};
use kernel::{
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        hmm::{
            Exclusive,
            ExclusiveError, //
        },
        space::{
            leaf_index,
            IntervalRef,
            MmSession, //
        },
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        WaitMode,
        Wake, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// Pages that are grabbed in a turn; then other faults have theirs.
const GRABS_PER_TURN: usize = 64;
/// The same for pages that the CPU wants, too; one of them is kept.
const CONTENDED_PER_TURN: usize = 8;
/// Collisions on a node before the page gets an interval of its own.
const ATTEMPTS: usize = 3;
/// Attempts through such an interval before the faults wait for another turn.
const PAGE_ATTEMPTS: usize = 8;
/// Replays for an access that is reported again though its page is there.
const REPLAYS: usize = 3;

impl From<ExclusiveError> for Missed {
    fn from(error: ExclusiveError) -> Self {
        match error {
            ExclusiveError::Fault(error) => error.into(),
            ExclusiveError::Unsupported => Self::Failed(Reason::Atomic),
        }
    }
}

/// The number of a page, counted from address zero.
pub(super) fn page_number(addr: VirtAddr) -> usize {
    addr.as_usize() / PAGE_SIZE
}

impl<M: Mmu> Scratch<M> {
    /// Serves the atomics that other faults of the turn left: first those that nobody fights for,
    /// then of the others those that wait longest.
    pub(super) fn serve_atomics(
        &mut self,
        space: &Arc<Space<M>>,
        session: &mut MmSession<'_, Mirrored<M>>,
    ) {
        // Taken out so that its faults can be lent while the rest is used.
        let mut faults = core::mem::take(&mut self.atomics);
        let quantum = quantum();
        let mut budget = GRABS_PER_TURN;
        let mut rest: Option<Delta> = None;
        let mut contended: [Option<(Page<'_>, Delta)>; CONTENDED_PER_TURN] =
            [None; CONTENDED_PER_TURN];
        let mut at_once = false;
        for page in pages(&faults) {
            let number = page_number(page.addr());
            let turn = {
                let mut guard = space.mirror.lock();
                let handovers = &mut guard.state_mut().handovers;
                handovers.turn(number, Instant::now(), quantum)
            };
            let later = match turn {
                Turn::Cpu(left) => {
                    space.counters.atomics_deferred.add(1);
                    rest = Some(rest.map_or(left, |rest| rest.min(left)));
                    Some(page)
                }
                Turn::Device(waited) => {
                    let waits = |place: &Option<(Page<'_>, Delta)>| place.map(|(_, waited)| waited);
                    match contended.iter_mut().min_by_key(|place| waits(place)) {
                        Some(place) if waits(place).is_none_or(|other| other < waited) => {
                            place.replace((page, waited)).map(|(page, _)| page)
                        }
                        _ => Some(page),
                    }
                }
                Turn::Free if budget == 0 => Some(page),
                // Perhaps the rest of it moves to device memory now.
                Turn::Free if self.alone == Some(number / GROUP) => Some(page),
                Turn::Free => {
                    budget -= 1;
                    match self.grab(space, session, page.addr(), None) {
                        Err(Missed::Failed(reason)) => {
                            for fault in page.faults() {
                                self.cancel(space, fault, reason);
                            }
                            self.unheard = true;
                            None
                        }
                        Err(Missed::Collided) => Some(page),
                        Ok(()) | Err(Missed::Gone) => None,
                    }
                }
            };
            if let Some(page) = later {
                at_once |= !matches!(turn, Turn::Cpu(_));
                space.put_back(page.faults().iter());
            }
        }
        let mut left = contended.iter().flatten().count();
        while left != 0 {
            let places = contended.iter_mut().filter(|place| place.is_some());
            let shortest = places.min_by_key(|place| place.map(|(_, waited)| waited));
            let Some((page, _)) = shortest.and_then(Option::take) else {
                break;
            };
            left -= 1;
            // The one that waits longest is the last.
            let keep = if left == 0 { quantum } else { Delta::ZERO };
            let result = self.grab(space, session, page.addr(), Some(keep));
            if let Err(Missed::Failed(_)) = result {
                // It was there a moment ago. What became of it is found out like for any fault.
                let number = page_number(page.addr());
                let mut guard = space.mirror.lock();
                guard.state_mut().handovers.forget(number..number + 1);
            }
            if let Err(Missed::Failed(_) | Missed::Collided) = result {
                at_once = true;
                space.put_back(page.faults().iter());
            }
        }
        self.alone = None;
        let rest = rest.filter(|_| !at_once);
        self.rest = rest.map(|rest| Instant::now() + rest);
        faults.clear();
        self.atomics = faults;
    }

    /// Takes `page` away from the CPUs and has the device access it, for a time if it is to `keep`
    /// it.
    fn grab(
        &mut self,
        space: &Arc<Space<M>>,
        session: &mut MmSession<'_, Mirrored<M>>,
        page: VirtAddr,
        keep: Option<Delta>,
    ) -> Result<(), Missed> {
        let range = PageRange::page(page)?;
        self.attempts(space, session, range, keep)?;
        space.counters.pages_served.add(1);
        let addr = page.as_u64();
        space.sink.served(addr, PAGE_SIZE, Access::Atomic);
        Ok(())
    }

    fn attempts(
        &mut self,
        space: &Arc<Space<M>>,
        session: &mut MmSession<'_, Mirrored<M>>,
        range: PageRange,
        keep: Option<Delta>,
    ) -> Result<(), Missed> {
        for _ in 0..ATTEMPTS {
            let node = session.node(range.start())?;
            match self.attempt(space, session, &node, range, keep) {
                Err(Missed::Collided) => space.counters.exclusive_collisions.add(1),
                result => return result,
            }
        }
        let node = session.node(range.start())?;
        // Its end revokes nothing: the node watches the page, too.
        let own = session.insert_within(&node, range)?;
        space.counters.temporary_intervals.add(1);
        let mut result = Err(Missed::Collided);
        for _ in 0..PAGE_ATTEMPTS {
            result = self.attempt(space, session, &own.handle(), range, keep);
            if !matches!(result, Err(Missed::Collided)) {
                break;
            }
            space.counters.exclusive_collisions.add(1);
        }
        own.remove(session);
        result
    }

    fn attempt(
        &mut self,
        space: &Arc<Space<M>>,
        session: &mut MmSession<'_, Mirrored<M>>,
        interval: &IntervalRef<Mirrored<M>>,
        range: PageRange,
        keep: Option<Delta>,
    ) -> Result<(), Missed> {
        self.prepare(space, leaf_index(range.start()))?;
        let pfns = &mut self.pfns;
        let mut watch = Stopwatch::start();
        let exclusive = session.make_exclusive(interval, range, patience(), pfns)?;
        self.enter(space, &exclusive, range)?;
        watch.lap(&space.counters.exclusive_ns);
        space.counters.exclusive_grabs.add(1);
        let Some(quantum) = keep else {
            self.announce(range);
            self.unheard = true;
            return Ok(());
        };
        self.doubts.entered(range);
        if let Some(pdb) = space.pdb() {
            let mut from = space.mmu.next_read();
            for _ in 0..REPLAYS {
                space.counters.replays.add(1);
                if space.mmu.replay(pdb, range).is_err() {
                    break;
                }
                space.mmu.read_reports();
                // What was reported before the replay may be among them, which costs one more.
                if !space.was_reported(range.start(), from) || !is_exclusive(space, range) {
                    break;
                }
                space.counters.exclusive_refaults.add(1);
                from = space.mmu.next_read();
            }
            space.forget_reports(range.start(), from);
        }
        space.counters.atomics_held.add(1);
        hold(space, range, Instant::now() + quantum);
        drop(exclusive);
        Ok(())
    }

    /// Enters an exclusive page, by a 4 KiB PTE. A larger one around it is split.
    fn enter(
        &mut self,
        space: &Space<M>,
        exclusive: &Exclusive<'_, Mirrored<M>>,
        range: PageRange,
    ) -> Result<(), Missed> {
        let index = leaf_index(range.start());
        let mut commit = exclusive.commit()?;
        if !commit.state().bindings.is_free(range) {
            return Err(Missed::Failed(Reason::NoMapping));
        }
        commit.map(&mut self.supplies)?;
        if let (Some(mut leaf), _) = commit.leaf(index) {
            if leaf.data_mut().grab(page_in_leaf(range.start())) {
                self.alone = Some(page_number(range.start()) / GROUP);
            }
        }
        drop(commit);
        space.counters.ptes_4k.add(1);
        Ok(())
    }
}

/// Whether the device still has the page exclusively.
fn is_exclusive<M: Mmu>(space: &Space<M>, range: PageRange) -> bool {
    space.mirror.lock().slot(range.start()).is_exclusive()
}

/// Sleeps until then, or until the device has lost the page.
fn hold<M: Mmu>(space: &Space<M>, range: PageRange, until: Instant<Monotonic>) {
    loop {
        let seen = space.progress.current();
        if space.is_detached() || space.mmu.is_gone() || !is_exclusive(space, range) {
            return;
        }
        let wake = space
            .progress
            .wait(seen, WaitMode::Uninterruptible, Some(until));
        if wake != Wake::Event {
            return;
        }
    }
}
