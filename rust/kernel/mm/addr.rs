// SPDX-License-Identifier: GPL-2.0

//! User virtual addresses, page ranges and page frame numbers as checked types.
//!
//! A number that came from a register, a fault packet or an ioctl becomes one of these once, where
//! it enters, so that overflow, misalignment and emptiness are errors there and impossible later.

use crate::{
    fmt,
    page::{
        PAGE_MASK,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    ptr::Alignment, //
};

/// A byte address in the address space of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct VirtAddr(usize);

impl VirtAddr {
    /// Makes an address of a number of bytes; every number is one.
    #[inline]
    pub const fn new(addr: usize) -> Self {
        Self(addr)
    }

    /// The address in bytes.
    #[inline]
    pub const fn as_usize(self) -> usize {
        self.0
    }

    /// The address in bytes, as devices and user interfaces have it.
    #[inline]
    pub const fn as_u64(self) -> u64 {
        // CAST: `usize` has at most 64 bits on all architectures.
        self.0 as u64
    }

    /// The address `bytes` further up; [`None`] on overflow.
    #[inline]
    pub const fn checked_add(self, bytes: usize) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }

    /// The address rounded down to a multiple of `align`.
    #[inline]
    fn align_down(self, align: Alignment) -> Self {
        Self(self.0 & align.mask())
    }

    /// The address of the page that holds this byte.
    #[inline]
    pub const fn page(self) -> Self {
        Self(self.0 & PAGE_MASK)
    }
}

impl TryFrom<u64> for VirtAddr {
    type Error = Error;

    /// Fails with [`EINVAL`] where `usize` is too small for `addr`.
    fn try_from(addr: u64) -> Result<Self> {
        Ok(Self(usize::try_from(addr).map_err(|_| EINVAL)?))
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A non-empty run of whole pages in the address space of a process, end exclusive.
///
/// # Invariants
///
/// `start < end`, and both are multiples of [`PAGE_SIZE`].
///
/// # Examples
///
/// ```
/// use kernel::{
///     mm::addr::{PageRange, VirtAddr},
///     page::PAGE_SIZE,
/// };
///
/// let at = |page: usize| VirtAddr::new(page * PAGE_SIZE);
/// let range = PageRange::new(at(2), at(5))?;
/// assert_eq!(range.pages(), 3);
/// assert_eq!(range.page_index(at(4)), Some(2));
/// assert_eq!(range.page_index(at(5)), None);
///
/// // Ranges that only touch do not overlap.
/// assert_eq!(range.intersect(PageRange::new(at(5), at(6))?), None);
/// assert_eq!(range.intersect(PageRange::new(at(0), at(3))?), Some(PageRange::page(at(2))?));
///
/// // Empty, reversed, misaligned and overflowing ranges do not exist.
/// assert_eq!(PageRange::new(at(2), at(2)), Err(EINVAL));
/// assert_eq!(PageRange::new(at(3), at(2)), Err(EINVAL));
/// assert_eq!(PageRange::new(VirtAddr::new(1), at(2)), Err(EINVAL));
/// assert_eq!(PageRange::from_len(at(1), usize::MAX - PAGE_SIZE + 1), Err(EINVAL));
/// assert_eq!(PageRange::page(VirtAddr::new(usize::MAX)), Err(EINVAL));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    start: VirtAddr,
    end: VirtAddr,
}

impl PageRange {
    /// The pages from `start` up to but not including `end`, both byte addresses.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the range is empty or reversed, or an end is not a multiple of [`PAGE_SIZE`].
    pub const fn new(start: VirtAddr, end: VirtAddr) -> Result<Self> {
        if start.0 >= end.0 || (start.0 | end.0) & !PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        // INVARIANT: Just checked.
        Ok(Self { start, end })
    }

    /// The pages of `len` bytes from `start` on.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] as for [`PageRange::new`], and if the end overflows.
    pub fn from_len(start: VirtAddr, len: usize) -> Result<Self> {
        Self::new(start, start.checked_add(len).ok_or(EINVAL)?)
    }

    /// The page that holds the byte at `addr`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for the last page of all, whose end no address can express.
    pub fn page(addr: VirtAddr) -> Result<Self> {
        Self::from_len(addr.page(), PAGE_SIZE)
    }

    /// The aligned block of `size` bytes, at least a page, that holds the byte at `addr`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `size` is less than a page, and for the last block of all, whose end no
    /// address can express.
    pub fn block(addr: VirtAddr, size: Alignment) -> Result<Self> {
        Self::from_len(addr.align_down(size), size.as_usize())
    }

    /// Address of the first byte.
    #[inline]
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// Address of the byte after the last.
    #[inline]
    pub const fn end(self) -> VirtAddr {
        self.end
    }

    /// Size in bytes, never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty)]
    pub const fn len(self) -> usize {
        // OVERFLOW: `start < end` by the type invariants.
        self.end.0 - self.start.0
    }

    /// Size in pages, never zero.
    #[inline]
    pub const fn pages(self) -> usize {
        self.len() >> PAGE_SHIFT
    }

    /// Whether the byte at `addr` lies inside.
    #[inline]
    pub const fn contains(self, addr: VirtAddr) -> bool {
        self.start.0 <= addr.0 && addr.0 < self.end.0
    }

    /// Whether all of `other` lies inside.
    #[inline]
    pub const fn covers(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// The pages in both.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end)).ok()
    }

    /// The smallest range that covers both.
    pub fn hull(self, other: Self) -> Self {
        // INVARIANT: The smaller start is below the greater end, and alignment carries over.
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// Which page of the range, counted from zero, holds the byte at `addr`.
    #[inline]
    pub fn page_index(self, addr: VirtAddr) -> Option<usize> {
        self.contains(addr)
            .then(|| (addr.0 - self.start.0) >> PAGE_SHIFT)
    }

    /// Addresses of all pages, in order.
    pub fn iter_pages(self) -> impl Iterator<Item = VirtAddr> {
        (self.start.0..self.end.0)
            .step_by(PAGE_SIZE)
            .map(VirtAddr::new)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..{:?}", self.start, self.end)
    }
}

/// The number of a page frame: a physical address in units of [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Pfn(usize);

impl Pfn {
    /// For the abstractions of this folder: says nothing about whether the frame has a `struct
    /// page`.
    pub(super) const fn new(pfn: usize) -> Self {
        Self(pfn)
    }

    /// The number itself.
    #[inline]
    pub const fn as_usize(self) -> usize {
        self.0
    }
}
