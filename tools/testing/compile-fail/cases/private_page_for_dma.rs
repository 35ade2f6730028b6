// error: E0277
// SPDX-License-Identifier: GPL-2.0

//! A page of the device's own memory is mapped for DMA.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::hmm::{
        DmaMap,
        PrivatePage, //
    }, //
};

/// The case.
pub fn case<F>(map: &mut DmaMap<F>, dev: &Device<Bound>, page: PrivatePage<'_>) {
    let _ = map.map(dev, 0, page);
}
