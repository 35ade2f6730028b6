// error: E0382
// SPDX-License-Identifier: GPL-2.0

//! A snapshot is committed again, after the lock was released in between.

use kernel::mm::{
    hmm::Snapshot,
    space::Mirror, //
};

/// The case.
pub fn case<T: Mirror>(snapshot: Snapshot<'_, '_, T>) -> bool {
    let first = snapshot.commit().is_ok();
    first && snapshot.commit().is_ok()
}
