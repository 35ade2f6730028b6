// error: E0603
// SPDX-License-Identifier: GPL-2.0

//! A driver maps pages for DMA by itself, and could unmap or revoke them without the lock.

use kernel::mm::space::dma::DmaMap;

/// The case.
pub fn case(map: DmaMap) {
    drop(map);
}
