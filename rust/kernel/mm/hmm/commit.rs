// SPDX-License-Identifier: GPL-2.0

//! From a snapshot to mapped pages.

use super::*;
use crate::mm::space::page_in_leaf;

/// What a range looked like a moment ago. Good for nothing but [`Snapshot::commit`].
///
/// # Invariants
///
/// `pfns` has an entry for each page of `range`, which `interval` covers, and was filled while
/// `seq` was its sequence. `interval` is one of `space`.
#[must_use]
pub struct Snapshot<'a, 'b, T: Mirror> {
    pub(super) space: &'a Space<T>,
    pub(super) interval: IntervalRef<T>,
    pub(super) seq: usize,
    pub(super) range: PageRange,
    pub(super) pfns: &'b [usize],
}

impl<'a, 'b, T: Mirror> Snapshot<'a, 'b, T> {
    /// Takes the page-table lock, and checks that the snapshot still tells the truth, and will until
    /// the lock is released.
    ///
    /// # Errors
    ///
    /// See [`Reject`].
    pub fn commit(self) -> Result<Commit<'a, 'b, T>, Reject> {
        // INVARIANT: By `lock_current`, nothing changed since the snapshot, nor will before the lock
        // is released. `MMU_NOTIFY_EXCLUSIVE` for this space itself is no change of the pages that
        // the snapshot has: an exclusive page is absent in it.
        Ok(Commit {
            guard: lock_current(self.space, &self.interval, self.seq)?,
            range: self.range,
            pfns: self.pfns,
        })
    }
}

/// Takes the page-table lock of `space`, and checks that its `interval` lives and that its sequence is
/// `seq`. Until the lock is released no change is announced in the interval: the announcement takes
/// the lock, and so does the end of the interval.
pub(super) fn lock_current<'a, T: Mirror>(
    space: &'a Space<T>,
    interval: &IntervalRef<T>,
    seq: usize,
) -> Result<Guard<'a, T>, Reject> {
    let guard = space.lock();
    if guard.is_closed() {
        return Err(Reject::Closed);
    }
    if interval.0.watcher().is_dead() {
        return Err(Reject::Dead);
    }
    if interval.0.read_retry(seq) {
        return Err(Reject::Collided);
    }
    Ok(guard)
}

/// A page of a [`Commit`] that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// The page frame.
    pub pfn: Pfn,
    /// Whether the process may write to the page as it is.
    pub writable: bool,
    /// Which page of the space's pagemap it is, if it is device memory.
    pub private: Option<u32>,
}

/// The right to map pages: the page-table lock is held, and the snapshot is true.
///
/// # Invariants
///
/// `pfns` describes the memory of the process of `guard` in `range` as it is. Before any of it
/// changes, the change is announced to the space, which needs the lock.
pub struct Commit<'a, 'b, T: Mirror> {
    guard: Guard<'a, T>,
    range: PageRange,
    pfns: &'b [usize],
}

impl<T: Mirror> Commit<'_, '_, T> {
    /// The range of the snapshot.
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

    /// The page at `index`, counted from the start of the range; [`None`] if it is not present, which
    /// does not say that nothing is there.
    pub fn page(&self, index: usize) -> Option<Present> {
        let entry = *self.pfns.get(index)?;
        let pfn = Pfn::new(entry & !FLAGS);
        (entry & VALID != 0).then(|| Present {
            pfn,
            writable: entry & WRITE != 0,
            private: self.guard.space().private_page(pfn),
        })
    }

    /// Maps the pages that are present and that `choose` gives something for: whether atomics are
    /// allowed there if writing is. The range lies in one leaf.
    ///
    /// A page that is [leaving](crate::mm::space) is left alone, and so is one without a bus address.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the range lies in several leaves; [`EAGAIN`] if `supplies` are used up;
    /// [`ESHUTDOWN`] once the space was closed.
    pub fn map(
        &mut self,
        supplies: &mut Supplies<T>,
        mut choose: impl FnMut(usize) -> Option<bool>,
    ) -> Result<Mapped> {
        let (range, pfns) = (self.range, self.pfns);
        let space = self.guard.space();
        let Some(dev) = space.dma_device() else {
            return Err(ESHUTDOWN);
        };
        let first = page_in_leaf(range.start());
        self.guard.map_window(range, supplies, |leaf, page| {
            let entry = *pfns.get(page - first)?;
            if entry & VALID == 0 {
                return None;
            }
            let atomic = choose(page - first)?;
            let pfn = Pfn::new(entry & !FLAGS);
            let found = Found {
                pfn,
                private: space.private_page(pfn),
            };
            let write = entry & WRITE != 0;
            let prot = Prot {
                write,
                atomic: write && atomic,
            };
            // SAFETY: `pfn` is an entry that `hmm_range_fault()` filled, with `HMM_PFN_VALID`, so it
            // has a `struct page`. It is no device memory unless of the space's own pagemap, for
            // others' was faulted. By the type invariants the page is mapped in the process at that
            // address, and a change is announced to the space, which needs the lock.
            unsafe { leaf.prepare(&dev, page, found, prot) }
        })
    }
}
