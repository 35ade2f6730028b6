// SPDX-License-Identifier: GPL-2.0

//! Heterogeneous memory management: which memory a device may be given, and when.
//!
//! # Overview
//!
//! A page is mapped in a device's page tables in four steps:
//!
//! 1. [`MmSession::fault_in`] makes the pages that the device wants accessible, as if a CPU had
//!    touched them. Its result is discarded.
//! 2. [`MmSession::snapshot`] looks at a window around them and changes nothing. Absent in it means
//!    unknown: a page that is mapped there already stays.
//! 3. [`Snapshot::commit`] checks, with the page-table lock held, that nothing changed since.
//! 4. [`Commit::map`] maps those pages that the driver chooses, with the rights that the process has.
//!
//! Step 1 cannot be joined with step 2, since `hmm_range_fault()` faults every page from the first
//! one missing to the end of its page table, whatever is asked of each: it would fill holes, copy
//! shared neighbours and bring device memory home.
//!
//! Device memory that belongs to the space itself, see [`Space::pagemap`], is left where it is. That
//! of others is brought home in step 1, like anything that is swapped out.
//!
//! A page for atomics, which have to be atomic against CPUs, takes another way: see
//! [`MmSession::make_exclusive`].
//!
//! If step 3 fails, start again at step 1. The sequence belongs to the interval, so if it keeps
//! changing use an interval of one page; see [`MmSession::insert_within`]. If even that is not
//! enough, [`MmSession::lock_mappings`] is.
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
//!         space::{Mapped, MmSession, Mirror, Supplies},
//!     },
//!     time::msecs_to_jiffies,
//! };
//!
//! /// Maps what is present of `window` after `wanted` was faulted in; both lie in one leaf.
//! fn serve<T: Mirror>(
//!     session: &MmSession<'_, T>,
//!     wanted: PageRange,
//!     window: PageRange,
//!     buf: &mut PfnBuf,
//!     supplies: &mut Supplies<T>,
//! ) -> Result<Option<Mapped>> {
//!     let timeout = msecs_to_jiffies(1000);
//!     let interval = session.node(window.start())?;
//!     session.fault_in(&interval, wanted, true, timeout, buf).map_err(|_| EFAULT)?;
//!     session.prepare(supplies, window)?;
//!     let snapshot = session.snapshot(&interval, window, timeout, buf).map_err(|_| EAGAIN)?;
//!     match snapshot.commit() {
//!         Ok(mut commit) => Ok(Some(commit.map(supplies, |_| Some(false))?)),
//!         Err(Reject::Closed) => Err(ESHUTDOWN),
//!         Err(_) => Ok(None),
//!     }
//! }
//!
//! # #[cfg(CONFIG_RUST_MM_KUNIT_TEST)] {
//! # use kernel::mm::testing::*;
//! # let range = map_anon(PROT_RW)?;
//! # let fixture = Fixture::new(range)?;
//! # let session = fixture.session()?;
//! # let mut supplies = fixture.supplies()?;
//! # let mut buf = PfnBuf::new(range.pages())?;
//! // One page is wanted, and none was touched before: that page is mapped and no neighbour.
//! let wanted = nth(range, 3)?;
//! let mapped = serve(&session, wanted, range, &mut buf, &mut supplies)?;
//! assert!(mapped.is_some_and(|mapped| mapped.pages == Some(wanted)));
//!
//! // Neighbours that are there are mapped as well.
//! write_all(range)?;
//! let mapped = serve(&session, wanted, range, &mut buf, &mut supplies)?;
//! assert!(mapped.is_some_and(|mapped| mapped.ptes == [range.pages() - 1, 0, 0]));
//!
//! // Memory that is gone is an error, and so is a space that was closed.
//! munmap(wanted)?;
//! assert!(serve(&session, wanted, range, &mut buf, &mut supplies).is_err());
//! fixture.space.close();
//! assert!(serve(&session, nth(range, 0)?, range, &mut buf, &mut supplies).is_err());
//! # }
//! # Ok::<(), Error>(())
//! ```
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)

use super::{
    addr::{
        PageRange,
        Pfn,
        VirtAddr, //
    },
    folio::FolioHolder,
    space::{
        Found,
        Guard,
        IntervalRef,
        Leaf,
        Mapped,
        Mirror,
        MmSession,
        Prot,
        Slot,
        Space,
        Supplies, //
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
use core::ptr;

mod commit;
mod exclusive;
mod locked;
#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;

use self::commit::lock_current;
pub use self::{
    commit::{
        Commit,
        Present,
        Snapshot, //
    },
    exclusive::{
        Exclusive,
        ExclusiveCommit,
        ExclusiveError, //
    },
    locked::LockedMappings, //
};

const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
const WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;

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
    /// The interval is not of this session or does not cover the range, the buffer is too small, or
    /// the thread has a folio locked.
    Invalid,
}

/// Why a snapshot cannot be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The memory changed since, or is changing.
    Collided,
    /// The interval has ended: there was nothing mapped in it. Get another one.
    Dead,
    /// The space was closed.
    Closed,
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

impl<'a, T: Mirror> MmSession<'a, T> {
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
        let owner = self.space().private_owner();
        let (_, pfns) = self
            .walk(interval, range, request, owner, Mmap::Take(timeout), buf)
            .map_err(|error| self.explain(error, range, write))?;
        if !write || !pfns.iter().any(|pfn| pfn & WRITE == 0) {
            return Ok(());
        }
        // Only pages of the space's own pagemap are reported without having been faulted in: these are
        // shared, since `fork()`, with another process. As an owner of nothing we have them copied.
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
    ) -> Result<Snapshot<'a, 'b, T>, FaultError> {
        let owner = self.space().private_owner();
        let (seq, pfns) = self
            .walk(interval, range, 0, owner, Mmap::Take(timeout), buf)
            .map_err(|error| self.explain(error, range, false))?;
        // INVARIANT: `seq` is of the walk that filled `pfns`.
        Ok(Snapshot {
            space: self.space(),
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
        // A thread with a folio locked could wait for itself.
        if !self.watches(interval, range) || FolioHolder::is_current() {
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
        // Without the lock where it is not needed: a thread with a folio locked has it already.
        if let Some(error) = plain(error) {
            return error;
        }
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
        if let Some(error) = plain(error) {
            return error;
        }
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

/// What an error means by itself. [`None`] for [`EFAULT`], which stands for all the rest.
fn plain(error: Error) -> Option<FaultError> {
    match error {
        EINVAL => Some(FaultError::Invalid),
        EBUSY => Some(FaultError::Busy),
        ENOMEM => Some(FaultError::NoMemory),
        EPERM => Some(FaultError::Protection),
        EINTR => Some(FaultError::Dying),
        _ => None,
    }
}
