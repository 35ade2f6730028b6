// error: E0451
// SPDX-License-Identifier: GPL-2.0

//! A folio is made up of pages that were not claimed.

use kernel::mm::memremap::{
    DevFolio,
    DeviceMemory,
    Order,
    Pagemap, //
};

/// The case.
pub fn case<'p, D: DeviceMemory>(pagemap: &'p Pagemap<D>) -> DevFolio<'p, D> {
    DevFolio {
        pagemap,
        first: 0,
        order: Order::Page,
    }
}
