// error: E0277
// SPDX-License-Identifier: GPL-2.0

//! A page that nobody validated is mapped.

use kernel::mm::{
    addr::Pfn,
    hmm::DevicePage, //
};

/// Any page frame.
pub struct Forged(pub Pfn);

impl DevicePage for Forged {
    const WRITABLE: bool = true;

    fn pfn(&self) -> Pfn {
        self.0
    }
}
