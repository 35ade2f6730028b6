// error: E0597
// SPDX-License-Identifier: GPL-2.0

//! A commit is kept beyond the scope of the guard.

use kernel::mm::{
    hmm::Snapshot,
    mmu_interval::{
        Mirror,
        PtLock, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(lock: &PtLock<T>, snapshot: Snapshot<'_, T>) {
    let commit;
    {
        let mut guard = lock.lock();
        commit = snapshot.commit(&mut guard);
    }
    drop(commit);
}
