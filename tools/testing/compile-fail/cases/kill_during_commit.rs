// error: E0499
// SPDX-License-Identifier: GPL-2.0

//! An interval is killed in the middle of a commit, which then goes on.

use kernel::mm::{
    hmm::Snapshot,
    mmu_interval::{
        Interval,
        Mirror,
        PtLock, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(
    lock: &PtLock<T>,
    interval: Interval<T>,
    snapshot: Snapshot<'_, T>,
    enter: fn(&mut T::Pt),
) {
    let mut guard = lock.lock();
    if let Ok(mut commit) = snapshot.commit(&mut guard) {
        let _ = interval.kill(&mut guard);
        enter(commit.split().0);
    }
}
