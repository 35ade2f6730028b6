// SPDX-License-Identifier: GPL-2.0

//! A flush that a migration causes, and waits for itself.
//!
//! Core announces a migration before it unmaps the pages, and would wait for the flush there. But
//! until the pages are copied it does not matter whether the device still reaches them: they stay
//! allocated, and what it writes is copied. So the migrating thread catches its own flush and
//! settles it when it copies, at the latest.
//!
//! Others are not affected: until it is acknowledged, each invalidation that touches the range has
//! a flush of its own, see [`super`]. So a page that others take away meanwhile is not given back
//! before the device forgot it. Nor does anything enter the range before that.

use super::{
    withdraw::{
        self,
        Due, //
    },
    Mirror,
    PtGuard, //
};
use crate::{
    bindings,
    prelude::*,
    task::Task, //
};

/// Who catches a flush, and what was caught.
pub(in crate::mm) struct Catcher<T: Mirror> {
    /// Address of the thread, which is not used as a pointer.
    thread: usize,
    /// Address that core's events have as their owner.
    owner: usize,
    due: Option<Due<T>>,
}

fn this_thread() -> usize {
    Task::current_raw().addr()
}

impl<T: Mirror> PtGuard<'_, T> {
    /// Whether the calling thread catches the flush of `range`, an event of core's.
    pub(super) fn catches(&mut self, range: &bindings::mmu_notifier_range) -> bool {
        range.event == bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE
            && self.protected().catcher.as_ref().is_some_and(|catcher| {
                catcher.due.is_none()
                    && catcher.thread == this_thread()
                    && catcher.owner == range.owner.addr()
            })
    }

    /// Leaves a flush to the thread that catches it.
    pub(super) fn catch(&mut self, due: Due<T>) {
        if let Some(catcher) = &mut self.protected().catcher {
            catcher.due = Some(due);
        }
    }
}

/// A flush that has yet to be waited for, if any; dropping it does that.
pub(in crate::mm) struct Owed<'a, T: Mirror> {
    mirror: &'a T,
    due: Option<Due<T>>,
}

impl<'a, T: Mirror> Owed<'a, T> {
    /// Calls `migrate`, which has core unmap pages for `owner`, and catches the flush that is due.
    /// Where another thread of the same space is doing that, nothing is caught: core waits.
    pub(in crate::mm) fn catch<R>(
        mirror: &'a T,
        owner: *mut c_void,
        migrate: impl FnOnce() -> R,
    ) -> (Self, R) {
        let thread = this_thread();
        let mut guard = mirror.pt_lock().lock();
        let catcher = &mut guard.protected().catcher;
        let mine = catcher.is_none();
        catcher.get_or_insert(Catcher {
            thread,
            owner: owner.addr(),
            due: None,
        });
        drop(guard);
        let result = migrate();
        let mut owed = Self { mirror, due: None };
        if mine {
            let catcher = mirror.pt_lock().lock().protected().catcher.take();
            owed.due = catcher.and_then(|catcher| catcher.due);
        }
        (owed, result)
    }

    /// The flush, to be sent with something else.
    pub(in crate::mm) fn flush(&mut self) -> Option<&mut T::Flush> {
        self.due.as_mut().map(|due| &mut due.flush)
    }
}

impl<T: Mirror> Drop for Owed<'_, T> {
    fn drop(&mut self) {
        if let Some(due) = self.due.take() {
            withdraw::complete(self.mirror, due);
        }
    }
}
