// SPDX-License-Identifier: GPL-2.0

//! The shadow of one page.

use super::{
    PageSize,
    Prot,
    Target, //
};
use crate::page::PAGE_SHIFT;

/// Names a flush; counted from 1 in each space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlushId(pub(super) u64);

/// What a space knows of one page.
///
/// A slot is
///
/// - *free*: nothing is known of the page;
/// - *live*: a PTE maps it;
/// - *leaving*: its PTE is gone, and the device may still reach the page until one certain flush is
///   acknowledged;
/// - *bare*, only while the space changes it under the lock: it has a target and no PTE.
///
/// Packed: a bus address or an offset in device memory is a multiple of 4 KiB, which leaves 12 bits.
/// A leaving slot has the number of its flush there.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot(u64);

impl Slot {
    const LIVE: u64 = 1 << 0;
    const LEAVING: u64 = 1 << 1;
    const BARE: u64 = 1 << 2;
    const WRITE: u64 = 1 << 3;
    const ATOMIC: u64 = 1 << 4;
    const VRAM: u64 = 1 << 5;
    const OBJECT: u64 = 1 << 6;
    const EXCLUSIVE: u64 = 1 << 7;
    const SIZE_64K: u64 = 1 << 8;
    const SIZE_2M: u64 = 1 << 9;

    const STATE: u64 = Self::LIVE | Self::LEAVING | Self::BARE;
    const SIZE: u64 = Self::SIZE_64K | Self::SIZE_2M;
    const RIGHTS: u64 = Self::WRITE | Self::ATOMIC;
    const VALUE: u64 = !((1 << PAGE_SHIFT) - 1);

    pub(super) const FREE: Self = Self(0);

    /// A page of the process that a 4 KiB PTE maps.
    pub(super) fn live(target: Target, prot: Prot) -> Self {
        let mut bits = Self::LIVE;
        bits |= match target {
            Target::System(addr) => addr & Self::VALUE,
            Target::Vram(addr) => (addr & Self::VALUE) | Self::VRAM,
        };
        if prot.write {
            bits |= Self::WRITE;
        }
        if prot.atomic {
            bits |= Self::ATOMIC;
        }
        Self(bits)
    }

    /// A prepared page that no CPU has.
    pub(in crate::mm) fn exclusive_of(slot: Self) -> Self {
        Self(slot.0 | Self::EXCLUSIVE)
    }

    /// A page of an object of the driver's, at byte `offset` of device memory.
    pub(super) fn object(offset: u64, write: bool) -> Self {
        let prot = Prot {
            write,
            atomic: write,
        };
        Self(Self::live(Target::Vram(offset), prot).0 | Self::OBJECT)
    }

    pub(super) fn leaving(flush: FlushId) -> Self {
        Self(flush.0 << PAGE_SHIFT | Self::LEAVING)
    }

    fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    pub(super) fn is_free(self) -> bool {
        self.0 & Self::STATE == 0
    }

    /// Whether a PTE maps the page.
    #[inline]
    pub fn is_live(self) -> bool {
        self.has(Self::LIVE)
    }

    pub(super) fn is_bare(self) -> bool {
        self.has(Self::BARE)
    }

    /// The flush that it leaves with.
    pub(super) fn leaves_with(self) -> Option<FlushId> {
        self.has(Self::LEAVING)
            .then_some(FlushId(self.0 >> PAGE_SHIFT))
    }

    /// Whether the page is live, and no CPU may have it before that ends.
    #[inline]
    pub fn is_exclusive(self) -> bool {
        self.is_live() && self.has(Self::EXCLUSIVE)
    }

    /// Whether the page is live and one of the process, in system memory.
    #[inline]
    pub fn is_system(self) -> bool {
        self.is_live() && !self.has(Self::VRAM)
    }

    /// Whether it belongs to an object of the driver's.
    pub(super) fn is_object(self) -> bool {
        self.has(Self::OBJECT)
    }

    /// Which page of the pagemap is mapped; [`None`] unless the page is live and a page of the
    /// process in device memory.
    #[inline]
    pub fn private_page(self) -> Option<u32> {
        (self.is_live() && self.has(Self::VRAM) && !self.is_object())
            // CAST: Pagemaps have less than 2^32 pages.
            .then_some((self.0 >> PAGE_SHIFT) as u32)
    }

    pub(in crate::mm) fn target(self) -> Target {
        if self.has(Self::VRAM) {
            Target::Vram(self.0 & Self::VALUE)
        } else {
            Target::System(self.0 & Self::VALUE)
        }
    }

    /// The rights of the PTE; none if the page is not live.
    #[inline]
    pub fn prot(self) -> Prot {
        Prot {
            write: self.is_live() && self.has(Self::WRITE),
            atomic: self.is_live() && self.has(Self::ATOMIC),
        }
    }

    /// The rights of the PTE; [`None`] if the page is not live.
    #[inline]
    pub fn rights(self) -> Option<Prot> {
        self.is_live().then(|| self.prot())
    }

    /// Whether the device can have written to the page since it was mapped.
    pub(super) fn may_be_dirty(self) -> bool {
        self.has(Self::WRITE)
    }

    /// Size of the PTE that maps the page.
    #[inline]
    pub fn size(self) -> PageSize {
        if self.has(Self::SIZE_2M) {
            PageSize::Size2M
        } else if self.has(Self::SIZE_64K) {
            PageSize::Size64K
        } else {
            PageSize::Size4K
        }
    }

    pub(super) fn with_size(self, size: PageSize) -> Self {
        let bit = match size {
            PageSize::Size4K => 0,
            PageSize::Size64K => Self::SIZE_64K,
            PageSize::Size2M => Self::SIZE_2M,
        };
        Self((self.0 & !Self::SIZE) | bit)
    }

    /// The same page after its PTE was cleared. What the PTE allowed is remembered.
    pub(super) fn bare(self) -> Self {
        Self((self.0 & !(Self::STATE | Self::SIZE)) | Self::BARE)
    }

    /// Whether both are mapped alike, apart from the target and the size of the PTE.
    pub(super) fn is_alike(self, other: Self) -> bool {
        let kind = !(Self::VALUE | Self::SIZE);
        (self.0 ^ other.0) & kind == 0
    }

    /// Whether a PTE of `self` may be replaced by one of `new` while the device uses it: the same
    /// target, the same size, no right less.
    pub(super) fn grows_into(self, new: Self) -> bool {
        self.target() == new.target()
            && self.size() == new.size()
            && self.0 & Self::RIGHTS & !new.0 == 0
    }
}
