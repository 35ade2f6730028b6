// SPDX-License-Identifier: GPL-2.0

//! Memory of a process, a mirror of it that has no device, and devices, for KUnit tests.

use super::{
    addr::{
        PageRange,
        VirtAddr, //
    },
    hmm::{
        PfnBuf,
        Present,
        Reject,
        Snapshot, //
    },
    memremap::Pagemap,
    space::{
        leaf_index,
        IntervalRef,
        MmSession,
        Reason,
        Space,
        Supplies,
        LEAF_SIZE, //
    },
    Mm, //
};
use crate::{
    alloc::Flags,
    bindings,
    device::{
        self,
        Bound,
        BoundHandle,
        Core,
        Device, //
    },
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    ptr::Alignment,
    sync::{
        aref::ARef,
        Arc,
        Completion, //
    },
    time::Jiffies,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    workqueue, //
};
use core::ptr;

mod bystander;
mod fake;
mod ram;

pub use self::{
    bystander::Bystander,
    fake::{
        Fake,
        FakeReserve,
        FakeTables,
        Log, //
    },
    ram::Ram, //
};

/// Pages that most tests map.
pub const PAGES: usize = 8;
/// Enough for memory that nobody else changes.
pub const TIMEOUT: Jiffies = 1000;

pub const PROT_NONE: usize = bindings::PROT_NONE as usize;
pub const PROT_READ: usize = bindings::PROT_READ as usize;
pub const PROT_RW: usize = (bindings::PROT_READ | bindings::PROT_WRITE) as usize;

/// Returns the memory of the test's own process, which begins with the first call.
pub fn own_mm() -> Result<ARef<Mm>> {
    // SAFETY: Called in a test.
    to_result(unsafe { bindings::kunit_attach_mm() })?;
    Ok((&**current!().mm().ok_or(ESRCH)?).into())
}

/// Maps [`PAGES`] pages of anonymous memory, in one leaf, into the test's own process.
pub fn map_anon(prot: usize) -> Result<PageRange> {
    let area = map_anon_pages(PAGES * PAGE_SIZE + LEAF_SIZE, prot)?;
    let start = VirtAddr::new(area.start().as_usize().next_multiple_of(LEAF_SIZE));
    let range = PageRange::from_len(start, PAGES * PAGE_SIZE)?;
    for rest in [
        PageRange::new(area.start(), range.start()),
        PageRange::new(range.end(), area.end()),
    ] {
        rest.map_or(Ok(()), munmap)?;
    }
    Ok(range)
}

