// error: E0382
// SPDX-License-Identifier: GPL-2.0

//! The CPU writes to a page that the device still reaches.

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
    mut filled: Filled<'_, D>,
    dev: &Device<Bound>,
    data: &[u8; PAGE_SIZE],
) {
    let mapped = filled.map(dev);
    let _ = filled.write_system(0, data);
    drop(mapped);
}
