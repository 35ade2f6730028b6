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
//! Core holds that an exclusive page is clean and old. What the device wrote is known when the entry
//! is revoked; see [`DmaMap::revoke`](super::DmaMap::revoke).
//!
//! C source: [`make_device_exclusive()`](srctree/mm/rmap.c)

use super::{
    check,
    pages::{
        sealed,
        DevicePage, //
    },
    FaultError,
    Mirror,
    PfnBuf,
    Reject, //
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
        mmu_interval::{
            IntervalRef,
            MmSession,
            Protected,
            PtGuard, //
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
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
mod tests;

/// Why a page cannot be had exclusively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExclusiveError {
    /// The page cannot be written to at all.
    Fault(FaultError),
    /// The page is of a kind that core gives to nobody: of a file, of shared memory, of hugetlbfs.
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
///         hmm::{DevicePage, ExclusiveError, PfnBuf, Reject},
///         mmu_interval::{IntervalRef, Mirror, MmSession},
///     },
///     time::msecs_to_jiffies,
/// };
///
/// /// Lets the device run atomics on `page`; `replay` has it do what waits for that.
/// fn grab<T: Mirror>(
///     session: &mut MmSession<'_, T>,
///     interval: &IntervalRef<T>,
///     mirror: &T,
///     page: PageRange,
///     buf: &mut PfnBuf,
///     enter: impl Fn(&mut T::Pt, usize),
///     replay: impl Fn(),
/// ) -> Result<(), ExclusiveError> {
///     for _ in 0..3 {
///         let timeout = msecs_to_jiffies(1000);
///         let exclusive = session.make_exclusive(interval, page, timeout, buf)?;
///         let mut guard = mirror.pt_lock().lock();
///         let committed = match exclusive.commit(&mut guard) {
///             Ok(mut commit) => {
///                 let (pt, _, page) = commit.split();
///                 enter(pt, page.pfn().as_usize());
///                 true
///             }
///             Err(Reject::Collided) => false,
///             Err(_) => break,
///         };
///         drop(guard);
///         if committed {
///             replay();
///             break;
///         }
///     }
///     Ok(())
/// }
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
    folio: NonNull<bindings::folio>,
    pfn: Pfn,
    range: PageRange,
    interval: IntervalRef<T>,
    seq: usize,
    // Dropped after the folio was unlocked in `drop`.
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
    /// The page is faulted in first, for writing: core takes an exclusive page back from its owner
    /// before it makes it exclusive anew. It advances the sequence when it does, so that an attempt
    /// with a sequence read before would collide each time the page is exclusive already.
    ///
    /// # Progress
    ///
    /// Without a third party the commit of the first attempt succeeds, unless a huge page has to be
    /// split around the page; then that of the second does. The folio lock is waited for, so that
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
    /// See [`ExclusiveError`].
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

        let this: &'s Self = self;
        let mmap = match this.mm().mmap_read_lock_killable() {
            Ok(mmap) => mmap,
            Err(_) => return Err(ExclusiveError::Fault(FaultError::Dying)),
        };
        if !this.is_stable() {
            return Err(ExclusiveError::Fault(FaultError::Dying));
        }
        let mirror = interval.0.mirror();
        let mut folio = core::ptr::null_mut();
        // SAFETY: The interval was inserted, and its memory lives as long as the reference.
        let seq = unsafe { bindings::mmu_interval_read_begin(interval.0.raw()) };
        // SAFETY: `mmap` is held, and `this` keeps `mm_users` up. `folio` is valid for writes. The
        // owner is compared only.
        let page = from_err_ptr(unsafe {
            bindings::make_device_exclusive(
                this.mm().as_raw(),
                range.start().as_usize(),
                mirror.pt_lock().owner(),
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
                    // It was there a moment ago. Secret memory is of a kind that core lets nobody
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
            // SAFETY: Set on success.
            folio: unsafe { NonNull::new_unchecked(folio) },
            // SAFETY: It is a page of the folio, which is referenced.
            pfn: Pfn::new(unsafe { bindings::page_to_pfn(page) }),
            range,
            interval: interval.clone(),
            seq,
            _mmap: mmap,
        })
    }
}

impl<T: Mirror> Exclusive<'_, T> {
    /// Checks that the page still is the space's alone, and will be until the lock is released. May
    /// be asked again later.
    ///
    /// # Errors
    ///
    /// See [`Reject`].
    pub fn commit<'g>(
        &'g self,
        guard: &'g mut PtGuard<'_, T>,
    ) -> Result<ExclusiveCommit<'g, T>, Reject> {
        let node = &self.interval.0;
        check(node, guard, self.seq, self.range)?;
        // INVARIANT: As for `Snapshot::commit`: with that sequence the page is exclusive by the
        // type invariants, and whoever takes it back calls `Node::start` first.
        Ok(ExclusiveCommit {
            inner: guard.protected(),
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

/// The right to enter an exclusive page in the device's tables.
///
/// # Invariants
///
/// The page-table lock is held, and `pfn` is exclusive to the space. Before a CPU gets it back,
/// [`Mirror::revoke`] is called for it, which needs the lock.
pub struct ExclusiveCommit<'g, T: Mirror> {
    inner: &'g mut Protected<T>,
    range: PageRange,
    pfn: Pfn,
}

impl<T: Mirror> ExclusiveCommit<'_, T> {
    /// Where the page is.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// The device's page tables, the other state under the lock, and the page.
    pub fn split(&mut self) -> (&mut T::Pt, &mut T::Book, AtomicPage<'_>) {
        let page = AtomicPage {
            pfn: self.pfn,
            _commit: PhantomData,
        };
        (&mut self.inner.pt, &mut self.inner.book, page)
    }
}

/// A page on which the device may run atomics while the commit lasts, and afterwards until it is
/// revoked.
#[derive(Clone, Copy)]
pub struct AtomicPage<'c> {
    pfn: Pfn,
    _commit: PhantomData<&'c ()>,
}

impl sealed::Sealed for AtomicPage<'_> {}

impl DevicePage for AtomicPage<'_> {
    const WRITABLE: bool = true;
    const ATOMIC: bool = true;

    fn pfn(&self) -> Pfn {
        self.pfn
    }
}
