// error: E0505
// SPDX-License-Identifier: GPL-2.0

//! A page is remembered and entered in the tables later.

use kernel::mm::{
    hmm::{
        Commit,
        ReadPage, //
    },
    mmu_interval::Mirror, //
};

/// The case.
pub fn case<T: Mirror>(mut commit: Commit<'_, '_, T>, later: fn(Option<ReadPage<'_>>)) {
    let page = commit.split().2.get(0);
    drop(commit);
    later(page);
}
