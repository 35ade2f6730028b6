// SPDX-License-Identifier: GPL-2.0

//! The device's page tables, as far as a space has to do with them.

use super::VirtAddr;
use crate::{
    dma::DmaAddress,
    prelude::*,
    sizes::SZ_2M, //
};

/// Bytes under one leaf: the reach of one entry of the device's last directory.
pub const LEAF_SIZE: usize = SZ_2M;
/// 4 KiB pages in a leaf.
pub const LEAF_PAGES: usize = LEAF_SIZE / PAGE;

/// Bytes of the device's smallest page.
const PAGE: usize = 4096;

// A slot of a leaf stands for a page of the process.
const _: () = assert!(crate::page::PAGE_SIZE == PAGE);

/// Size of the memory that one PTE maps.
///
/// # Examples
///
/// ```
/// use kernel::mm::space::{PageSize, Target, LEAF_PAGES};
///
/// assert_eq!(PageSize::Size64K.pages(), 16);
/// assert_eq!(PageSize::Size2M.pages(), LEAF_PAGES);
///
/// // A large PTE needs a target that is a multiple of its size.
/// let target = Target::Vram(0x20_0000);
/// assert!(target.is_aligned(PageSize::Size2M));
/// assert!(target.offset(16).is_aligned(PageSize::Size64K));
/// assert!(!target.offset(16).is_aligned(PageSize::Size2M));
/// assert!(!Target::System(0x1000).is_aligned(PageSize::Size64K));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 64 KiB.
    Size64K,
    /// 2 MiB, a whole leaf.
    Size2M,
}

impl PageSize {
    /// The size in 4 KiB pages.
    #[inline]
    pub const fn pages(self) -> usize {
        match self {
            Self::Size4K => 1,
            Self::Size64K => 16,
            Self::Size2M => LEAF_PAGES,
        }
    }
}

/// What a PTE allows. Reading is always allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prot {
    /// The device may write.
    pub write: bool,
    /// The device may run atomics.
    pub atomic: bool,
}

/// Where a PTE points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A bus address of system memory.
    System(DmaAddress),
    /// A byte offset into device memory.
    Vram(u64),
}

impl Target {
    /// The target `pages` 4 KiB pages further on.
    #[inline]
    pub fn offset(self, pages: usize) -> Self {
        // CAST: Widening.
        let bytes = (pages * PAGE) as u64;
        match self {
            Self::System(addr) => Self::System(addr + bytes),
            Self::Vram(addr) => Self::Vram(addr + bytes),
        }
    }

    /// Whether the target is a multiple of `size`.
    #[inline]
    pub fn is_aligned(self, size: PageSize) -> bool {
        let (Self::System(addr) | Self::Vram(addr)) = self;
        // CAST: Widening.
        addr & ((size.pages() * PAGE) as u64 - 1) == 0
    }
}

/// Page tables of a device, for one address space. GPU virtual addresses equal CPU virtual addresses.
///
/// Only the space calls these methods, with the page-table lock held. None allocates or sleeps. An
/// implementation is trusted to change the entry that it is told to change.
pub trait Tables: Send + 'static {
    /// Table memory set aside before the lock is taken. It may be dropped only without the lock.
    type Reserve: Send + Default;

    /// Writes the PTE of `size` at `va`, both aligned to it. A PTE of the same size is replaced;
    /// those of other sizes below or above have been cleared.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if `reserve` is exhausted, with nothing changed.
    fn write(
        &mut self,
        va: VirtAddr,
        size: PageSize,
        target: Target,
        prot: Prot,
        reserve: &mut Self::Reserve,
    ) -> Result;

    /// Makes the PTE of `size` at `va` invalid.
    fn clear(&mut self, va: VirtAddr, size: PageSize);

    /// Replaces the 2 MiB PTE at `va` by 4 KiB ones that `entry` gives for page 0..512; [`None`]
    /// stays invalid. Takes its table from `reserve`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if `reserve` has no table, with nothing changed.
    fn demote(
        &mut self,
        va: VirtAddr,
        reserve: &mut Self::Reserve,
        entry: impl FnMut(usize) -> Option<(Target, Prot)>,
    ) -> Result;

    /// Takes the tables below the leaf at `va`, which has no valid PTE, out of the directory. The
    /// space keeps their memory until a flush that it starts after this call is acknowledged.
    fn unhook(&mut self, va: VirtAddr) -> Self::Reserve;

    /// Splits off the table that demoting one leaf takes, or nothing if `reserve` is exhausted.
    fn take_demotion(reserve: &mut Self::Reserve) -> Self::Reserve;
}
