// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Private stacks of a VEID's harts in one group.

use super::lsu::STACK_BYTES;
use std::ptr::NonNull;

/// Zeroed when made; memory is taken only where a hart writes, and given back
/// when this is dropped, which a general allocator does not promise.
///
/// # Invariants
///
/// `ptr` maps `len` bytes, private and read-write, that nothing else refers to.
pub struct Stacks {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: The mapping belongs to this value, not to a thread.
unsafe impl Send for Stacks {}

impl Stacks {
    /// [`STACK_BYTES`] for each of `harts`.
    ///
    /// # Panics
    ///
    /// If the host has no address space left, as an allocation would.
    pub fn new(harts: usize) -> Self {
        let len = harts * STACK_BYTES;
        // SAFETY: A new mapping at an address the kernel chooses.
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(ptr, libc::MAP_FAILED, "no address space for stacks");
        // INVARIANT: Just mapped so.
        Stacks {
            ptr: NonNull::new(ptr.cast()).expect("mapped at address 0"),
            len,
        }
    }

    /// The stack of hart `n`, lowest byte first.
    #[inline]
    pub fn of(&mut self, n: usize) -> &mut [u8] {
        let at = n * STACK_BYTES;
        assert!(at + STACK_BYTES <= self.len, "no such hart");
        // SAFETY: In bounds; by the invariant the bytes are ours, and `self` is
        // borrowed for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().add(at), STACK_BYTES) }
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        // SAFETY: By the invariant this is our mapping.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}
