// SPDX-License-Identifier: GPL-2.0

//! The faults of one leaf.
//!
//! Fault in the pages that were asked for, look at the whole leaf, and commit what is present. If
//! mm changed something meanwhile the commit is refused and all is done again. The sequence that
//! tells so belongs to a whole node, so on a busy node every attempt can collide; after
//! [`ATTEMPTS`] of them each page goes through an interval of its own. That is disturbed by changes
//! of the page itself, and of what is mapped around it; so the last attempts hold mmap_lock. What
//! fails even there waits for another turn. Pages that were mapped and taken away again before the
//! device could use them start with the last attempts: see [`lost`](super::lost).

mod commit;
mod wanted;

use self::wanted::next_run;
pub(super) use self::wanted::{
    page_in_leaf,
    settle, //
};
use super::Scratch;
use crate::{
    fault::{
        batch::{
            pages,
            Fault, //
        },
        Reason, //
    },
    svm::{
        bound::Bindings,
        device::{
            Access,
            Mmu,
            LEAF_PAGES,
            LEAF_SIZE, //
        },
        mirror::Mirrored,
        policy::{
            AtomicMode,
            Attributes, //
        },
        space::Space, //
    },
    vram::PageSet, //
};
use core::ops::Range;
use kernel::{
    mm::{
        addr::PageRange,
        hmm::{
            FaultError,
            Reject, //
        },
        space::{
            addresses_of,
            IntervalRef,
            MmSession, //
        },
    },
    prelude::*,
    ptr::Alignment,
    sync::Arc,
    time::{
        msecs_to_jiffies,
        Instant,
        Jiffies, //
    }, //
};

/// Collisions on a node before each page gets an interval of its own.
const ATTEMPTS: usize = 2;
/// Attempts through such an interval before the fault waits for another turn.
const PAGE_ATTEMPTS: [Look; 4] = [Look::Free, Look::Free, Look::Locked, Look::Locked];
/// How long an attempt waits for changes of the address space that are under way, in ms.
const PATIENCE: u32 = 50;

/// How to look at memory that is to be mapped.
#[derive(Clone, Copy)]
pub(super) enum Look {
    /// Without a lock.
    Free,
    /// With mmap_lock, till the device could use it: nobody changes mappings nearby.
    Locked,
}

/// Why an attempt did not serve a page.
pub(super) enum Missed {
    /// Try again.
    Collided,
    /// Give up.
    Failed(Reason),
    /// The space or the device is gone.
    Gone,
}

impl From<FaultError> for Missed {
    fn from(error: FaultError) -> Self {
        Self::Failed(match error {
            FaultError::Busy => return Self::Collided,
            FaultError::NoMapping => Reason::NoMapping,
            FaultError::Protection => Reason::Protection,
            FaultError::NoBacking => Reason::Io,
            FaultError::NoMemory => Reason::NoMemory,
            FaultError::Dying => Reason::Exited,
            FaultError::Invalid => Reason::BadAddress,
        })
    }
}

impl From<Reject> for Missed {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Collided | Reject::Dead => Self::Collided,
            Reject::Closed => Self::Gone,
        }
    }
}

impl From<Error> for Missed {
    fn from(error: Error) -> Self {
        match error {
            EAGAIN => Self::Collided,
            ENODEV | ESHUTDOWN => Self::Gone,
            EINVAL => Self::Failed(Reason::BadAddress),
            _ => Self::Failed(Reason::NoMemory),
        }
    }
}

/// The faults of one leaf, being served.
pub(super) struct LeafTurn<'a, 's, M: Mmu> {
    pub(super) space: &'a Arc<Space<M>>,
    pub(super) session: &'a mut MmSession<'s, Mirrored<M>>,
    pub(super) index: usize,
    pub(super) faults: &'a [Fault],
    pub(super) scratch: &'a mut Scratch<M>,
}

