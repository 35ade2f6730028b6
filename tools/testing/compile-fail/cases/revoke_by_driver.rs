// error: E0407
// SPDX-License-Identifier: GPL-2.0

//! A driver revokes pages in its own way, perhaps not at all.

#[path = "lib/driver.rs"]
mod driver;

use driver::*;
use kernel::{
    mm::{
        addr::PageRange,
        memremap::NoDeviceMemory,
        space::{
            Mirror,
            Start, //
        }, //
    }, //
};

driver! {
    fn revoke(&self, _: PageRange) {}
}
