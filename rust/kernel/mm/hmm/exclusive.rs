// SPDX-License-Identifier: GPL-2.0

//! Exclusive access of a device to a page, for atomics that are atomic against the CPU.
//!
//! `make_device_exclusive()` takes the page out of all CPU page tables; a CPU that touches it gets
//! it back after the device's entry was revoked. So while the entry stands, the device alone
//! reaches the page, and its atomics need nothing of the bus.
//!
//! The folio stays locked, and with it the CPU away, until the [`Exclusive`] is dropped. A driver
//! that drops it after the device acknowledged a replay knows that the access which faulted was
//! translated: whoever revokes the entry from then on waits for it.
//!
//! Core mm takes an exclusive page for clean and old. The space marks it dirty when it is revoked.
//!
//! Lock order:
//!
//! 1. `mmap_lock`, held for reading from the grab to the drop of the [`Exclusive`]
//! 2. folio lock, likewise; one for each thread, see [`FolioHolder`]
//! 3. page-table lock
//!
//! C source: [`make_device_exclusive()`](srctree/mm/rmap.c)

use super::{
    lock_current,
    FaultError,
    Found,
    Guard,
    Leaf,
    Mirror,
    PfnBuf,
    Prot,
    Reject,
    Slot,
    Space,
    Supplies, //
};
use crate::{
    bindings,
    error::from_err_ptr,
    mm::{
        addr::{
            PageRange,
            Pfn,
            VirtAddr, //
        },
        folio::{
            FolioHolder,
            FolioHolderSlot, //
        },
        space::{
            IntervalRef,
            MmSession, //
        },
        virt::{
            flags,
            vm_flags_t,
            VmaRef, //
        },
        MmapReadGuard, //
    },
    prelude::*,
    time::Jiffies, //
};
use core::ptr::NonNull;

#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;

/// Why a page cannot be had exclusively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExclusiveError {
    /// The page cannot be written to at all.
    Fault(FaultError),
    /// The page is of a kind that core mm gives to nobody: of a file, of shared memory, of hugetlbfs.
    Unsupported,
}

/// A locked folio of which a page is not mapped for any CPU.
///
/// It holds `mmap_lock` for reading, since a `fork()` that met a locked exclusive page would fail.
/// The session can neither fault nor snapshot nor take another folio meanwhile, all of which could
/// wait for this one. CPUs that want the page, and everybody who wants to change mappings, wait
/// until it is dropped, so that should be soon.
///
/// # Examples
///
/// ```
/// use kernel::{
///     mm::{
///         addr::PageRange,
///         hmm::{ExclusiveError, PfnBuf, Reject},
///         space::{IntervalRef, Mirror, MmSession, Supplies},
///     },
///     time::msecs_to_jiffies,
/// };
///
/// /// Lets the device run atomics on `page`; `replay` has it do the accesses that wait for that.
/// fn grab<T: Mirror>(
///     session: &mut MmSession<'_, T>,
///     interval: &IntervalRef<T>,
///     page: PageRange,
///     buf: &mut PfnBuf,
///     supplies: &mut Supplies<T>,
///     replay: impl Fn(),
/// ) -> Result<(), ExclusiveError> {
///     for _ in 0..3 {
///         let timeout = msecs_to_jiffies(1000);
///         let exclusive = session.make_exclusive(interval, page, timeout, buf)?;
///         let mapped = match exclusive.commit() {
///             Ok(mut commit) => commit.map(supplies).is_ok(),
///             Err(Reject::Collided) => false,
///             Err(_) => break,
///         };
///         if mapped {
///             replay();
///             break;
///         }
///     }
///     Ok(())
/// }
///
/// # #[cfg(CONFIG_RUST_MM_KUNIT_TEST)] {
/// # use kernel::mm::testing::*;
/// # let range = map_anon(PROT_RW)?;
/// # let fixture = Fixture::new(range)?;
/// # let mut session = fixture.session()?;
/// # let mut supplies = fixture.supplies()?;
/// # let mut buf = PfnBuf::new(1)?;
/// let node = session.node(range.start())?;
/// let page = nth(range, 1)?;
/// let replayed = || assert!(fixture.space.lock().slot(page.start()).is_exclusive());
/// assert_eq!(grab(&mut session, &node, page, &mut buf, &mut supplies, replayed), Ok(()));
///
/// // A CPU that touches the page takes it back.
/// write_all(page)?;
/// assert_eq!(fixture.entered(), 0);
///
/// // Nobody gets a page of shared memory, nor memory that is not there.
/// let shared = map_shmem(PAGES, PROT_RW)?;
/// let shared = nth(shared, 0)?;
/// let node = session.node(shared.start())?;
/// let result = grab(&mut session, &node, shared, &mut buf, &mut supplies, || ());
/// assert_eq!(result, Err(ExclusiveError::Unsupported));
/// munmap(shared)?;
/// let node = session.node(shared.start())?;
/// let result = grab(&mut session, &node, shared, &mut buf, &mut supplies, || ());
/// assert!(matches!(result, Err(ExclusiveError::Fault(_))));
/// # }
/// # Ok::<(), Error>(())
/// ```
///
/// C source: [`make_device_exclusive()`](srctree/mm/rmap.c)
///
/// # Invariants
///
/// `folio` is locked by this thread and referenced. `pfn` belongs to it and is mapped nowhere but by
/// the device-exclusive entry at `range`, unless the sequence of `interval` is no more `seq`.
#[must_use]
pub struct Exclusive<'s, T: Mirror> {
    space: &'s Space<T>,
    folio: NonNull<bindings::folio>,
    pfn: Pfn,
    range: PageRange,
    interval: IntervalRef<T>,
    seq: usize,
    // Dropped after the folio was unlocked in `drop`.
    _holder: FolioHolder,
    _mmap: MmapReadGuard<'s>,
}

