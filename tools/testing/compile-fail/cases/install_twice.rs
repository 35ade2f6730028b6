// error: E0382
// SPDX-License-Identifier: GPL-2.0

//! The same pages are put in place twice.

use kernel::mm::{
    memremap::DeviceMemory,
    migrate::Filled, //
};

/// The case.
pub fn case<D: DeviceMemory>(filled: Filled<'_, D>) {
    let first = filled.install(|_| true);
    let second = filled.install(|_| true);
    drop((first, second));
}
