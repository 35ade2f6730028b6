// SPDX-License-Identifier: GPL-2.0

//! Ranges of a space that are bound to buffers of the device.
//!
//! What is bound lies under the page-table lock, so that nobody enters memory of the process there
//! once a binding is known. Faults in a bound range are served from the buffer, whatever the
//! process has at that address; when the binding goes, the range is the process's again.

use super::device::Mmu;
use crate::svm::space::Space;
use kernel::{
    mm::addr::{
        PageRange,
        VirtAddr, //
    },
    prelude::*,
    sync::Arc, //
};

/// A range and what is bound there.
#[derive(Clone)]
pub(crate) struct Bound<B> {
    pub(crate) range: PageRange,
    pub(crate) buffer: B,
    /// Byte of the buffer at the start of `range`.
    pub(crate) offset: u64,
    /// Whether the device may write there.
    pub(crate) write: bool,
}

impl<B> Bound<B> {
    /// Byte of the buffer that is bound at `addr`, in the range.
    pub(crate) fn offset_of(&self, addr: VirtAddr) -> u64 {
        // CAST: Widening.
        self.offset + (addr.as_usize() - self.range.start().as_usize()) as u64
    }
}

/// Where in device memory the bytes of a buffer are.
pub(crate) type Places<'a> = &'a dyn Fn(u64) -> Option<u64>;

/// A buffer of the device.
pub(crate) trait Buffer: Clone + PartialEq + Send + 'static {
    /// Brings the buffer into device memory, and keeps it there while `f` runs, which is told the
    /// place of each page by its offset in bytes. Sleeps until there is room, unless `cancelled`
    /// becomes true. No lock is held.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENODEV`, `EIO`; `EINTR` if it was cancelled; `ENOENT` if the buffer is gone.
    fn with_places<R>(
        &self,
        cancelled: &dyn Fn() -> bool,
        f: impl FnOnce(Places<'_>) -> R,
    ) -> Result<R>;
}

/// All that is bound in a space. Called under the page-table lock; nothing allocates.
pub(crate) trait Bindings: Send + 'static {
    type Buffer: Buffer;

    /// The binding with the lowest address that has pages in `range`.
    fn first(&self, range: PageRange) -> Option<Bound<Self::Buffer>>;

    /// Whether nothing is bound in `range`.
    fn is_free(&self, range: PageRange) -> bool;

    /// The first range that ends behind `from` and to which a buffer is bound that is `wanted`.
    fn next_of(&self, from: VirtAddr, wanted: &dyn Fn(&Self::Buffer) -> bool) -> Option<PageRange>;
}

impl<M: Mmu> Space<M> {
    /// Changes what is bound in `range`, and takes the PTEs there away. Bounded; sleeps on the
    /// page-table lock.
    ///
    /// # Errors
    ///
    /// `ENOENT` once the space was detached; those of `change`, which must have changed nothing.
    pub(crate) fn rebind<R>(
        self: &Arc<Self>,
        range: PageRange,
        change: impl FnOnce(&mut M::Bindings) -> Result<R>,
    ) -> Result<R> {
        self.mirror.revoke(range, |book, is_closed| {
            if is_closed {
                return Err(ENOENT);
            }
            change(&mut book.bindings)
        })
    }

    /// Takes away all PTEs to buffers that are `wanted`. When this returns the device has
    /// acknowledged. `true` if any is bound here.
    pub(crate) fn withdraw_buffer(
        self: &Arc<Self>,
        wanted: impl Fn(&<M::Bindings as Bindings>::Buffer) -> bool,
    ) -> bool {
        let mut found = false;
        let mut from = VirtAddr::new(0);
        loop {
            let range = self.mirror.lock().state().bindings.next_of(from, &wanted);
            let Some(range) = range else {
                return found;
            };
            found = true;
            // The only error is that of the change.
            let _ = self.mirror.revoke(range, |_, _| Ok(()));
            from = range.end();
        }
    }

    /// Calls `f` with the bindings, which may not be changed unless the space was detached.
    pub(crate) fn with_bindings<R>(&self, f: impl FnOnce(&mut M::Bindings) -> R) -> R {
        f(&mut self.mirror.lock().state_mut().bindings)
    }
}
