// SPDX-License-Identifier: GPL-2.0

//! Faults after decoding: sorted, merged, cut into slices.
//!
//! The device reports every access that missed, so one page shows up once for every hardware
//! thread that touched it. A batch brings the faults of one page together, the most intrusive
//! access first, and keeps one fault for each queue that waits: a page that cannot be written can
//! still be read, and only the queues that wanted to write it are cancelled.

use super::{
    FaultInfo,
    Reason, //
};
use crate::svm::device::{
    Access,
    Cancel,
    Pdb,
    Source,
    LEAF_SIZE, //
};
use core::cmp::Reverse;
use kernel::{
    alloc::KVVec,
    mm::addr::VirtAddr,
    prelude::*, //
};

/// An access that missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The tables that were walked.
    pub(crate) space: Pdb,
    /// Byte address.
    pub(crate) addr: VirtAddr,
    pub(crate) access: Access,
    /// The access was an instruction fetch, which is a read.
    pub(crate) execute: bool,
    /// The queue that waits.
    pub(crate) source: Source,
    /// Ascends in the order of the reports, over all spaces.
    pub(crate) serial: u64,
}

impl Fault {
    /// The order in which faults are served. Everything that is merged is adjacent, and of what is
    /// merged the first one says all.
    fn key(&self) -> (u64, VirtAddr, Source, Reverse<Access>, Reverse<u64>) {
        (
            self.space.0,
            self.addr.page(),
            self.source,
            Reverse(self.access),
            Reverse(self.serial),
        )
    }

    fn same_page(&self, other: &Self) -> bool {
        self.space == other.space && self.addr.page() == other.addr.page()
    }

    fn same_leaf(&self, other: &Self) -> bool {
        self.space == other.space
            && self.addr.as_usize() / LEAF_SIZE == other.addr.as_usize() / LEAF_SIZE
    }

    /// What to tell the device when this fault cannot be served.
    pub(crate) fn cancel(&self) -> Cancel {
        Cancel {
            addr: self.addr,
            access: self.access,
            source: self.source,
        }
    }

    /// What to tell the queue.
    pub(crate) fn info(&self, reason: Reason) -> FaultInfo {
        FaultInfo {
            addr: self.addr.as_u64(),
            access: self.access,
            execute: self.execute,
            reason,
        }
    }
}

/// Faults in memory that was allocated beforehand: filling it neither sleeps nor fails otherwise
/// than by being full.
///
/// A fault that finds no room may be dropped, provided that a replay follows: the access is then
/// reported anew.
#[derive(Default)]
pub(crate) struct Batch {
    faults: KVVec<Fault>,
}

impl Batch {
    /// An empty batch with room for `capacity` faults. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(capacity: usize) -> Result<Self> {
        Ok(Self {
            faults: KVVec::with_capacity(capacity, GFP_KERNEL)?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.faults.clear();
    }

    /// Adds a fault; gives it back when the batch is full.
    pub(crate) fn push(&mut self, fault: Fault) -> Result<(), Fault> {
        self.faults.push_within_capacity(fault).map_err(|_| fault)
    }

    /// Adds `faults` as far as there is room; returns how many found none.
    pub(crate) fn extend<'a>(&mut self, faults: impl Iterator<Item = &'a Fault>) -> usize {
        faults.filter(|fault| self.push(**fault).is_err()).count()
    }

    /// Sorts, and merges the faults of one queue on one page into the most intrusive one. Returns
    /// how many were dropped by that.
    pub(crate) fn merge(&mut self) -> usize {
        let before = self.faults.len();
        sort(&mut self.faults);
        let mut last: Option<Fault> = None;
        self.faults.retain(|fault| {
            let repeats =
                last.is_some_and(|last| last.same_page(fault) && last.source == fault.source);
            last = Some(*fault);
            !repeats
        });
        before - self.faults.len()
    }

    /// The faults of each space of a merged batch.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[Fault]> {
        self.faults.chunk_by(|a, b| a.space == b.space)
    }

    /// The faults of each leaf of a merged batch.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = &[Fault]> {
        self.faults.chunk_by(Fault::same_leaf)
    }

    pub(crate) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Removes the faults that are not to be `kept`.
    pub(crate) fn retain(&mut self, kept: impl Fn(&Fault) -> bool) {
        self.faults.retain(|fault| kept(fault));
    }
}

/// The faults of each page of a part of a merged batch.
pub(crate) fn pages(faults: &[Fault]) -> impl Iterator<Item = Page<'_>> {
    faults.chunk_by(Fault::same_page).map(Page)
}

/// Sorts a heap in place. The sort of `core` ends in functions that objtool does not know never to
/// return.
fn sort(faults: &mut [Fault]) {
    /// Moves the fault at `root` down until none below it is greater.
    fn sift(heap: &mut [Fault], mut root: usize) {
        while let Some(left) = heap.get(2 * root + 1) {
            let mut child = 2 * root + 1;
            if heap
                .get(child + 1)
                .is_some_and(|right| right.key() > left.key())
            {
                child += 1;
            }
            if heap[root].key() >= heap[child].key() {
                break;
            }
            heap.swap(root, child);
            root = child;
        }
    }
    for root in (0..faults.len() / 2).rev() {
        sift(faults, root);
    }
    for end in (1..faults.len()).rev() {
        faults.swap(0, end);
        sift(&mut faults[..end], 0);
    }
}

/// Everything that waits for one page of one space; never empty.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a>(&'a [Fault]);

