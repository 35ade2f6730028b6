// SPDX-License-Identifier: GPL-2.0

//! Allocating device memory, and waiting for it.
//!
//! Who waits has a number, and the lowest number is served first: what comes free goes to it, and
//! it evicts. An allocation therefore ends, one way or the other, however many others there are.

use super::{
    chunk::{
        Chunk,
        PageSet,
        CHUNK_PAGES,
        GROUP_PAGES, //
    },
    clock::{
        has_come,
        sooner, //
    },
    evict::{
        Evicted,
        Wish, //
    },
    lru::Idle,
    Block,
    Client,
    Held,
    Kind,
    Member,
    State,
    Victim,
    Vram,
    BALANCE,
    CHUNK_SIZE, //
};
use crate::svm::space::WORKERS;
use kernel::{
    cgroup_dmem::{
        Charge,
        ChargeError, //
    },
    gpu::buddy::{
        GpuBuddyAllocFlags,
        GpuBuddyAllocMode, //
    },
    mm::Mm,
    prelude::*,
    ptr::Alignment,
    rbtree::RBTreeNodeReservation,
    sync::{
        atomic::Relaxed,
        Arc,
        Seen,
        WaitMode,
        Wake, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// How often a waiter looks whether it is to go on.
const RECHECK: Delta = Delta::from_millis(100);

/// How long a cgroup's limit is tried again with nothing to evict: somebody may be evicting the
/// rest just now, or the limit is less than what is asked for.
const HOPE: Delta = Delta::from_secs(5);

/// How long an allocation may wait. Killing the task that waits always ends it.
#[derive(Clone, Copy)]
pub(crate) struct Wait<'a> {
    /// Until then; `None` for as long as it takes.
    pub(crate) until: Option<Instant<Monotonic>>,
    /// Called without locks from time to time: whether to give up.
    pub(crate) cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Wait<'a> {
    /// Not at all: what is free, or nothing.
    pub(crate) fn no_wait() -> Self {
        Self::until(Instant::now(), &|| false)
    }

    /// Until then, or until `cancelled`.
    pub(crate) fn until(until: Instant<Monotonic>, cancelled: &'a dyn Fn() -> bool) -> Self {
        Self {
            until: Some(until),
            cancelled,
        }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(has_come)
    }
}

/// Pages of device memory that were allocated and are nobody's yet. What is not taken goes back
/// when this is dropped.
pub(crate) struct Pages {
    vram: Arc<Vram>,
    /// First page of 2 MiB in one piece.
    huge: Option<u32>,
    /// For each page of the window the one of device memory.
    single: KVec<Option<u32>>,
}

impl Pages {
    fn none(vram: &Arc<Vram>) -> Result<Self> {
        Ok(Self {
            vram: vram.clone(),
            huge: None,
            single: KVec::from_elem(None, CHUNK_PAGES, GFP_KERNEL)?,
        })
    }

    pub(crate) fn is_huge(&self) -> bool {
        self.huge.is_some()
    }

    /// Takes 2 MiB in one piece: its first page.
    pub(crate) fn take_huge(&mut self) -> Option<u32> {
        self.huge.take()
    }

    /// Takes the page of device memory for page `i` of the window, if there is one.
    pub(crate) fn take(&mut self, i: usize) -> Option<u32> {
        self.single.get_mut(i)?.take()
    }

    fn is_empty(&self) -> bool {
        self.single.iter().all(Option::is_none)
    }

    /// Takes pages of `chunk`, which begins at page `base`, for those of `left`; aligned groups
    /// stay together, unless `scatter`. Allocator's lock held.
    fn fill(&mut self, chunk: &Chunk, base: u32, left: &mut PageSet, scatter: bool) {
        for group in (0..CHUNK_PAGES).step_by(GROUP_PAGES) {
            if left.contains_group(group) {
                if let Some(at) = chunk.take_group() {
                    for i in 0..GROUP_PAGES {
                        self.set(group + i, base, at + i, left);
                    }
                    continue;
                }
                if !scatter {
                    continue;
                }
            }
            for i in group..group + GROUP_PAGES {
                if left.contains(i) {
                    let Some(at) = chunk.take_page() else { return };
                    self.set(i, base, at, left);
                }
            }
        }
    }

    fn set(&mut self, i: usize, base: u32, at: usize, left: &mut PageSet) {
        // CAST: Less than 512.
        self.single[i] = Some(base + at as u32);
        left.remove(i);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(first) = self.huge.take() {
            // CAST: 512.
            self.vram.free(first, CHUNK_PAGES as u32);
        }
        for page in self.single.iter_mut().filter_map(Option::take) {
            self.vram.free(page, 1);
        }
    }
}

/// First page of a chunk.
fn first_page(index: usize) -> u32 {
    // CAST: Pages of device memory are counted by 32 bits.
    (index * CHUNK_PAGES) as u32
}

impl Vram {
    /// Allocates 2 MiB in one piece. May sleep; with no lock held that eviction could need, and
    /// no folio locked.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if nothing came free in time, `EINTR` if the task is killed or it was cancelled,
    /// `ESRCH` if the process that pays has left its memory, `ENODEV` when the driver is being
    /// unbound, `ENOMEM`.
    pub(crate) fn alloc_huge(
        self: &Arc<Self>,
        client: &Arc<Client>,
        wait: Wait<'_>,
    ) -> Result<Pages> {
        let index = self.alloc_chunk(client, wait, |chunk, _| {
            chunk.take_all();
            chunk.set_whole(true);
        })?;
        Ok(Pages {
            vram: self.clone(),
            huge: Some(first_page(index)),
            single: KVec::new(),
        })
    }

    /// Allocates a page for each of `wanted`, which are pages of an aligned window of 2 MiB.
    /// Those of an aligned 64 KiB that is wanted as a whole are aligned, too, and a whole window
    /// is a whole chunk, as long as there is room. There may be fewer than wanted, but never none.
    ///
    /// # Errors
    ///
    /// As for [`alloc_huge`](Self::alloc_huge).
    pub(crate) fn alloc_window(
        self: &Arc<Self>,
        client: &Arc<Client>,
        wanted: &PageSet,
        wait: Wait<'_>,
    ) -> Result<Pages> {
        let mut pages = Pages::none(self)?;
        let mut left = *wanted;
        if *wanted != PageSet::FULL {
            self.fill_open(client, &mut left, &mut pages, false)?;
        }
        if left.is_empty() {
            return Ok(pages);
        }
        let result = self.alloc_chunk(client, wait, |chunk, base| {
            chunk.set_whole(false);
            pages.fill(chunk, base, &mut left, true);
        });
        if let Err(err) = result {
            self.fill_open(client, &mut left, &mut pages, true)?;
            if pages.is_empty() {
                return Err(err);
            }
        }
        Ok(pages)
    }

    /// Takes pages of chunks that `client` has.
    fn fill_open(
        &self,
        client: &Arc<Client>,
        left: &mut PageSet,
        pages: &mut Pages,
        scatter: bool,
    ) -> Result {
        let State {
            held, lru, closed, ..
        } = &mut *self.state.lock();
        if *closed {
            return Err(ENODEV);
        }
        // CAST: Widening.
        let hint = client.open.load(Relaxed) as usize;
        let count = held.len();
        for index in (0..count).map(|i| (hint + i) % count) {
            if left.is_empty() {
                break;
            }
            let chunk = &self.chunks[index];
            let Some(held) = &mut held[index] else {
                continue;
            };
            let Some(place) = &mut held.place else {
                continue;
            };
            if !Arc::ptr_eq(&held.client, client) || chunk.is_full() {
                continue;
            }
            let before = left.len();
            pages.fill(chunk, first_page(index), left, scatter);
            if left.len() != before {
                *place = lru.touch(*place, true);
                // CAST: There are fewer chunks than pages.
                client.open.store(index as u32, Relaxed);
            }
        }
        Ok(())
    }

    /// Allocates a chunk, of which `take` takes something under the lock; its index.
    fn alloc_chunk(
        self: &Arc<Self>,
        client: &Arc<Client>,
        wait: Wait<'_>,
        mut take: impl FnMut(&Chunk, u32),
    ) -> Result<usize> {
        let charge = self.charge(&client.mm, Kind::Pages, CHUNK_SIZE, wait)?;
        let block = self.acquire(Kind::Pages, CHUNK_SIZE, wait)?;
        let offset = block.iter().next().map(|block| block.offset());
        let index = usize::try_from(offset.ok_or(EINVAL)? / CHUNK_SIZE)?;
        // CAST: There are fewer chunks than pages.
        let victim = Victim::Chunk(index as u32, client.clone());
        let member = Idle::new(Member { victim, charge })?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(ENODEV);
        }
        state.usage.pages += CHUNK_SIZE;
        let place = state.lru.insert(member, true);
        state.held[index] = Some(Held {
            _block: block,
            client: client.clone(),
            place: Some(place),
        });
        take(&self.chunks[index], first_page(index));
        let is_low = self.limits.is_low(self.free_in(&state));
        drop(state);
        if !self.chunks[index].is_full() {
            // CAST: As above.
            client.open.store(index as u32, Relaxed);
        }
        if is_low {
            self.wake_balance();
        }
        Ok(index)
    }

    /// Has the worker look whether there is enough free. Any context.
    pub(super) fn wake_balance(self: &Arc<Self>) {
        let _ = WORKERS.enqueue::<_, BALANCE>(self.clone());
    }

    /// Charges the process with the memory `mm`, and evicts what belongs to its cgroup if that has
    /// too much.
    ///
    /// # Errors
    ///
    /// As for [`alloc_huge`](Self::alloc_huge).
    pub(super) fn charge(&self, mm: &Mm, kind: Kind, bytes: u64, wait: Wait<'_>) -> Result<Charge> {
        let mut give_up = None;
        loop {
            let seen = self.freed.current();
            let charged = match &*self.region.lock() {
                Some(region) => region.try_charge(mm, bytes),
                None => return Err(ENODEV),
            };
            let limit = match charged {
                Ok(charge) => return Ok(charge),
                Err(ChargeError::Other(err)) => return Err(err),
                Err(ChargeError::Limit(limit)) => limit,
            };
            if wait.is_over() || give_up.is_some_and(has_come) {
                self.counters.refused.fetch_add(1u64, Relaxed);
                return Err(ENOSPC);
            }
            let wish = Wish::Below(&limit, Some((kind, bytes)));
            if self.evict_or_sleep(&wish, seen, wait)? {
                give_up = None;
            } else if give_up.is_none() {
                give_up = Some(Instant::now() + HOPE);
            }
        }
    }

    /// Gets blocks from the buddy allocator, `bytes` in total: for pages in one piece.
    ///
    /// # Errors
    ///
    /// As for [`alloc_huge`](Self::alloc_huge).
    pub(super) fn acquire(
        self: &Arc<Self>,
        kind: Kind,
        bytes: u64,
        wait: Wait<'_>,
    ) -> Result<Block> {
        if self.state.lock().waiting.is_empty() {
            if let Some(block) = self.try_acquire(kind, bytes)? {
                return Ok(block);
            }
        }
        self.wake_balance();
        if wait.is_over() {
            self.counters.refused.fetch_add(1u64, Relaxed);
            return Err(ENOSPC);
        }
        self.counters.waits.fetch_add(1u64, Relaxed);
        let number = Number::draw(self)?;
        loop {
            let seen = self.freed.current();
            if self.state.lock().closed {
                return Err(ENODEV);
            }
            if number.is_first() {
                if let Some(block) = self.try_acquire(kind, bytes)? {
                    return Ok(block);
                }
            }
            if wait.is_over() {
                self.counters.refused.fetch_add(1u64, Relaxed);
                return Err(ENOSPC);
            }
            if number.is_first() {
                self.evict_or_sleep(&Wish::Room(kind, bytes), seen, wait)?;
            } else {
                self.sleep(seen, wait, None)?;
            }
        }
    }

    /// Evicts something, or sleeps until there may be something to evict. False if nothing is
    /// known that could be.
    fn evict_or_sleep(&self, wish: &Wish<'_>, seen: Seen, wait: Wait<'_>) -> Result<bool> {
        let (until, known) = match self.evict_one(wish) {
            Evicted::Freed => return Ok(true),
            Evicted::Failed => (Some(Instant::now() + PAUSE), true),
            Evicted::Nothing(ripe) => (ripe, ripe.is_some()),
        };
        self.sleep(seen, wait, until)?;
        Ok(known)
    }

    /// Sleeps until something came free after `seen`, until `ripe`, or for a moment.
    fn sleep(&self, seen: Seen, wait: Wait<'_>, ripe: Option<Instant<Monotonic>>) -> Result {
        let mut until = Instant::now() + RECHECK;
        for other in [ripe, wait.until].into_iter().flatten() {
            until = sooner(until, other);
        }
        let wake = self.freed.wait(seen, WaitMode::Killable, Some(until));
        if wake == Wake::Signal || (wait.cancelled)() {
            return Err(EINTR);
        }
        Ok(())
    }

    /// Gets blocks if they are free.
    fn try_acquire(&self, kind: Kind, bytes: u64) -> Result<Option<Block>> {
        // Pages from below, buffer objects of odd sizes from above.
        let mode = match kind {
            Kind::Pages => GpuBuddyAllocMode::Simple,
            Kind::Objects => GpuBuddyAllocMode::TopDown,
        };
        for align in alignments(kind, bytes) {
            let blocks =
                self.buddy
                    .alloc_blocks(mode.clone(), bytes, align, GpuBuddyAllocFlags::default());
            match KBox::pin_init(blocks, GFP_KERNEL) {
                Ok(block) => return Ok(Some(block)),
                Err(err) if err == ENOSPC => (),
                Err(err) => return Err(err),
            }
        }
        Ok(None)
    }
}

