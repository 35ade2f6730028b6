// SPDX-License-Identifier: GPL-2.0

//! Heterogeneous memory management: what memory a device may be given, and when.
//!
//! # Overview
//!
//! A page enters a device's page tables in four steps:
//!
//! 1. [`MmSession::fault_in`] makes the pages that the device wants accessible, as if a CPU had
//!    touched them. What it saw is thrown away.
//! 2. [`MmSession::snapshot`] looks at a window around them and changes nothing. Absent in it means
//!    unknown: what is mapped there already, stays.
//! 3. [`Snapshot::commit`] asks, with the page-table lock held, whether anything changed since.
//! 4. The [`Commit`] gives out the tables and the pages that may be entered, as [`ReadPage`] and
//!    [`WritePage`], until the lock is released. [`DmaMap::map`] turns them into bus addresses.
//!
//! Step 1 cannot be joined with step 2, since `hmm_range_fault()` faults every page from the first
//! one missing to the end of its page table, whatever is asked of each: it would fill holes, copy
//! shared neighbours and bring device memory home.
//!
//! If step 3 fails, start again at step 2. The sequence belongs to the interval, so if it keeps
//! changing use an interval of one page; see [`MmSession::insert_within`].
//!
//! No lock of the driver may be held in steps 1 and 2, which take `mmap_lock` and may block as long
//! as the memory's owner likes: it may be served by a user process.
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     mm::{
//!         addr::PageRange,
//!         hmm::{PfnBuf, Reject},
//!         mmu_interval::{IntervalRef, MmSession, Mirror},
//!     },
//!     time::msecs_to_jiffies,
//! };
//!
//! /// Enters what is present of `window` after `wanted` was faulted in.
//! fn serve<T: Mirror>(
//!     session: &MmSession<'_, T>,
//!     interval: &IntervalRef<T>,
//!     mirror: &T,
//!     wanted: PageRange,
//!     window: PageRange,
//!     buf: &mut PfnBuf,
//!     enter: impl Fn(&mut T::Pt, usize, bool),
//! ) -> Result<bool> {
//!     let timeout = msecs_to_jiffies(1000);
//!     session.fault_in(interval, wanted, true, timeout, buf).map_err(|_| EFAULT)?;
//!     let snapshot = session.snapshot(interval, window, timeout, buf).map_err(|_| EAGAIN)?;
//!
//!     let mut guard = mirror.pt_lock().lock();
//!     match snapshot.commit(&mut guard) {
//!         Ok(mut commit) => {
//!             let (pt, _, pages) = commit.split();
//!             for index in 0..window.pages() {
//!                 if let Some(page) = pages.get(index) {
//!                     enter(pt, page.pfn().as_usize(), page.writable().is_some());
//!                 }
//!             }
//!             Ok(true)
//!         }
//!         Err(Reject::Collided) => Ok(false),
//!         Err(_) => Err(ESRCH),
//!     }
//! }
//! ```
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)

use super::{
    addr::{
        PageRange,
        Pfn,
        VirtAddr, //
    },
    mmu_interval::{
        IntervalRef,
        Mirror,
        MmSession,
        Protected,
        PtGuard, //
    },
    virt::flags,
};
use crate::{
    bindings,
    error::to_result,
    prelude::*,
    time::Jiffies, //
};
use core::marker::PhantomData;

mod dma;
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;

pub use self::dma::{
    DmaMap,
    DmaPage,
    Revoked, //
};

const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
const WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;
const ORDER_SHIFT: usize = bindings::hmm_pfn_flags_HMM_PFN_ORDER_SHIFT;

/// Why memory cannot be given to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// Nothing is mapped at one of the addresses.
    NoMapping,
    /// The mapping does not allow the access.
    Protection,
    /// The mapping has no memory behind it there: past the end of a file, poisoned, or a device's
    /// registers.
    NoBacking,
    /// No memory left.
    NoMemory,
    /// The memory kept changing until the time was over.
    Busy,
    /// The process is being killed.
    Dying,
    /// The interval is not of this session, does not cover the range, or the buffer is too small.
    Invalid,
}

/// Why a snapshot cannot be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The memory changed since, or is changing.
    Collided,
    /// The interval was killed.
    Dead,
    /// The lock is that of another space.
    WrongSpace,
}

