// error: E0308
// SPDX-License-Identifier: GPL-2.0

//! A page that the process may only read is entered for writing.

use kernel::mm::{
    hmm::{
        Pages,
        WritePage, //
    }, //
};

/// The case.
pub fn case(pages: Pages<'_>, enter_writable: fn(WritePage<'_>)) {
    if let Some(page) = pages.get(0) {
        enter_writable(page);
    }
}
