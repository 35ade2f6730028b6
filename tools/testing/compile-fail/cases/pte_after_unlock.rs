// error: E0505
// SPDX-License-Identifier: GPL-2.0

//! An entry is written after the lock was released.

use kernel::mm::{
    hmm::Snapshot,
    mmu_interval::{
        Mirror,
        PtLock, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(lock: &PtLock<T>, snapshot: Snapshot<'_, T>, enter: fn(&mut T::Pt)) {
    let mut guard = lock.lock();
    if let Ok(mut commit) = snapshot.commit(&mut guard) {
        drop(guard);
        enter(commit.split().0);
    }
}
