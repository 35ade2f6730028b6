// error: E0382
// SPDX-License-Identifier: GPL-2.0

//! A page is mapped after the page-table lock was released.

use kernel::mm::{
    hmm::Commit,
    space::{
        Mirror,
        Supplies, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(mut commit: Commit<'_, '_, T>, supplies: &mut Supplies<T>) {
    drop(commit);
    let _ = commit.map(supplies, |_| Some(false));
}
