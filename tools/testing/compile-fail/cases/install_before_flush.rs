// error: E0599
// SPDX-License-Identifier: GPL-2.0

//! Pages are put in place while the device may still write to where they were.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        memremap::DeviceMemory,
        migrate::{
            Filled,
            Unflushed, //
        },
        space::Mirror, //
    }, //
};

/// The case.
pub fn case<D, T>(filled: Unflushed<'_, T, Filled<'_, D>>, dev: &Device<Bound>)
where
    D: DeviceMemory,
    T: Mirror<Memory = D>,
{
    let _ = filled.map(dev).install(|_| true);
}
