// error: E0505
// SPDX-License-Identifier: GPL-2.0

//! An exclusive page is remembered and entered in the tables later.

use kernel::mm::{
    hmm::{
        AtomicPage,
        ExclusiveCommit, //
    },
    mmu_interval::Mirror, //
};

/// The case.
pub fn case<T: Mirror>(mut commit: ExclusiveCommit<'_, T>, later: fn(AtomicPage<'_>)) {
    let page = commit.split().2;
    drop(commit);
    later(page);
}
