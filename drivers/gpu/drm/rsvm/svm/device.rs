// SPDX-License-Identifier: GPL-2.0

//! What a mirrored address space needs of a GPU.
//!
//! `svm/` and `fault/service` know the hardware only through this trait, so that they could serve
//! another driver. GPU virtual addresses equal CPU virtual addresses throughout.

use super::bound::Bindings;
use crate::vram::Vram;
use kernel::{
    device::{
        Bound,
        BoundHandle,
        Device, //
    },
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        memremap::{
            DeviceMemory,
            Pagemap, //
        },
    },
    prelude::*,
    sync::Arc, //
};

pub(crate) use kernel::mm::space::{
    PageSize,
    Prot,
    Tables,
    Target,
    LEAF_PAGES,
    LEAF_SIZE, //
};

/// What the device wanted to do. Ordered: a later one needs all that an earlier one needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Load or instruction fetch.
    Read,
    /// Store.
    Write,
    /// Read-modify-write that must be atomic against the CPU.
    Atomic,
}

/// Bytes to be written, whole pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// What is copied; `None`: zeroes.
    pub(crate) from: Option<Target>,
    pub(crate) to: Target,
    pub(crate) len: usize,
}

/// The device does not obey any more: an acknowledgement did not come within its bound. Bus
/// mastering is off by the time anybody sees this value, so memory may be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wedged;

/// Table memory set aside before the page-table lock is taken; see [`Mmu::refill`].
pub(crate) type ReserveOf<M> = <<M as Mmu>::Tables as Tables>::Reserve;

/// Device memory that processes can have, and its allocator.
pub(crate) type MemoryOf<'a, M> = (&'a Arc<Pagemap<<M as Mmu>::Memory>>, &'a Arc<Vram>);

/// The memory management unit of a GPU.
pub(crate) trait Mmu: Send + Sync + Sized + 'static {
    /// The page tables of one space.
    type Tables: Tables;
    /// An invalidation that has not been waited for.
    type InFlight: Send;
    /// What of a space is bound to buffers of the device.
    type Bindings: Bindings;
    /// Device memory that processes can have.
    type Memory: DeviceMemory;
    /// Transfers that were begun.
    type UnderWay<'a>: UnderWay
    where
        Self: 'a;

    /// Makes empty tables. May sleep.
    fn new_tables(&self) -> Result<Self::Tables>;

    /// Tops `reserve` up to all that mapping one 2 MiB leaf in any way, and demoting it once, can
    /// need. May sleep; takes no lock that reclaim takes. Fails with `ENOMEM`.
    fn refill(&self, reserve: &mut ReserveOf<Self>) -> Result;

    /// Names `tables` in faults and invalidations.
    fn pdb(tables: &Self::Tables) -> Pdb;

    /// The device that does DMA.
    fn dma(&self) -> &Arc<BoundHandle>;

    /// The device that does DMA, for mapping system memory; `None` once it was unbound.
    fn with_dma_device<R>(&self, f: impl FnOnce(&Device<Bound>) -> R) -> Option<R> {
        self.dma().enter().map(|dev| f(&dev))
    }

    /// Sends an invalidation of `range` of `tables`, for entries that went away or lost rights. Called
    /// under the page-table lock; may sleep on the invalidation lock for a bounded time. Does not wait
    /// for the device.
    fn invalidate(&self, tables: &Self::Tables, range: PageRange) -> Self::InFlight;

    /// The same, but sends nothing: [`transfer`](Self::transfer) or [`wait`](Self::wait) does.
    fn invalidate_later(&self, tables: &Self::Tables, range: PageRange) -> Self::InFlight;

    /// Waits, bounded, until the device acknowledged: no access through an old translation is
    /// under way or to come, and stores through it are visible to the CPU. When the bound is
    /// over the device is wedged, which stops its bus mastering, and this returns all the same.
    /// May sleep; no lock is needed.
    fn wait(&self, flush: Self::InFlight);

    /// Completes a slice of faults: makes `mapped` ranges, whose entries were absent or weaker,
    /// known to the device, cancels `cancelled`, then replays. Called without the page-table
    /// lock. Waits, bounded, for the acknowledgement.
    fn complete(
        &self,
        tables: Pdb,
        mapped: &[PageRange],
        cancelled: &[Cancel],
    ) -> Result<(), Wedged>;

    /// Makes `range` known to the device, whose entries were absent or weaker, and replays. Waits,
    /// bounded, until each access that waited was translated or reported again. May be called with
    /// a folio locked.
    fn replay(&self, tables: Pdb, range: PageRange) -> Result<(), Wedged>;

    /// The serial number of the next fault that the device reports. May sleep.
    fn next_report(&self) -> u64;

    /// The serial number of the next fault that is read from what the device reported.
    fn next_read(&self) -> u64;

    /// Reads all that the device reported so far, and submits it to the spaces. May sleep, bounded,
    /// and may be called with a folio locked.
    fn read_reports(&self);

    /// Whether the device was unbound or is wedged.
    fn is_gone(&self) -> bool;

    /// Device memory that processes can have, if there is any, and who allocates it.
    fn memory(&self) -> Option<MemoryOf<'_, Self>>;

    /// Has the device copy and zero. Bounded; may be called with folios locked, in reclaim, and
    /// allocates nothing. The calling thread neither allocates nor enters mm before the end, but for
    /// putting in place what arrived.
    ///
    /// What is still to be sent of `first` goes ahead of it. If all is well that was acknowledged
    /// then, and [`wait`](Self::wait) returns at once.
    ///
    /// # Errors
    ///
    /// `EIO`: nothing may be relied on, but trying again is fine. `ENODEV`: the device reaches no
    /// memory any more.
    fn transfer(
        &self,
        first: Option<&mut Self::InFlight>,
        transfers: &mut dyn Iterator<Item = Transfer>,
    ) -> Result<Self::UnderWay<'_>>;
}

/// Transfers under way. Dropping it waits, bounded, for all of them.
pub(crate) trait UnderWay: Sized {
    /// Waits, bounded, for some more of them, in the order they were given in, and tells how many are
    /// done now and visible to everybody; `None` if there are no more.
    ///
    /// # Errors
    ///
    /// As for [`Mmu::transfer`]; it is about those that did not arrive before.
    fn arrive(&mut self) -> Result<Option<usize>>;

    /// Waits for all of them.
    ///
    /// # Errors
    ///
    /// As for [`arrive`](Self::arrive).
    fn finish(mut self) -> Result {
        while self.arrive()?.is_some() {}
        Ok(())
    }
}

/// Identifies a set of tables to [`Mmu::complete`]; a plain number, valid while the tables live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pdb(pub(crate) u64);

/// A fault that cannot be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cancel {
    /// Byte address that was reported.
    pub(crate) addr: VirtAddr,
    pub(crate) access: Access,
    /// Which of the space's queues, as the fault reported it.
    pub(crate) source: Source,
}

/// Who faulted: opaque to the mirror, equal for faults of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source(pub(crate) u32);
