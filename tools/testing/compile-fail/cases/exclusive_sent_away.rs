// error: E0277
// SPDX-License-Identifier: GPL-2.0

//! An exclusive page is given to another thread, which must not release mmap_lock.

use kernel::mm::{
    hmm::Exclusive,
    space::Mirror, //
};

fn send<S: Send>(_: S) {}

/// The case.
pub fn case<T: Mirror>(exclusive: Exclusive<'_, T>) {
    send(exclusive);
}