/// Maps `len` bytes of anonymous memory, readable and writable.
pub fn map_anon_len(len: usize) -> Result<PageRange> {
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

/// Maps [`PAGES`] pages, perhaps in two leaves, of a tmpfs file of `file_pages` pages, shared.
pub fn map_shmem(file_pages: usize, prot: usize) -> Result<PageRange> {
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

pub fn munmap(range: PageRange) -> Result {
    // SAFETY: Unmaps memory of the test's own process.
    to_result(unsafe { bindings::vm_munmap(range.start().as_usize(), range.len()) })
}

/// As `madvise(MADV_DONTNEED)` does.
pub fn zap(mm: &super::MmWithUser, range: PageRange) {
    let mmap = mm.mmap_read_lock();
    if let Some(vma) = mmap.vma_lookup(range.start().as_usize()) {
        vma.zap_vma_range(range.start().as_usize(), range.len());
    }
}

/// Advises the test's own process.
pub fn madvise(range: PageRange, advice: u32) -> Result {
    let mm = current!().mm().ok_or(ESRCH)?.as_raw();
    // SAFETY: The test's own address space. CAST: A small constant.
    to_result(unsafe {
        bindings::do_madvise(mm, range.start().as_usize(), range.len(), advice as c_int)
    })
}

/// Allows huge pages in `range`.
pub fn advise_huge(range: PageRange) -> Result {
    madvise(range, bindings::MADV_HUGEPAGE)
}

/// Touches each page with a CPU.
pub fn write_all(range: PageRange) -> Result {
    for addr in range.iter_pages() {
        UserSlice::new(UserPtr::from_addr(addr.as_usize()), 1)
            .writer()
            .write::<u8>(&1)?;
    }
    Ok(())
}

/// Page `index` of `range`, alone.
pub fn nth(range: PageRange, index: usize) -> Result<PageRange> {
    PageRange::page(VirtAddr::new(range.start().as_usize() + index * PAGE_SIZE))
}

/// Pages `first` to `end`, exclusive, of `range`.
pub fn span(range: PageRange, first: usize, end: usize) -> Result<PageRange> {
    PageRange::from_len(nth(range, first)?.start(), (end - first) * PAGE_SIZE)
}

/// Calls `work` in another thread, and completes what is returned afterwards.
pub fn elsewhere(flags: Flags, work: impl FnOnce() + Send + 'static) -> Result<Arc<Completion>> {
    let done = Arc::pin_init(Completion::new(), flags)?;
    let completed = done.clone();
    workqueue::system_dfl().try_spawn(flags, move || {
        work();
        completed.complete_all();
    })?;
    Ok(done)
}

/// Lets others run for a moment.
pub fn pause() {
    // SAFETY: No requirements.
    unsafe { bindings::schedule_timeout_uninterruptible(1) };
}

/// Announces a change of `range`, as core mm does, but changes nothing.
pub fn announce(
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
pub fn mmap_is_locked(mm: &Mm) -> bool {
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

/// Takes a snapshot of memory that nobody changes.
pub fn look<'s, 'b>(
    session: &MmSession<'s, Fake>,
    interval: &IntervalRef<Fake>,
    range: PageRange,
    buf: &'b mut PfnBuf,
) -> Result<Snapshot<'s, 'b, Fake>> {
    session
        .snapshot(interval, range, TIMEOUT, buf)
        .map_err(|_| EBUSY)
}

/// A mirror of `range`, in one leaf, of the test's own process.
pub struct Fixture {
    pub space: Arc<Space<Fake>>,
    range: PageRange,
    // Dropped after the space was closed.
    _device: DmaDevice,
}

impl Fixture {
    pub fn new(range: PageRange) -> Result<Self> {
        Self::make(own_mm()?, range, None)
    }

    /// With device memory.
    pub fn with_pagemap(range: PageRange, pagemap: Arc<Pagemap<Ram>>) -> Result<Self> {
        Self::make(own_mm()?, range, Some(pagemap))
    }

    pub fn make(
        mm: ARef<Mm>,
        range: PageRange,
        pagemap: Option<Arc<Pagemap<Ram>>>,
    ) -> Result<Self> {
        let device = DmaDevice::new()?;
        let tables = FakeTables::new(leaf_index(range.start()))?;
        let space = Space::new(
            mm,
            device.handle.clone(),
            pagemap,
            Alignment::new::<LEAF_SIZE>(),
            (tables, Log::default()),
            Fake::new(),
        )?;
        Ok(Self {
            space,
            range,
            _device: device,
        })
    }

    pub fn session(&self) -> Result<MmSession<'_, Fake>> {
        self.space.enter().ok_or(ESRCH)
    }

    /// Supplies for a commit in the fixture's leaf.
    pub fn supplies(&self) -> Result<Supplies<Fake>> {
        let mut supplies = Supplies::new()?;
        supplies.reserve = FakeReserve(3);
        self.space
            .prepare(&mut supplies, leaf_index(self.range.start()))?;
        Ok(supplies)
    }

    /// Commits `snapshot` and maps all of it. Returns how many pages were present.
    pub fn commit(&self, snapshot: Snapshot<'_, '_, Fake>) -> Result<usize, Reject> {
        self.commit_with(snapshot, |_, _| ())
    }

    /// The same, and calls `also` with each page that is present.
    pub fn commit_with(
        &self,
        snapshot: Snapshot<'_, '_, Fake>,
        mut also: impl FnMut(usize, Present),
    ) -> Result<usize, Reject> {
        let mut supplies = self.supplies().map_err(|_| Reject::Closed)?;
        let mut commit = snapshot.commit()?;
        let mut present = 0;
        for index in 0..commit.range().pages() {
            if let Some(page) = commit.page(index) {
                also(index, page);
                present += 1;
            }
        }
        let mapped = commit.map(&mut supplies, |_| Some(false));
        assert!(mapped.is_ok_and(|mapped| !mapped.is_partial));
        Ok(present)
    }

    /// Faults `range` in for writing and maps it.
    pub fn enter(
        &self,
        session: &MmSession<'_, Fake>,
        interval: &IntervalRef<Fake>,
        range: PageRange,
    ) -> Result<usize> {
        let mut buf = PfnBuf::new(range.pages())?;
        session
            .fault_in(interval, range, true, TIMEOUT, &mut buf)
            .map_err(|_| EFAULT)?;
        let snapshot = look(session, interval, range, &mut buf)?;
        self.commit(snapshot).map_err(|_| EAGAIN)
    }

    /// Which of the first 32 pages the device may access, as a bitmap; all bits if the tables are
    /// not as the shadow says.
    pub fn entered(&self) -> u32 {
        let guard = self.space.lock();
        if !guard.tables_agree() {
            return u32::MAX;
        }
        let pages = self.range.iter_pages().take(32).enumerate();
        pages
            .map(|(i, addr)| u32::from(guard.slot(addr).is_live()) << i)
            .sum()
    }

    /// Which of the first 32 pages have a DMA mapping or are remembered as device memory.
    pub fn held(&self) -> u32 {
        let guard = self.space.lock();
        let pages = self.range.iter_pages().take(32).enumerate();
        pages
            .map(|(i, addr)| u32::from(guard.frame(addr).is_some()) << i)
            .sum()
    }

    /// How often a flush was waited for.
    pub fn waits(&self) -> i32 {
        self.space.ops().waits()
    }

    pub fn last(&self) -> Option<(PageRange, Reason)> {
        self.space.lock().state().last
    }

    /// How often pages were about to be revoked.
    pub fn revokes(&self) -> usize {
        self.space.lock().state().revokes
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.space.close();
        self.space.barrier();
    }
}

/// A device that does DMA, without a driver.
pub struct DmaDevice {
    raw: *mut bindings::platform_device,
    pub handle: Arc<BoundHandle>,
}

// SAFETY: A registered device may be used and unregistered by any thread.
unsafe impl Send for DmaDevice {}
// SAFETY: As for `Send`; it is shared as a `Device<Bound>` only.
unsafe impl Sync for DmaDevice {}

impl DmaDevice {
    pub fn new() -> Result<Self> {
        let device = Self::reaching(u64::MAX)?;
        // By this core learns, too, that no page has to be copied for the device.
        // SAFETY: Nobody does DMA yet.
        to_result(unsafe {
            bindings::dma_set_mask_and_coherent(device.bound().as_raw(), u64::MAX)
        })?;
        Ok(device)
    }

    /// One that reaches addresses up to `mask`.
    pub fn reaching(mask: u64) -> Result<Self> {
        let info = bindings::platform_device_info {
            name: c"rust_mm".as_char_ptr(),
            id: bindings::PLATFORM_DEVID_AUTO,
            dma_mask: mask,
            ..Default::default()
        };
        // SAFETY: `info` is valid.
        let pdev = unsafe { bindings::platform_device_register_full(&info) };
        let raw = crate::error::from_err_ptr(pdev)?;
        // SAFETY: Registered until `self` is dropped. It has no driver that could be unbound; its
        // resources are released when it is unregistered.
        let dev = unsafe { Device::<Core<'_>>::from_raw(&raw mut (*raw).dev) };
        match BoundHandle::new(dev).and_then(|handle| Ok(Arc::new(handle, GFP_KERNEL)?)) {
            Ok(handle) => Ok(Self { raw, handle }),
            Err(error) => {
                // SAFETY: Just registered.
                unsafe { bindings::platform_device_unregister(raw) };
                Err(error)
            }
        }
    }

    pub fn bound(&self) -> &Device<Bound> {
        // SAFETY: Registered until `self` is dropped. It has no driver that could be unbound.
        unsafe { Device::<device::Normal>::from_raw(&raw mut (*self.raw).dev).as_bound() }
    }
}

impl Drop for DmaDevice {
    fn drop(&mut self) {
        // SAFETY: Registered in `new`.
        unsafe { bindings::platform_device_unregister(self.raw) };
    }
}
