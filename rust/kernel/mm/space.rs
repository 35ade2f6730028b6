// SPDX-License-Identifier: GPL-2.0

//! A device uses the memory of a process.
//!
//! # Overview
//!
//! A [`Space`] mirrors the address space of one process in the page tables of one device. It owns
//! everything that the safety of the process's memory depends on: a reference to the mm, the
//! page-table lock, the intervals that core mm calls, the pagemap of the device's own memory, and
//! the shadow of each 2 MiB leaf of the tables with the bus addresses of its pages.
//!
//! A driver implements [`Tables`], which writes and clears entries, and [`Mirror`], which starts and
//! awaits flushes. It maps pages with [`Commit::map`](super::hmm::Commit::map),
//! [`ExclusiveCommit::map`](super::hmm::ExclusiveCommit::map) and, for buffer objects in its own memory,
//! [`Guard::map_object`]. These three are all the ways into the tables. The space alone takes pages
//! away again: when core mm announces a change, when the driver asks for it with [`Space::revoke`],
//! and at [`Space::close`].
//!
//! # Trust
//!
//! A driver is trusted in two things. [`Tables::write`], [`Tables::clear`] and [`Tables::demote`]
//! change the entries that they name. [`Mirror::wait`] returns only after the device has
//! acknowledged the flush, or cannot reach memory any more. Locks, lifetimes, dirty marks, DMA
//! mappings and the release of pages do not depend on the driver.
//!
//! A space that was not closed goes on to call the driver. So a module keeps itself loaded until
//! [`Space::close`] and [`Space::barrier`] returned.
//!
//! # Locking
//!
//! 1. `mmap_lock`, taken in here and in [`hmm`](super::hmm), never by the driver
//! 2. folio lock
//! 3. page-table lock, [`Space::lock`]
//! 4. locks taken in [`Tables`] and [`Mirror::start_flush`]
//!
//! The page-table lock is taken in memory reclaim. Nothing may be allocated under it, no memory for
//! DMA may be freed under it, and no lock may be taken under it that is held elsewhere across an
//! allocation. Two of them never nest. Lockdep knows of this through the annotations of the notifier
//! and of reclaim.
//!
//! # Revocation
//!
//! Core mm announces a change in two passes over all intervals hit: the first takes the lock,
//! advances the sequence, clears PTEs, marks folios dirty and starts a flush; the second waits for
//! the flush. A page whose PTE was cleared *leaves* with that one flush. When it is acknowledged, or
//! a later one that covers the page, the page is unmapped from DMA and forgotten; no flush frees a
//! page that leaves with a later one. So it does not matter in which order flushes are acknowledged,
//! nor what was mapped beside or between them: a page that was committed through a nested interval
//! after one flush began, and revoked by the next, stays mapped for DMA until the next is
//! acknowledged.
//!
//! A page that is leaving cannot be mapped anew. A change that hits one has a flush of its own:
//! waiting for the other one would deadlock where both belong to one change. A change that must not
//! sleep (from the OOM killer) is refused before anything happens if a page in the range is mapped
//! or leaving, or if the lock is taken.
//!
//! `MMU_NOTIFY_EXCLUSIVE` events that the space causes itself are skipped; without that an exclusive
//! page could never be mapped. Migrations, the space's own too, are never skipped: the PTE has to go
//! before the page is copied. But the flush of an own one need not be over before that, so core mm
//! does not wait for it: the migration does; see [`Unflushed`](super::migrate::Unflushed).
//!
//! # Intervals
//!
//! The space watches aligned *nodes*, created by [`MmSession::node`] where something is about to be
//! mapped. A worker removes those in which nothing is mapped any more and to which no
//! [`IntervalRef`] exists.
//! `mmu_interval_notifier_remove()` does not advance the sequence, so a commit on the way could map
//! pages that nobody would take away again. So a node is first marked dead under the lock, and its
//! pages are revoked; commits see the mark.
//!
//! [`MmSession::insert_within`] watches a part of a node a second time. Such an interval has a
//! sequence of its own, for a page whose surroundings change so often that no commit gets through.
//! When it ends nothing is revoked, since the node still watches the page.
//!
//! # Examples
//!
//! Pages of the process are mapped with [`hmm`](super::hmm). This maps pages of an object in the
//! driver's own device memory, and takes them away again.
//!
//! ```
//! use kernel::{
//!     mm::{
//!         addr::PageRange,
//!         space::{leaf_index, Mirror, Space, Supplies},
//!     },
//!     page::PAGE_SIZE,
//!     sync::Arc,
//! };
//!
//! /// Maps an object that lies at byte `offset` of the device's memory. Returns the PTEs written.
//! fn bind<T: Mirror>(
//!     space: &Arc<Space<T>>,
//!     range: PageRange,
//!     offset: u64,
//!     supplies: &mut Supplies<T>,
//! ) -> Result<[usize; 3]> {
//!     space.prepare(supplies, leaf_index(range.start()))?;
//!     let place = |page| Some(offset + (page * PAGE_SIZE) as u64);
//!     Ok(space.lock().map_object(range, true, supplies, place)?.ptes)
//! }
//!
//! # #[cfg(CONFIG_RUST_MM_KUNIT_TEST)] {
//! # use kernel::mm::testing::*;
//! # let range = map_anon(PROT_RW)?;
//! # let fixture = Fixture::new(range)?;
//! # let space = fixture.space.clone();
//! # let mut supplies = fixture.supplies()?;
//! // Nothing is mapped where nothing is watched.
//! let page = nth(range, 0)?;
//! assert!(bind(&space, page, 0, &mut supplies).is_err_and(|error| error == EAGAIN));
//!
//! let session = fixture.session()?;
//! session.node(range.start())?;
//! assert_eq!(bind(&space, range, 0x1000, &mut supplies)?, [range.pages(), 0, 0]);
//! let slot = space.lock().slot(page.start());
//! assert!(slot.is_live() && slot.prot().write && slot.private_page().is_none());
//!
//! // The same once more changes nothing. Something else has to wait until the first is revoked.
//! assert_eq!(bind(&space, range, 0x1000, &mut supplies)?, [0, 0, 0]);
//! assert_eq!(bind(&space, range, 0x4000, &mut supplies)?, [0, 0, 0]);
//! space.revoke(range, |_, _| Ok(()))?;
//! assert_eq!(bind(&space, range, 0x4000, &mut supplies)?, [range.pages(), 0, 0]);
//!
//! // A closed space maps nothing.
//! space.close();
//! assert!(bind(&space, range, 0, &mut supplies).is_err());
//! assert_eq!(fixture.entered(), 0);
//! # }
//! # Ok::<(), Error>(())
//! ```

