// error: E0505
// SPDX-License-Identifier: GPL-2.0

//! The CPUs get the page back before it is mapped.

use kernel::mm::{
    hmm::Exclusive,
    space::{
        Mirror,
        Supplies, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(exclusive: Exclusive<'_, T>, supplies: &mut Supplies<T>) {
    let Ok(mut commit) = exclusive.commit() else {
        return;
    };
    drop(exclusive);
    let _ = commit.map(supplies);
}