/// A buffer for what `hmm_range_fault()` reports. Nothing else ever points to it.
pub struct PfnBuf(KVVec<usize>);

impl PfnBuf {
    /// Makes room for ranges of up to `pages` pages.
    pub fn new(pages: usize) -> Result<Self> {
        Ok(Self(KVVec::from_elem(0, pages, GFP_KERNEL)?))
    }
}

impl<T: Mirror> MmSession<'_, T> {
    /// Makes all of `range` readable, and writable if `write`, as a CPU's access would.
    ///
    /// `range` should be no more than what the device asked for. `interval` may be any that covers
    /// it. `timeout` bounds how long changes of the address space are waited for, but not how long
    /// a fault takes. Takes `mmap_lock`; needs to be called without any lock that a [`Mirror`]
    /// takes.
    ///
    /// # Errors
    ///
    /// All of [`FaultError`].
    pub fn fault_in(
        &self,
        interval: &IntervalRef<T>,
        range: PageRange,
        write: bool,
        timeout: Jiffies,
        buf: &mut PfnBuf,
    ) -> Result<(), FaultError> {
        let request = if write { VALID | WRITE } else { VALID };
        self.walk(interval, range, request, timeout, buf)
            .map(|_| ())
            .map_err(|error| self.explain(error, range, write))
    }

    /// Looks at `range`, which `interval` covers, and changes nothing.
    ///
    /// `timeout` and locks as for [`MmSession::fault_in`].
    ///
    /// # Errors
    ///
    /// [`FaultError::Busy`], [`FaultError::Dying`], [`FaultError::Invalid`].
    pub fn snapshot<'b>(
        &self,
        interval: &IntervalRef<T>,
        range: PageRange,
        timeout: Jiffies,
        buf: &'b mut PfnBuf,
    ) -> Result<Snapshot<'b, T>, FaultError> {
        let (seq, pfns) = self
            .walk(interval, range, 0, timeout, buf)
            .map_err(|error| self.explain(error, range, false))?;
        // INVARIANT: `seq` is of the walk that filled `pfns`.
        Ok(Snapshot {
            interval: interval.clone(),
            seq,
            range,
            pfns,
        })
    }

    /// Calls `hmm_range_fault_unlocked_timeout()` with `request` for every page. Returns the
    /// sequence that the result belongs to, and the result.
    fn walk<'b>(
        &self,
        interval: &IntervalRef<T>,
        range: PageRange,
        request: usize,
        timeout: Jiffies,
        buf: &'b mut PfnBuf,
    ) -> Result<(usize, &'b [usize])> {
        let pfns = buf.0.get_mut(..range.pages()).ok_or(EINVAL)?;
        if !self.watches(interval, range) {
            return Err(EINVAL);
        }
        // Some flags are kept from input to output.
        pfns.fill(0);
        let mut hmm_range = bindings::hmm_range {
            notifier: interval.0.raw(),
            notifier_seq: 0,
            start: range.start().as_usize(),
            end: range.end().as_usize(),
            hmm_pfns: pfns.as_mut_ptr(),
            default_flags: request,
            pfn_flags_mask: 0,
            dev_private_owner: core::ptr::null_mut(),
        };
        // SAFETY:
        // - `hmm_range` is valid, and `hmm_pfns` has an entry for every page from `start` to `end`.
        //   Nobody else has it: `buf` is borrowed mutably.
        // - `notifier` was inserted, since only then an `IntervalRef` exists, for `self`'s mm, as
        //   `watches` checked. It may have been removed since, but `interval` keeps its memory, and
        //   what is read through it, the mm and the sequence, stays as it was.
        // - `self` keeps `mm_users` up.
        // - Zero would mean no bound.
        to_result(unsafe {
            bindings::hmm_range_fault_unlocked_timeout(&mut hmm_range, timeout.max(1))
        })?;
        Ok((hmm_range.notifier_seq, pfns))
    }

    /// Finds out what an error of [`MmSession::walk`] means. By now the cause may be gone, which is
    /// as good as if the access had come later.
    fn explain(&self, error: Error, range: PageRange, write: bool) -> FaultError {
        match error {
            EINVAL => return FaultError::Invalid,
            EBUSY => return FaultError::Busy,
            ENOMEM => return FaultError::NoMemory,
            EPERM => return FaultError::Protection,
            EINTR => return FaultError::Dying,
            _ => (),
        }
        // `EFAULT` stands for all the rest.

        // SAFETY: The mm is valid.
        if unsafe { bindings::check_stable_address_space(self.mm().as_raw()) } != 0 {
            return FaultError::Dying;
        }
        let needed = if write {
            flags::READ | flags::WRITE
        } else {
            flags::READ
        };
        let mmap = self.mm().mmap_read_lock();
        let mut addr = range.start();
        while range.contains(addr) {
            let Some(vma) = mmap.vma_lookup(addr.as_usize()) else {
                return FaultError::NoMapping;
            };
            if vma.flags() & needed != needed {
                return FaultError::Protection;
            }
            addr = VirtAddr::new(vma.end());
        }
        FaultError::NoBacking
    }
}

