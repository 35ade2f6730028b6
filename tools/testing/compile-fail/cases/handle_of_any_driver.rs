// error: E0308
// SPDX-License-Identifier: GPL-2.0

//! A handle is made of a device that is bound, perhaps to a driver that does not wait for guards.

use kernel::{
    device::{
        Bound,
        BoundHandle,
        Device, //
    },
    prelude::*, //
};

/// The case.
pub fn case(dev: &Device<Bound>) -> Result<BoundHandle> {
    BoundHandle::new(dev)
}
