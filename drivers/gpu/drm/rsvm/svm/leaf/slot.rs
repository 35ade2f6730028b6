// SPDX-License-Identifier: GPL-2.0

//! What a leaf knows of one page.

use crate::svm::device::{
    PageSize,
    Prot,
    Target, //
};

/// One page, packed: a bus address or VRAM offset is a multiple of 4 KiB, which leaves 12 bits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Slot(u64);

impl Slot {
    const HELD: u64 = 1 << 0;
    const LIVE: u64 = 1 << 1;
    const WRITE: u64 = 1 << 2;
    const ATOMIC: u64 = 1 << 3;
    const VRAM: u64 = 1 << 4;
    const SIZE_64K: u64 = 1 << 5;
    const SIZE_2M: u64 = 1 << 6;
    const EXCLUSIVE: u64 = 1 << 7;
    const ADDR: u64 = !0xfff;

    const SIZE: u64 = Self::SIZE_64K | Self::SIZE_2M;

    /// A page with a bus address and no PTE.
    pub(super) fn held(target: Target) -> Self {
        match target {
            Target::System(addr) => Self((addr & Self::ADDR) | Self::HELD),
            Target::Vram(addr) => Self((addr & Self::ADDR) | Self::HELD | Self::VRAM),
        }
    }

    /// A page that a 4 KiB PTE maps.
    pub(crate) fn live(target: Target, prot: Prot) -> Self {
        let mut bits = Self::held(target).0 | Self::LIVE;
        if prot.write {
            bits |= Self::WRITE;
        }
        if prot.atomic {
            bits |= Self::ATOMIC;
        }
        Self(bits)
    }

    /// A page of system memory that a 4 KiB PTE maps for atomics, while no CPU has it.
    pub(crate) fn exclusive(addr: u64) -> Self {
        let prot = Prot {
            write: true,
            atomic: true,
        };
        Self(Self::live(Target::System(addr), prot).0 | Self::EXCLUSIVE)
    }

    fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    pub(crate) fn is_held(self) -> bool {
        self.has(Self::HELD)
    }

    pub(crate) fn is_live(self) -> bool {
        self.has(Self::LIVE)
    }

    /// Whether it is live, and no CPU may have the page before that ends.
    pub(crate) fn is_exclusive(self) -> bool {
        self.has(Self::EXCLUSIVE)
    }

    pub(crate) fn target(self) -> Target {
        if self.has(Self::VRAM) {
            Target::Vram(self.0 & Self::ADDR)
        } else {
            Target::System(self.0 & Self::ADDR)
        }
    }

    pub(crate) fn prot(self) -> Prot {
        Prot {
            write: self.has(Self::WRITE),
            atomic: self.has(Self::ATOMIC),
        }
    }

    /// Size of the PTE that maps the page.
    pub(crate) fn size(self) -> PageSize {
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

    /// The same page without a PTE.
    pub(super) fn without_pte(self) -> Self {
        Self(self.0 & !(Self::LIVE | Self::WRITE | Self::ATOMIC | Self::SIZE | Self::EXCLUSIVE))
    }

    /// Whether a PTE of `self` may be replaced by one of `new` while the device uses it: same
    /// place, same size, no right less.
    pub(super) fn grows_into(self, new: Self) -> bool {
        let rights = Self::WRITE | Self::ATOMIC;
        self.target() == new.target() && self.size() == new.size() && self.0 & rights & !new.0 == 0
    }
}