/// What a range looked like a moment ago. Good for nothing but [`Snapshot::commit`].
///
/// # Invariants
///
/// `pfns` has an entry for each page of `range`, which `interval` covers, and was filled while
/// `seq` was its sequence.
#[must_use]
pub struct Snapshot<'b, T: Mirror> {
    interval: IntervalRef<T>,
    seq: usize,
    range: PageRange,
    pfns: &'b [usize],
}

impl<'b, T: Mirror> Snapshot<'b, T> {
    /// Checks that the snapshot still tells the truth, and will until the lock is released.
    ///
    /// # Errors
    ///
    /// See [`Reject`].
    pub fn commit<'g>(self, guard: &'g mut PtGuard<'_, T>) -> Result<Commit<'g, 'b, T>, Reject> {
        let node = &self.interval.0;
        if !guard.is_of(node.mirror().pt_lock()) {
            return Err(Reject::WrongSpace);
        }
        if node.is_dead() {
            return Err(Reject::Dead);
        }
        if node.read_retry(guard, self.seq) {
            return Err(Reject::Collided);
        }
        // INVARIANT:
        // - The node is not dead, and `Node::kill` needs the lock. Till then it is registered, so
        //   whoever changes the memory calls `Node::start` first, which needs the lock, too.
        // - The sequence, which `Node::start` changes under the lock, is that of the snapshot, so
        //   nobody called it since, but with `MMU_NOTIFY_EXCLUSIVE` for this space itself.
        Ok(Commit {
            inner: guard.protected(),
            range: self.range,
            pfns: self.pfns,
        })
    }
}

/// The right to enter pages in the device's tables.
///
/// # Invariants
///
/// The page-table lock is held, and `pfns` describes the memory mapped in `range` as it is. Before
/// any of it changes, [`Mirror::revoke`] is called for it, which needs the lock.
pub struct Commit<'g, 'b, T: Mirror> {
    inner: &'g mut Protected<T>,
    range: PageRange,
    pfns: &'b [usize],
}

impl<T: Mirror> Commit<'_, '_, T> {
    /// The range of the snapshot.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// The device's page tables, the other state under the lock, and the pages that may be entered.
    pub fn split(&mut self) -> (&mut T::Pt, &mut T::Book, Pages<'_>) {
        let pages = Pages { pfns: self.pfns };
        (&mut self.inner.pt, &mut self.inner.book, pages)
    }
}

/// The pages of a [`Commit`].
#[derive(Clone, Copy)]
pub struct Pages<'c> {
    /// Filled by `hmm_range_fault()` and true as long as the [`Commit`] is borrowed.
    pfns: &'c [usize],
}

impl<'c> Pages<'c> {
    /// The page at `index`, counted from the start of [`Commit::range`]. [`None`] if it is not
    /// present, which does not say that nothing is there.
    pub fn get(&self, index: usize) -> Option<ReadPage<'c>> {
        let pfn = *self.pfns.get(index)?;
        // INVARIANT: `VALID` is set.
        (pfn & VALID != 0).then_some(ReadPage {
            pfn,
            _commit: PhantomData,
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A page that may be entered in the device's tables: [`ReadPage`] or [`WritePage`].
pub trait DevicePage: sealed::Sealed {
    /// The page frame.
    fn pfn(&self) -> Pfn;

    /// Whether the device may write to it.
    const WRITABLE: bool;
}

/// A page that the device may read while the [`Commit`] lasts, and afterwards until it is revoked.
///
/// # Invariants
///
/// `pfn` is an entry that `hmm_range_fault()` filled, with `HMM_PFN_VALID`.
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
