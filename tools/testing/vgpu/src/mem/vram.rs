// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Device memory: a memory file, so that the VMM can map it into the guest.

use super::HostPtr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// # Invariants
///
/// `ptr` maps all `len` bytes of `fd`, shared and read-write, while this lives.
pub struct Vram {
    fd: OwnedFd,
    ptr: NonNull<u8>,
    len: u64,
}

// SAFETY: The mapping belongs to no thread, and is reached only atomically.
unsafe impl Send for Vram {}
// SAFETY: As above.
unsafe impl Sync for Vram {}

impl Vram {
    pub fn new(len: u64) -> std::io::Result<Self> {
        // SAFETY: The name is a C string; no memory is handed over.
        let raw = unsafe { libc::memfd_create(c"vgpu-vram".as_ptr(), libc::MFD_CLOEXEC) };
        if raw < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: `raw` was just made and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: Plain system call on an owned descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let ptr = map_shared(fd.as_fd(), 0, len, true)?;
        Ok(Self { fd, ptr, len })
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes at offset `at`.
    #[inline]
    pub fn resolve(&self, at: u64, len: u64) -> Option<HostPtr<'_>> {
        if at >= self.len || len > self.len - at {
            return None;
        }
        // SAFETY: In bounds, and mapped while `self` lives.
        unsafe { Some(HostPtr::new(self.ptr.add(at as usize), len as usize)) }
    }

    /// Overwrites all of it with ones: what a bus reads from a device that is
    /// gone. Mappings in other processes cannot be taken back.
    pub fn fill_ones(&self) {
        for at in (0..self.len & !7).step_by(8) {
            if let Some(word) = self.resolve(at, 8) {
                word.store(8, u64::MAX);
            }
        }
    }

    /// Gives all pages back, so that everything reads zero.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn clear(&self) -> std::io::Result<()> {
        // SAFETY: Plain system call on an owned descriptor.
        let ret = unsafe {
            libc::fallocate(
                self.fd.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                0,
                self.len as libc::off_t,
            )
        };
        if ret != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    }
}

impl AsFd for Vram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Vram {
    fn drop(&mut self) {
        // SAFETY: By the invariant this is our mapping, and nothing borrows it
        // any more.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len as usize) };
    }
}

/// Maps part of a file, shared.
pub(super) fn map_shared(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: u64,
    writable: bool,
) -> std::io::Result<NonNull<u8>> {
    let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    // SAFETY: A new mapping at an address the kernel chooses.
    let ptr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len as usize,
            prot,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            fd.as_raw_fd(),
            offset as libc::off_t,
        )
    };
    if ptr == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(ptr.cast()).ok_or_else(|| std::io::Error::other("mapped at address 0"))
}