use super::{
    addr::{
        PageRange,
        Pfn,
        VirtAddr, //
    },
    memremap::{
        DeviceMemory,
        Pagemap, //
    },
    Mm, //
};
use crate::{
    device::{
        BoundGuard,
        BoundHandle, //
    },
    new_condvar,
    new_mutex,
    new_spinlock,
    prelude::*,
    ptr::Alignment,
    sync::{
        aref::ARef,
        atomic::AtomicFlag,
        Arc,
        CondVar,
        Mutex,
        SpinLock, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work, //
    }, //
};
use core::ops::Range;

mod deferred;
mod dma;
mod interval;
mod leaf;
mod lock;
mod revoke;
mod session;
mod slot;
mod supplies;
mod tables;
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;

pub(super) use self::{
    deferred::Deferred,
    leaf::Found,
    lock::page_in_leaf, //
};
use self::{
    interval::Node,
    lock::Protected, //
};
pub use self::{
    interval::{
        IntervalRef,
        OwnInterval, //
    },
    leaf::Revoked,
    lock::{
        Guard,
        Leaf,
        Mapped, //
    },
    session::MmSession,
    slot::Slot,
    supplies::Supplies,
    tables::{
        PageSize,
        Prot,
        Tables,
        Target,
        LEAF_PAGES,
        LEAF_SIZE, //
    }, //
};
pub use super::mmu_interval::Reason;

