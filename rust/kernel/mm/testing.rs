// SPDX-License-Identifier: GPL-2.0

//! Memory of a process, a mirror of it that has no device, and devices, for KUnit tests.

use super::{
    addr::{
        PageRange,
        Pfn,
        VirtAddr, //
    },
    hmm::{
        Pages,
        PfnBuf,
        Reject,
        Snapshot, //
    },
    memremap::Pagemap,
    mmu_interval::{
        new_pt_lock,
        Event,
        IntervalRef,
        IntervalSet,
        Mirror,
        MmSession,
        PtLock,
        Reason,
        Revoke, //
    },
    Mm,
};
use crate::{
    bindings,
    device::{
        self,
        Bound,
        Device, //
    },
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            AtomicFlag,
            Full,
            Relaxed, //
        },
        Arc, //
    },
    time::Jiffies,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use core::ptr;

mod ram;

pub(super) use self::ram::Ram;

/// Entries in the mirror's tables.
pub(super) const PAGES: usize = 8;
/// Enough for memory that nobody else changes.
pub(super) const TIMEOUT: Jiffies = 1000;

pub(super) const PROT_NONE: usize = bindings::PROT_NONE as usize;
pub(super) const PROT_READ: usize = bindings::PROT_READ as usize;
pub(super) const PROT_RW: usize = (bindings::PROT_READ | bindings::PROT_WRITE) as usize;

/// Maps [`PAGES`] pages of anonymous memory into the test's own process.
pub(super) fn map_anon(prot: usize) -> Result<PageRange> {
    map_anon_pages(PAGES * PAGE_SIZE, prot)
}

/// Maps `len` bytes of anonymous memory, readable and writable.
pub(super) fn map_anon_len(len: usize) -> Result<PageRange> {
    map_anon_pages(len, PROT_RW)
}

fn map_anon_pages(len: usize, prot: usize) -> Result<PageRange> {
    map(
        ptr::null_mut(),
        len,
        prot,
        (bindings::MAP_PRIVATE | bindings::MAP_ANONYMOUS) as usize,
    )
}

/// Maps [`PAGES`] pages of a tmpfs file of `file_pages` pages, shared.
pub(super) fn map_shmem(file_pages: usize, prot: usize) -> Result<PageRange> {
    let size = (file_pages * PAGE_SIZE) as bindings::loff_t;
    let no_flags = bindings::vma_flags_t::default();
    // SAFETY: The name is a C string, and any size is fine.
    let file = unsafe { bindings::shmem_file_setup(c"kunit".as_char_ptr(), size, no_flags) };
    let file = crate::error::from_err_ptr(file)?;
    let mapped = map(file, PAGES * PAGE_SIZE, prot, bindings::MAP_SHARED as usize);
    // SAFETY: `shmem_file_setup` returned a reference; the mapping has its own.
    unsafe { bindings::fput(file) };
    mapped
}

fn map(file: *mut bindings::file, len: usize, prot: usize, flags: usize) -> Result<PageRange> {
    // SAFETY: Called in a test, with a file or null.
    let addr = unsafe {
        bindings::kunit_vm_mmap(
            bindings::kunit_get_current_test(),
            file,
            0,
            len,
            prot,
            flags,
            0,
        )
    };
    PageRange::from_len(VirtAddr::new(addr), len)
}

pub(super) fn munmap(range: PageRange) -> Result {
    // SAFETY: Unmaps memory of the test's own process.
    to_result(unsafe { bindings::vm_munmap(range.start().as_usize(), range.len()) })
}

/// As `madvise(MADV_DONTNEED)` does.
pub(super) fn zap(mm: &super::MmWithUser, range: PageRange) {
    let mmap = mm.mmap_read_lock();
    if let Some(vma) = mmap.vma_lookup(range.start().as_usize()) {
        vma.zap_vma_range(range.start().as_usize(), range.len());
    }
}

/// Advises the test's own process.
pub(super) fn madvise(range: PageRange, advice: u32) -> Result {
    let mm = current!().mm().ok_or(ESRCH)?.as_raw();
    // SAFETY: The test's own address space. CAST: A small constant.
    to_result(unsafe {
        bindings::do_madvise(mm, range.start().as_usize(), range.len(), advice as c_int)
    })
}

/// Touches each page with a CPU.
pub(super) fn write_all(range: PageRange) -> Result {
    for addr in range.iter_pages() {
        UserSlice::new(UserPtr::from_addr(addr.as_usize()), 1)
            .writer()
            .write::<u8>(&1)?;
    }
    Ok(())
}

/// Page `index` of `range`, alone.
pub(super) fn nth(range: PageRange, index: usize) -> Result<PageRange> {
    PageRange::page(VirtAddr::new(range.start().as_usize() + index * PAGE_SIZE))
}

/// Lets others run for a moment.
pub(super) fn pause() {
    // SAFETY: No requirements.
    unsafe { bindings::schedule_timeout_uninterruptible(1) };
}

