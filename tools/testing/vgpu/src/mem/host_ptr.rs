// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Access to memory that others write at the same time.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering};

/// Host address of device or guest memory, good for `'g`.
///
/// `size` is 1, 2, 4 or 8 bytes throughout, and the address must be a multiple
/// of it; every such access is single-copy atomic. Loads acquire and stores
/// release, so an observer sees stores in program order.
///
/// # Invariants
///
/// `left` bytes from `ptr` are mapped read-write for `'g`.
#[derive(Clone, Copy, Debug)]
pub struct HostPtr<'g> {
    ptr: NonNull<u8>,
    left: usize,
    _guard: PhantomData<&'g ()>,
}

/// An atomic word of any size, by its value in 64 bits.
trait Word {
    fn get(&self) -> u64;
    fn set(&self, value: u64);
    fn replace(&self, value: u64) -> u64;
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word for $atomic {
            #[inline]
            fn get(&self) -> u64 {
                self.load(Ordering::Acquire) as u64
            }
            #[inline]
            fn set(&self, value: u64) {
                self.store(value as $value, Ordering::Release);
            }
            #[inline]
            fn replace(&self, value: u64) -> u64 {
                self.swap(value as $value, Ordering::SeqCst) as u64
            }
        }
    };
}

word!(AtomicU8, u8);
word!(AtomicU16, u16);
word!(AtomicU32, u32);
word!(AtomicU64, u64);

/// Copies words upwards, as many as both have, and returns how many bytes that
/// were. Nobody is promised an order among them.
#[cfg(target_arch = "x86_64")]
fn copy_words(to: &[AtomicU64], from: &[AtomicU64]) -> usize {
    let words = to.len().min(from.len());
    // SAFETY: Both are that long. To the language these are atomic accesses of
    // some size, as others' are; the processor moves whole cache lines where it
    // can, which a loop cannot ask for.
    unsafe {
        std::arch::asm!(
            "rep movsq",
            inout("rcx") words => _,
            inout("rdi") to.as_ptr() => _,
            inout("rsi") from.as_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
    words * 8
}

#[cfg(not(target_arch = "x86_64"))]
fn copy_words(to: &[AtomicU64], from: &[AtomicU64]) -> usize {
    let mut bytes = 0;
    for (to, from) in to.iter().zip(from) {
        to.store(from.load(Ordering::Acquire), Ordering::Release);
        bytes += 8;
    }
    bytes
}

impl HostPtr<'_> {
    /// # Safety
    ///
    /// The type's invariant must hold.
    #[inline]
    pub(crate) unsafe fn new(ptr: NonNull<u8>, left: usize) -> Self {
        // INVARIANT: The caller's promise.
        Self {
            ptr,
            left,
            _guard: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn as_ptr(self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Bytes from here to the end of what was resolved.
    #[inline]
    pub fn left(self) -> usize {
        self.left
    }

    /// The pointer `by` bytes on, at most [`HostPtr::left`].
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "named as on pointers")]
    pub fn add(self, by: usize) -> Self {
        assert!(by <= self.left, "pointer out of bounds");
        // INVARIANT: What is left is left of the same range.
        Self {
            // SAFETY: Inside the range, or one past it.
            ptr: unsafe { self.ptr.add(by) },
            left: self.left - by,
            _guard: PhantomData,
        }
    }

    /// Calls `make` with the atomic of `size` bytes here.
    #[inline]
    fn word<R>(self, size: usize, make: impl FnOnce(&dyn Word) -> R) -> R {
        let ptr = self.ptr.as_ptr();
        assert!(
            size <= self.left && ptr as usize & (size - 1) == 0,
            "access out of bounds or misaligned"
        );
        // SAFETY: By the invariant and the check the memory is mapped for the
        // lifetime, and the address is aligned. All of the device's accesses
        // are atomic; accesses by other processes are outside the language's
        // memory model, which atomics are the accepted means to meet.
        unsafe {
            match size {
                1 => make(&*ptr.cast::<AtomicU8>()),
                2 => make(&*ptr.cast::<AtomicU16>()),
                4 => make(&*ptr.cast::<AtomicU32>()),
                8 => make(&*ptr.cast::<AtomicU64>()),
                _ => panic!("access of {size} bytes"),
            }
        }
    }

    #[inline]
    pub fn load(self, size: usize) -> u64 {
        self.word(size, |word| word.get())
    }

    #[inline]
    pub fn store(self, size: usize, value: u64) {
        self.word(size, |word| word.set(value));
    }

    /// Stores and returns what was there, at once.
    #[inline]
    pub fn swap(self, size: usize, value: u64) -> u64 {
        self.word(size, |word| word.replace(value))
    }

    /// The words here, as many as fit into `bytes`, if this is aligned.
    #[inline]
    fn words(&self, bytes: usize) -> &[AtomicU64] {
        if self.ptr.as_ptr() as usize % 8 != 0 {
            return &[];
        }
        assert!(bytes <= self.left, "access out of bounds");
        // SAFETY: In bounds by the invariant and the check, and aligned; as for
        // `word`. An atomic slice borrows nothing but the mapping.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), bytes / 8) }
    }

    /// Copies `n` bytes from `from`, upwards.
    pub fn copy_from(self, from: HostPtr<'_>, n: usize) {
        let mut at = copy_words(self.words(n), from.words(n));
        let mut buffer = [0; 256];
        while at < n {
            let piece = &mut buffer[..(n - at).min(256)];
            from.add(at).read_bytes(piece);
            self.add(at).write_bytes(piece);
            at += piece.len();
        }
    }

    /// Reads bytes of any alignment, by the largest aligned accesses that fit.
    pub fn read_bytes(self, out: &mut [u8]) {
        let mut at = 0;
        for (word, out) in self.words(out.len()).iter().zip(out.chunks_exact_mut(8)) {
            out.copy_from_slice(&word.load(Ordering::Acquire).to_le_bytes());
            at += 8;
        }
        while at < out.len() {
            let n = self.add(at).chunk(out.len() - at);
            let value = self.add(at).load(n).to_le_bytes();
            out[at..at + n].copy_from_slice(&value[..n]);
            at += n;
        }
    }

    /// Writes bytes of any alignment, by the largest aligned accesses that fit.
    pub fn write_bytes(self, data: &[u8]) {
        let mut at = 0;
        for (word, data) in self.words(data.len()).iter().zip(data.chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(data);
            word.store(u64::from_le_bytes(value), Ordering::Release);
            at += 8;
        }
        while at < data.len() {
            let n = self.add(at).chunk(data.len() - at);
            let mut value = [0; 8];
            value[..n].copy_from_slice(&data[at..at + n]);
            self.add(at).store(n, u64::from_le_bytes(value));
            at += n;
        }
    }

    fn chunk(self, left: usize) -> usize {
        [8, 4, 2]
            .into_iter()
            .find(|&n| n <= left && self.ptr.as_ptr() as usize % n == 0)
            .unwrap_or(1)
    }
}
