// error: E0507
// SPDX-License-Identifier: GPL-2.0

//! One folio of device memory is given to several pages.

use kernel::mm::{
    memremap::{
        DevFolio,
        DeviceMemory, //
    },
    migrate::Collected, //
};

/// The case.
pub fn case<'p, D: DeviceMemory>(collected: Collected<'_, D>, folio: DevFolio<'p, D>) {
    let _ = collected.fill(move |_, _| Some(folio));
}
