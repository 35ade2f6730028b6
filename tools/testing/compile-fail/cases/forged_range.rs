// error: E0451
// SPDX-License-Identifier: GPL-2.0

//! A range is made without being checked.

use kernel::mm::addr::{
    PageRange,
    VirtAddr, //
};

/// The case.
pub fn case(start: VirtAddr, end: VirtAddr) -> PageRange {
    PageRange { start, end }
}
