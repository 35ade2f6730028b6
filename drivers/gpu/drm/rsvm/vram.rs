// SPDX-License-Identifier: GPL-2.0

//! Device memory: who has which part of it, and who has to leave when there is none left.
//!
//! The kernel's buddy allocator hands out blocks: 2 MiB for pages of processes, any size for buffer
//! objects. Of a block for pages a [`Chunk`] knows which are in use; they are given
//! back in any context, and a worker returns the block when none is. Blocks of both kinds are
//! members of one order of use ([`lru`]), and each kind evicts the other as far as [`limits`]
//! allow.
//!
//! Nothing here knows the hardware: pages are moved by a [`Mover`], buffer objects move themselves
//! ([`Evictable`]).
//!
//! Locks: the one of [`State`] is a leaf. Nothing is allocated, dropped or called under it that
//! takes another one, so that it may be taken wherever one can sleep, also in reclaim.

mod alloc;
mod bits;
pub(crate) mod chunk;
mod client;
mod clock;
mod evict;
mod limits;
mod lru;
mod objects;
#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
mod tests;
mod upkeep;

pub(crate) use self::{
    alloc::{
        Pages,
        Wait, //
    },
    chunk::{
        PageSet,
        CHUNK_PAGES, //
    },
    client::{
        Client,
        Watcher, //
    },
    evict::Mover,
    objects::{
        Blocks,
        Evictable, //
    }, //
};

use self::{
    bits::bits,
    chunk::Chunk,
    limits::{
        Kind,
        Limits,
        Usage, //
    },
    lru::{
        Lru,
        Stamp, //
    },
    objects::Object, //
};
use core::ops::Deref;
use kernel::{
    alloc::KVVec,
    cgroup_dmem::{
        Charge,
        Region, //
    },
    gpu::buddy::{
        AllocatedBlocks,
        GpuBuddy,
        GpuBuddyParams, //
    },
    impl_has_work,
    new_event_count,
    new_mutex,
    new_work,
    page::PAGE_SIZE,
    prelude::*,
    ptr::Alignment,
    rbtree::RBTree,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        EventCount,
        Mutex, //
    },
    time::Delta,
    workqueue::Work, //
};

/// Bytes of a chunk.
const CHUNK_SIZE: u64 = (CHUNK_PAGES * PAGE_SIZE) as u64;

/// Milliseconds that what came to device memory stays at least. Long enough for an access that
/// faulted to be repeated by a slow device.
const MIN_RESIDENCY_MS: u32 = 50;

/// Blocks of the buddy allocator, which go back to it when this is dropped.
type Block = Pin<KBox<AllocatedBlocks>>;

/// A chunk that pages of processes are in.
struct Held {
    _block: Block,
    client: Arc<Client>,
    /// Where it is in the order of use; `None` while somebody evicts it, and nothing is allocated
    /// in it.
    place: Option<Stamp>,
}

/// What can be evicted.
enum Victim {
    /// A chunk, by index.
    Chunk(u32, Arc<Client>),
    Object(Arc<Object>),
}

/// A member of the order of use. Dropped after its block went back.
struct Member {
    victim: Victim,
    charge: Charge,
}

impl Member {
    fn kind(&self) -> Kind {
        match self.victim {
            Victim::Chunk(..) => Kind::Pages,
            Victim::Object(_) => Kind::Objects,
        }
    }
}

struct State {
    /// For each chunk of device memory.
    held: KVVec<Option<Held>>,
    lru: Lru<Member>,
    usage: Usage,
    /// Numbers of those who wait for device memory. The lowest is served first.
    waiting: RBTree<u64, ()>,
    next_number: u64,
    /// Nothing is allocated any more.
    closed: bool,
}

