// error: E0407
// SPDX-License-Identifier: GPL-2.0

//! A driver says which pagemap is its own, perhaps another one each time.

#[path = "lib/driver.rs"]
mod driver;

use driver::*;
use kernel::{
    mm::{
        addr::PageRange,
        memremap::{
            NoDeviceMemory,
            Pagemap, //
        },
        space::{
            Mirror,
            Start, //
        }, //
    }, //
};

driver! {
    fn pagemap(&self) -> Option<&Pagemap<NoDeviceMemory>> {
        None
    }
}
