// error: E0423
// SPDX-License-Identifier: GPL-2.0

//! The right to write is made up.

use kernel::mm::hmm::{
    ReadPage,
    WritePage, //
};

/// The case.
pub fn case(page: ReadPage<'_>) -> WritePage<'_> {
    WritePage(page)
}