impl State {
    /// Takes a chunk out in which no page is in use. The result is dropped without the lock.
    fn take(&mut self, index: u32) -> Option<(Held, Option<lru::Idle<Member>>)> {
        let held = self.held.get_mut(index as usize)?.take()?;
        let idle = held.place.and_then(|place| self.lru.remove(place));
        Some((held, idle))
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the allocator has done.
        pub(crate) struct Counters {
            $($(#[$doc])* $name: Atomic<u64>,)*
        }

        impl Counters {
            const fn new() -> Self {
                Self { $($name: Atomic::new(0),)* }
            }

            fn for_each(&self, mut f: impl FnMut(&str, u64)) {
                $(f(concat!("vram_", stringify!($name)), self.$name.load(Relaxed));)*
            }
        }
    };
}

counters! {
    /// Chunks from which all pages were moved to system memory.
    evictions,
    /// Pages that were.
    evicted_pages,
    /// Buffer objects that were.
    evicted_objects,
    /// Attempts that left something behind.
    failed_evictions,
    /// Folios of 2 MiB that were split.
    splits,
    /// Allocations that had to wait.
    waits,
    /// Allocations that were refused.
    refused,
}

/// Keeps the allocator of a device open.
pub(crate) struct Owner(Arc<Vram>);

impl Deref for Owner {
    type Target = Arc<Vram>;

    fn deref(&self) -> &Arc<Vram> {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The device memory of one device.
#[pin_data]
pub(crate) struct Vram {
    buddy: GpuBuddy,
    limits: Limits,
    chunks: KVVec<Chunk>,
    /// A bit for each chunk in which no page was in use when the bit was set.
    emptied: KVVec<Atomic<u64>>,
    /// A bit for each chunk whose folio of 2 MiB is to be split.
    to_split: KVVec<Atomic<u64>>,
    /// How many return what comes free, so that the worker is not needed for it.
    tenders: Atomic<u32>,
    #[pin]
    state: Mutex<State>,
    #[pin]
    region: Mutex<Option<Region<Vram>>>,
    #[pin]
    mover: Mutex<Option<Arc<dyn Mover>>>,
    /// Advanced when memory came free, and when who waits for it changed.
    #[pin]
    freed: EventCount,
    /// For tests: milliseconds of minimum residency.
    pub(crate) residency_ms: Atomic<u32>,
    counters: Counters,
    #[pin]
    upkeep: Work<Vram, UPKEEP>,
    #[pin]
    balance: Work<Vram, BALANCE>,
}

/// The work that returns blocks and splits folios.
const UPKEEP: u64 = 0;
/// The work that keeps the watermarks. It may be slow, and who frees does not wait for it.
const BALANCE: u64 = 1;

impl_has_work! {
    impl HasWork<Self, UPKEEP> for Vram { self.upkeep }
    impl HasWork<Self, BALANCE> for Vram { self.balance }
}

impl Vram {
    /// For `size` bytes of device memory, all of which are free; cgroups know them as `name`. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` unless `size` is a multiple of 2 MiB, and not 0; `ENOMEM`.
    #[expect(clippy::new_ret_no_self)]
    pub(crate) fn new(size: u64, name: &CStr) -> Result<Owner> {
        if size == 0 || size % CHUNK_SIZE != 0 {
            return Err(EINVAL);
        }
        let count = usize::try_from(size / CHUNK_SIZE)?;
        let mut chunks = KVVec::with_capacity(count, GFP_KERNEL)?;
        let mut held = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            chunks.push(Chunk::new(), GFP_KERNEL)?;
            held.push(None, GFP_KERNEL)?;
        }
        let state = State {
            held,
            lru: Lru::new(),
            usage: Usage::default(),
            waiting: RBTree::new(),
            next_number: 0,
            closed: false,
        };
        let buddy = GpuBuddy::new(GpuBuddyParams {
            base_offset: 0,
            size,
            chunk_size: Alignment::new::<PAGE_SIZE>(),
        })?;
        let this = Arc::pin_init(
            try_pin_init!(Self {
                buddy,
                limits: Limits::new(size, CHUNK_SIZE),
                chunks,
                emptied: bits(count)?,
                to_split: bits(count)?,
                tenders: Atomic::new(0),
                state <- new_mutex!(state, "Vram::state"),
                region <- new_mutex!(None, "Vram::region"),
                mover <- new_mutex!(None, "Vram::mover"),
                freed <- new_event_count!("Vram::freed"),
                residency_ms: Atomic::new(MIN_RESIDENCY_MS),
                counters: Counters::new(),
                upkeep <- new_work!("Vram::upkeep"),
                balance <- new_work!("Vram::balance"),
            }? Error),
            GFP_KERNEL,
        )?;
        let region = Region::new(name, size, this.clone())?;
        *this.region.lock() = Some(region);
        Ok(Owner(this))
    }

    /// From now on pages are moved by `mover`.
    pub(crate) fn set_mover(&self, mover: Arc<dyn Mover>) {
        *self.mover.lock() = Some(mover);
    }

    /// Nothing is allocated or evicted any more, no cgroup is asked to reclaim, and who waits gets
    /// an error. What is in use is still given back. Idempotent; may sleep.
    pub(crate) fn close(&self) {
        self.refuse();
        // Each of them may have the last reference to something, so no lock is held.
        let region = self.region.lock().take();
        drop(region);
        let mover = self.mover.lock().take();
        drop(mover);
    }

    /// Makes allocations fail with `ENODEV`.
    fn refuse(&self) {
        self.state.lock().closed = true;
        self.freed.advance();
    }

    /// Tells that the folio of 2 MiB at page `first` was split. Any context.
    pub(crate) fn folio_was_split(&self, first: u32) {
        self.chunks[position(first).0].set_whole(false);
        self.counters.splits.fetch_add(1u64, Relaxed);
    }

    /// Whether pages around `page` are being moved out to make room. Any context.
    pub(crate) fn is_leaving(&self, page: u32) -> bool {
        self.chunks[position(page).0].leaving.load(Relaxed)
    }

    /// Tells that page `page`, and with it its chunk, was used. May sleep.
    pub(crate) fn touch(&self, page: u32) {
        let (index, _) = position(page);
        let State { held, lru, .. } = &mut *self.state.lock();
        if let Some(place) = held[index].as_mut().and_then(|held| held.place.as_mut()) {
            *place = lru.touch(*place, false);
        }
    }

    /// Bytes that pages of `client` are in now. May sleep.
    pub(crate) fn resident(&self, client: &Arc<Client>) -> u64 {
        let state = self.state.lock();
        let chunks = state.held.iter().zip(&self.chunks);
        let pages: usize = chunks
            .filter(|(held, _)| {
                held.as_ref()
                    .is_some_and(|held| Arc::ptr_eq(&held.client, client))
            })
            .map(|(_, chunk)| chunk.live())
            .sum();
        // CAST: Widening.
        (pages * PAGE_SIZE) as u64
    }

    /// Bytes of which nobody has any.
    pub(crate) fn bytes_free(&self) -> u64 {
        self.free_in(&self.state.lock())
    }

    fn free_in(&self, state: &State) -> u64 {
        self.limits.total - state.usage.pages - state.usage.objects
    }

    /// Calls `f` with the name and value of everything that is counted. May sleep.
    pub(crate) fn for_each_stat(&self, mut f: impl FnMut(&str, u64)) {
        let state = self.state.lock();
        let (mut whole, mut open, mut frozen, mut pages) = (0, 0, 0, 0);
        for (held, chunk) in state.held.iter().zip(&self.chunks) {
            let Some(held) = held else { continue };
            pages += chunk.live() as u64;
            match held.place {
                None => frozen += 1,
                Some(_) if chunk.is_full() => whole += 1,
                Some(_) => open += 1,
            }
        }
        let (usage, free) = (state.usage, self.free_in(&state));
        let waiting = state.waiting.keys().count() as u64;
        drop(state);
        for (name, value) in [
            ("vram_total", self.limits.total),
            ("vram_free", free),
            ("vram_used_pages", usage.pages),
            ("vram_used_objects", usage.objects),
            ("vram_pages", pages),
            ("vram_chunks_full", whole),
            ("vram_chunks_open", open),
            ("vram_chunks_frozen", frozen),
            ("vram_waiting", waiting),
        ] {
            f(name, value);
        }
        self.counters.for_each(f);
    }

    /// Returns a block and what was charged for it. Without the lock.
    fn give_back(&self, held: Held, idle: Option<lru::Idle<Member>>) {
        // Before somebody else can have it, so that the sum is never more than there is.
        self.state.lock().usage.pages -= CHUNK_SIZE;
        drop(held);
        drop(idle);
        self.freed.advance();
    }

    fn residency(&self) -> Delta {
        Delta::from_millis(self.residency_ms.load(Relaxed).into())
    }
}

/// Chunk of a page, and place therein.
fn position(page: u32) -> (usize, usize) {
    // CAST: Widening.
    let page = page as usize;
    (page / CHUNK_PAGES, page % CHUNK_PAGES)
}
