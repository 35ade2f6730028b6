// SPDX-License-Identifier: GPL-2.0

//! MMU interval notifiers: a device mirrors the address space of a process.
//!
//! # Overview
//!
//! A driver keeps page tables of its own for a process. [`Mirror`] says how it takes entries away;
//! this module makes sure that it is asked whenever the process's memory changes, and that nothing
//! enters the tables in between.
//!
//! - [`PtLock`] guards the device's page tables of one process, all of them.
//! - [`IntervalSet`] belongs to one process and knows all intervals watched there.
//! - [`MmSession`] keeps the address space usable while the driver looks into it.
//! - [`Interval`] is a range that is watched. [`Interval::kill`] ends it, [`DeadInterval::remove`]
//!   takes it out of the process.
//!
//! Entries are added with [`hmm`](super::hmm) alone: only a
//! [`Commit`](super::hmm::Commit) and a [`Revoke`] give out the tables mutably, and only a commit
//! knows pages that may be entered.
//!
//! # Locking
//!
//! Outermost first: `mmap_lock` (taken in here and in `hmm`, never by the driver) › folio lock ›
//! [`PtLock`] › whatever [`Mirror::revoke`] takes.
//!
//! [`PtLock`] is taken in memory reclaim. Nothing may be allocated under it but with `GFP_NOWAIT`,
//! and no lock may be taken under it that is held elsewhere across an allocation. Two of them never
//! nest. Lockdep knows of this through the notifier's and reclaim's annotations.
//!
//! # Invalidation
//!
//! Core calls in two passes over all intervals hit: the first takes the lock, advances the
//! sequence, has the driver clear entries and start the flush; the second waits for the flush. So
//! the flushes of several intervals overlap. An interval has a few places for what goes from the
//! first pass to the second; if all are taken the first pass waits.
//!
//! As the lock is released between the passes, a second invalidation can find the entries of a
//! range cleared while the flush of that is under way. It must not return before the device
//! forgot them either, so the lock keeps the hull of all ranges whose flush is not acknowledged,
//! and an invalidation that touches the hull has a flush of its own, of its whole range, whatever
//! it cleared.
//! Waiting for the other flush instead would deadlock where both are passes of one call.
//!
//! Nor may a page be entered anew, and taken away again, while an older flush of it is waited for:
//! whoever waits would take that acknowledgement for one of the new entry. With a change of core's
//! the sequence excludes it until all is over. Where core is not waiting (a migration of the
//! driver's own, [`Interval::kill`], [`withdraw()`]) commits in the hull of such flushes collide.
//!
//! An invalidation that must not sleep (from the OOM killer) is refused before anything changes if
//! an entry is live or a flush is under way in the range, or if the lock is taken.
//!
//! `MMU_NOTIFY_EXCLUSIVE` events caused by the mirror itself are skipped; without that an
//! exclusive page could never be entered. Migrations, the driver's own too, are never skipped: the
//! entry has to go before the page is copied. But the flush of an own one need not be over before
//! that, so core does not wait for it: the migration does; see
//! [`Unflushed`](super::migrate::Unflushed).
//!
//! # End of an interval
//!
//! `mmu_interval_notifier_remove()` does not advance the sequence, so a commit on the way could
//! enter pages that nobody will take away again. [`Interval::kill`] therefore clears the range and
//! marks the interval under the lock; commits see the mark. Only the [`DeadInterval`] that it
//! returns can be removed, which sleeps, so neither a callback nor a holder of the lock may do it.
//! One that is dropped instead, like an [`Interval`] that is dropped, goes to a worker that does
//! what is left to do. [`IntervalSet::barrier`] waits until nothing is watched any more.
//!
//! An interval inserted with [`MmSession::insert_within`] lies in another and has a sequence of its
//! own, for a page whose surroundings change so often that no commit gets through. Killing it
//! takes nothing away, since the outer one still watches the page.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use super::{
    addr::PageRange,
    memremap::{
        DeviceMemory,
        Pagemap, //
    }, //
};
use crate::bindings;

mod lock;
mod node;
mod owed;
mod set;
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;
mod withdraw;

pub(super) use self::{
    lock::Protected,
    node::Node,
    owed::Owed, //
};
pub use self::{
    lock::{
        PtGuard,
        PtLock,
        Revoke, //
    },
    set::{
        DeadInterval,
        Interval,
        IntervalRef,
        IntervalSet,
        MmSession, //
    },
    withdraw::withdraw,
};
pub use crate::new_pt_lock;

