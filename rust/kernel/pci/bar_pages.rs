// SPDX-License-Identifier: GPL-2.0

//! A BAR as something to be mapped into user space.

use super::Device;
use crate::{
    device,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Where the CPU sees the pages of a memory BAR.
///
/// This is no permission to access it: who has it does not keep the driver bound.
///
/// # Invariants
///
/// `start` and `len` are those of a BAR that the driver of a bound device found there, and
/// multiples of the page size.
#[derive(Clone, Copy)]
pub struct BarPages {
    start: u64,
    len: u64,
}

impl BarPages {
    /// The pages of BAR `index`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such BAR, or it has no whole pages.
    pub fn new(pdev: &Device<device::Bound>, index: u32) -> Result<Self> {
        let start = pdev.resource_start(index)?;
        let len = pdev.resource_len(index)?;
        // CAST: Widening.
        if len == 0 || (start | len) % PAGE_SIZE as u64 != 0 {
            return Err(EINVAL);
        }
        // INVARIANT: Checked above.
        Ok(Self { start, len })
    }

    /// Bytes of the BAR.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// CPU physical address of the page with byte `offset`.
    pub(crate) fn phys(&self, offset: u64) -> Option<u64> {
        (offset < self.len).then(|| self.start + offset / PAGE_SIZE as u64 * PAGE_SIZE as u64)
    }
}
