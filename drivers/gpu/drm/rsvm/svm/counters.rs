// SPDX-License-Identifier: GPL-2.0

//! What a space has done so far, for people and tests to read.

use super::device::PageSize;
use kernel::{
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// A number that only grows.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    pub(crate) fn add(&self, n: usize) {
        if n != 0 {
            // CAST: `usize` has 64 bits here.
            self.0.add(n as u64, Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Measures pieces of work that follow each other.
pub(crate) struct Stopwatch(Instant<Monotonic>);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Adds the nanoseconds since the last call, or since the start.
    pub(crate) fn lap(&mut self, counter: &Counter) {
        let now = Instant::now();
        // CAST: Not negative, and `usize` has 64 bits here.
        counter.add((now - self.0).as_nanos() as usize);
        self.0 = now;
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one space.
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) const fn new() -> Self {
                Self { $($name: Counter::new(),)* }
            }

            /// Adds what `other` counted.
            pub(crate) fn add_all(&self, other: &Self) {
                $(self.$name.0.add(other.$name.get(), Relaxed);)*
            }

            /// Calls `f` with the name and value of each counter, in a fixed order.
            pub(crate) fn for_each(&self, mut f: impl FnMut(&str, u64)) {
                $(f(stringify!($name), self.$name.get());)*
            }
        }
    };
}

counters! {
    /// Faults that came in.
    faults,
    /// Turns of the worker.
    batches,
    /// Faults merged into one of the same queue and page.
    duplicates,
    /// Faults dropped because too many waited; they are reported again after the next replay.
    overflows,
    /// Pages that were mapped already when their fault was looked at.
    already_mapped,
    /// Pages that faulted and were mapped.
    pages_served,
    /// Pages mapped because a neighbour faulted.
    prefetched,
    /// PTEs written, by size.
    ptes_4k,
    ptes_64k,
    ptes_2m,
    /// Replays, each after one invalidation.
    replays,
    /// Faults cancelled.
    cancelled,
    /// Invalidations by mm that found something mapped.
    invalidations,
    /// Large PTEs split because a part of them went.
    demotions,
    /// Pages marked dirty because the device could write them.
    dirtied,
    /// Snapshots rejected because mm had changed something meanwhile.
    collisions,
    /// Intervals of one page inserted to get past collisions.
    temporary_intervals,
    /// Snapshots taken with mmap_lock because they collided even there.
    locked_snapshots,
    /// Faults sent to the back of the queue after too many collisions.
    requeued,
    /// Pages of system memory taken away from all CPUs for atomics, and those given back.
    exclusive_grabs,
    exclusive_revoked,
    /// Nanoseconds that grabs took which succeeded, until the page was entered.
    exclusive_ns,
    /// Attempts at that which collided.
    exclusive_collisions,
    /// Accesses that were reported again although their page was there for them.
    exclusive_refaults,
    /// Grabs that were put off because it was the CPU's turn.
    atomics_deferred,
    /// Grabs that were kept for the device's turn.
    atomics_held,
    /// Intervals inserted.
    intervals,
    /// Intervals removed because nothing was mapped in them.
    pruned,
    /// Migrations to device memory, each of a part of a leaf.
    migrations,
    /// Pages that came to device memory, and how many of them were zeroed there, not copied.
    pages_to_vram,
    pages_zeroed,
    /// Nanoseconds that the worker's migrations took, both ways: to get device memory; to unmap and
    /// lock the pages, and get system memory on the way back; to copy; to install.
    migrate_alloc_ns,
    migrate_unmap_ns,
    migrate_copy_ns,
    migrate_install_ns,
    /// Migrations for which there was no room in time.
    no_room,
    /// Migrations of which nothing was copied because the device failed.
    failed_copies,
    /// Pages that came back to system memory by request.
    pages_recalled,
    /// Pages that stay in system memory for a while because they bounced.
    pages_thrashed,
}

impl Counters {
    /// Adds PTEs as [`Mapped`](kernel::mm::space::Mapped) has them.
    pub(crate) fn count_ptes(&self, ptes: [usize; 3]) {
        self.ptes_4k.add(ptes[PageSize::Size4K as usize]);
        self.ptes_64k.add(ptes[PageSize::Size64K as usize]);
        self.ptes_2m.add(ptes[PageSize::Size2M as usize]);
    }
}