/// How a driver takes entries out of a device's page tables.
///
/// An implementation is a handle of the mirrored space, such as a newtype of an
/// [`Arc`](crate::sync::Arc) of it; each [`Interval`] owns one.
pub trait Mirror: Sized + Send + Sync + 'static {
    /// The device's page tables and what is known about their entries.
    type Pt: Send;

    /// Other state under the same lock, free to change at any time: the list of intervals, say.
    type Book: Send;

    /// A flush that is due, most often started, with what must stay until the device acknowledged
    /// it.
    type Flush: Send;

    /// The same, acknowledged.
    type Flushed;

    /// The device's own memory, that processes may have pages in;
    /// [`NoDeviceMemory`](super::memremap::NoDeviceMemory) if it has none.
    type Memory: DeviceMemory;

    /// The pages of the device's own memory; always the same.
    fn pagemap(&self) -> Option<&Pagemap<Self::Memory>> {
        None
    }

    /// The lock of the space; always the same one.
    fn pt_lock(&self) -> &PtLock<Self>;

    /// Whether an invalidation of `range` has anything to do: the tables have a valid entry there, or
    /// a page whose flush was not acknowledged.
    ///
    /// Called with the lock held, in a context that must not sleep.
    fn is_live(&self, range: PageRange, pt: &Self::Pt) -> bool;

    /// Takes away all entries in [`Event::range`], marks the folios of writable ones dirty, and
    /// starts a flush of them, or of the whole range if [`Event::must_flush`]; [`None`] if neither
    /// is due. The flush of an [`Event::is_owed`] may be started later.
    ///
    /// Nothing outside the range may be lost, except that a device entry that reaches further may
    /// go as a whole. Called with the lock held, possibly in reclaim: may sleep for a bounded time,
    /// may not allocate.
    fn revoke(&self, event: &Event, pt: Revoke<'_, Self>) -> Option<Self::Flush>;

    /// Waits until the device acknowledged `flush`, which it starts if nobody has, or until the
    /// device cannot reach memory any more.
    ///
    /// Must return within a bounded time. Called without the lock, possibly in reclaim.
    fn wait(&self, flush: Self::Flush) -> Self::Flushed;

    /// Releases what had to stay until the acknowledgement, such as DMA mappings.
    ///
    /// Called like [`Mirror::revoke`], before core goes on.
    fn flushed(&self, flushed: Self::Flushed, pt: Revoke<'_, Self>);
}

/// Why entries have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `munmap()`, or `mremap()` moves the range.
    Unmap,
    /// Entries of the CPU's tables are cleared, for many reasons; the mapping stays.
    Clear,
    /// `mprotect()` and the like.
    Protection,
    /// The process is going away.
    Release,
    /// Pages are being migrated, perhaps by the driver itself.
    Migrate,
    /// Another device takes pages for exclusive access.
    Exclusive,
    /// The driver kills the interval; see [`Interval::kill`].
    Kill,
    /// The driver wants something else there; see [`withdraw()`].
    Withdraw,
}

impl Reason {
    fn from_raw(event: bindings::mmu_notifier_event) -> Self {
        match event {
            bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP => Self::Unmap,
            bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA
            | bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE
            | bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY => Self::Protection,
            bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE => Self::Release,
            bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE => Self::Migrate,
            bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE => Self::Exclusive,
            // `MMU_NOTIFY_CLEAR`, and safe for any that may come.
            _ => Self::Clear,
        }
    }
}

/// What has to be taken away.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    range: PageRange,
    reason: Reason,
    is_owed: bool,
    must_flush: bool,
}

impl Event {
    fn new(range: PageRange, reason: Reason) -> Self {
        Self {
            range,
            reason,
            is_owed: false,
            must_flush: false,
        }
    }

    /// The pages whose entries have to go: what changes, cut to the interval.
    #[inline]
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Why; to count and to decide what else to tidy up, never to keep an entry.
    #[inline]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Whether a flush is due whatever is found, and of the whole range: entries in it went a
    /// moment ago, and the device may not have forgotten them.
    #[inline]
    pub fn must_flush(&self) -> bool {
        self.must_flush
    }

    /// Whether the flush will be handed to a migration of this thread's own, which waits for it
    /// when it copies. It may be sent as late as that; [`Mirror::wait`] has to send it otherwise.
    #[inline]
    pub fn is_owed(&self) -> bool {
        self.is_owed
    }
}
