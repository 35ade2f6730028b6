// SPDX-License-Identifier: GPL-2.0

//! Device memory of buffer objects.

use super::{
    alloc::Wait,
    limits::Kind,
    lru::{
        Idle,
        Stamp, //
    },
    Block,
    Member,
    State,
    Victim,
    Vram,
    Watcher, //
};
use kernel::{
    mm::Mm,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        LockedBy, //
    }, //
};

/// Something that can leave device memory.
pub(crate) trait Evictable: Send + Sync {
    /// Moves what is in the object's [`Blocks`] to system memory, and drops them. Called without a
    /// lock, by a worker or by a thread that allocates; that one may be in an operation of another
    /// object, so nothing is waited for but the device.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if the object is in use and another one is to be taken; others if it has to stay.
    fn evict(&self) -> Result;
}

/// Where an object is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the order of use.
    At(Stamp),
    /// Being evicted.
    Out,
    /// Not in device memory any more.
    Gone,
}

/// An object as the order of use knows it.
pub(super) struct Object {
    evictable: Arc<dyn Evictable>,
    watcher: Arc<dyn Watcher>,
    bytes: u64,
    place: LockedBy<Place, State>,
}

impl Object {
    /// Notes that it was taken out of the order, to be evicted.
    pub(super) fn take_out(&self, state: &mut State) {
        *self.place.access_mut(state) = Place::Out;
    }
}

impl Vram {
    /// Allocates `bytes`, a multiple of 4 KiB, for a buffer object, which `object` can evict from
    /// then on. It may be as large as device memory. May sleep, and evicts: with no lock held that
    /// any [`Evictable`] waits for.
    ///
    /// The process with the memory `mm` pays, and `watcher` is told.
    ///
    /// The allocator keeps `object` alive for as long as the [`Blocks`] are, so the object has to
    /// drop them when its user is done with it, not in its own destructor.
    ///
    /// # Errors
    ///
    /// As for [`alloc_huge`](Self::alloc_huge), and `EINVAL` for a size of 0 or one that is not
    /// whole pages; `ENOSPC` at once if it is more than the device has.
    pub(crate) fn alloc_object(
        self: &Arc<Self>,
        mm: &Mm,
        watcher: &Arc<dyn Watcher>,
        bytes: u64,
        object: Arc<dyn Evictable>,
        wait: Wait<'_>,
    ) -> Result<Blocks> {
        if bytes == 0 || bytes % PAGE_SIZE as u64 != 0 {
            return Err(EINVAL);
        }
        if bytes > self.limits.total {
            return Err(ENOSPC);
        }
        let charge = self.charge(mm, Kind::Objects, bytes, wait)?;
        let block = self.acquire(Kind::Objects, bytes, wait)?;
        let object = Arc::new(
            Object {
                evictable: object,
                watcher: watcher.clone(),
                bytes,
                place: LockedBy::new(&self.state, Place::Out),
            },
            GFP_KERNEL,
        )?;
        let victim = Victim::Object(object.clone());
        let member = Idle::new(Member { victim, charge })?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(ENODEV);
        }
        state.usage.objects += bytes;
        let stamp = state.lru.insert(member, true);
        *object.place.access_mut(&mut state) = Place::At(stamp);
        let is_low = self.limits.is_low(self.free_in(&state));
        drop(state);
        // CAST: No device has that much.
        watcher.objects_changed(bytes as i64);
        if is_low {
            self.wake_balance();
        }
        Ok(Blocks {
            vram: self.clone(),
            object,
            block: Some(block),
        })
    }

    /// Evicts an object that was taken out of the order; true if its memory came free.
    pub(super) fn evict_object(&self, idle: Idle<Member>, object: &Arc<Object>) -> bool {
        let result = object.evictable.evict();
        let mut state = self.state.lock();
        if *object.place.access(&state) == Place::Gone {
            drop(state);
            // What it was charged comes free.
            drop(idle);
            self.freed.advance();
            self.counters.evicted_objects.fetch_add(1u64, Relaxed);
            object.watcher.evicted(object.bytes);
            return true;
        }
        let stamp = state.lru.insert(idle, false);
        *object.place.access_mut(&mut state) = Place::At(stamp);
        drop(state);
        debug_assert!(result.is_err());
        false
    }
}

/// Device memory of a buffer object, which can be evicted for as long as this lives.
pub(crate) struct Blocks {
    vram: Arc<Vram>,
    object: Arc<Object>,
    block: Option<Block>,
}

impl Blocks {
    /// The pieces, as offset in device memory and length, both in bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let blocks = self.block.iter().flat_map(|block| block.iter());
        blocks.map(|block| (block.offset(), block.size()))
    }

    /// Tells that the object was used. May sleep.
    pub(crate) fn touch(&self) {
        let mut state = self.vram.state.lock();
        if let Place::At(stamp) = *self.object.place.access(&state) {
            let stamp = state.lru.touch(stamp, false);
            *self.object.place.access_mut(&mut state) = Place::At(stamp);
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let mut state = self.vram.state.lock();
        let place = core::mem::replace(self.object.place.access_mut(&mut state), Place::Gone);
        let idle = match place {
            Place::At(stamp) => state.lru.remove(stamp),
            Place::Out | Place::Gone => None,
        };
        state.usage.objects -= self.object.bytes;
        drop(state);
        self.block = None;
        // Who evicts it has it otherwise.
        drop(idle);
        // CAST: No device has that much.
        self.object
            .watcher
            .objects_changed(-(self.object.bytes as i64));
        self.vram.freed.advance();
    }
}
