// error: E0308
// SPDX-License-Identifier: GPL-2.0

//! Numbers that nobody said are addresses become a range.

use kernel::{
    mm::addr::PageRange,
    prelude::*, //
};

/// The case.
pub fn case(start: u64, len: u64) -> Result<PageRange> {
    PageRange::new(start, start + len)
}
