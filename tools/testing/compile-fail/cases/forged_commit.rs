// error: E0451
// SPDX-License-Identifier: GPL-2.0

//! The right to map is made up, without a snapshot.

use kernel::mm::{
    addr::PageRange,
    hmm::Commit,
    space::{
        Guard,
        Mirror, //
    }, //
};

/// The case.
pub fn case<'a, T: Mirror>(guard: Guard<'a, T>, range: PageRange) -> Commit<'a, 'static, T> {
    Commit {
        guard,
        range,
        pfns: &[],
    }
}
