// SPDX-License-Identifier: GPL-2.0

//! Stores to a process's memory that do not wait for it.

use super::{
    addr::VirtAddr,
    MmWithUser, //
};
use crate::{
    bindings,
    prelude::*,
    types::NotThreadSafe, //
};

/// Has a kernel thread run in the address space of a process, until this is dropped.
///
/// # Invariants
///
/// The current thread is a kernel thread that uses the address space.
struct Borrowed<'a>(&'a MmWithUser, NotThreadSafe);

impl<'a> Borrowed<'a> {
    /// [`None`] for a thread that has an address space.
    fn new(mm: &'a MmWithUser) -> Option<Self> {
        let task = current!();
        // SAFETY: The current task is valid, and nobody else changes its flags.
        let flags = unsafe { (*task.as_ptr()).flags };
        if flags & bindings::PF_KTHREAD == 0 || task.mm().is_some() {
            return None;
        }
        // SAFETY: A kernel thread without an address space; this one is in use.
        unsafe { bindings::kthread_use_mm(mm.as_raw()) };
        // INVARIANT: Just begun.
        Some(Self(mm, NotThreadSafe))
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kthread_unuse_mm(self.0.as_raw()) };
    }
}

impl MmWithUser {
    /// Writes a value with a single store, for threads that look at it all the time. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the address is not a multiple of eight; [`EAGAIN`] if the memory is not there, or
    /// not writable, at the moment, or not for a thread of another process.
    pub fn store_u64(&self, addr: VirtAddr, value: u64) -> Result {
        if addr.as_usize() % size_of::<u64>() != 0 {
            return Err(EINVAL);
        }
        let _borrowed = match self.is_current() {
            true => None,
            false => Some(Borrowed::new(self).ok_or(EAGAIN)?),
        };
        // SAFETY: The thread runs in this address space, in which `put_user` checks the address. Page
        // faults are allowed again as soon as it has returned, which does not sleep without them.
        let result = unsafe {
            bindings::pagefault_disable();
            let result = bindings::put_user_u64(value, addr.as_usize() as *mut u64);
            bindings::pagefault_enable();
            result
        };
        if result == 0 {
            Ok(())
        } else {
            Err(EAGAIN)
        }
    }
}

#[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
#[kunit_tests(rust_mm_store)]
mod tests {
    use super::*;
    use crate::{
        mm::testing::{
            elsewhere,
            map_anon,
            write_all,
            PROT_READ,
            PROT_RW, //
        },
        page::PAGE_SIZE,
        sync::{
            aref::ARef,
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc, //
        },
        uaccess::UserPtr, //
    };

    /// Memory of the test's own process, in which nothing is yet.
    fn map(prot: usize) -> Result<VirtAddr> {
        Ok(map_anon(prot)?.start())
    }

    fn read(addr: VirtAddr) -> Result<u64> {
        UserPtr::from_addr(addr.as_usize()).get_u64()
    }

    /// Maps pages and has a 1 written to each.
    fn map_written() -> Result<VirtAddr> {
        let range = map_anon(PROT_RW)?;
        write_all(range)?;
        Ok(range.start())
    }

    fn own() -> Result<ARef<MmWithUser>> {
        Ok(current!().mm().ok_or(ESRCH)?.into())
    }

    #[test]
    fn what_is_there_is_written() -> Result {
        let addr = map_written()?;
        let mm = own()?;
        mm.store_u64(addr, 0x0123_4567_89ab_cdef)?;
        assert_eq!(read(addr), Ok(0x0123_4567_89ab_cdef));
        assert_eq!(read(VirtAddr::new(addr.as_usize() + 8)), Ok(0));
        let last = VirtAddr::new(addr.as_usize() + PAGE_SIZE - 8);
        mm.store_u64(last, u64::MAX)?;
        assert_eq!(read(last), Ok(u64::MAX));
        for odd in [1, 4, 7] {
            let addr = VirtAddr::new(addr.as_usize() + odd);
            assert_eq!(mm.store_u64(addr, 0), Err(EINVAL));
        }
        Ok(())
    }

    #[test]
    fn nothing_is_waited_for() -> Result {
        let untouched = map(PROT_RW)?;
        let mm = own()?;
        assert_eq!(mm.store_u64(untouched, 1), Err(EAGAIN));
        let read_only = map(PROT_READ)?;
        assert_eq!(read(read_only), Ok(0));
        for nowhere in [read_only.as_usize(), 0, usize::MAX - 7] {
            assert_eq!(mm.store_u64(VirtAddr::new(nowhere), 1), Err(EAGAIN));
        }
        Ok(())
    }

    /// Stores from a thread without memory, which has none afterwards, either.
    fn store_elsewhere(addr: VirtAddr) -> Result<i32> {
        let result = Arc::new(Atomic::new(-1), GFP_KERNEL)?;
        let (mm, stored) = (own()?, result.clone());
        let done = elsewhere(GFP_KERNEL, move || {
            let errno = mm.store_u64(addr, 42).err().map_or(0, Error::to_errno);
            let has_mm = current!().mm().is_some();
            stored.store(if has_mm { 1 } else { errno }, Relaxed);
        })?;
        done.wait_for_completion();
        Ok(result.load(Relaxed))
    }

    #[test]
    fn kernel_threads_store() -> Result {
        let addr = map_written()?;
        assert_eq!(store_elsewhere(addr), Ok(0));
        assert_eq!(read(addr), Ok(42));
        assert_eq!(store_elsewhere(map(PROT_RW)?), Ok(EAGAIN.to_errno()));
        Ok(())
    }

    #[test]
    fn threads_with_memory_do_not() -> Result {
        let addr = map_written()?;
        // SAFETY: No requirements; put below.
        let other = unsafe { bindings::mm_alloc() };
        assert!(!other.is_null());
        // SAFETY: Just made, and with a user until it is put.
        let result = unsafe { MmWithUser::from_raw(other) }.store_u64(addr, 2);
        // SAFETY: As above.
        unsafe { bindings::mmput(other) };
        assert_eq!(result, Err(EAGAIN));
        assert_eq!(read(addr), Ok(1));
        Ok(())
    }
}