/// Kinds of mappings whose pages nobody can have exclusively.
const UNSUPPORTED: vm_flags_t =
    flags::SHARED | flags::HUGETLB | flags::PFNMAP | flags::MIXEDMAP | flags::IO;

impl<T: Mirror> MmSession<'_, T> {
    /// What of `range` the first mapping covers of whose pages [`MmSession::make_exclusive`] would
    /// say [`ExclusiveError::Unsupported`], at this moment; [`None`] if there is no such mapping in
    /// it. Takes `mmap_lock`.
    pub fn first_unsupported(&self, range: PageRange) -> Option<PageRange> {
        if FolioHolder::is_current() {
            return None;
        }
        let _mmap = self.mm().mmap_read_lock();
        let mut rest = range;
        loop {
            // SAFETY: The lock is held.
            let vma = unsafe { bindings::find_vma(self.mm().as_raw(), rest.start().as_usize()) };
            if vma.is_null() {
                return None;
            }
            // SAFETY: As above.
            let vma = unsafe { VmaRef::from_raw(vma) };
            let mapped = PageRange::new(VirtAddr::new(vma.start()), VirtAddr::new(vma.end()));
            let found = mapped.ok()?.intersect(rest)?;
            if vma.flags() & UNSUPPORTED != 0 {
                return Some(found);
            }
            rest = PageRange::new(found.end(), range.end()).ok()?;
        }
    }

    /// Takes the page at `range`, which is one page that `interval` covers, away from all CPUs.
    ///
    /// The page is faulted in first, for writing: core mm takes an exclusive page back from its owner
    /// before it makes it exclusive anew. It advances the sequence when it does, so that an attempt
    /// with a sequence read before would collide each time the page is exclusive already.
    ///
    /// # Progress
    ///
    /// Without a third party the commit of the first attempt succeeds, unless a huge page has to be
    /// split around the page, or the page comes home from device memory; then that of the second does. The folio lock is waited for, so that
    /// reclaim, migration and other devices delay an attempt, yet do not fail it.
    ///
    /// # Locks
    ///
    /// `timeout`, `buf` and locks as for [`MmSession::fault_in`]; no folio may be locked either.
    /// `mmap_lock` is taken before the sequence is read, which may wait for a change under way: who
    /// makes one has the lock already if it needs it, and a folio lock that it needs is held by
    /// nobody who waits for this thread.
    ///
    /// # Errors
    ///
    /// See [`ExclusiveError`]; [`FaultError::Invalid`] also if the thread has a folio locked already,
    /// by this session or another.
    pub fn make_exclusive<'s>(
        &'s mut self,
        interval: &IntervalRef<T>,
        range: PageRange,
        timeout: Jiffies,
        buf: &mut PfnBuf,
    ) -> Result<Exclusive<'s, T>, ExclusiveError> {
        if range.pages() != 1 {
            return Err(ExclusiveError::Fault(FaultError::Invalid));
        }
        self.fault_in(interval, range, true, timeout, buf)
            .map_err(ExclusiveError::Fault)?;

        let slot = FolioHolderSlot::new().map_err(|error| {
            ExclusiveError::Fault(match error {
                EBUSY => FaultError::Invalid,
                _ => FaultError::NoMemory,
            })
        })?;
        let this: &'s Self = self;
        let mmap = match this.mm().mmap_read_lock_killable() {
            Ok(mmap) => mmap,
            Err(_) => return Err(ExclusiveError::Fault(FaultError::Dying)),
        };
        if !this.is_stable() {
            return Err(ExclusiveError::Fault(FaultError::Dying));
        }
        let mut folio = core::ptr::null_mut();
        // SAFETY: The interval was inserted, and its memory lives as long as the reference.
        let seq = unsafe { bindings::mmu_interval_read_begin(interval.0.raw()) };
        // SAFETY: `mmap` is held, and `this` keeps `mm_users` up. `folio` is valid for writes. The
        // owner is compared only.
        let page = from_err_ptr(unsafe {
            bindings::make_device_exclusive(
                this.mm().as_raw(),
                range.start().as_usize(),
                this.space().owner(),
                &mut folio,
            )
        });
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                drop(mmap);
                if error == EOPNOTSUPP {
                    return Err(ExclusiveError::Unsupported);
                }
                return Err(match this.explain(error, range, true) {
                    // It was there a moment ago. Secret memory is of a kind that core mm lets nobody
                    // look at; else the next attempt tells what became of it.
                    FaultError::NoBacking if this.first_unsupported(range).is_some() => {
                        ExclusiveError::Unsupported
                    }
                    FaultError::NoBacking => ExclusiveError::Fault(FaultError::Busy),
                    error => ExclusiveError::Fault(error),
                });
            }
        };
        // INVARIANT: `make_device_exclusive()` succeeded, so `folio` is locked and referenced, and
        // `page` was entered exclusively after `seq` was read; what happens to it since advances
        // the sequence.
        Ok(Exclusive {
            space: this.space(),
            // SAFETY: Set on success.
            folio: unsafe { NonNull::new_unchecked(folio) },
            // SAFETY: It is a page of the folio, which is referenced.
            pfn: Pfn::new(unsafe { bindings::page_to_pfn(page) }),
            range,
            interval: interval.clone(),
            seq,
            // Not before: to make a page of device memory exclusive, core mm brings it home first, by
            // a migration in this thread.
            _holder: slot.engage(),
            _mmap: mmap,
        })
    }
}

