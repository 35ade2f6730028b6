// SPDX-License-Identifier: GPL-2.0

//! Serving the faults of one space: a turn of its worker.
//!
//! A turn takes what waits, serves it leaf by leaf, and ends with one completion, so that the
//! device hears of it. No lock but the worker's own is held while memory is faulted in, which can
//! take as long as a user process likes.

mod atomic;
mod bound;
mod doubt;
mod leaf;
mod lost;
mod place;
mod request;

use self::{
    doubt::Doubts,
    leaf::LeafTurn,
    lost::Lost, //
};
use super::{
    batch::{
        Batch,
        Fault, //
    },
    Reason, //
};
use crate::{
    svm::{
        device::{
            Access,
            Cancel,
            Mmu,
            LEAF_PAGES, //
        },
        inject::INJECT,
        mirror::Mirrored,
        space::Space, //
    },
    vram::PageSet, //
};
use kernel::{
    mm::{
        addr::PageRange,
        hmm::PfnBuf,
        migrate::MigrateBuf,
        space::{
            leaf_index,
            Supplies, //
        },
    },
    prelude::*,
    sync::Arc,
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// Leaves served in a turn; then the device is told, and others have theirs.
const LEAVES_PER_TURN: usize = 32;
/// What it takes to work for a space, allocated beforehand.
pub(crate) struct Scratch<M: Mmu> {
    batch: Batch,
    /// Ranges whose PTEs the device has to learn about.
    mapped: KVec<PageRange>,
    cancelled: KVVec<Cancel>,
    doubts: Doubts,
    lost: Lost,
    /// Faults for atomics on system memory, for when all others are served.
    atomics: KVVec<Fault>,
    /// The group of pages on which the device was found to be alone a moment ago.
    alone: Option<usize>,
    /// Something was found out about a fault that the device has not been told yet.
    unheard: bool,
    /// Nothing is to be done before, unless something comes.
    rest: Option<Instant<Monotonic>>,
    /// Pages of the leaf at hand that are to be in device memory for atomics.
    atomics_in_vram: PageSet,
    /// For each page of the leaf at hand, what is still to be made possible.
    wanted: KVec<Option<Access>>,
    pfns: PfnBuf,
    migration: MigrateBuf,
    supplies: Supplies<Mirrored<M>>,
    /// Something of the leaf at hand was moved to device memory.
    moved_in: bool,
}

// Nothing in it is ever handed out pinned.
impl<M: Mmu> Unpin for Scratch<M> {}

impl<M: Mmu> Scratch<M> {
    /// For up to `faults` faults in a turn.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(faults: usize) -> Result<Self> {
        Ok(Self {
            batch: Batch::new(faults)?,
            mapped: KVec::with_capacity(LEAVES_PER_TURN, GFP_KERNEL)?,
            cancelled: KVVec::with_capacity(faults, GFP_KERNEL)?,
            doubts: Doubts::new()?,
            lost: Lost::new()?,
            atomics: KVVec::with_capacity(faults, GFP_KERNEL)?,
            alone: None,
            unheard: false,
            rest: None,
            atomics_in_vram: PageSet::default(),
            wanted: KVec::from_elem(None, LEAF_PAGES, GFP_KERNEL)?,
            pfns: PfnBuf::new(LEAF_PAGES)?,
            migration: MigrateBuf::new()?,
            supplies: Supplies::new()?,
            moved_in: false,
        })
    }

    /// Serves faults that wait, and lets the device go on.
    pub(crate) fn turn(&mut self, space: &Arc<Space<M>>) {
        let seen = space.arrivals.current();
        // Taken out so that its faults can be lent while the rest is used.
        let mut batch = core::mem::take(&mut self.batch);
        space.take_faults(&mut batch);
        if !batch.is_empty() && !space.mmu.is_gone() {
            space.counters.batches.add(1);
            space.counters.duplicates.add(batch.merge());
            self.serve(space, &batch);
        }
        batch.clear();
        self.batch = batch;
        if let Some(request) = space.take_request() {
            self.carry_out(space, request);
        }
        if let Some(until) = self.rest.take() {
            space.rest(seen, until);
        }
    }

    fn serve(&mut self, space: &Arc<Space<M>>, batch: &Batch) {
        if let Some(mut session) = space.mirror.enter() {
            let mut served = 0;
            for faults in batch.leaves().take(LEAVES_PER_TURN) {
                served += faults.len();
                LeafTurn {
                    space,
                    session: &mut session,
                    index: leaf_index(faults[0].addr),
                    faults,
                    scratch: &mut *self,
                }
                .serve();
            }
            space.put_back(batch.faults()[served..].iter());
            // If there is nothing but atomics, theirs is the replay.
            if !self.mapped.is_empty() || self.atomics.len() != served {
                self.complete(space);
                for faults in batch.leaves().take(LEAVES_PER_TURN) {
                    self.lost.note(space, faults);
                }
            }
            self.serve_atomics(space, &mut session);
            if !self.unheard {
                return;
            }
        } else {
            for fault in batch.faults() {
                self.cancel(space, fault, Reason::Exited);
            }
        }
        self.complete(space);
    }

    /// Lets the device know what was mapped and cancelled, and go on.
    fn complete(&mut self, space: &Space<M>) {
        // The faults of a space that was detached meanwhile ended with its queues.
        if let Some(pdb) = space.pdb() {
            space.counters.replays.add(1);
            INJECT.before_replay();
            self.doubts.end_turn(|| space.mmu.next_report());
            // A device that does not acknowledge has been stopped; nothing is left to do for it.
            let _ = space.mmu.complete(pdb, &self.mapped, &self.cancelled);
        }
        self.mapped.clear();
        self.cancelled.clear();
        self.unheard = false;
    }

    /// Ends a fault, and with it the queue that waits, if it surely does.
    fn cancel(&mut self, space: &Space<M>, fault: &Fault, reason: Reason) {
        if self.doubts.confirm(fault) && space.fault_failed(fault.source, fault.info(reason)) {
            space.counters.cancelled.add(1);
            // There is room for as many as there are faults.
            let _ = self.cancelled.push_within_capacity(fault.cancel());
        }
    }

    /// Has the device told about `range`, in the leaf that was mentioned last or a new one.
    fn announce(&mut self, range: PageRange) {
        self.doubts.entered(range);
        match self.mapped.last_mut() {
            Some(last) if leaf_index(last.start()) == leaf_index(range.start()) => {
                *last = last.hull(range);
            }
            // There is room for each leaf of a turn.
            _ => drop(self.mapped.push_within_capacity(range)),
        }
    }
}
