// SPDX-License-Identifier: GPL-2.0

//! Which threads have folios locked.
//!
//! Lock order: `HOLDERS` is a leaf.

use crate::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SetOnce,
        SpinLock, //
    },
    task::Task,
    types::NotThreadSafe, //
};

/// A thread that has folios locked, through a session or a migration.
///
/// While it lives the thread must not wait for memory management, which could wait for the folio. So
/// a thread has one of these at a time, however many sessions it has, and looks into no process's
/// memory meanwhile: two folios could be the same, and two threads that wait for each other's could
/// deadlock.
pub(in crate::mm) struct FolioHolder {
    thread: usize,
    _not_send: NotThreadSafe,
}

struct Entry {
    thread: usize,
    next: Option<KBox<Entry>>,
}

type List = SpinLock<Option<KBox<Entry>>>;

static HOLDERS: SetOnce<Pin<KBox<List>>> = SetOnce::new();
/// How many there are.
static COUNT: Atomic<usize> = Atomic::new(0);

fn this_thread() -> usize {
    Task::current_raw().addr()
}

fn holders() -> Result<&'static List> {
    loop {
        if let Some(list) = HOLDERS.as_ref() {
            return Ok(list);
        }
        // Where another thread is populating it, that is over in a moment.
        HOLDERS.populate(KBox::pin_init(
            new_spinlock!(None, "FolioHolder::HOLDERS"),
            GFP_KERNEL,
        )?);
    }
}

fn has(mut list: &Option<KBox<Entry>>, thread: usize) -> bool {
    while let Some(entry) = list {
        if entry.thread == thread {
            return true;
        }
        list = &entry.next;
    }
    false
}

/// The memory for a [`FolioHolder`], had before a folio is locked.
pub(in crate::mm) struct FolioHolderSlot(KBox<Entry>);

impl FolioHolderSlot {
    /// Checks that the calling thread has no folio locked. May sleep.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if it has; [`ENOMEM`].
    pub(in crate::mm) fn new() -> Result<Self> {
        let entry = KBox::new(
            Entry {
                thread: 0,
                next: None,
            },
            GFP_KERNEL,
        )?;
        holders()?;
        if FolioHolder::is_current() {
            return Err(EBUSY);
        }
        Ok(Self(entry))
    }

    /// Notes that the calling thread has folios locked.
    pub(in crate::mm) fn engage(self) -> FolioHolder {
        let thread = this_thread();
        let mut entry = self.0;
        entry.thread = thread;
        if let Some(holders) = HOLDERS.as_ref() {
            let mut list = holders.lock();
            entry.next = list.take();
            *list = Some(entry);
            COUNT.fetch_add(1usize, Relaxed);
        }
        FolioHolder {
            thread,
            _not_send: NotThreadSafe,
        }
    }
}

impl FolioHolder {
    /// Notes that the calling thread is about to lock folios. May sleep.
    ///
    /// # Errors
    ///
    /// As for [`FolioHolderSlot::new`].
    pub(in crate::mm) fn new() -> Result<Self> {
        Ok(FolioHolderSlot::new()?.engage())
    }

    /// Whether the calling thread has folios locked.
    pub(in crate::mm) fn is_current() -> bool {
        // A thread sees what it counted itself.
        COUNT.load(Relaxed) != 0
            && HOLDERS
                .as_ref()
                .is_some_and(|list| has(&list.lock(), this_thread()))
    }
}

impl Drop for FolioHolder {
    fn drop(&mut self) {
        let Some(holders) = HOLDERS.as_ref() else {
            return;
        };
        let mut list = holders.lock();
        let mut kept = None;
        let mut mine = None;
        // Moves each entry to another list; few threads have folios locked at a time.
        while let Some(mut entry) = list.take() {
            *list = entry.next.take();
            if entry.thread == self.thread {
                mine = Some(entry);
            } else {
                entry.next = kept;
                kept = Some(entry);
            }
        }
        *list = kept;
        COUNT.fetch_sub(1usize, Relaxed);
        drop(list);
        drop(mine);
    }
}
