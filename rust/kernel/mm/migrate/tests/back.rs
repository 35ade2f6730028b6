// SPDX-License-Identifier: GPL-2.0

//! Back to system memory, and what processes do to device memory.

use super::*;
use crate::{
    error::to_result,
    mm::folio::FRAGMENTED,
    sync::{
        atomic::Atomic,
        Completion, //
    }, //
};

/// A process that `fork()` made.
#[pin_data]
struct Child {
    addr: usize,
    seen: Atomic<u64>,
    #[pin]
    go: Completion,
    #[pin]
    done: Completion,
}

/// Reads a page, and writes to it, in a copy of the test's address space.
///
/// # Safety
///
/// `child` is the reference of a [`Child`].
unsafe extern "C" fn child_main(child: *mut c_void) -> c_int {
    // SAFETY: Came from `into_raw`, by the caller's promise.
    let child = unsafe { Arc::<Child>::from_raw(child.cast()) };
    child.go.wait_for_completion();
    child.seen.store(read(child.addr).unwrap_or(0), Relaxed);
    let _ = UserSlice::new(UserPtr::from_addr(child.addr), 8)
        .writer()
        .write(&0u64);
    child.done.complete_all();
    drop(child);
    // SAFETY: The process has nothing else to do.
    unsafe { bindings::do_exit(0) }
}

fn fork(addr: usize) -> Result<Arc<Child>> {
    let child = Arc::pin_init(
        pin_init!(Child {
            addr,
            seen: Atomic::new(0),
            go <- Completion::new(),
            done <- Completion::new(),
        }),
        GFP_KERNEL,
    )?;
    let raw = child.clone().into_raw();
    let mut args = bindings::kernel_clone_args {
        // CAST: Small constants.
        flags: bindings::CLONE_UNTRACED.into(),
        exit_signal: bindings::SIGCHLD as c_int,
        fn_: Some(child_main),
        fn_arg: raw.cast_mut().cast(),
        ..Default::default()
    };
    // SAFETY: The reference goes to the child, which never returns.
    let pid = unsafe { bindings::kernel_clone(&mut args) };
    if pid < 0 {
        // SAFETY: There is no child that would have it.
        drop(unsafe { Arc::from_raw(raw) });
        to_result(pid)?;
    }
    Ok(child)
}

#[kunit_tests(rust_mm_migrate_back)]
mod cases {
    use super::*;

    /// Eviction takes what is there, whoever owns it.
    #[test]
    fn evict_small() -> Result {
        let mut bench = Bench::small(16, true)?;
        assert_eq!(bench.send_all(false, 512)?, 16);
        let mut some = [0; HUGE_PAGES / 64];
        some[0] = 0xf0f0;
        assert_eq!(bench.evict(512, &some)?, 8);
        assert_eq!(bench.located()?, (8, 8));
        // Of free pages nothing comes, even if they are said to live.
        assert_eq!(bench.evict(512, &ALL)?, 8);
        assert_eq!(bench.evict(512, &ALL)?, 0);
        assert_eq!(bench.evict(0, &ALL)?, 0);
        assert!(bench.evict(1, &ALL).is_err_and(|error| error == EINVAL));
        assert!(bench
            .evict(DEVICE_PAGES, &ALL)
            .is_err_and(|error| error == EINVAL));
        assert!(bench.check(bench.range, 1)?);
        assert_eq!(bench.ram().0.faults.load(Relaxed), 0);
        assert!(bench.end()?);
        Ok(())
    }

    /// A large folio comes in one piece, and split if there is no large folio of system memory.
    #[test]
    fn evict_huge() -> Result {
        for fragmented in [false, true] {
            let mut bench = Bench::huge(true)?;
            assert_eq!(bench.send_all(true, 1024)?, HUGE_PAGES);
            FRAGMENTED.store(fragmented, Relaxed);
            let moved = bench.evict(1024, &ALL);
            FRAGMENTED.store(false, Relaxed);
            assert_eq!(moved?, HUGE_PAGES);
            assert_eq!(bench.ram().0.splits.load(Relaxed), i32::from(fragmented));
            assert_eq!(bench.pagemap().in_use(), 0);
            assert!(bench.check(bench.range, 1)?);
            assert_eq!(bench.ram().0.faults.load(Relaxed), 0);
            assert!(bench.end()?);
        }
        Ok(())
    }

