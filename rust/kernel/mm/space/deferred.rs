// SPDX-License-Identifier: GPL-2.0

//! A flush that a migration causes, and waits for itself.
//!
//! Core mm announces a migration before it unmaps the pages, and would wait for the flush there. But
//! until the pages are copied it does not matter whether the device still reaches them: they stay
//! allocated, and what the device writes is copied. So the migrating thread captures its own flush
//! and completes it when it copies, at the latest.
//!
//! Others are not affected: until the flush is acknowledged the pages are leaving, and each change
//! that hits one has a flush of its own; see [`super`]. So a page that others take away meanwhile is
//! not given back before the device forgot it.

use super::{
    revoke::Pending,
    Guard,
    Mirror,
    Reason,
    Space, //
};
use crate::{
    mm::mmu_interval::Change,
    prelude::*,
    sync::Arc,
    task::Task, //
};

/// A migration that captures its flush, and the flush once it was started.
pub(super) struct Capture<T: Mirror> {
    /// Address of the thread, which is not used as a pointer.
    thread: usize,
    /// The owner that core mm's events have; not used as a pointer either.
    owner: usize,
    pending: Option<Pending<T>>,
}

fn this_thread() -> usize {
    Task::current_raw().addr()
}

impl<T: Mirror> Guard<'_, T> {
    /// Whether the calling thread captures the flush for `change`.
    pub(super) fn captures(&self, change: &Change<'_>) -> bool {
        change.reason() == Reason::Migrate
            && self.inner.capture.as_ref().is_some_and(|capture| {
                capture.pending.is_none()
                    && capture.thread == this_thread()
                    && change.is_for(core::ptr::without_provenance(capture.owner))
            })
    }

    /// Leaves a flush to the thread that captures it.
    pub(super) fn capture(&mut self, pending: Pending<T>) {
        if let Some(capture) = &mut self.inner.capture {
            capture.pending = Some(pending);
        }
    }
}

/// A flush that has yet to be completed, if there is any; dropping it does that.
pub(in crate::mm) struct Deferred<'a, T: Mirror> {
    space: &'a Arc<Space<T>>,
    pending: Option<Pending<T>>,
}

impl<'a, T: Mirror> Deferred<'a, T> {
    /// Calls `migrate`, which has core mm unmap pages for `owner`, and captures the flush that is
    /// due. Where another thread of the same space is doing that, nothing is captured: core mm
    /// waits.
    pub(in crate::mm) fn capture<R>(
        space: &'a Arc<Space<T>>,
        owner: *mut c_void,
        migrate: impl FnOnce() -> R,
    ) -> (Self, R) {
        let mut guard = space.lock();
        let mine = guard.inner.capture.is_none();
        guard.inner.capture.get_or_insert(Capture {
            thread: this_thread(),
            owner: owner.addr(),
            pending: None,
        });
        drop(guard);
        let result = migrate();
        let mut pending = None;
        if mine {
            let capture = space.lock().inner.capture.take();
            pending = capture.and_then(|capture| capture.pending);
        }
        (Self { space, pending }, result)
    }

    /// The flush, to be sent with something else.
    pub(in crate::mm) fn flush(&mut self) -> Option<&mut T::Flush> {
        self.pending.as_mut().map(|pending| &mut pending.flush)
    }
}

impl<T: Mirror> Drop for Deferred<'_, T> {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.space.complete_in_callback(pending);
        }
    }
}
