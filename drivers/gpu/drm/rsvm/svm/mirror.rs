// SPDX-License-Identifier: GPL-2.0

//! The driver's part in the mirror of a space: its state under the page-table lock, and how the
//! device forgets translations.

use super::{
    counters::Counters,
    device::Mmu,
    handover::Handovers,
    inject::INJECT,
    residency::{
        Millis,
        Residency, //
    }, //
};
use crate::vram::Vram;
use core::ops::Range;
use kernel::{
    mm::{
        addr::PageRange,
        space::{
            Event,
            Leaf,
            Mirror,
            Reason,
            Revoked,
            Start,
            LEAF_PAGES, //
        },
    },
    prelude::*,
    ptr::Alignment,
    sizes::{
        SZ_1M,
        SZ_64M, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// Memory that a node watches, in MiB, in spaces to come: a power of two from 2 to 512. Larger ones
/// collide with more of what happens elsewhere, smaller ones are more; `make bench` compares them.
pub(crate) static NODE_MIB: Atomic<u32> = Atomic::new(64);

/// [`NODE_MIB`] in bytes.
pub(super) fn node_size() -> Alignment {
    // CAST: Widening.
    let mib = NODE_MIB.load(Relaxed).clamp(2, 512).next_power_of_two() as usize;
    Alignment::new_checked(mib * SZ_1M).unwrap_or(Alignment::new::<SZ_64M>())
}

/// State of a space under the page-table lock.
pub(crate) struct Book<M: Mmu> {
    /// Ranges in which nothing of the process is mapped.
    pub(crate) bindings: M::Bindings,
    /// How many times attributes changed that say what atomics need.
    pub(crate) atomic_changes: u64,
    /// Whose turn it is with pages that both use atomics on.
    pub(crate) handovers: Handovers,
    /// What the worker is moving to device memory: there it is not the CPU that takes pages away.
    pub(crate) migrating: Option<PageRange>,
}

impl<M: Mmu> Book<M> {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(bindings: M::Bindings) -> Result<Self> {
        Ok(Self {
            bindings,
            atomic_changes: 0,
            handovers: Handovers::new()?,
            migrating: None,
        })
    }
}

/// What a mirror needs of the driver.
pub(crate) struct Mirrored<M: Mmu> {
    pub(super) mmu: Arc<M>,
    pub(super) counters: Arc<Counters>,
}

/// An invalidation under way.
pub(crate) struct Flush<M: Mmu> {
    in_flight: M::InFlight,
    start: Start,
}

impl<M: Mmu> Flush<M> {
    /// The part of the device.
    pub(crate) fn in_flight(&mut self) -> &mut M::InFlight {
        &mut self.in_flight
    }
}

impl<M: Mmu> Mirror for Mirrored<M> {
    type Tables = M::Tables;
    type State = Book<M>;
    type Leaf = Residency;
    type Flush = Flush<M>;
    type Memory = M::Memory;

    fn start_flush(&self, tables: &M::Tables, range: PageRange, start: Start) -> Flush<M> {
        let in_flight = if start == Start::Deferred {
            self.mmu.invalidate_later(tables, range)
        } else {
            self.mmu.invalidate(tables, range)
        };
        Flush { in_flight, start }
    }

    fn wait(&self, flush: Flush<M>) {
        if flush.start == Start::Now {
            INJECT.during_invalidation();
        }
        self.mmu.wait(flush.in_flight);
    }

    fn revoking(
        &self,
        event: &Event,
        index: usize,
        leaf: &mut Leaf<'_, Self>,
        hit: Range<usize>,
        book: &mut Book<M>,
    ) {
        let range = event.range();
        let own = book.migrating;
        let foreign = own.is_none_or(|own| own.intersect(range).is_none());
        if let Some((_, vram)) = self.mmu.memory() {
            let by_cpu = foreign && event.reason() == Reason::Migrate;
            note_return(leaf, hit.clone(), vram, by_cpu);
            // `munmap()` and `madvise()` may leave a part of a large folio mapped.
            if hit.len() < LEAF_PAGES && matches!(event.reason(), Reason::Unmap | Reason::Clear) {
                let [first, last] =
                    [hit.start, hit.end - 1].map(|page| leaf.slot(page).private_page());
                let huge = leaf.data_mut().take_huge();
                for page in [first, last, huge].into_iter().flatten() {
                    vram.split_later(page);
                }
            }
        }
        // From system memory it is mostly a CPU's fault. Whatever it is, the page stays wanted.
        let handed_over = foreign
            && matches!(
                event.reason(),
                Reason::Clear | Reason::Exclusive | Reason::Migrate
            );
        let now = Instant::<Monotonic>::now();
        for page in hit {
            if !leaf.slot(page).is_exclusive() {
                continue;
            }
            self.counters.exclusive_revoked.add(1);
            if handed_over {
                leaf.data_mut().hand_over(page);
                book.handovers.take(index * LEAF_PAGES + page, now);
            }
        }
    }

    fn revoked(&self, event: &Event, revoked: &Revoked) {
        if event.reason() != Reason::Unwatch {
            self.counters.invalidations.add(1);
        }
        self.counters.demotions.add(revoked.demoted);
        self.counters.dirtied.add(revoked.dirtied);
    }

    fn node_changed(&self, removed: bool) {
        if removed {
            self.counters.pruned.add(1);
        } else {
            self.counters.intervals.add(1);
        }
    }
}

/// Remembers which of `hit` pages leave device memory, and why: the CPU takes them, or others need
/// the room.
fn note_return<M: Mmu>(
    leaf: &mut Leaf<'_, Mirrored<M>>,
    hit: Range<usize>,
    vram: &Vram,
    by_cpu: bool,
) {
    let now = Millis::now();
    let minimum = vram.residency_ms.load(Relaxed);
    for page in hit {
        let Some(at) = leaf.slot(page).private_page() else {
            continue;
        };
        if vram.is_leaving(at) {
            leaf.data_mut().evict(page, now);
        } else if by_cpu {
            leaf.data_mut().come_back(page, now, minimum);
        }
    }
}
