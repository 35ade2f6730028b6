// error: E0277
// SPDX-License-Identifier: GPL-2.0

//! A held mmap_lock is given to another thread, which must not release it.

use kernel::mm::{
    hmm::LockedMappings,
    space::Mirror, //
};

fn send<S: Send>(_: S) {}

/// The case.
pub fn case<T: Mirror>(held: LockedMappings<'_, '_, T>) {
    send(held);
}
