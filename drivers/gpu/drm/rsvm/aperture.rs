// SPDX-License-Identifier: GPL-2.0

//! Device memory as the CPU sees it, through its BAR: linear, and not cached.
//!
//! It works without bus mastering and without the copy engine, and so is the last resort to save
//! what lies there.

use crate::gpu::Gpu;
use kernel::{
    device::Bound,
    io::Io,
    pci,
    prelude::*, //
};

/// Index of the BAR.
pub(crate) const BAR: u32 = 1;

const WORD: usize = size_of::<u64>();

/// The BAR with device memory.
pub(crate) struct Aperture {
    bar: pci::DevresBar,
    size: u64,
}

impl Aperture {
    /// Maps the first `size` bytes of device memory, which should be all.
    ///
    /// # Errors
    ///
    /// `ENXIO` if the BAR is smaller, `EBUSY` if somebody has it, `ENOMEM`.
    pub(crate) fn new(pdev: &pci::Device<Bound>, size: u64) -> Result<Self> {
        if pdev.resource_len(BAR)? < size {
            return Err(ENXIO);
        }
        let bar = pdev.iomap_region(BAR, c"rsvm/vram")?;
        Ok(Self {
            bar: bar.into_devres()?,
            size,
        })
    }

    /// # Errors
    ///
    /// `EINVAL` unless `len` bytes at `offset` are whole words of device memory.
    fn words(&self, offset: u64, len: usize) -> Result {
        let end = offset.checked_add(len as u64).ok_or(EINVAL)?;
        if end > self.size || (offset | end) % WORD as u64 != 0 {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Calls `f` with the BAR in an RCU section.
    fn with(&self, f: impl for<'a> FnOnce(&pci::Bar<'a>) -> Result) -> Result {
        self.bar.try_access_with(f).ok_or(ENODEV)?
    }
}

impl Gpu {
    /// Reads device memory from byte `offset` on, in words of 8 bytes. One page at a time, for it
    /// is slow and does not sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if something is misaligned, or beyond the end; `ENODEV` when the driver was
    /// unbound or the device does not answer, so that nothing that was read means anything.
    pub(crate) fn vram_read(&self, offset: u64, out: &mut [u8]) -> Result {
        self.aperture.words(offset, out.len())?;
        let at = usize::try_from(offset)?;
        self.aperture.with(|bar| {
            for (i, word) in out.chunks_exact_mut(WORD).enumerate() {
                word.copy_from_slice(&bar.try_read64(at + i * WORD)?.to_le_bytes());
            }
            Ok(())
        })?;
        // One that was pulled out reads as ones.
        if self.check_presence() {
            Ok(())
        } else {
            Err(ENODEV)
        }
    }
}
