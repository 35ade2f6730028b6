// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Anonymous memory.

use crate::error::{Error, Result};
use std::io;
use std::ptr::NonNull;

/// Zeroed private memory of whole pages.
///
/// # Invariants
///
/// `base` maps `len` bytes, readable, until this is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: The mapping belongs to no thread; users of the pointer answer for
// what they do with it.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes.
    pub(crate) fn new(len: usize) -> Result<Self> {
        // SAFETY: A new mapping at an address the kernel chooses.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { base, len }),
            _ => Err(Error::system("map memory")(io::Error::last_os_error())),
        }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes the right to write `len` bytes at `offset` away, both multiples of
    /// the page size.
    pub(crate) fn write_protect(&self, offset: usize, len: usize) -> Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::Invalid("range outside the mapping"));
        }
        // SAFETY: The range lies in our mapping, and stays readable.
        let ret =
            unsafe { libc::mprotect(self.base.add(offset).as_ptr().cast(), len, libc::PROT_READ) };
        if ret != 0 {
            return Err(Error::system("write-protect memory")(
                io::Error::last_os_error(),
            ));
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: Our mapping by the invariant, and nothing borrows it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