/// A driver's part in a [`Space`].
///
/// Methods are called with the page-table lock held, if not said otherwise, and possibly in reclaim.
pub trait Mirror: Sized + Send + Sync + 'static {
    /// The device's page tables of one space.
    type Tables: Tables;

    /// State of the driver's that the page-table lock protects.
    type State: Send;

    /// State of the driver's for each leaf, under the same lock. It is dropped without the lock.
    type Leaf: Send + Default;

    /// A flush that was started.
    type Flush: Send;

    /// The device's own memory, that processes may have pages in;
    /// [`NoDeviceMemory`](super::memremap::NoDeviceMemory) if it has none.
    type Memory: DeviceMemory;

    /// Starts a flush: the device is to forget every translation in `range`, in whatever table level
    /// and of whatever size, and to finish accesses that use one. May sleep for a bounded time.
    fn start_flush(&self, tables: &Self::Tables, range: PageRange, when: Start) -> Self::Flush;

    /// Waits until the device has acknowledged `flush`, or cannot reach memory any more. Must return
    /// within a bounded time. Called without the lock, except for a flush that a commit needs.
    fn wait(&self, flush: Self::Flush);

    /// Hears that the pages `hit` of `leaf`, the leaf with number `index`, are about to be revoked.
    fn revoking(
        &self,
        event: &Event,
        index: usize,
        leaf: &mut Leaf<'_, Self>,
        hit: Range<usize>,
        state: &mut Self::State,
    ) {
        let _ = (event, index, leaf, hit, state);
    }

    /// Hears what `event` took away, if there was anything to flush.
    fn revoked(&self, event: &Event, revoked: &Revoked) {
        let _ = (event, revoked);
    }

    /// Hears of a node that was created, or removed since nothing was mapped in it any more. Called
    /// without the lock.
    fn node_changed(&self, removed: bool) {
        let _ = removed;
    }
}

/// When a flush has to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Now,
    /// At once, for PTEs that a commit writes anew; it waits with the lock held.
    Commit,
    /// At once, as the space stops watching the range.
    Unwatch,
    /// By [`Mirror::wait`] at the latest. A migration of this thread's own has it sent when it
    /// copies.
    Deferred,
}

/// What is revoked, and why.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    range: PageRange,
    reason: Reason,
    start: Start,
}

impl Event {
    fn new(range: PageRange, reason: Reason, start: Start) -> Self {
        Self {
            range,
            reason,
            start,
        }
    }

    /// The pages whose PTEs have to go: the change, cut to the interval.
    #[inline]
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Why they have to go.
    #[inline]
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

/// The mirror of one address space; see the [module documentation](self).
///
/// # Invariants
///
/// All leaves map pages for the device of `dev`, and device memory of `pagemap` only.
#[pin_data]
pub struct Space<T: Mirror> {
    mm: ARef<Mm>,
    dev: Arc<BoundHandle>,
    pagemap: Option<Arc<Pagemap<T::Memory>>>,
    node_size: Alignment,
    #[pin]
    ops: T,
    #[pin]
    protected: Mutex<Protected<T>>,
    /// A node may have become empty.
    wants_prune: AtomicFlag,
    /// Intervals that were dropped without having been removed; the worker's list.
    #[pin]
    dropped: SpinLock<Option<Arc<Node<T>>>>,
    /// How many intervals are registered.
    #[pin]
    registered: Mutex<usize>,
    /// `registered` became zero.
    #[pin]
    none_left: CondVar,
    #[pin]
    worker: Work<Space<T>>,
}

impl_has_work! {
    impl{T: Mirror} HasWork<Self> for Space<T> { self.worker }
}

impl<T: Mirror> Space<T> {
    /// Mirrors `mm`, of which the space holds a reference by `mmgrab()`, in `tables`, in which nothing
    /// is mapped. Pages of `pagemap` are the device's own. Nodes are blocks of `node_size` bytes, a
    /// multiple of [`LEAF_SIZE`].
    ///
    /// Sleeps on `mmap_lock`. [`Space::close`] has to be called in the end.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] if `node_size` is less than a leaf; [`ESRCH`] if the process has left
    /// the mm; [`EINTR`] if the calling thread is killed.
    pub fn new(
        mm: ARef<Mm>,
        dev: Arc<BoundHandle>,
        pagemap: Option<Arc<Pagemap<T::Memory>>>,
        node_size: Alignment,
        (tables, state): (T::Tables, T::State),
        ops: impl PinInit<T>,
    ) -> Result<Arc<Self>> {
        if node_size.as_usize() < LEAF_SIZE {
            return Err(EINVAL);
        }
        let this = Arc::pin_init(
            // INVARIANT: There are no leaves.
            pin_init!(Self {
                mm,
                dev,
                pagemap,
                node_size,
                ops <- ops,
                protected <- new_mutex!(Protected::new(tables, state), "Space::protected"),
                wants_prune: AtomicFlag::new(false),
                dropped <- new_spinlock!(None, "Space::dropped"),
                registered <- new_mutex!(0, "Space::registered"),
                none_left <- new_condvar!("Space::none_left"),
                worker <- new_work!("Space::worker"),
            }),
            GFP_KERNEL,
        )?;
        // The first interval of a process is the only one whose insertion takes `mmap_lock`. It
        // stays as long as the space.
        let first = match this.enter() {
            Some(session) => session.node(VirtAddr::new(0)).map(|_| ()),
            None => Err(ESRCH),
        };
        if first.is_err() {
            this.close();
            this.barrier();
        }
        first.map(|()| this)
    }

