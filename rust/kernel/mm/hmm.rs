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
//! Device memory that belongs to the mirror itself, see [`Mirror::pagemap`], is left where it is and
//! comes out of step 4 as [`PrivatePage`] and [`WritePrivatePage`]. That of others is brought home in
//! step 1, like anything that is swapped out.
//!
//! A page for atomics, which have to be atomic against CPUs, takes another way: see
//! [`MmSession::make_exclusive`].
//!
//! If step 3 fails, start again at step 1. The sequence belongs to the interval, so if it keeps
//! changing use an interval of one page; see [`MmSession::insert_within`]. If even that is not
//! enough, [`MmSession::hold_mappings`] is.
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
        VirtAddr, //
    },
    mmu_interval::{
        IntervalRef,
        Mirror,
        MmSession,
        Node,
        Protected,
        PtGuard, //
    },
    virt::flags,
    MmapReadGuard, //
};
use crate::{
    bindings,
    error::to_result,
    prelude::*,
    time::Jiffies, //
};
use core::{
    ops::Range,
    ptr, //
};

mod dma;
mod exclusive;
mod held;
mod pages;
mod private;
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;

pub use self::{
    dma::{
        DmaMap,
        DmaPage,
        PrivateSlot,
        Revoked, //
    },
    exclusive::{
        AtomicPage,
        Exclusive,
        ExclusiveCommit,
        ExclusiveError, //
    },
    held::HeldMappings,
    pages::{
        DevicePage,
        Pages,
        ReadPage,
        WritePage, //
    },
    private::{
        PrivateEntry,
        PrivatePage,
        WritePrivatePage, //
    }, //
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

/// Whether `mmap_lock` is to be taken, waiting so long for changes, or is held.
enum Mmap<'a> {
    Take(Jiffies),
    Held(#[expect(dead_code, reason = "a proof")] &'a MmapReadGuard<'a>),
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
        let owner = private::owner(interval.0.mirror());
        let (_, pfns) = self
            .walk(interval, range, request, owner, Mmap::Take(timeout), buf)
            .map_err(|error| self.explain(error, range, write))?;
        if !write || !pfns.iter().any(|pfn| pfn & WRITE == 0) {
            return Ok(());
        }
        // Only of our own device pages core tells without faulting them in: these are shared, since
        // `fork()`, with another process. As an owner of nothing we have them copied.
        for addr in range.iter_pages() {
            let index = range.page_index(addr).ok_or(FaultError::Invalid)?;
            if buf.0[index] & WRITE != 0 {
                continue;
            }
            let page = PageRange::page(addr).map_err(|_| FaultError::Invalid)?;
            // Overwrites the first entry, which was looked at first.
            self.walk(
                interval,
                page,
                request,
                ptr::null_mut(),
                Mmap::Take(timeout),
                buf,
            )
            .map_err(|error| self.explain(error, page, true))?;
        }
        Ok(())
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
        let owner = private::owner(interval.0.mirror());
        let (seq, pfns) = self
            .walk(interval, range, 0, owner, Mmap::Take(timeout), buf)
            .map_err(|error| self.explain(error, range, false))?;
        // INVARIANT: `seq` is of the walk that filled `pfns`.
        Ok(Snapshot {
            interval: interval.clone(),
            seq,
            range,
            pfns,
        })
    }

    /// Has `hmm_range_fault()` look at `range`, with `request` for every page, and leave device
    /// memory of `owner` alone; if `request` is not 0, the lock is not held. Returns the sequence
    /// that the result belongs to, and the result.
    fn walk<'b>(
        &self,
        interval: &IntervalRef<T>,
        range: PageRange,
        request: usize,
        owner: *mut c_void,
        mmap: Mmap<'_>,
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
            dev_private_owner: owner,
        };
        // SAFETY:
        // - `hmm_range` is valid, and `hmm_pfns` has an entry for every page from `start` to `end`.
        //   Nobody else has it: `buf` is borrowed mutably.
        // - `notifier` was inserted, since only then an `IntervalRef` exists, for `self`'s mm, as
        //   `watches` checked. It may have been removed since, but `interval` keeps its memory, and
        //   what is read through it, the mm and the sequence, stays as it was.
        // - `self` keeps `mm_users` up.
        // - The lock is as each function wants it.
        to_result(unsafe {
            match mmap {
                // Zero would mean no bound.
                Mmap::Take(timeout) => {
                    bindings::hmm_range_fault_unlocked_timeout(&mut hmm_range, timeout.max(1))
                }
                Mmap::Held(_) => {
                    // Waits for a change that is under way. That needs nothing that waits for the
                    // lock: a change that takes it has taken it before it began.
                    hmm_range.notifier_seq = bindings::mmu_interval_read_begin(hmm_range.notifier);
                    bindings::hmm_range_fault(&mut hmm_range)
                }
            }
        })?;
        Ok((hmm_range.notifier_seq, pfns))
    }

    /// Whether the memory is whole: the OOM killer does not take it apart.
    fn is_stable(&self) -> bool {
        // SAFETY: The mm is valid.
        unsafe { bindings::check_stable_address_space(self.mm().as_raw()) == 0 }
    }

    /// Finds out what an error of [`MmSession::walk`] means. By now the cause may be gone, which is
    /// as good as if the access had come later.
    fn explain(&self, error: Error, range: PageRange, write: bool) -> FaultError {
        match self.mm().mmap_read_lock_killable() {
            Ok(mmap) => self.explain_held(&mmap, error, range, write),
            Err(_) => FaultError::Dying,
        }
    }

    fn explain_held(
        &self,
        mmap: &MmapReadGuard<'_>,
        error: Error,
        range: PageRange,
        write: bool,
    ) -> FaultError {
        match error {
            EINVAL => return FaultError::Invalid,
            EBUSY => return FaultError::Busy,
            ENOMEM => return FaultError::NoMemory,
            EPERM => return FaultError::Protection,
            EINTR => return FaultError::Dying,
            _ => (),
        }
        // `EFAULT` stands for all the rest.

        if !self.is_stable() {
            return FaultError::Dying;
        }
        let needed = if write {
            flags::READ | flags::WRITE
        } else {
            flags::READ
        };
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
        check(node, guard, self.seq, self.range)?;
        // INVARIANT:
        // - The node is not dead, and `Node::kill` needs the lock. Till then it is registered, so
        //   whoever changes the memory calls `Node::start` first, which needs the lock, too.
        // - The sequence, which `Node::start` changes under the lock, is that of the snapshot, so
        //   nobody called it since, but with `MMU_NOTIFY_EXCLUSIVE` for this space itself.
        Ok(Commit {
            private: private::frames(node.mirror()),
            inner: guard.protected(),
            range: self.range,
            pfns: self.pfns,
        })
    }
}

/// Checks that `node` lives, that its sequence is `seq`, and that `range` may be entered.
fn check<T: Mirror>(
    node: &Node<T>,
    guard: &PtGuard<'_, T>,
    seq: usize,
    range: PageRange,
) -> Result<(), Reject> {
    if !guard.is_of(node.mirror().pt_lock()) {
        return Err(Reject::WrongSpace);
    }
    if node.is_dead() {
        return Err(Reject::Dead);
    }
    if node.read_retry(guard, seq) || guard.is_withheld(range) {
        return Err(Reject::Collided);
    }
    Ok(())
}

/// The right to enter pages in the device's tables.
///
/// # Invariants
///
/// The page-table lock is held, and `pfns` describes the memory mapped in `range` as it is. Before
/// any of it changes, [`Mirror::revoke`] is called for it, which needs the lock.
pub struct Commit<'g, 'b, T: Mirror> {
    /// The frames of the mirror's own device memory.
    private: Range<usize>,
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
        let pages = Pages {
            pfns: self.pfns,
            private: &self.private,
        };
        (&mut self.inner.pt, &mut self.inner.book, pages)
    }
}
