// error: E0616
// SPDX-License-Identifier: GPL-2.0

//! The page of one process is mapped for another: the lock of a commit is exchanged.

use kernel::mm::{
    hmm::Commit,
    space::{
        Guard,
        Mirror, //
    }, //
};

/// The case.
pub fn case<'a, T: Mirror>(commit: &mut Commit<'a, '_, T>, guard: &mut Guard<'a, T>) {
    core::mem::swap(&mut commit.guard, guard);
}
