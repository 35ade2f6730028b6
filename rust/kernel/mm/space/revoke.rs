// SPDX-License-Identifier: GPL-2.0

//! Revoking pages, for core mm or for the driver itself.

use super::{
    addresses_of,
    interval::Node,
    leaf::Revoked,
    leaf_index,
    lock::Protected,
    pages_of,
    slot::FlushId,
    Event,
    Guard,
    Leaf,
    Mirror,
    PageRange,
    Reason,
    Space,
    Start,
    LEAF_PAGES, //
};
use crate::{
    mm::mmu_interval::{
        Change,
        WouldBlock, //
    },
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    }, //
};

/// A flush that was started, and has to be [completed](Space::complete).
#[must_use]
pub(in crate::mm) struct Pending<T: Mirror> {
    pub(super) flush: T::Flush,
    id: FlushId,
    /// Covers the pages that leave with it.
    range: PageRange,
    /// A node may be empty then.
    prune: bool,
}

impl<T: Mirror> Guard<'_, T> {
    /// Revokes the pages in the range of `event`, and starts the flush that is due; [`None`] if
    /// nothing in it is mapped or leaving.
    pub(super) fn revoke(&mut self, event: &Event) -> Option<Pending<T>> {
        let ops = &self.space().ops;
        let unwatch = event.reason == Reason::Unwatch;
        let prune = event.reason == Reason::Unmap;
        let id = FlushId(self.inner.last_flush.0 + 1);
        let mut range: Option<PageRange> = None;
        let mut revoked = Revoked::default();
        self.inner
            .for_each_leaf(event.range, |index, leaf, tables, state, hit| {
                ops.revoking(event, index, &mut Leaf(leaf), hit.clone(), state);
                let mut pages = leaf.revoke(tables, hit, id, &mut revoked);
                if unwatch && !leaf.is_dying() {
                    leaf.kill(tables, id);
                    pages = Some(0..LEAF_PAGES);
                }
                if let Some(more) = pages.and_then(|pages| addresses_of(index, pages)) {
                    range = Some(range.map_or(more, |range| range.hull(more)));
                }
            });
        let Some(range) = range else {
            if prune {
                self.space().wants_prune.store(true, Relaxed);
            }
            return None;
        };
        self.inner.last_flush = id;
        ops.revoked(event, &revoked);
        Some(Pending {
            flush: ops.start_flush(&self.inner.tables, range, event.start),
            id,
            range,
            prune,
        })
    }
}

impl<T: Mirror> Space<T> {
    /// Waits for a flush, and forgets the pages that left with it. Called without a lock that a
    /// [`Mirror`] takes, possibly in reclaim. Returns whether there is something to do for the worker,
    /// or for [`Space::drop_discarded`].
    pub(super) fn complete(&self, pending: Pending<T>) -> bool {
        let Pending {
            flush,
            id,
            range,
            prune,
        } = pending;
        self.ops.wait(flush);
        let mut guard = self.lock();
        // Without a device nothing is left to unmap.
        let dev = self.dma_device();
        let mut any_gone = false;
        guard.inner.for_each_leaf(range, |_, leaf, _, _, pages| {
            leaf.acknowledged(dev.as_deref(), id, pages);
            any_gone |= leaf.is_gone();
        });
        drop(dev);
        if any_gone {
            discard(&mut guard.inner, range);
        }
        drop(guard);
        if prune {
            self.wants_prune.store(true, Relaxed);
        }
        prune || any_gone
    }

    /// The same for a callback, in which no memory for DMA may be freed.
    pub(super) fn complete_in_callback(self: &Arc<Self>, pending: Pending<T>) {
        if self.complete(pending) {
            self.wake_worker();
        }
    }

    /// Revokes all pages in `range`, because the driver maps something else there. When this
    /// returns the device has acknowledged, and the pages are unmapped from DMA.
    ///
    /// `change` is called first, under the same lock, with the driver's state and whether the space
    /// was closed. The state that it leaves keeps later commits from mapping the old pages again, for
    /// which the memory of the process is as good as before.
    ///
    /// Sleeps, for a bounded time. Needs to be called without any lock that a [`Mirror`] takes.
    ///
    /// # Errors
    ///
    /// That of `change`; nothing is revoked then.
    pub fn revoke<R>(
        &self,
        range: PageRange,
        change: impl FnOnce(&mut T::State, bool) -> Result<R>,
    ) -> Result<R> {
        let mut guard = self.lock();
        let is_closed = guard.is_closed();
        let result = change(&mut guard.inner.driver, is_closed)?;
        let pending = guard.revoke(&Event::new(range, Reason::Driver, Start::Now));
        drop(guard);
        if let Some(pending) = pending {
            if self.complete(pending) {
                self.drop_discarded();
            }
        }
        Ok(result)
    }

    /// First pass of a change that core mm announces to `node`.
    pub(super) fn change(
        self: &Arc<Self>,
        node: &Node<T>,
        change: &Change<'_>,
    ) -> Result<Option<Pending<T>>, WouldBlock> {
        if change.reason() == Reason::Exclusive && change.is_for(self.owner()) {
            return Ok(None);
        }
        let mut guard = if change.may_sleep() {
            self.lock()
        } else {
            self.try_lock().ok_or(WouldBlock)?
        };
        let hit = change.clip(node.range());
        if !change.may_sleep() {
            if hit.is_some_and(|hit| guard.inner.is_used(hit)) {
                return Err(WouldBlock);
            }
            change.accept();
            return Ok(None);
        }
        change.accept();
        let Some(hit) = hit else { return Ok(None) };
        let is_captured = guard.captures(change);
        let start = if is_captured {
            Start::Deferred
        } else {
            Start::Now
        };
        let mut pending = guard.revoke(&Event::new(hit, change.reason(), start));
        if is_captured {
            if let Some(pending) = pending.take() {
                guard.capture(pending);
            }
        }
        drop(guard);
        if pending.is_none() && self.wants_prune.load(Relaxed) {
            self.wake_worker();
        }
        Ok(pending)
    }
}

/// Takes the leaves in `range` out that the device has forgotten, to be dropped without the lock.
fn discard<T: Mirror>(inner: &mut Protected<T>, range: PageRange) {
    let mut from = leaf_index(range.start());
    // Looked up each time: behind the last leaf, `remove_current` gives the one before.
    while let Some(cursor) = inner.leaves.cursor_lower_bound_mut(&from) {
        let (&index, leaf) = cursor.current();
        if pages_of(index, range).is_none() {
            break;
        }
        from = index + 1;
        if leaf.is_gone() {
            let mut leaf = cursor.remove_current().1.to_key_value().1;
            leaf.next = inner.discarded.take();
            inner.discarded = Some(leaf);
        }
    }
}
