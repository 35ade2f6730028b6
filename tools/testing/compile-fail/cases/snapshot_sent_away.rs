// error: E0277
// SPDX-License-Identifier: GPL-2.0

//! A snapshot, which may hold mmap_lock, is given to another thread, which must not release that.

use kernel::mm::{
    hmm::Snapshot,
    mmu_interval::Mirror, //
};

fn send<S: Send>(_: S) {}

/// The case.
pub fn case<T: Mirror>(snapshot: Snapshot<'_, T>) {
    send(snapshot);
}
