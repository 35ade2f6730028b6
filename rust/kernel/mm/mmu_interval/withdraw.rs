// SPDX-License-Identifier: GPL-2.0

//! Taking entries away, for core or for the driver itself.

use super::{
    Event,
    Mirror,
    PtGuard,
    Reason, //
};
use crate::{
    mm::addr::PageRange,
    prelude::*, //
};

/// A flush that somebody has to [`complete`].
pub(super) struct Due<T: Mirror> {
    pub(super) flush: T::Flush,
    /// Until then nothing enters the range: for an event of core's the sequence says so.
    is_withheld: bool,
}

/// Takes away the entries in the range of `event` and starts the flush that is due.
pub(super) fn revoke<T: Mirror>(
    mirror: &T,
    guard: &mut PtGuard<'_, T>,
    mut event: Event,
) -> Option<Due<T>> {
    let range = event.range;
    let is_withheld = event.is_owed || matches!(event.reason, Reason::Kill | Reason::Withdraw);
    // A flush that is due already is waited for by another invalidation, perhaps after this one has
    // returned, and may not even be sent. So this one needs its own.
    event.must_flush = guard.is_unacknowledged(range);
    let flush = mirror.revoke(&event, guard.revoke())?;
    guard.flush_is_due(range, is_withheld);
    Some(Due { flush, is_withheld })
}

/// Waits for a flush and gives back what it held.
pub(super) fn complete<T: Mirror>(mirror: &T, due: Due<T>) {
    let flushed = mirror.wait(due.flush);
    let mut guard = mirror.pt_lock().lock();
    guard.flush_acknowledged(due.is_withheld);
    mirror.flushed(flushed, guard.revoke());
}

/// Takes away all entries in `range`, because the driver has something else for it. When this
/// returns the device has acknowledged, and what the entries held is given back.
///
/// `change` is called first, under the same lock: what it writes down keeps later commits from
/// entering the old pages again, for which the memory of the process is as good as before.
///
/// Sleeps, for a bounded time. Needs to be called without any lock that a [`Mirror`] takes.
///
/// # Errors
///
/// That of `change`; nothing is taken away then.
pub fn withdraw<T: Mirror, R>(
    mirror: &T,
    range: PageRange,
    change: impl FnOnce(&mut T::Book) -> Result<R>,
) -> Result<R> {
    let mut guard = mirror.pt_lock().lock();
    let result = change(guard.book_mut())?;
    let due = revoke(mirror, &mut guard, Event::new(range, Reason::Withdraw));
    drop(guard);
    if let Some(due) = due {
        complete(mirror, due);
    }
    Ok(result)
}