    /// The address space.
    pub fn mm(&self) -> &Mm {
        &self.mm
    }

    /// The driver's part.
    pub fn ops(&self) -> &T {
        &self.ops
    }

    /// The pagemap of the device's own memory.
    pub fn pagemap(&self) -> Option<&Arc<Pagemap<T::Memory>>> {
        self.pagemap.as_ref()
    }

    /// The value by which core mm tells exclusive access of this space from that of others.
    pub(super) fn owner(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// What core mm is told to leave alone for this space.
    pub(super) fn private_owner(&self) -> *mut c_void {
        let owner = self.pagemap.as_ref().map(|pagemap| pagemap.owner());
        owner.unwrap_or(core::ptr::null_mut())
    }

    /// Which page of the space's pagemap has the frame `pfn`.
    pub(super) fn private_page(&self, pfn: Pfn) -> Option<u32> {
        self.pagemap.as_ref()?.index(pfn)
    }

    /// The device that pages are mapped for; [`None`] once it is unbound.
    pub(super) fn dma_device(&self) -> Option<BoundGuard<'_>> {
        self.dev.enter()
    }

    /// Number of the node that `addr` lies in.
    fn node_key(&self, addr: VirtAddr) -> usize {
        addr.as_usize() / self.node_size.as_usize()
    }
}

/// Number of the leaf that holds the byte at `addr`.
pub fn leaf_index(addr: VirtAddr) -> usize {
    addr.as_usize() / LEAF_SIZE
}

/// The pages of `range` in the leaf `index`, counted from the leaf's start; [`None`] if the leaf
/// begins behind them. The leaf does not end before them.
fn pages_of(index: usize, range: PageRange) -> Option<Range<usize>> {
    use crate::page::PAGE_SIZE;
    // OVERFLOW: A leaf exists for addresses of a process only, far from the end of all.
    let base = index * LEAF_SIZE;
    let end = range
        .end()
        .as_usize()
        .checked_sub(base)
        .filter(|&end| end != 0)?;
    let start = range.start().as_usize().saturating_sub(base);
    Some(start / PAGE_SIZE..(end / PAGE_SIZE).min(LEAF_PAGES))
}

/// The addresses of `pages` of the leaf `index`; [`None`] if there are none.
pub fn addresses_of(index: usize, pages: Range<usize>) -> Option<PageRange> {
    use crate::page::PAGE_SIZE;
    let at = |page: usize| VirtAddr::new(index * LEAF_SIZE + page * PAGE_SIZE);
    PageRange::new(at(pages.start), at(pages.end)).ok()
}
