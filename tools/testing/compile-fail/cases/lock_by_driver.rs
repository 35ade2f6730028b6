// error: E0407
// SPDX-License-Identifier: GPL-2.0

//! A driver says which lock protects its tables, perhaps another one each time.

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
    },
    sync::Mutex, //
};

driver! {
    fn pt_lock(&self) -> &Mutex<()> {
        unreachable!()
    }
}