    /// A large folio is recalled in one piece, and split if that is not asked for or not possible.
    #[test]
    fn recall_huge() -> Result {
        for (whole, fragmented) in [(true, false), (true, true), (false, false)] {
            let mut bench = Bench::huge(true)?;
            assert_eq!(bench.send_all(true, 1024)?, HUGE_PAGES);
            FRAGMENTED.store(fragmented, Relaxed);
            let moved = bench.recall(bench.range, whole);
            FRAGMENTED.store(false, Relaxed);
            assert_eq!(moved?, HUGE_PAGES);
            let splits = i32::from(fragmented || !whole);
            assert_eq!(bench.ram().0.splits.load(Relaxed), splits);
            assert_eq!(bench.located()?, (0, 0));
            assert!(bench.check(bench.range, 1)?);
            assert_eq!(bench.ram().0.faults.load(Relaxed), 0);
            assert!(bench.end()?);
        }
        Ok(())
    }

    /// What is recalled leaves holes as they are, and what is in system memory where it is.
    #[test]
    fn recall_among_others() -> Result {
        let mut bench = Bench::small(8, true)?;
        for page in [1, 2, 5] {
            let range = nth(bench.range, page)?;
            // CAST: Small.
            let sent = bench.send(range, false, page as u32, |_, _| true, |_| true)?;
            assert_eq!(sent, 1);
        }
        let hole = nth(bench.range, 5)?;
        madvise(hole, bindings::MADV_DONTNEED)?;
        assert_eq!(bench.recall(bench.range, false)?, 2);
        assert_eq!(bench.recall(bench.range, false)?, 0);
        assert_eq!(bench.located()?, (0, 0));
        assert_eq!(read(hole.start().as_usize())?, 0);
        assert!(bench.check(nth(bench.range, 2)?, 1)? && bench.check(nth(bench.range, 4)?, 1)?);
        let elsewhere = PageRange::from_len(bench.range.start(), 2 * LEAF_SIZE)?;
        assert!(bench
            .recall(elsewhere, false)
            .is_err_and(|error| error == EINVAL));
        assert!(bench.end()?);
        Ok(())
    }

    /// A CPU gets its page of a large folio when there is no large folio of system memory.
    #[test]
    fn fault_without_huge() -> Result {
        let mut bench = Bench::huge(true)?;
        assert_eq!(bench.send_all(true, 0)?, HUGE_PAGES);
        let ram = bench.ram();
        ram.0.single.store(true, Relaxed);
        FRAGMENTED.store(true, Relaxed);
        let ok = bench.check(nth(bench.range, 5)?, 1);
        FRAGMENTED.store(false, Relaxed);
        assert!(ok?);
        assert_eq!(ram.0.splits.load(Relaxed), 1);
        assert_eq!(bench.located()?, (HUGE_PAGES - 1, HUGE_PAGES - 1));
        assert!(bench.check(bench.range, 1)?);
        assert!(bench.end()?);
        Ok(())
    }

    /// A device page comes back with what the device wrote.
    #[test]
    fn written_by_device() -> Result {
        let mut bench = Bench::small(4, true)?;
        assert_eq!(bench.send_all(false, 0)?, 4);
        bench.ram().poke(2, 0x7f);
        let third = nth(bench.range, 2)?.start();
        assert_eq!(read(third.as_usize())? & 0xff, 0x7f);
        assert!(bench.end()?);
        Ok(())
    }

    /// The process unmaps a part of a large folio: it takes a split to get the memory back.
    #[test]
    fn split() -> Result {
        let mut bench = Bench::huge(true)?;
        assert_eq!(bench.send_all(true, 512)?, HUGE_PAGES);
        let half = PageRange::from_len(bench.range.start(), LEAF_SIZE / 2)?;
        munmap(half)?;
        let pagemap = bench.pagemap();
        assert_eq!(pagemap.in_use(), HUGE_PAGES);
        // Any page of it will do.
        pagemap.split(512 + 300)?;
        assert_eq!(bench.ram().0.splits.load(Relaxed), 1);
        assert_eq!(pagemap.in_use(), HUGE_PAGES / 2);
        // Nothing to do, each for another reason.
        pagemap.split(512 + 300)?;
        pagemap.split(512 + 3)?;
        pagemap.split(0)?;
        assert!(pagemap
            .split(DEVICE_PAGES)
            .is_err_and(|error| error == EINVAL));
        let rest = PageRange::new(half.end(), bench.range.end())?;
        assert!(bench.check(rest, 1)?);
        assert_eq!(pagemap.in_use(), 0);
        drop(pagemap);
        assert!(bench.end()?);
        Ok(())
    }

