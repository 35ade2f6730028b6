// error: E0382
// SPDX-License-Identifier: GPL-2.0

//! A snapshot is committed again, after the lock was released in between.

use kernel::mm::{
    hmm::Snapshot,
    mmu_interval::{
        Mirror,
        PtLock, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(lock: &PtLock<T>, snapshot: Snapshot<'_, T>) -> bool {
    let first = snapshot.commit(&mut lock.lock()).is_ok();
    first && snapshot.commit(&mut lock.lock()).is_ok()
}
