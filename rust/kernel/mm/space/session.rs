// SPDX-License-Identifier: GPL-2.0

//! Looking into the memory of a process.

use super::{
    leaf_index,
    IntervalRef,
    Mirror,
    PageRange,
    Space,
    Supplies,
    VirtAddr, //
};
use crate::{
    bindings,
    error::to_result,
    mm::{
        folio::FolioHolder,
        virt::VmaRef,
        MmWithUser,
        MmWithUserAsync, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

/// The right to look into a process's memory: `mm_users` is pinned while it lives.
///
/// It is given up without sleeping, so the last reference to the address space may be dropped
/// here without waiting for the teardown, which calls back into the driver.
///
/// # Examples
///
/// ```
/// # #[cfg(CONFIG_RUST_MM_KUNIT_TEST)] {
/// use kernel::mm::{
///     addr::{PageRange, VirtAddr},
///     testing::*, //
/// };
///
/// let range = map_anon(PROT_RW)?;
/// let fixture = Fixture::new(range)?;
/// let session = fixture.session()?;
///
/// // The first mapping in a range, cut to it.
/// let part = PageRange::new(nth(range, 2)?.start(), session.limit())?;
/// assert_eq!(session.first_mapped(part).map(|mapped| mapped.start()), Some(part.start()));
/// munmap(nth(range, 2)?)?;
/// assert_eq!(session.first_mapped(nth(range, 2)?), None);
///
/// // No interval watches addresses that no process can have.
/// assert!(session.node(VirtAddr::new(usize::MAX)).is_err_and(|error| error == EINVAL));
/// # }
/// # Ok::<(), Error>(())
/// ```
pub struct MmSession<'a, T: Mirror> {
    mm: ARef<MmWithUserAsync>,
    space: &'a Arc<Space<T>>,
}

impl<T: Mirror> Space<T> {
    /// Keeps the address space in use while the session lives; [`None`] if the process has left
    /// it, in which case its memory is gone.
    pub fn enter(self: &Arc<Self>) -> Option<MmSession<'_, T>> {
        Some(MmSession {
            mm: MmWithUser::into_mmput_async(self.mm.mmget_not_zero()?),
            space: self,
        })
    }
}

impl<'a, T: Mirror> MmSession<'a, T> {
    pub(in crate::mm) fn space(&self) -> &'a Arc<Space<T>> {
        self.space
    }

    /// Sets a leaf aside for mapping in `range`, which lies in one; see [`Space::prepare`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn prepare(&self, supplies: &mut Supplies<T>, range: PageRange) -> Result {
        self.space.prepare(supplies, leaf_index(range.start()))
    }
}

impl<T: Mirror> MmSession<'_, T> {
    /// The address space.
    pub fn mm(&self) -> &MmWithUser {
        &self.mm
    }

    /// The first address beyond what the process can map.
    pub fn limit(&self) -> VirtAddr {
        // SAFETY: The mm is valid, and `task_size` does not change while somebody uses it.
        VirtAddr::new(unsafe { (*self.mm.as_raw()).__bindgen_anon_1.task_size })
    }

    /// The part of `range` that the first mapping in it covers, at this moment; [`None`] if nothing is
    /// mapped there, or if the thread has a folio locked. Takes `mmap_lock`.
    pub fn first_mapped(&self, range: PageRange) -> Option<PageRange> {
        if FolioHolder::is_current() {
            return None;
        }
        let _mmap = self.mm.mmap_read_lock_killable().ok()?;
        // SAFETY: The lock is held.
        let vma = unsafe { bindings::find_vma(self.mm.as_raw(), range.start().as_usize()) };
        if vma.is_null() {
            return None;
        }
        // SAFETY: As above.
        let vma = unsafe { VmaRef::from_raw(vma) };
        let vma = PageRange::new(VirtAddr::new(vma.start()), VirtAddr::new(vma.end())).ok()?;
        vma.intersect(range)
    }

    /// Writes a value to the process's memory with a single store, for threads that look at it all
    /// the time. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the address is not a multiple of eight; [`EAGAIN`] if the memory is not there at
    /// the moment, see [`wait_writable`](Self::wait_writable), or not for a thread of another process.
    pub fn store_u64(&self, addr: VirtAddr, value: u64) -> Result {
        self.mm.store_u64(addr, value)
    }

    /// Has the memory at `addr` ready to be written. For kernel threads, such as those of a workqueue:
    /// sleeps as long as the owner of the memory likes. Takes `mmap_lock`.
    ///
    /// A store may still be refused: core mm leaves the memory to others that are moving it and reports
    /// success, it may be gone again, and protection keys and the like are asked for a store only. So
    /// try again, with pauses, and not for ever. A stack does not grow for this.
    ///
    /// # Errors
    ///
    /// [`EFAULT`], [`ENOMEM`] and the like if it cannot be written; [`EAGAIN`] for other threads.
    pub fn wait_writable(&self, addr: VirtAddr) -> Result {
        if current!().mm().is_some() || FolioHolder::is_current() {
            return Err(EAGAIN);
        }
        let flags = bindings::fault_flag_FAULT_FLAG_WRITE | bindings::fault_flag_FAULT_FLAG_REMOTE;
        let mut unlocked = false;
        let _mmap = self.mm.mmap_read_lock();
        // SAFETY: The lock is held, and is again when this returns; `self` keeps `mm_users` up.
        to_result(unsafe {
            bindings::fixup_user_fault(self.mm.as_raw(), addr.as_usize(), flags, &mut unlocked)
        })
    }

    /// Whether `interval` belongs to this session's space and watches all of `range`.
    pub(in crate::mm) fn watches(&self, interval: &IntervalRef<T>, range: PageRange) -> bool {
        Arc::ptr_eq(interval.0.watcher().space(), self.space) && interval.range().covers(range)
    }
}
