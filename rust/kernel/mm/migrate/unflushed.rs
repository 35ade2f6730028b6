// SPDX-License-Identifier: GPL-2.0

//! A migration whose pages the device may still reach.

use super::*;
use crate::{
    device::{
        Bound,
        Device, //
    },
    mm::space::Deferred, //
};

/// A stage of a migration before the device acknowledged that the entries are gone. Until then
/// nothing is copied, and nothing put in place.
///
/// Dropping it waits for the flush, and then drops the stage.
#[must_use]
pub struct Unflushed<'m, T: Mirror, S> {
    // Fields are dropped in order.
    deferred: Deferred<'m, T>,
    stage: S,
}

impl<'m, T: Mirror, S> Unflushed<'m, T, S> {
    pub(super) fn new(deferred: Deferred<'m, T>, stage: S) -> Self {
        Self { deferred, stage }
    }

    fn map_stage<R>(self, f: impl FnOnce(S) -> R) -> Unflushed<'m, T, R> {
        Unflushed::new(self.deferred, f(self.stage))
    }

    /// Waits, for a bounded time, until the device acknowledged.
    pub(in crate::mm) fn flushed(self) -> S {
        drop(self.deferred);
        self.stage
    }
}

impl<'m, T: Mirror> Unflushed<'m, T, Collected<'m, T::Memory>> {
    /// As [`Collected::range`].
    pub fn range(&self) -> PageRange {
        self.stage.range()
    }

    /// As [`Collected::fill`].
    pub fn fill<'p>(
        self,
        give: impl FnMut(usize, Order) -> Option<DevFolio<'p, T::Memory>>,
    ) -> Unflushed<'m, T, Filled<'m, T::Memory>>
    where
        T::Memory: 'p,
    {
        self.map_stage(|collected| collected.fill(give))
    }
}

impl<'m, T: Mirror> Unflushed<'m, T, Filled<'m, T::Memory>> {
    /// As [`Filled::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.stage.is_empty()
    }

    /// As [`Filled::map`].
    pub fn map<'d>(self, dev: &'d Device<Bound>) -> Unflushed<'m, T, Mapped<'m, 'd, T::Memory>> {
        self.map_stage(|filled| filled.map(dev))
    }
}

impl<'m, 'd, T: Mirror> Unflushed<'m, T, Mapped<'m, 'd, T::Memory>> {
    /// Calls `copy`, which has the device do the flush, if there is one, and copy after it. If it
    /// does so in one go, it leaves in the flush that there is nothing to wait for.
    ///
    /// Whatever `copy` did, the flush is over when this returns.
    pub fn copy<R>(
        mut self,
        copy: impl FnOnce(Option<&mut T::Flush>, &Mapped<'m, 'd, T::Memory>) -> R,
    ) -> (Mapped<'m, 'd, T::Memory>, R) {
        let result = copy(self.deferred.flush(), &self.stage);
        (self.flushed(), result)
    }
}
