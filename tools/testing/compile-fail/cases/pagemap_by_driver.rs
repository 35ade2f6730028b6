// error: E0407
// SPDX-License-Identifier: GPL-2.0

//! A driver says which pagemap is its own, perhaps another one each time.

use kernel::{
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        memremap::{
            NoDeviceMemory,
            Pagemap, //
        },
        space::{
            Mirror,
            PageSize,
            Prot,
            Start,
            Tables,
            Target, //
        }, //
    },
    prelude::*, //
};

/// Page tables.
pub struct NoTables;

impl Tables for NoTables {
    type Reserve = ();

    fn write(&mut self, _: VirtAddr, _: PageSize, _: Target, _: Prot, _: &mut ()) -> Result {
        Err(ENOMEM)
    }

    fn clear(&mut self, _: VirtAddr, _: PageSize) {}

    fn demote(
        &mut self,
        _: VirtAddr,
        _: &mut (),
        _: impl FnMut(usize) -> Option<(Target, Prot)>,
    ) -> Result {
        Err(ENOMEM)
    }

    fn unhook(&mut self, _: VirtAddr) {}

    fn take_demotion(_: &mut ()) {}
}

/// A driver.
pub struct Driver;

impl Mirror for Driver {
    type Tables = NoTables;
    type State = ();
    type Leaf = ();
    type Flush = ();
    type Memory = NoDeviceMemory;

    fn start_flush(&self, _: &NoTables, _: PageRange, _: Start) {}

    fn wait(&self, (): ()) {}

    fn pagemap(&self) -> Option<&Pagemap<NoDeviceMemory>> {
        None
    }
}
