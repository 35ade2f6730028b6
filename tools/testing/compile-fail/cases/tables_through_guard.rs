// error: E0308
// SPDX-License-Identifier: GPL-2.0

//! Whoever holds the lock writes to the tables without a snapshot.

use kernel::mm::mmu_interval::{
    Mirror,
    PtLock, //
};

/// The case.
pub fn case<T: Mirror>(lock: &PtLock<T>, enter: fn(&mut T::Pt)) {
    let guard = lock.lock();
    enter(guard.pt());
}
