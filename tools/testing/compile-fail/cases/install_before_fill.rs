// error: E0599
// SPDX-License-Identifier: GPL-2.0

//! Pages are put in place that have no place to go to.

use kernel::mm::{
    memremap::DeviceMemory,
    migrate::Collected, //
};

/// The case.
pub fn case<D: DeviceMemory>(collected: Collected<'_, D>) {
    let _ = collected.install(|_| true);
}