    /// Without that, a CPU's fault splits it.
    #[test]
    fn fault_on_half() -> Result {
        let mut bench = Bench::huge(true)?;
        assert_eq!(bench.send_all(true, 512)?, HUGE_PAGES);
        let half = PageRange::from_len(bench.range.start(), LEAF_SIZE / 2)?;
        munmap(half)?;
        let rest = PageRange::new(half.end(), bench.range.end())?;
        assert!(bench.check(rest, 1)?);
        assert_eq!(bench.ram().0.splits.load(Relaxed), 1);
        assert_eq!(bench.pagemap().in_use(), 0);
        assert!(bench.end()?);
        Ok(())
    }

    /// A child sees its parent's device pages as they were, and keeps its changes to itself. The
    /// device may not write to what they share, until it asks.
    #[test]
    fn fork_shares() -> Result {
        let mut bench = Bench::small(8, true)?;
        assert_eq!(bench.send_all(false, 0)?, 8);
        bench.ram().0.single.store(true, Relaxed);
        let addr = nth(bench.range, 3)?.start();
        let child = fork(addr.as_usize())?;
        assert_eq!(bench.located()?, (8, 0));

        // The device writes.
        let session = bench.f.session()?;
        let handle = bench.watch(&session)?;
        let mut buf = PfnBuf::new(8)?;
        session
            .fault_in(&handle, PageRange::page(addr)?, true, TIMEOUT, &mut buf)
            .map_err(|_| EFAULT)?;
        drop((handle, session));
        assert_eq!(bench.located()?, (7, 0));
        assert!(bench.check(PageRange::page(addr)?, 1)?);
        bench.write(PageRange::page(addr)?, 2)?;

        child.go.complete_all();
        child.done.wait_for_completion();
        assert_eq!(child.seen.load(Relaxed), addr.as_u64() | 1);
        assert!(bench.check(PageRange::page(addr)?, 2)?);
        let others = PageRange::from_len(bench.range.start(), 3 * PAGE_SIZE)?;
        assert!(bench.check(others, 1)?);
        // Waits for the child's end, too.
        assert!(bench.end()?);
        Ok(())
    }

    /// A core dump has what is in device memory, in whatever size.
    #[cfg(CONFIG_ELF_CORE)]
    #[test]
    fn core_dump() -> Result {
        for huge in [false, true] {
            let mut bench = if huge {
                Bench::huge(true)?
            } else {
                Bench::small(16, true)?
            };
            let pages = bench.range.pages();
            assert_eq!(bench.send_all(huge, 0)?, pages);
            let addr = nth(bench.range, 5)?.start();
            let mut locked = 0;
            // SAFETY: The `mmap_lock` is not held, and the process is the test's own.
            let page = unsafe { bindings::get_dump_page(addr.as_usize(), &mut locked) };
            assert!(!page.is_null());
            // SAFETY: The page is referenced, by us, and in system memory.
            let bytes = unsafe {
                let mapped = bindings::kmap_local_page(page);
                let bytes = mapped.cast::<u64>().read();
                bindings::kunmap_local(mapped);
                bindings::folio_put(bindings::page_folio(page));
                bytes
            };
            assert_eq!(bytes, addr.as_u64() | 1);
            assert!(bench.check(bench.range, 1)?);
            assert!(bench.end()?);
        }
        Ok(())
    }

    /// Memory that is lost gives an error, not other data.
    #[test]
    fn lost() -> Result {
        let mut bench = Bench::small(2, true)?;
        assert_eq!(bench.send_all(false, 0)?, 2);
        bench.ram().0.gone.store(true, Relaxed);
        assert!(bench
            .check(bench.range, 1)
            .is_err_and(|error| error == EFAULT));
        assert_eq!(bench.located()?, (2, 2));
        assert!(bench.end()?);
        Ok(())
    }