impl<'a> Page<'a> {
    /// Address of the page.
    pub(crate) fn addr(&self) -> VirtAddr {
        self.0[0].addr.page()
    }

    /// The most intrusive access that waits.
    pub(crate) fn access(&self) -> Access {
        let waiting = self.0.iter().map(|fault| fault.access);
        waiting.max().unwrap_or(Access::Read)
    }

    /// The most intrusive access that waits and needs less than `limit`.
    pub(crate) fn weaker(&self, limit: Access) -> Option<Access> {
        let waiting = self.0.iter().map(|fault| fault.access);
        waiting.filter(|&access| access < limit).max()
    }

    /// The faults whose access needs at least `access`.
    pub(crate) fn needing(&self, access: Access) -> impl Iterator<Item = &'a Fault> {
        self.0.iter().filter(move |fault| fault.access >= access)
    }

    pub(crate) fn faults(&self) -> &'a [Fault] {
        self.0
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_fault_batch)]
mod tests {
    use super::*;

    fn fault(space: u64, addr: usize, access: Access, source: u32) -> Fault {
        Fault {
            space: Pdb(space),
            addr: VirtAddr::new(addr),
            access,
            execute: false,
            source: Source(source),
            serial: 0,
        }
    }

    fn batch(faults: &[Fault]) -> Result<Batch> {
        let mut batch = Batch::new(faults.len())?;
        for &fault in faults {
            batch.push(fault).map_err(|_| ENOSPC)?;
        }
        Ok(batch)
    }

    #[test]
    fn one_queue_waits_once_and_most_intrusively() -> Result {
        let mut batch = batch(&[
            fault(1, 0x5010, Access::Read, 3),
            fault(1, 0x5ff8, Access::Write, 3),
            fault(1, 0x5020, Access::Read, 3),
            fault(1, 0x5010, Access::Write, 3),
        ])?;
        assert_eq!(batch.merge(), 3);
        let page = pages(batch.faults()).next().ok_or(ENOENT)?;
        assert_eq!(page.addr(), VirtAddr::new(0x5000));
        assert_eq!(page.access(), Access::Write);
        assert_eq!(page.faults().len(), 1);
        Ok(())
    }

    #[test]
    fn queues_keep_their_own_access() -> Result {
        let mut batch = batch(&[
            fault(1, 0x5000, Access::Read, 1),
            fault(1, 0x5000, Access::Write, 2),
            fault(1, 0x5000, Access::Atomic, 4),
        ])?;
        assert_eq!(batch.merge(), 0);
        assert_eq!(pages(batch.faults()).count(), 1);
        let page = pages(batch.faults()).next().ok_or(ENOENT)?;
        assert_eq!(page.access(), Access::Atomic);
        assert_eq!(page.weaker(Access::Atomic), Some(Access::Write));
        assert_eq!(page.weaker(Access::Write), Some(Access::Read));
        assert_eq!(page.needing(Access::Write).count(), 2);
        assert!(page.needing(Access::Atomic).all(|f| f.source == Source(4)));
        Ok(())
    }

    #[test]
    fn a_page_without_weaker_waiters_has_none() -> Result {
        let mut batch = batch(&[fault(1, 0x5000, Access::Write, 1)])?;
        batch.merge();
        let page = pages(batch.faults()).next().ok_or(ENOENT)?;
        assert_eq!(page.weaker(Access::Write), None);
        Ok(())
    }

    #[test]
    fn spaces_never_share_a_slice() -> Result {
        let mut batch = batch(&[
            fault(2, 0x1000, Access::Read, 0),
            fault(1, 0xffff_f000, Access::Read, 0),
            fault(2, 0x0, Access::Write, 0),
            fault(1, 0x1000, Access::Read, 0),
        ])?;
        batch.merge();
        let spaces: [u64; 2] = [1, 2];
        assert!(batch.slices().map(|slice| slice[0].space.0).eq(spaces));
        assert!(batch.slices().all(|slice| slice.len() == 2));
        // Within a slice addresses ascend, all 64 bits of them.
        let first = batch.slices().next().ok_or(ENOENT)?;
        assert!(first[0].addr < first[1].addr);
        // The same address in two spaces is two pages.
        assert_eq!(pages(batch.faults()).count(), 4);
        Ok(())
    }

    #[test]
    fn any_order_comes_out_sorted() -> Result {
        let mut batch = Batch::new(300)?;
        let mut state = 1usize;
        for source in 0..300 {
            // A linear congruence of full period: no page shows up twice.
            state = state.wrapping_mul(5).wrapping_add(3) % 512;
            let fault = fault(1 + state as u64 % 3, state << 12, Access::Read, source);
            batch.push(fault).map_err(|_| ENOSPC)?;
        }
        assert_eq!(batch.merge(), 0);
        assert_eq!(batch.slices().count(), 3);
        assert!(batch.faults.is_sorted_by_key(Fault::key));
        Ok(())
    }

    #[test]
    fn a_full_batch_gives_the_fault_back() -> Result {
        let mut batch = Batch::new(1)?;
        let room = batch.faults.capacity();
        for page in 0..room {
            assert!(batch.push(fault(1, page << 12, Access::Read, 0)).is_ok());
        }
        let extra = fault(1, 0x7000_0000, Access::Write, 9);
        assert_eq!(batch.push(extra), Err(extra));
        batch.clear();
        assert!(batch.is_empty());
        Ok(())
    }
}