impl<T: Mirror> Exclusive<'_, T> {
    /// Takes the page-table lock, and checks that the page still is the space's alone, and will be
    /// until the lock is released. May be asked again later.
    ///
    /// # Errors
    ///
    /// See [`Reject`].
    pub fn commit(&self) -> Result<ExclusiveCommit<'_, T>, Reject> {
        // INVARIANT: With that sequence the page is exclusive by the type invariants. Whoever takes
        // it back announces that first, which `lock_current` excludes until the lock is released.
        Ok(ExclusiveCommit {
            guard: lock_current(self.space, &self.interval, self.seq)?,
            range: self.range,
            pfn: self.pfn,
        })
    }
}

impl<T: Mirror> Drop for Exclusive<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, locked by this thread and referenced.
        unsafe {
            bindings::folio_unlock(self.folio.as_ptr());
            bindings::folio_put(self.folio.as_ptr());
        }
    }
}

/// The right to map an exclusive page: the page-table lock is held, and the page is the space's alone.
///
/// # Invariants
///
/// `pfn` is exclusive to the space of `guard`. Before a CPU gets it back, that is announced to the
/// space, which needs the lock.
pub struct ExclusiveCommit<'g, T: Mirror> {
    guard: Guard<'g, T>,
    range: PageRange,
    pfn: Pfn,
}

impl<T: Mirror> ExclusiveCommit<'_, T> {
    /// Where the page is.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// The driver's state.
    pub fn state(&self) -> &T::State {
        self.guard.state()
    }

    /// The leaf with the number `index`, if there is one, and the driver's state.
    pub fn leaf(&mut self, index: usize) -> (Option<Leaf<'_, T>>, &mut T::State) {
        self.guard.leaf(index)
    }

    /// Maps the page for atomics, by a 4 KiB PTE; a larger one around it is split.
    ///
    /// # Errors
    ///
    /// [`EAGAIN`] if the page is [leaving](crate::mm::space), has no bus address, or `supplies` are
    /// used up; [`ENOMEM`] if their tables are; [`ESHUTDOWN`] once the space was closed.
    pub fn map(&mut self, supplies: &mut Supplies<T>) -> Result {
        let found = Found {
            pfn: self.pfn,
            private: None,
        };
        let dev = self.guard.space().dma_device().ok_or(ESHUTDOWN)?;
        self.guard.map_page(self.range, supplies, |leaf, page| {
            let prot = Prot {
                write: true,
                atomic: true,
            };
            // SAFETY: Core mm gives only pages of system memory away exclusively, which have a
            // `struct page`. By the type invariants the page stays the space's until that is told
            // otherwise, with the lock.
            let slot = unsafe { leaf.prepare(&dev, page, found, prot) }?;
            Some(Slot::exclusive_of(slot))
        })
    }
}
