// SPDX-License-Identifier: GPL-2.0

//! Pages of the device's own memory.

use super::{
    pages::sealed,
    FLAGS,
    VALID,
    WRITE, //
};
use crate::{
    mm::{
        addr::Pfn,
        mmu_interval::Mirror, //
    },
    prelude::*, //
};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr, //
};

/// What core is told to leave alone for `mirror`.
pub(super) fn owner<T: Mirror>(mirror: &T) -> *mut c_void {
    // Frames and owner go together, so that what core leaves alone is known here.
    mirror
        .pagemap()
        .map_or(ptr::null_mut(), |pagemap| pagemap.owner())
}

/// The frames of the device memory of `mirror`.
pub(super) fn frames<T: Mirror>(mirror: &T) -> Range<usize> {
    mirror.pagemap().map_or(0..0, |pagemap| {
        let start = pagemap.pfn(0).as_usize();
        start..start + pagemap.pages() as usize
    })
}

/// A page of the mirror's own device memory that the device may read while the [`Commit`](super::Commit) lasts,
/// and afterwards until it is revoked.
///
/// # Invariants
///
/// `pfn` is an entry that `hmm_range_fault()` filled, with `HMM_PFN_VALID`, and the frame is that of
/// page `index` of the pagemap of the mirror.
#[derive(Clone, Copy)]
pub struct PrivatePage<'c> {
    pfn: usize,
    index: u32,
    _commit: PhantomData<&'c ()>,
}

impl<'c> PrivatePage<'c> {
    pub(super) fn new(pfn: usize, frames: &Range<usize>) -> Option<Self> {
        let frame = pfn & !FLAGS;
        // INVARIANT: `VALID` is set, and the frame is in the pagemap.
        (pfn & VALID != 0 && frames.contains(&frame)).then(|| Self {
            pfn,
            // CAST: Pagemaps have less than 2^32 pages.
            index: (frame - frames.start) as u32,
            _commit: PhantomData,
        })
    }

    /// Which page of the pagemap.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The right to write, too, if the process may write to the page as it is.
    pub fn writable(self) -> Option<WritePrivatePage<'c>> {
        // INVARIANT: `WRITE` is set.
        (self.pfn & WRITE != 0).then_some(WritePrivatePage(self))
    }
}

/// A page of the mirror's own device memory that the device may read and write. See
/// [`PrivatePage`].
///
/// # Invariants
///
/// The entry has `HMM_PFN_WRITE`.
#[derive(Clone, Copy)]
pub struct WritePrivatePage<'c>(PrivatePage<'c>);

impl WritePrivatePage<'_> {
    /// Which page of the pagemap.
    pub fn index(&self) -> u32 {
        self.0.index
    }
}

/// A page of device memory that may be entered in the device's tables: [`PrivatePage`] or
/// [`WritePrivatePage`].
pub trait PrivateEntry: sealed::Sealed {
    /// Which page of the pagemap.
    fn index(&self) -> u32;

    /// The page frame.
    fn pfn(&self) -> Pfn;

    /// Whether the device may write to it.
    const WRITABLE: bool;
}

impl sealed::Sealed for PrivatePage<'_> {}
impl sealed::Sealed for WritePrivatePage<'_> {}

impl PrivateEntry for PrivatePage<'_> {
    const WRITABLE: bool = false;

    fn index(&self) -> u32 {
        self.index
    }

    fn pfn(&self) -> Pfn {
        Pfn::new(self.pfn & !FLAGS)
    }
}

impl PrivateEntry for WritePrivatePage<'_> {
    const WRITABLE: bool = true;

    fn index(&self) -> u32 {
        self.0.index
    }

    fn pfn(&self) -> Pfn {
        self.0.pfn()
    }
}
