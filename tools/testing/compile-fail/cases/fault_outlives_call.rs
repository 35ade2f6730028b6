// error: E0515
// SPDX-License-Identifier: GPL-2.0

//! A migration goes on after the fault that it belongs to.

use kernel::mm::{
    addr::PageRange,
    memremap::{
        CpuFault,
        DeviceMemory, //
    },
    migrate::{
        Filled,
        MigrateBuf, //
    },
};

/// The case.
pub fn case<'b, D: DeviceMemory>(
    fault: CpuFault<'b, D>,
    range: PageRange,
    buf: &'b mut MigrateBuf,
) -> Option<Filled<'b, D>> {
    fault.migrate(range, buf).ok().flatten()
}
