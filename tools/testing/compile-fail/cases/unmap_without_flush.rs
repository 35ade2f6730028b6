// error: E0061
// SPDX-License-Identifier: GPL-2.0

//! A DMA mapping is taken away and nothing shows that the device forgot the address.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::hmm::DmaMap,
    prelude::*, //
};

/// A device's acknowledgement.
pub struct Flushed;

/// The case.
pub fn case(dev: &Device<Bound>, map: &mut DmaMap<Flushed>) -> Result {
    map.unmap(dev, 0..1)
}