/// Announces a change of `range`, as core does, but changes nothing.
pub(super) fn announce(
    mm: &Mm,
    range: PageRange,
    event: bindings::mmu_notifier_event,
    owner: *mut c_void,
    may_sleep: bool,
) -> Result {
    let mut range = bindings::mmu_notifier_range {
        mm: mm.as_raw(),
        start: range.start().as_usize(),
        end: range.end().as_usize(),
        flags: 0,
        event,
        owner,
    };
    // SAFETY: `range` is valid, and each start that succeeds is followed by its end.
    unsafe {
        if may_sleep {
            bindings::mmu_notifier_invalidate_range_start(&mut range);
        } else {
            to_result(bindings::mmu_notifier_invalidate_range_start_nonblock(
                &mut range,
            ))?;
        }
        bindings::mmu_notifier_invalidate_range_end(&mut range);
    }
    Ok(())
}

/// Whether somebody holds `mmap_lock`, in which case a writer has to wait.
pub(super) fn mmap_is_locked(mm: &Mm) -> bool {
    // SAFETY: The mm is valid, and its lock with it; what is taken is released.
    unsafe {
        let lock = &raw mut (*mm.as_raw()).__bindgen_anon_1.mmap_lock;
        let free = bindings::down_write_trylock(lock) != 0;
        if free {
            bindings::up_write(lock);
        }
        !free
    }
}

/// What the mirror's device may access.
pub(super) struct Tables {
    range: PageRange,
    pub(super) entries: [Option<(Pfn, bool)>; PAGES],
}

/// What the mirror was asked to do.
#[derive(Default)]
pub(super) struct Log {
    pub(super) revokes: usize,
    pub(super) last: Option<(PageRange, Reason)>,
    /// Flushes though no entry was there.
    pub(super) flushes: usize,
    pub(super) flushed: usize,
    /// Hull of the pages of the last flush that was acknowledged.
    pub(super) last_flushed: Option<PageRange>,
}

#[pin_data]
pub(super) struct Space {
    #[pin]
    pub(super) lock: PtLock<Fake>,
    pagemap: Option<Arc<Pagemap<Ram>>>,
    /// How many [`Fake`]s of it exist.
    pub(super) mirrors: Atomic<i32>,
    pub(super) waits: Atomic<i32>,
    /// The device does not acknowledge.
    pub(super) is_slow: AtomicFlag,
}

pub(super) struct Fake(Arc<Space>);

pub(super) struct FakeFlush(PageRange);

impl Tables {
    fn hit(&self, range: PageRange) -> core::ops::Range<usize> {
        self.range.intersect(range).map_or(0..0, |hit| {
            let first = self.range.page_index(hit.start()).unwrap_or(0);
            first.min(PAGES)..PAGES.min(first + hit.pages())
        })
    }
}

impl Mirror for Fake {
    type Pt = Tables;
    type Book = Log;
    type Flush = FakeFlush;
    type Flushed = FakeFlush;
    type Memory = Ram;

    fn pagemap(&self) -> Option<&Pagemap<Ram>> {
        self.0.pagemap.as_deref()
    }

    fn pt_lock(&self) -> &PtLock<Self> {
        &self.0.lock
    }

    fn is_live(&self, range: PageRange, pt: &Tables) -> bool {
        pt.entries[pt.hit(range)].iter().any(Option::is_some)
    }

    fn revoke(&self, event: &Event, mut pt: Revoke<'_, Self>) -> Option<FakeFlush> {
        let (pt, log) = pt.split();
        log.revokes += 1;
        log.last = Some((event.range(), event.reason()));
        let hit = pt.hit(event.range());
        let mut due = event.must_flush().then_some(event.range());
        let mut found = false;
        for entry in hit.filter(|&entry| pt.entries[entry].take().is_some()) {
            found = true;
            let page = nth(pt.range, entry).ok();
            due = page.map(|page| due.map_or(page, |range| range.hull(page)));
        }
        log.flushes += usize::from(due.is_some() && !found);
        due.map(FakeFlush)
    }

    fn wait(&self, flush: FakeFlush) -> FakeFlush {
        self.0.waits.fetch_add(1, Relaxed);
        while self.0.is_slow.load(Relaxed) {
            pause();
        }
        flush
    }

    fn flushed(&self, FakeFlush(range): FakeFlush, mut pt: Revoke<'_, Self>) {
        let log = pt.book();
        log.flushed += 1;
        log.last_flushed = Some(range);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.0.mirrors.fetch_sub(1, Full);
    }
}

/// Takes a snapshot of memory that nobody changes.
pub(super) fn look<'b>(
    session: &MmSession<'_, Fake>,
    interval: &IntervalRef<Fake>,
    range: PageRange,
    buf: &'b mut PfnBuf,
) -> Result<Snapshot<'b, Fake>> {
    session
        .snapshot(interval, range, TIMEOUT, buf)
        .map_err(|_| EBUSY)
}