/// How long to wait after something could not be evicted.
const PAUSE: Delta = Delta::from_millis(2);

/// Sizes of the smallest block that an allocation may consist of, the best one first. Chunks are
/// in one piece.
fn alignments(kind: Kind, bytes: u64) -> impl Iterator<Item = Alignment> {
    const SIZES: [(u64, Alignment); 3] = [
        (CHUNK_SIZE, Alignment::new::<{ CHUNK_SIZE as usize }>()),
        (64 << 10, Alignment::new::<{ 64 << 10 }>()),
        (4 << 10, Alignment::new::<{ 4 << 10 }>()),
    ];
    SIZES
        .into_iter()
        .take(if kind == Kind::Pages { 1 } else { SIZES.len() })
        .filter(move |(size, _)| bytes & (size - 1) == 0)
        .map(|(_, align)| align)
}

/// A place among those who wait.
pub(super) struct Number<'a> {
    vram: &'a Vram,
    number: u64,
}

impl<'a> Number<'a> {
    pub(super) fn draw(vram: &'a Vram) -> Result<Self> {
        let memory = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let mut state = vram.state.lock();
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.insert(memory.into_node(number, ()));
        Ok(Self { vram, number })
    }

    pub(super) fn is_first(&self) -> bool {
        self.vram.state.lock().waiting.keys().next() == Some(&self.number)
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        let node = self.vram.state.lock().waiting.remove_node(&self.number);
        drop(node);
        // The next one is first now.
        self.vram.freed.advance();
    }
}
