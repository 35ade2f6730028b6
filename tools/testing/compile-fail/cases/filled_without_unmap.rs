// error: E0382
// SPDX-License-Identifier: GPL-2.0

//! The CPU reads a page that the device may still reach.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        memremap::DeviceMemory,
        migrate::Filled, //
    },
    page::PAGE_SIZE, //
};

/// The case.
pub fn case<D: DeviceMemory>(
    filled: Filled<'_, D>,
    dev: &Device<Bound>,
    out: &mut [u8; PAGE_SIZE],
) {
    let mapped = filled.map(dev);
    let _ = filled.read_system(0, out);
    drop(mapped);
}
