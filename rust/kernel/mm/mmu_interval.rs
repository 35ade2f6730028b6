// SPDX-License-Identifier: GPL-2.0

//! MMU interval notifiers: core mm announces each change of a range of a process's memory.
//!
//! This is the bare mechanism, for [`super::space`] only. A [`Notifier`] is one registered
//! `struct mmu_interval_notifier`; its [`Watcher`] hears of each [`Change`] in two passes over all
//! notifiers hit: the first revokes entries and starts a flush, the second waits for the flush, so
//! that the flushes of several notifiers overlap. A notifier has a few slots for what goes from the
//! first pass to the second; if all are taken the first pass waits.
//!
//! Lock order: `mmap_lock` › folio lock › the watcher's lock. The watcher's lock is taken in memory
//! reclaim.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use super::{
    addr::{
        PageRange,
        VirtAddr, //
    },
    Mm, //
};
use crate::{
    bindings,
    container_of,
    error::to_result,
    page::page_align,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc, //
    },
    types::Opaque, //
};
use core::cell::UnsafeCell;

mod notifier;

pub(super) use self::notifier::Notifier;

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
    /// The space stops watching the range: it was closed, or nothing is mapped there any more.
    Unwatch,
    /// The driver maps something else there; see [`Space::revoke`](super::space::Space::revoke).
    Driver,
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

/// The watcher would have to sleep, and the change does not allow it.
pub(super) struct WouldBlock;

/// A change of a process's memory that core mm announces.
pub(super) struct Change<'a> {
    raw: &'a bindings::mmu_notifier_range,
    notifier: *mut bindings::mmu_interval_notifier,
    seq: usize,
}

impl Change<'_> {
    pub(super) fn reason(&self) -> Reason {
        Reason::from_raw(self.raw.event)
    }

    /// The part of the change that lies in `range`.
    pub(super) fn clip(&self, range: PageRange) -> Option<PageRange> {
        let end = page_align(self.raw.end).map_or(range.end(), VirtAddr::new);
        PageRange::new(
            VirtAddr::new(self.raw.start).page().max(range.start()),
            end.min(range.end()),
        )
        .ok()
    }

    /// Whether the change was caused for `owner`, which is compared only.
    pub(super) fn is_for(&self, owner: *const c_void) -> bool {
        self.raw.owner.cast_const() == owner
    }

    pub(super) fn may_sleep(&self) -> bool {
        self.raw.flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0
    }

    /// Makes every snapshot taken before this change stale. The watcher calls it in the first pass
    /// with the lock held under which it calls [`Notifier::read_retry`].
    pub(super) fn accept(&self) {
        // SAFETY: The notifier is registered, since core mm is calling it.
        unsafe { bindings::mmu_interval_set_seq(self.notifier, self.seq) };
    }
}

/// Hears of changes.
pub(super) trait Watcher: Sized + Send + Sync + 'static {
    /// What goes from the first pass to the second.
    type Flush: Send;

    /// First pass: takes entries away and starts a flush of them. Called in reclaim, too: may sleep
    /// for a bounded time if [`Change::may_sleep`], may not allocate.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`], only where the change may not sleep, with nothing changed.
    fn start(
        notifier: &Notifier<Self>,
        change: &Change<'_>,
    ) -> Result<Option<Self::Flush>, WouldBlock>;

    /// Second pass: waits for the flush, for a bounded time.
    fn finish(notifier: &Notifier<Self>, flush: Self::Flush);
}
