// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The guest's memory: file mappings by DMA address.

use super::{vram::map_shared, HostPtr};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Why memory could not be mapped or unmapped. Addresses and sizes in bytes.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("DMA range {iova:#x}+{len:#x} is empty or beyond the address space")]
    BadRange { iova: u64, len: u64 },
    #[error("DMA range {iova:#x}+{len:#x} overlaps one that is mapped")]
    Overlap { iova: u64, len: u64 },
    #[error("DMA range {iova:#x}+{len:#x} would unmap part of a mapping")]
    Partial { iova: u64, len: u64 },
    #[error("cannot map guest memory: {0}")]
    Host(#[from] std::io::Error),
}

/// One mapping.
///
/// # Invariants
///
/// `ptr`, if any, maps `len` bytes read-write until this is dropped. `iova +
/// len` does not overflow.
pub(super) struct Region {
    iova: u64,
    len: u64,
    ptr: Option<NonNull<u8>>,
}

// SAFETY: The mapping belongs to no thread, and is reached only atomically.
unsafe impl Send for Region {}
// SAFETY: As above.
unsafe impl Sync for Region {}

impl Region {
    /// Read-only ranges (ROM) are kept unreachable: a device that reads them is
    /// lost anyway, and a store must not kill the process.
    pub(super) fn new(
        fd: Option<OwnedFd>,
        offset: u64,
        iova: u64,
        len: u64,
        writable: bool,
    ) -> Result<Self, MapError> {
        if len == 0 || iova.checked_add(len).is_none() || offset.checked_add(len).is_none() {
            return Err(MapError::BadRange { iova, len });
        }
        let ptr = match fd {
            Some(fd) if writable => Some(map_shared(fd.as_fd(), offset, len, true)?),
            _ => None,
        };
        Ok(Self { iova, len, ptr })
    }

    pub(super) fn iova(&self) -> u64 {
        self.iova
    }

    pub(super) fn overlaps(&self, iova: u64, len: u64) -> bool {
        self.iova < iova.saturating_add(len) && iova < self.iova + self.len
    }

    pub(super) fn inside(&self, iova: u64, len: u64) -> bool {
        self.iova >= iova && self.iova + self.len <= iova.saturating_add(len)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(ptr) = self.ptr {
            // SAFETY: By the invariant this is our mapping. Whoever resolved an
            // address in it held the map, and so this region.
            unsafe { libc::munmap(ptr.as_ptr().cast(), self.len as usize) };
        }
    }
}

/// The mappings of one moment, sorted by address.
#[derive(Default)]
pub struct GuestMap {
    regions: Vec<Arc<Region>>,
}

impl GuestMap {
    pub(super) fn new(regions: &[Arc<Region>]) -> Self {
        Self {
            regions: regions.to_vec(),
        }
    }

    /// `len` bytes at DMA address `at`, if one mapping has them all.
    #[inline]
    pub fn resolve(&self, at: u64, len: u64) -> Option<HostPtr<'_>> {
        let i = self.regions.partition_point(|r| r.iova <= at);
        let region = self.regions.get(i.checked_sub(1)?)?;
        let offset = at - region.iova;
        if offset >= region.len || len > region.len - offset {
            return None;
        }
        // SAFETY: In bounds, and mapped while `self` holds the region.
        unsafe { Some(HostPtr::new(region.ptr?.add(offset as usize), len as usize)) }
    }
}
