// SPDX-License-Identifier: GPL-2.0

//! Making room.
//!
//! Eviction is physical: it takes what was not used for longest, without a process, its mmap_lock
//! or anything that knows where it is mapped. A chunk is frozen first, so that nothing is allocated
//! in it any more; the pages that are in use then are moved, as many of them as can be. It is no
//! loss if the choice was bad, or if something stays.

use super::{
    chunk::PageSet,
    clock::{
        has_come,
        sooner, //
    },
    limits::Kind,
    lru::{
        Idle,
        Pick, //
    },
    Client,
    Member,
    Victim,
    Vram,
    BALANCE,
    CHUNK_PAGES,
    CHUNK_SIZE, //
};
use kernel::{
    cgroup_dmem::{
        Pool,
        Reclaim, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        WaitMode, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
    workqueue::WorkItem, //
};

/// What moves pages out of device memory.
pub(crate) trait Mover: Send + Sync {
    /// Moves pages to system memory, as many as can be: `pages`, counted from page `first` of
    /// device memory on. All of them were in use when that was looked at, and some may not be any
    /// more. Called without a lock; takes no mmap_lock and waits for no page.
    ///
    /// # Errors
    ///
    /// If nothing can be moved: `ENOMEM`, `EIO` if the device does not work.
    fn move_out(&self, first: u32, pages: &PageSet) -> Result;

    /// Splits the folio of 2 MiB at page `first` if a part of it is mapped and another by nobody,
    /// so that this comes free. Waits for no page. If there is no such folio there is nothing to
    /// do.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if all of it is mapped, or somebody uses it at the moment.
    fn split(&self, first: u32) -> Result;
}

/// What eviction is for.
pub(super) enum Wish<'a> {
    /// So many bytes of that kind.
    Room(Kind, u64),
    /// The watermarks.
    Balance,
    /// To get below the limit of a cgroup, for so many bytes of a kind.
    Below(&'a Pool, Option<(Kind, u64)>),
    /// Everything.
    All,
}

/// What came of it.
pub(super) enum Evicted {
    /// There is more room than before.
    Freed,
    /// What was taken had to stay, or a part of it.
    Failed,
    /// There is nothing to take, perhaps before that time.
    Nothing(Option<Instant<Monotonic>>),
}

/// How often the worker goes on after a failure, or without anything to take.
const TRIES: usize = 8;

impl Vram {
    /// Evicts what was not used for longest and `wish` allows. May sleep.
    pub(super) fn evict_one(&self, wish: &Wish<'_>) -> Evicted {
        // First what no cgroup has a claim to.
        let pick = match self.pick(wish, false) {
            Pick::Nothing => self.pick(wish, true),
            pick => pick,
        };
        let idle = match pick {
            Pick::Nothing => return Evicted::Nothing(None),
            Pick::Young(ripe) => return Evicted::Nothing(Some(ripe)),
            Pick::Found(idle) => idle,
        };
        let freed = match &idle.get().victim {
            Victim::Chunk(index, client) => {
                let (index, client) = (*index, client.clone());
                self.evict_chunk(idle, index, &client)
            }
            Victim::Object(object) => {
                let object = object.clone();
                self.evict_object(idle, &object)
            }
        };
        if freed {
            Evicted::Freed
        } else {
            self.counters.failed_evictions.fetch_add(1u64, Relaxed);
            Evicted::Failed
        }
    }

    /// Takes something out of the order of use. A chunk is frozen from then on.
    fn pick(&self, wish: &Wish<'_>, ignore_low: bool) -> Pick<Member> {
        let (limit, wanted, residency) = match *wish {
            Wish::Room(kind, bytes) => (None, Some((kind, bytes)), self.residency()),
            Wish::Balance => (None, None, self.residency()),
            Wish::Below(limit, wanted) => (Some(limit), wanted, self.residency()),
            Wish::All => (None, None, Delta::ZERO),
        };
        let everything = matches!(wish, Wish::All);
        let mut state = self.state.lock();
        let usage = state.usage;
        let pick = state.lru.pick(residency, |member| {
            // Within a cgroup there are no reserves: the limit is what counts.
            let in_reserve =
                limit.is_none() && !self.limits.may_evict(&usage, member.kind(), wanted);
            everything || (!in_reserve && member.charge.may_evict(limit, ignore_low))
        });
        if let Pick::Found(idle) = &pick {
            match &idle.get().victim {
                Victim::Chunk(index, _) => {
                    if let Some(held) = &mut state.held[*index as usize] {
                        held.place = None;
                    }
                }
                Victim::Object(object) => object.take_out(&mut state),
            }
        }
        pick
    }

    /// Moves the pages of a frozen chunk; true if its block came free.
    fn evict_chunk(&self, idle: Idle<Member>, index: u32, client: &Client) -> bool {
        let chunk = &self.chunks[index as usize];
        let mover = self.mover.lock().clone();
        chunk.leaving.store(true, Relaxed);
        let pages = chunk.pages();
        let before = chunk.live();
        if let Some(mover) = mover {
            // CAST: Pages of device memory are counted by 32 bits.
            // An error means that the pages stay, which is seen below.
            let _ = mover.move_out(index * CHUNK_PAGES as u32, &pages);
        }
        chunk.leaving.store(false, Relaxed);
        let left = chunk.live();
        // CAST: Widening.
        let moved = before.saturating_sub(left) as u64;
        self.counters.evicted_pages.fetch_add(moved, Relaxed);
        client.evicted(moved * PAGE_SIZE as u64);

        let mut state = self.state.lock();
        if chunk.live() == 0 {
            let taken = state.take(index);
            drop(state);
            self.counters.evictions.fetch_add(1u64, Relaxed);
            if let Some((held, _)) = taken {
                self.give_back(held, Some(idle));
            }
            return true;
        }
        let place = state.lru.insert(idle, false);
        if let Some(held) = &mut state.held[index as usize] {
            held.place = Some(place);
        }
        drop(state);
        // What became empty while it was frozen was not released.
        self.release(index as usize);
        false
    }

    /// Splits the folio of 2 MiB of a chunk, if a part of it is mapped by nobody. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`Mover::split`].
    pub(super) fn split(&self, index: usize) -> Result {
        let mover = self.mover.lock().clone().ok_or(ENODEV)?;
        // CAST: Pages of device memory are counted by 32 bits.
        mover.split((index * CHUNK_PAGES) as u32)
    }

    /// Moves everything out, in rounds until nothing is left or `until` has come; no more is
    /// allocated. Returns how many bytes are left. May sleep.
    pub(crate) fn evict_all(&self, until: Instant<Monotonic>) -> u64 {
        self.refuse();
        loop {
            let seen = self.freed.current();
            let left = {
                let state = self.state.lock();
                state.usage.pages + state.usage.objects
            };
            if left == 0 || has_come(until) {
                return left;
            }
            match self.evict_one(&Wish::All) {
                Evicted::Freed => (),
                Evicted::Failed => fsleep(PAUSE),
                // Somebody else is at it.
                Evicted::Nothing(_) => {
                    let soon = sooner(until, Instant::now() + RECHECK);
                    self.freed.wait(seen, WaitMode::Uninterruptible, Some(soon));
                }
            }
        }
    }
}

/// Pauses of [`Vram::evict_all`]: after a failure, and while others evict.
const PAUSE: Delta = Delta::from_millis(1);
const RECHECK: Delta = Delta::from_millis(10);

impl WorkItem<BALANCE> for Vram {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let mut tries = 0;
        while tries < TRIES {
            let seen = this.freed.current();
            let (enough, closed) = {
                let state = this.state.lock();
                let waited_for = !state.waiting.is_empty();
                let enough = this.limits.is_enough(this.free_in(&state));
                (enough && !waited_for, state.closed)
            };
            if enough || closed {
                return;
            }
            let until = match this.evict_one(&Wish::Balance) {
                Evicted::Freed => {
                    tries = 0;
                    continue;
                }
                Evicted::Failed => None,
                Evicted::Nothing(ripe) => ripe,
            };
            tries += 1;
            let until = until.unwrap_or(Instant::now() + RECHECK);
            this.freed
                .wait(seen, WaitMode::Uninterruptible, Some(until));
        }
    }
}

impl Reclaim for Vram {
    fn reclaim(&self, pool: &Pool, bytes: u64) -> Result {
        let mut freed = 0;
        let mut tries = 0;
        while freed < bytes && tries < TRIES {
            let seen = self.freed.current();
            match self.evict_one(&Wish::Below(pool, None)) {
                // At least that, for an object may be larger.
                Evicted::Freed => {
                    freed += CHUNK_SIZE;
                    continue;
                }
                Evicted::Failed => (),
                Evicted::Nothing(None) => break,
                Evicted::Nothing(Some(ripe)) => {
                    self.freed.wait(seen, WaitMode::Uninterruptible, Some(ripe));
                }
            }
            tries += 1;
        }
        if freed == 0 {
            Err(ENOSPC)
        } else {
            Ok(())
        }
    }
}
