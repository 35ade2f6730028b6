// error: E0382
// SPDX-License-Identifier: GPL-2.0

//! A pagemap is used as one with pages after it was drained.

use kernel::{
    mm::memremap::{
        DeviceMemory,
        LivePagemap,
        Order, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// The case.
pub fn case<D: DeviceMemory>(live: LivePagemap<D>, deadline: Instant<Monotonic>) -> bool {
    let drained = live.drain(deadline).is_ok();
    live.folio(0, Order::Page).is_ok() && drained
}