impl<M: Mmu> LeafTurn<'_, '_, M> {
    /// Maps, cancels or puts back every fault.
    pub(super) fn serve(mut self) {
        let limit = self.session.limit();
        self.scratch.wanted.fill(None);
        self.scratch.moved_in = false;
        for page in pages(self.faults) {
            if page.addr() < limit {
                self.scratch.wanted[page_in_leaf(page.addr())] = Some(page.access());
            } else {
                for fault in page.faults() {
                    self.scratch.cancel(self.space, fault, Reason::BadAddress);
                }
            }
        }
        self.skip_mapped();
        self.scratch.atomics_in_vram = PageSet::default();
        if self.scratch.wanted.contains(&Some(Access::Atomic)) {
            let first = self.index * LEAF_PAGES;
            let in_vram = |attributes: &Attributes| attributes.atomic == AtomicMode::Vram;
            self.scratch.atomics_in_vram = self.space.policy.lock().matching(first, in_vram);
            self.leave_known_atomics();
        }
        if self.is_done() {
            return;
        }
        match self.attempts() {
            Ok(()) | Err(Missed::Collided) => self.put_back(),
            Err(Missed::Failed(reason)) => {
                for page in 0..LEAF_PAGES {
                    while self.scratch.wanted[page].is_some() {
                        self.fail(page, reason);
                    }
                }
            }
            Err(Missed::Gone) => (),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.scratch.wanted.iter().all(Option::is_none)
    }

    /// Settles the pages that are mapped already, by an earlier turn or as a neighbour.
    fn skip_mapped(&mut self) {
        let mut guard = self.space.mirror.lock();
        let (Some(leaf), _) = guard.leaf(self.index) else {
            return;
        };
        let settled = settle(&mut self.scratch.wanted, |page| leaf.slot(page).rights());
        drop(guard);
        self.space.counters.already_mapped.add(settled.count);
        // The device may remember that there was nothing.
        if let Some(range) = settled.pages.and_then(|pages| self.addresses(pages)) {
            self.scratch.announce(range);
        }
    }

    pub(super) fn addresses(&self, pages: Range<usize>) -> Option<PageRange> {
        addresses_of(self.index, pages)
    }

    /// Tries until each page is settled, or has used up its attempts.
    fn attempts(&mut self) -> Result<(), Missed> {
        let first = self.faults[0].addr;
        let leaf = PageRange::block(first, Alignment::new::<LEAF_SIZE>())?;
        let window = PageRange::new(leaf.start(), leaf.end().min(self.session.limit()))?;
        for _ in 0..ATTEMPTS {
            let node = self.session.node(first)?;
            match self.serve_bound() {
                Err(Missed::Collided) => continue,
                served => served?,
            }
            if self.is_done() {
                return Ok(());
            }
            // First what is wanted as a whole, so that it is allocated where it is to be. Then, as
            // it is there now, what was only wanted in part.
            let absent = self.place(&node, window)?;
            self.fault_in(&node)?;
            if self.is_done() {
                return Ok(());
            }
            if absent {
                self.place(&node, window)?;
            }
            self.insist(&node)?;
            if self.is_done() {
                return Ok(());
            }
            match self.commit(&node, window, Look::Free) {
                Ok(()) if self.is_done() => return Ok(()),
                Ok(()) => {
                    self.leave_atomics();
                    if self.is_done() {
                        return Ok(());
                    }
                }
                Err(Missed::Collided) => (),
                Err(missed) => return Err(missed),
            }
            self.space.counters.collisions.add(1);
        }
        let node = self.session.node(first)?;
        for page in 0..LEAF_PAGES {
            // Of a page that is bound to a buffer, the process's memory is of no interest.
            if self.scratch.wanted[page].is_some() && !self.is_bound(page) {
                self.through_own_interval(&node, page, &PAGE_ATTEMPTS)?;
            }
        }
        Ok(())
    }

    fn is_bound(&self, page: usize) -> bool {
        let guard = self.space.mirror.lock();
        let bound = |range| !guard.state().bindings.is_free(range);
        self.addresses(page..page + 1).is_some_and(bound)
    }

    /// Serves the pages that were lost before.
    fn insist(&mut self, node: &IntervalRef<Mirrored<M>>) -> Result<(), Missed> {
        for page in pages(self.faults) {
            let number = page_in_leaf(page.addr());
            if self.scratch.wanted[number].is_some() && self.scratch.lost.contains(page.addr()) {
                self.through_own_interval(node, number, &[Look::Locked; 2])?;
            }
        }
        Ok(())
    }

    /// Makes the wanted pages accessible, as a CPU's access would: these and no others, runs of the
    /// same access in one call. A page that cannot be is cancelled.
    fn fault_in(&mut self, interval: &IntervalRef<Mirrored<M>>) -> Result<(), Missed> {
        let mut from = 0;
        while let Some((run, access)) = next_run(&self.scratch.wanted, from) {
            from = run.end;
            if run.len() > 1 {
                match self.ask(interval, run.clone(), access) {
                    Ok(()) => continue,
                    Err(Missed::Failed(_)) => (),
                    Err(missed) => return ignore_collision(missed),
                }
            }
            // One by one, to find out which page cannot be had.
            for page in run {
                self.fault_in_page(interval, page)?;
            }
        }
        Ok(())
    }

    fn fault_in_page(
        &mut self,
        interval: &IntervalRef<Mirrored<M>>,
        page: usize,
    ) -> Result<(), Missed> {
        while let Some(access) = self.scratch.wanted[page] {
            match self.ask(interval, page..page + 1, access) {
                Ok(()) => break,
                // Those that want less may still get it.
                Err(Missed::Failed(reason)) => self.fail(page, reason),
                Err(missed) => return ignore_collision(missed),
            }
        }
        Ok(())
    }

    fn ask(
        &mut self,
        interval: &IntervalRef<Mirrored<M>>,
        pages: Range<usize>,
        access: Access,
    ) -> Result<(), Missed> {
        let range = self
            .addresses(pages)
            .ok_or(Missed::Failed(Reason::BadAddress))?;
        let write = access >= Access::Write;
        let pfns = &mut self.scratch.pfns;
        Ok(self
            .session
            .fault_in(interval, range, write, patience(), pfns)?)
    }

    /// Cancels the most intrusive faults that wait for `page`, for `reason`; the others stay.
    pub(super) fn fail(&mut self, page: usize, reason: Reason) {
        let Some(access) = self.scratch.wanted[page].take() else {
            return;
        };
        let waiting = pages(self.faults).find(|faults| page_in_leaf(faults.addr()) == page);
        let Some(waiting) = waiting else {
            return;
        };
        for fault in waiting.needing(access) {
            self.scratch.cancel(self.space, fault, reason);
        }
        self.scratch.wanted[page] = waiting.weaker(access);
    }

    /// Puts the faults of pages that are still wanted behind those that wait.
    fn put_back(&mut self) {
        for page in pages(self.faults) {
            let Some(access) = self.scratch.wanted[page_in_leaf(page.addr())] else {
                continue;
            };
            let rest = page.faults().iter().filter(|fault| fault.access <= access);
            self.space.counters.requeued.add(rest.clone().count());
            self.space.put_back(rest);
        }
    }

    /// Serves `page` through an interval of its own, with these attempts.
    fn through_own_interval(
        &mut self,
        node: &IntervalRef<Mirrored<M>>,
        page: usize,
        looks: &[Look],
    ) -> Result<(), Missed> {
        let Some(range) = self.addresses(page..page + 1) else {
            return Ok(());
        };
        // Its end revokes nothing: the node watches the page, too.
        let interval = self.session.insert_within(node, range)?;
        self.space.counters.temporary_intervals.add(1);
        let own = interval.handle();
        let result = self.attempts_on_page(&own, range, page, looks);
        interval.remove(self.session);
        result
    }

    fn attempts_on_page(
        &mut self,
        interval: &IntervalRef<Mirrored<M>>,
        range: PageRange,
        page: usize,
        looks: &[Look],
    ) -> Result<(), Missed> {
        for &look in looks {
            self.fault_in_page(interval, page)?;
            if self.scratch.wanted[page].is_none() {
                break;
            }
            match self.commit(interval, range, look) {
                Ok(()) if self.scratch.wanted[page].is_none() => break,
                Ok(()) => {
                    self.leave_atomics();
                    if self.scratch.wanted[page].is_none() {
                        break;
                    }
                }
                Err(Missed::Collided) => (),
                Err(missed) => return Err(missed),
            }
            self.space.counters.collisions.add(1);
        }
        Ok(())
    }

    /// Leaves atomics on pages that are in system memory for the end of the turn.
    fn leave_atomics(&mut self) {
        let mut left = PageSet::default();
        {
            let mut guard = self.space.mirror.lock();
            let (Some(leaf), _) = guard.leaf(self.index) else {
                return;
            };
            for (page, wanted) in self.scratch.wanted.iter().enumerate() {
                if *wanted == Some(Access::Atomic) && leaf.slot(page).is_system() {
                    left.insert(page);
                }
            }
        }
        self.leave(&left);
    }

    /// The same for pages that the CPU took from the device a moment ago: where they are is known.
    fn leave_known_atomics(&mut self) {
        let mut left = PageSet::default();
        {
            let mut guard = self.space.mirror.lock();
            let handovers = &mut guard.state_mut().handovers;
            let now = Instant::now();
            for (page, wanted) in self.scratch.wanted.iter().enumerate() {
                let number = self.index * LEAF_PAGES + page;
                if *wanted == Some(Access::Atomic)
                    && handovers.is_contended(number, now)
                    && !self.scratch.atomics_in_vram.contains(page)
                {
                    left.insert(page);
                }
            }
        }
        self.leave(&left);
    }

    fn leave(&mut self, left: &PageSet) {
        for page in left.iter() {
            let waiting = pages(self.faults).find(|faults| page_in_leaf(faults.addr()) == page);
            let Some(waiting) = waiting else {
                continue;
            };
            for fault in waiting.needing(Access::Atomic) {
                // There is room for as many as there are faults.
                let _ = self.scratch.atomics.push_within_capacity(*fault);
            }
            let weaker = waiting.weaker(Access::Atomic);
            if weaker.is_none() {
                // Atomics have a replay of their own.
                self.scratch.lost.forget(waiting.addr());
            }
            self.scratch.wanted[page] = weaker;
        }
    }
}

/// Collisions while faulting in are counted where they are noticed: at the commit.
fn ignore_collision(missed: Missed) -> Result<(), Missed> {
    match missed {
        Missed::Collided => Ok(()),
        missed => Err(missed),
    }
}

pub(super) fn patience() -> Jiffies {
    msecs_to_jiffies(PATIENCE)
}
