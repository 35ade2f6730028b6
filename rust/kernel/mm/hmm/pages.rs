// SPDX-License-Identifier: GPL-2.0

//! The pages that a commit gives out.

use super::{
    PrivatePage,
    FLAGS,
    VALID,
    WRITE, //
};
use crate::mm::addr::Pfn;
use core::{
    marker::PhantomData,
    ops::Range, //
};

/// The pages of a [`Commit`](super::Commit).
#[derive(Clone, Copy)]
pub struct Pages<'c> {
    /// Filled by `hmm_range_fault()` and true as long as the [`Commit`](super::Commit) is borrowed.
    pub(super) pfns: &'c [usize],
    /// The frames of the mirror's own device memory.
    pub(super) private: &'c Range<usize>,
}

impl<'c> Pages<'c> {
    /// The page at `index`, counted from the start of [`Commit::range`](super::Commit::range), if it
    /// is in system memory. [`None`] if it is not present, which does not say that nothing is there.
    pub fn get(&self, index: usize) -> Option<ReadPage<'c>> {
        let pfn = *self.pfns.get(index)?;
        // INVARIANT: `VALID` is set, and it is not device memory, of which there is only our own.
        (pfn & VALID != 0 && !self.private.contains(&(pfn & !FLAGS))).then_some(ReadPage {
            pfn,
            _commit: PhantomData,
        })
    }

    /// The page at `index`, if it is in the mirror's own device memory.
    pub fn device(&self, index: usize) -> Option<PrivatePage<'c>> {
        let pfn = *self.pfns.get(index)?;
        PrivatePage::new(pfn, self.private)
    }
}

pub(super) mod sealed {
    pub trait Sealed {}
}

/// A page of system memory that may be entered in the device's tables: [`ReadPage`], [`WritePage`] or
/// [`AtomicPage`](super::AtomicPage).
pub trait DevicePage: sealed::Sealed {
    /// The page frame.
    fn pfn(&self) -> Pfn;

    /// Whether the device may write to it.
    const WRITABLE: bool;

    /// Whether the device may run atomics on it that are atomic against the CPU.
    const ATOMIC: bool = false;
}

/// A page that the device may read while the [`Commit`](super::Commit) lasts, and afterwards until it is revoked.
///
/// # Invariants
///
/// `pfn` is an entry that `hmm_range_fault()` filled, with `HMM_PFN_VALID`, and not device memory.
#[derive(Clone, Copy)]
pub struct ReadPage<'c> {
    pfn: usize,
    _commit: PhantomData<&'c ()>,
}

impl<'c> ReadPage<'c> {
    /// The page frame.
    pub fn pfn(&self) -> Pfn {
        Pfn::new(self.pfn & !FLAGS)
    }

    /// The right to write, too, if the process may write to the page as it is.
    pub fn writable(self) -> Option<WritePage<'c>> {
        // INVARIANT: `WRITE` is set.
        (self.pfn & WRITE != 0).then_some(WritePage(self))
    }
}

/// A page that the device may read and write. See [`ReadPage`].
///
/// # Invariants
///
/// The entry has `HMM_PFN_WRITE`.
#[derive(Clone, Copy)]
pub struct WritePage<'c>(ReadPage<'c>);

impl sealed::Sealed for ReadPage<'_> {}
impl sealed::Sealed for WritePage<'_> {}

impl DevicePage for ReadPage<'_> {
    const WRITABLE: bool = false;

    fn pfn(&self) -> Pfn {
        ReadPage::pfn(self)
    }
}

impl DevicePage for WritePage<'_> {
    const WRITABLE: bool = true;

    fn pfn(&self) -> Pfn {
        self.0.pfn()
    }
}
