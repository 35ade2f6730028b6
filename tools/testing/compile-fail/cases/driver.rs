// error: none
// SPDX-License-Identifier: GPL-2.0

//! A whole driver's part, so that the cases that add to it fail for no other reason.

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

driver! {}
