// SPDX-License-Identifier: GPL-2.0

//! What is to be done after pages came free: blocks in which none is left go back, and folios that
//! are in use only in part are split.
//!
//! Pages come free in any context, so this is left to who can sleep: to a worker, or to somebody
//! who moves pages anyway ([`Vram::tend`]) and need not pay for waking one.

use super::{
    bits::{
        set_bit,
        take_bits, //
    },
    position,
    Vram,
    UPKEEP, //
};
use crate::svm::space::WORKERS;
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Full,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    workqueue::WorkItem, //
};

/// How often a folio that is to be split is looked at, and how long is waited in between.
const SPLIT_TRIES: usize = 100;
const SPLIT_PAUSE: Delta = Delta::from_millis(2);

impl Vram {
    /// Calls `f`, and then returns the blocks that came free meanwhile, whoever freed them. `f` takes a
    /// short time and waits for nobody who needs device memory. May sleep on the allocator's lock, and
    /// on the buddy's, under which memory is allocated.
    pub(crate) fn tend<R>(&self, f: impl FnOnce() -> R) -> R {
        self.tenders.fetch_add(1u32, Full);
        let result = f();
        // ORDERING: Who still saw this one counted has set its bit before. See `free`.
        self.tenders.fetch_sub(1u32, Full);
        self.release_emptied();
        result
    }

    /// Gives pages back, `pages` from page `first` of device memory on, in one chunk. Any context.
    pub(crate) fn free(self: &Arc<Self>, first: u32, pages: u32) {
        let (index, at) = position(first);
        // CAST: Widening.
        if !self.chunks[index].free(at, pages as usize) {
            return;
        }
        // ORDERING: Fully ordered, so before the look at `tenders`.
        set_bit(&self.emptied, index);
        if self.tenders.load(Relaxed) == 0 {
            self.wake_upkeep();
        }
    }

    /// Tells that the mapping of page `page` goes: if others of the same folio of 2 MiB stay, a
    /// worker splits it, so that this part comes back. Any context.
    pub(crate) fn split_later(self: &Arc<Self>, page: u32) {
        let (index, _) = position(page);
        if self.chunks[index].is_whole() {
            set_bit(&self.to_split, index);
            self.wake_upkeep();
        }
    }

    fn wake_upkeep(self: &Arc<Self>) {
        // Either it is queued now, or was and has yet to run, or no page is left because the module
        // goes.
        let _ = WORKERS.enqueue::<_, UPKEEP>(self.clone());
    }

    fn release_emptied(&self) {
        take_bits(&self.emptied, |index| self.release(index));
    }

    /// Returns the block of a chunk if no page of it is in use, nobody evicts it and nobody began
    /// to use it again.
    pub(super) fn release(&self, index: usize) {
        let mut state = self.state.lock();
        let is_idle = state.held[index]
            .as_ref()
            .is_some_and(|held| held.place.is_some());
        if !is_idle || self.chunks[index].live() != 0 {
            return;
        }
        // CAST: There are fewer chunks than pages.
        let taken = state.take(index as u32);
        drop(state);
        if let Some((held, idle)) = taken {
            self.give_back(held, idle);
        }
    }
}

impl WorkItem<UPKEEP> for Vram {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // A folio is partly mapped only some time after that was announced, if ever.
        let mut tries = 0;
        loop {
            this.release_emptied();
            let mut again = false;
            take_bits(&this.to_split, |index| {
                if this.chunks[index].is_whole() && this.split(index) == Err(EAGAIN) {
                    set_bit(&this.to_split, index);
                    again = true;
                }
            });
            tries += 1;
            if !again {
                return;
            }
            if tries == SPLIT_TRIES {
                // They stay as they are, until they are evicted or unmapped.
                take_bits(&this.to_split, |_| ());
                return;
            }
            fsleep(SPLIT_PAUSE);
        }
    }
}