    /// A pagemap with pages in use is not drained; when these are gone it is.
    #[test]
    fn drain() -> Result {
        let mut bench = Bench::small(8, true)?;
        assert_eq!(bench.send_all(false, 0)?, 8);
        let pagemap = bench.pagemap();
        let live = bench.live.take().ok_or(EINVAL)?;
        let live = match live.drain(Instant::now()) {
            Ok(_) => return Err(EBUSY),
            Err(live) => live,
        };
        assert!(pagemap
            .folio(100, Order::Page)
            .is_err_and(|error| error == ENODEV));
        // What is there can still come back.
        assert!(bench.check(bench.range, 1)?);
        drop(live.drain(soon()).map_err(|_| EBUSY)?);
        assert!(pagemap.evict(0, &ALL, &mut bench.buf)?.is_none());
        pagemap.split(0)?;
        Ok(())
    }

    /// A look at a part of a large folio finds the pages of that part.
    #[test]
    fn inside_huge() -> Result {
        let mut bench = Bench::huge(true)?;
        assert_eq!(bench.send_all(true, 512)?, HUGE_PAGES);
        let session = bench.f.session()?;
        let handle = bench.watch(&session)?;
        let mut buf = PfnBuf::new(2)?;
        let part = PageRange::from_len(nth(bench.range, 300)?.start(), 2 * PAGE_SIZE)?;
        let seen = look(&session, &handle, part, &mut buf)?;
        let mut found = [None; 2];
        {
            let commit = seen.commit().map_err(|_| EAGAIN)?;
            for (index, found) in found.iter_mut().enumerate() {
                *found = commit.page(index).and_then(|page| page.private);
            }
        }
        assert!(found == [Some(512 + 300), Some(512 + 301)]);
        drop((handle, session));
        assert!(bench.end()?);
        Ok(())
    }

    /// Device pages are mapped like others, without a bus address, and are revoked by the migration
    /// that brings them home.
    #[test]
    fn mirrored() -> Result {
        let mut bench = Bench::small(PAGES, true)?;
        assert_eq!(
            bench.send(bench.range, false, 16, |page, _| page < 2, |_| true)?,
            2
        );
        let session = bench.f.session()?;
        let handle = bench.watch(&session)?;
        // Device pages are left where they are.
        assert_eq!(bench.f.enter(&session, &handle, bench.range)?, PAGES);
        assert_eq!((bench.f.entered(), bench.f.held()), (0xff, 0xff));
        {
            let guard = bench.f.space.lock();
            let page = |index| nth(bench.range, index).map(|page| guard.slot(page.start()));
            assert_eq!(page(0)?.private_page(), Some(16));
            assert_eq!(page(1)?.private_page(), Some(17));
            assert!(page(2)?.is_system() && !page(1)?.is_system());
        }
        drop((handle, session));
        assert_eq!(bench.recall(bench.range, false)?, 2);
        assert_eq!((bench.f.entered() & 0b11, bench.f.held() & 0b11), (0, 0));
        assert_eq!(bench.located()?, (0, 0));
        assert!(bench.end()?);
        Ok(())
    }

    /// One migration per thread, however many sessions and spaces it has.
    #[test]
    fn one_migration_per_thread() -> Result {
        let mut bench = Bench::small(4, true)?;
        let mut other = Bench::small(4, true)?;
        let mut session = bench.f.session()?;
        let mut theirs = other.f.session()?;
        let collected = session.migrate(bench.range, false, &mut bench.buf)?;
        let refused = theirs.migrate(other.range, false, &mut other.buf).err();
        let recall = theirs.recall(other.range, false, &mut other.buf).err();
        let pagemap = other.pagemap();
        let evict = pagemap.evict(0, &ALL, &mut other.buf).err();
        drop(collected);
        assert_eq!([refused, recall, evict], [Some(EBUSY); 3]);
        assert!(theirs
            .migrate(other.range, false, &mut other.buf)?
            .is_some());
        Ok(())
    }
}
