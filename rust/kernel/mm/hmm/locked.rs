// SPDX-License-Identifier: GPL-2.0

//! Snapshots with `mmap_lock` held, for pages to which no other snapshot gets through.

use super::{
    FaultError,
    Mirror,
    Mmap,
    PfnBuf,
    Snapshot, //
};
use crate::mm::{
    addr::PageRange,
    folio::FolioHolder,
    space::{
        IntervalRef,
        MmSession, //
    },
    MmapReadGuard, //
};

/// `mmap_lock` of a process, held for reading: nobody changes its mappings.
///
/// # Progress
///
/// A snapshot without the lock can collide for ever, even in an interval of one page: a thread that
/// changes mappings nearby has core mm invalidate the 2 MiB around each new end of a VMA, whether or
/// not anything is huge there. And what was entered can be taken away again before the device has
/// used it, each time. With the lock no VMA changes, so hold it until the device was told. If the
/// interval is that one page (see [`MmSession::insert_within`]), what can still collide is
///
/// - the end of the page itself or of its folio, by `MADV_DONTNEED`, reclaim, migration, KSM or
///   truncation. That many times over is a fight for this very page, in which no access from a CPU
///   would fare better.
/// - a huge page around it that is split. It happens once to each, and khugepaged needs the lock
///   for writing before it makes another one, except of a file's pages.
/// - a scan, by NUMA balancing or by khugepaged in a file. These come every some milliseconds at
///   most.
///
/// # Locks
///
/// Keeps writers of the lock waiting, so use it last and drop it soon. Meanwhile the session can do
/// nothing else: a fault takes the lock again. The device may be waited for, if that needs nothing
/// of the process.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     hmm::{FaultError, PfnBuf, Reject},
///     space::{IntervalRef, MmSession, Mirror, Supplies},
/// };
///
/// /// Maps a page that was faulted in a moment ago, through an interval of its own, and lets the
/// /// device use it.
/// fn insist<T: Mirror>(
///     session: &mut MmSession<'_, T>,
///     own: &IntervalRef<T>,
///     buf: &mut PfnBuf,
///     supplies: &mut Supplies<T>,
///     replay: impl Fn(),
/// ) -> Result<(), Reject> {
///     let held = session.lock_mappings().map_err(|_| Reject::Closed)?;
///     let snapshot = match held.snapshot(own, own.range(), buf) {
///         Ok(snapshot) => snapshot,
///         Err(FaultError::Busy) => return Err(Reject::Collided),
///         Err(_) => return Err(Reject::Closed),
///     };
///     let mut commit = snapshot.commit()?;
///     commit.map(supplies, |_| Some(false)).map_err(|_| Reject::Collided)?;
///     drop(commit);
///     replay();
///     drop(held);
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
/// let own = session.insert_within(&node, nth(range, 2)?)?;
/// let handle = own.handle();
/// write_all(range)?;
/// let result = insist(&mut session, &handle, &mut buf, &mut supplies, || {
///     // The device may use that page now, and no mapping changes.
///     assert_eq!(fixture.entered(), 1 << 2);
///     assert!(mmap_is_locked(fixture.space.mm()));
/// });
/// assert_eq!(result, Ok(()));
///
/// // Too small a buffer, and an interval that has ended.
/// let mut none = PfnBuf::new(0)?;
/// assert!(insist(&mut session, &handle, &mut none, &mut supplies, || ()).is_err());
/// own.remove(&session);
/// let result = insist(&mut session, &handle, &mut buf, &mut supplies, || ());
/// assert_eq!(result, Err(Reject::Dead));
/// # }
/// # Ok::<(), Error>(())
/// ```
#[must_use]
pub struct LockedMappings<'h, 's, T: Mirror> {
    session: &'h MmSession<'s, T>,
    mmap: MmapReadGuard<'h>,
}

impl<'s, T: Mirror> MmSession<'s, T> {
    /// Takes `mmap_lock` for reading. Waits for its writers, as long as the thread is not killed.
    ///
    /// Needs to be called like [`MmSession::fault_in`], and without a folio lock.
    ///
    /// # Errors
    ///
    /// [`FaultError::Dying`]; [`FaultError::Invalid`] if the thread has a folio locked.
    pub fn lock_mappings<'h>(&'h mut self) -> Result<LockedMappings<'h, 's, T>, FaultError> {
        let session: &'h Self = self;
        if FolioHolder::is_current() {
            return Err(FaultError::Invalid);
        }
        match session.mm().mmap_read_lock_killable() {
            Ok(mmap) if session.is_stable() => Ok(LockedMappings { session, mmap }),
            _ => Err(FaultError::Dying),
        }
    }
}

impl<'s, T: Mirror> LockedMappings<'_, 's, T> {
    /// Looks at `range` like [`MmSession::snapshot`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn snapshot<'b>(
        &self,
        interval: &IntervalRef<T>,
        range: PageRange,
        buf: &'b mut PfnBuf,
    ) -> Result<Snapshot<'s, 'b, T>, FaultError> {
        let owner = self.session.space().private_owner();
        let held = Mmap::Held(&self.mmap);
        match self.session.walk(interval, range, 0, owner, held, buf) {
            // INVARIANT: `seq` is of the walk that filled `pfns`.
            Ok((seq, pfns)) => Ok(Snapshot {
                space: self.session.space(),
                interval: interval.clone(),
                seq,
                range,
                pfns,
            }),
            Err(error) => Err(self.session.explain_held(&self.mmap, error, range, false)),
        }
    }
}
