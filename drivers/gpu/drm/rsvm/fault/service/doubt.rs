// SPDX-License-Identifier: GPL-2.0

//! Whether an access that cannot be served still waits.
//!
//! The device reports an access anew at each replay for which it is not yet served, also at one
//! for another space. So when an access has long been served, and has gone on to do what it liked,
//! a report of it may still lie in the buffer; and by now the process may have taken the memory
//! away or protected it, as is its right. To cancel upon such a report would kill a queue that did
//! nothing wrong, perhaps during its next launch.
//!
//! Therefore an access is cancelled only when it is reported twice: after one report there turns
//! out to be nothing to map, a replay follows, and a report that the device wrote later than that
//! finding comes, with no PTE entered in between. It cannot have gone on, as nothing let it.

use crate::{
    fault::batch::Fault,
    svm::device::{
        Access,
        Source, //
    }, //
};
use kernel::{
    mm::addr::{
        PageRange,
        VirtAddr, //
    },
    prelude::*, //
};

/// Queues with an access in doubt at the same time; those of others wait for their turn.
const QUEUES: usize = 64;
/// Turns until an access that is not reported again makes room for another one of its queue.
const TURNS: u32 = 16;

/// An access that could not be served.
struct Doubt {
    source: Source,
    page: VirtAddr,
    access: Access,
    /// Reports from this number on are newer than the finding; `None` until the end of its turn.
    since: Option<u64>,
    /// Replays since then.
    turns: u32,
}

/// Accesses that could not be served, one of each queue at most.
pub(super) struct Doubts(KVec<Doubt>);

impl Doubts {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(KVec::with_capacity(QUEUES, GFP_KERNEL)?))
    }

    /// Whether `fault`, which cannot be served, waits for certain. If not, the turn has to end with
    /// a replay, after which it is reported again if it does.
    pub(super) fn confirm(&mut self, fault: &Fault) -> bool {
        let known = self.0.iter().position(|doubt| doubt.source == fault.source);
        let Some(index) = known else {
            // If there is no room, it comes again.
            let _ = self.0.push_within_capacity(Doubt {
                source: fault.source,
                page: fault.addr.page(),
                access: fault.access,
                since: None,
                turns: 0,
            });
            return false;
        };
        let doubt = &self.0[index];
        let waits = doubt.page == fault.addr.page()
            && doubt.access == fault.access
            && doubt.since.is_some_and(|since| fault.serial >= since);
        if waits {
            let _ = self.0.remove(index);
        }
        waits
    }

    /// Has to be told of PTEs that were entered in `range`, before the device is.
    pub(super) fn entered(&mut self, range: PageRange) {
        self.0.retain(|doubt| !range.contains(doubt.page));
    }

    /// To be called before the replay that ends a turn; the next report has number `next()`.
    pub(super) fn end_turn(&mut self, next: impl FnOnce() -> u64) {
        self.0.retain(|doubt| doubt.turns < TURNS);
        if self.0.iter().any(|doubt| doubt.since.is_none()) {
            let next = next();
            for doubt in &mut self.0 {
                doubt.since.get_or_insert(next);
            }
        }
        for doubt in &mut self.0 {
            doubt.turns += 1;
        }
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_fault_doubt)]
mod tests {
    use super::*;
    use crate::svm::device::Pdb;

    fn fault(addr: usize, source: u32, serial: u64) -> Fault {
        Fault {
            space: Pdb(1),
            addr: VirtAddr::new(addr),
            access: Access::Write,
            execute: false,
            source: Source(source),
            serial,
        }
    }

    #[test]
    fn only_a_later_report_confirms() -> Result {
        let mut doubts = Doubts::new()?;
        assert!(!doubts.confirm(&fault(0x5010, 1, 7)));
        // In the same turn, and of before its end.
        assert!(!doubts.confirm(&fault(0x5018, 1, 8)));
        doubts.end_turn(|| 9);
        assert!(!doubts.confirm(&fault(0x5018, 1, 8)));
        // Of another page, queue, or access.
        assert!(!doubts.confirm(&fault(0x6018, 1, 9)));
        assert!(!doubts.confirm(&fault(0x5010, 2, 9)));
        let read = Fault {
            access: Access::Read,
            ..fault(0x5010, 1, 9)
        };
        assert!(!doubts.confirm(&read));
        assert!(doubts.confirm(&fault(0x5010, 1, 9)));
        // Which settled it.
        assert!(!doubts.confirm(&fault(0x5010, 1, 10)));
        Ok(())
    }

    #[test]
    fn an_entered_pte_makes_reports_old() -> Result {
        let mut doubts = Doubts::new()?;
        assert!(!doubts.confirm(&fault(0x5010, 1, 7)));
        doubts.end_turn(|| 9);
        doubts.entered(PageRange::page(VirtAddr::new(0x5000))?);
        assert!(!doubts.confirm(&fault(0x5010, 1, 9)));
        Ok(())
    }

    #[test]
    fn what_is_never_reported_again_makes_room() -> Result {
        let mut doubts = Doubts::new()?;
        assert!(!doubts.confirm(&fault(0x5000, 1, 0)));
        for _ in 0..TURNS {
            doubts.end_turn(|| 1);
            assert!(!doubts.confirm(&fault(0x6000, 1, 1)));
        }
        doubts.end_turn(|| 1);
        assert!(!doubts.confirm(&fault(0x6000, 1, 1)));
        doubts.end_turn(|| 2);
        assert!(doubts.confirm(&fault(0x6000, 1, 2)));
        Ok(())
    }
}