/// A mirror of `range` of the test's own process.
pub(super) struct Fixture {
    pub(super) set: Arc<IntervalSet<Fake>>,
    pub(super) space: Arc<Space>,
}

impl Fixture {
    pub(super) fn new(range: PageRange) -> Result<Self> {
        let mm: ARef<Mm> = ARef::from(&**current!().mm().ok_or(ESRCH)?);
        Self::of_mm(mm, range)
    }

    /// With device memory.
    pub(super) fn with_pagemap(range: PageRange, pagemap: Arc<Pagemap<Ram>>) -> Result<Self> {
        let mm: ARef<Mm> = ARef::from(&**current!().mm().ok_or(ESRCH)?);
        Self::make(mm, range, Some(pagemap))
    }

    pub(super) fn of_mm(mm: ARef<Mm>, range: PageRange) -> Result<Self> {
        Self::make(mm, range, None)
    }

    fn make(mm: ARef<Mm>, range: PageRange, pagemap: Option<Arc<Pagemap<Ram>>>) -> Result<Self> {
        let tables = Tables {
            range,
            entries: [None; PAGES],
        };
        let space = Arc::pin_init(
            pin_init!(Space {
                lock <- new_pt_lock!(tables, Log::default(), "kunit::pt_lock"),
                pagemap,
                mirrors: Atomic::new(0),
                waits: Atomic::new(0),
                is_slow: AtomicFlag::new(false),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self {
            set: IntervalSet::new(mm)?,
            space,
        })
    }

    pub(super) fn session(&self) -> Result<MmSession<'_, Fake>> {
        IntervalSet::enter(&self.set).ok_or(ESRCH)
    }

    pub(super) fn mirror(&self) -> Fake {
        self.space.mirrors.fetch_add(1, Full);
        Fake(self.space.clone())
    }

    /// Commits `snapshot` and enters all that is in it.
    pub(super) fn commit(&self, snapshot: Snapshot<'_, Fake>) -> Result<usize, Reject> {
        self.commit_with(snapshot, |_, _| ())
    }

    /// The same, and does `also` with each page.
    pub(super) fn commit_with(
        &self,
        snapshot: Snapshot<'_, Fake>,
        mut also: impl FnMut(usize, Pages<'_>),
    ) -> Result<usize, Reject> {
        let mut guard = self.space.lock.lock();
        let mut commit = snapshot.commit(&mut guard)?;
        let hit = commit.range();
        let (pt, _, pages) = commit.split();
        let mut entered = 0;
        for (index, entry) in pt.hit(hit).enumerate() {
            if let Some(page) = pages.get(index) {
                pt.entries[entry] = Some((page.pfn(), page.writable().is_some()));
                also(index, pages);
                entered += 1;
            }
        }
        Ok(entered)
    }

    /// Faults `range` in for writing and enters it.
    pub(super) fn enter(
        &self,
        session: &MmSession<'_, Fake>,
        interval: &IntervalRef<Fake>,
        range: PageRange,
    ) -> Result<usize> {
        let mut buf = PfnBuf::new(PAGES)?;
        session
            .fault_in(interval, range, true, TIMEOUT, &mut buf)
            .map_err(|_| EFAULT)?;
        let snapshot = look(session, interval, range, &mut buf)?;
        self.commit(snapshot).map_err(|_| EAGAIN)
    }

    /// Which pages the device may access, as a bitmap.
    pub(super) fn entered(&self) -> u32 {
        let guard = self.space.lock.lock();
        let bits = guard.pt().entries.iter().enumerate();
        bits.map(|(i, entry)| u32::from(entry.is_some()) << i).sum()
    }
}

/// A device that does DMA, without a driver.
pub(super) struct DmaDevice(*mut bindings::platform_device);

impl DmaDevice {
    pub(super) fn new() -> Result<Self> {
        let info = bindings::platform_device_info {
            name: c"rust_mm".as_char_ptr(),
            id: bindings::PLATFORM_DEVID_AUTO,
            dma_mask: u64::MAX,
            ..Default::default()
        };
        // SAFETY: `info` is valid.
        let pdev = unsafe { bindings::platform_device_register_full(&info) };
        let this = Self(crate::error::from_err_ptr(pdev)?);
        // SAFETY: Nobody does DMA yet.
        to_result(unsafe { bindings::dma_set_mask_and_coherent(this.bound().as_raw(), u64::MAX) })?;
        Ok(this)
    }

    pub(super) fn bound(&self) -> &Device<Bound> {
        // SAFETY: Registered until `self` is dropped. It has no driver that could be unbound.
        unsafe { Device::<device::Normal>::from_raw(&raw mut (*self.0).dev).as_bound() }
    }
}

impl Drop for DmaDevice {
    fn drop(&mut self) {
        // SAFETY: Registered in `new`.
        unsafe { bindings::platform_device_unregister(self.0) };
    }
}
