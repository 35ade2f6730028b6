// SPDX-License-Identifier: GPL-2.0

//! A whole driver's part of a space, to which a case may add.

use kernel::{
    mm::{
        addr::VirtAddr,
        space::{
            PageSize,
            Prot,
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

/// Implements [`Mirror`] for [`Driver`], with the items given beside those that it needs.
macro_rules! driver {
    ($($more:tt)*) => {
        impl Mirror for Driver {
            type Tables = NoTables;
            type State = ();
            type Leaf = ();
            type Flush = ();
            type Memory = NoDeviceMemory;

            fn start_flush(&self, _: &NoTables, _: PageRange, _: Start) {}

            fn wait(&self, (): ()) {}

            $($more)*
        }
    };
}
pub(crate) use driver;
