// SPDX-License-Identifier: GPL-2.0

//! What users ask the worker of a space to do: move ranges, or tell where they are.
//!
//! Requests are served a few leaves at a time, between turns of faults, in the order they came. One
//! that is done soon does not wait for the worker, if that has nothing to do.

use super::{
    device::{
        Mmu,
        LEAF_PAGES, //
    },
    mirror::Mirrored,
    policy::Location,
    space::Space, //
};
use core::ops::Range;
use kernel::{
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        space::{
            leaf_index,
            MmSession,
            Slot, //
        },
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        WaitMode,
        Wake, //
    },
    time::{
        Delta,
        Instant, //
    },
    uapi, //
};

/// Requests to move that may wait.
const MAX_PENDING: usize = uapi::DRM_RSVM_SVM_MAX_PENDING as usize;

/// How often somebody who waits for a report looks whether the space is still there.
const RECHECK: Delta = Delta::from_millis(1000);

/// What is to be done.
pub(crate) enum Task {
    /// Move pages to [`Location::System`] or [`Location::Vram`].
    Move(Location),
    /// Tell where they are.
    Look(Arc<Look>),
}

/// Ranges and what is to be done with them.
pub(crate) struct Request {
    pub(crate) task: Task,
    ranges: KVVec<PageRange>,
    /// The range at hand, and how many pages of it are done.
    at: (usize, usize),
    /// Where to write what when all is done.
    pub(crate) fence: Option<(VirtAddr, u64)>,
}

impl Request {
    pub(crate) fn new(
        task: Task,
        ranges: KVVec<PageRange>,
        fence: Option<(VirtAddr, u64)>,
    ) -> Self {
        Self {
            task,
            ranges,
            at: (0, 0),
            fence,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at.0 == self.ranges.len()
    }

    /// Whether it takes so little that who asks can do it just as well: pages of one leaf on their
    /// way to system memory. The way to device memory may have to wait for room there.
    fn is_short(&self) -> bool {
        let [range] = &self.ranges[..] else {
            return false;
        };
        let last = VirtAddr::new(range.end().as_usize() - PAGE_SIZE);
        matches!(self.task, Task::Move(Location::System))
            && leaf_index(range.start()) == leaf_index(last)
    }

    /// Begins anew.
    pub(crate) fn restart(&mut self) {
        self.at = (0, 0);
    }

    /// The next leaf, and the pages in it.
    pub(crate) fn next(&mut self) -> Option<(usize, Range<usize>)> {
        let (n, done) = self.at;
        let range = self.ranges.get(n)?;
        let page = range.start().as_usize() / PAGE_SIZE + done;
        let first = page % LEAF_PAGES;
        let len = (LEAF_PAGES - first).min(range.pages() - done);
        self.at = if done + len == range.pages() {
            (n + 1, 0)
        } else {
            (n, done + len)
        };
        let index = leaf_index(VirtAddr::new(page * PAGE_SIZE));
        Some((index, first..first + len))
    }
}

/// Where pages are, in bytes.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) system: u64,
    pub(crate) vram: u64,
    pub(crate) mapped_read: u64,
    pub(crate) mapped_write: u64,
    /// `DRM_RSVM_SVM_PAGE_*` of each page.
    pub(crate) pages: KVVec<u8>,
    complete: bool,
}

impl Report {
    /// Adds the next page. Atomics there are `refused` if they would end in a fatal fault.
    pub(crate) fn add(&mut self, system: bool, vram: bool, refused: bool, slot: Option<Slot>) {
        let slot = slot.filter(|slot| slot.is_live());
        let mut flags = 0;
        if slot.is_some_and(|slot| slot.prot().atomic && slot.is_system()) {
            flags |= uapi::DRM_RSVM_SVM_PAGE_ATOMIC;
        } else if refused {
            flags |= uapi::DRM_RSVM_SVM_PAGE_NO_ATOMIC;
        }
        for (is, flag, sum) in [
            (system, uapi::DRM_RSVM_SVM_PAGE_SYSTEM, &mut self.system),
            (vram, uapi::DRM_RSVM_SVM_PAGE_VRAM, &mut self.vram),
            (
                slot.is_some(),
                uapi::DRM_RSVM_SVM_PAGE_READ,
                &mut self.mapped_read,
            ),
            (
                slot.is_some_and(|slot| slot.prot().write),
                uapi::DRM_RSVM_SVM_PAGE_WRITE,
                &mut self.mapped_write,
            ),
        ] {
            if is {
                flags |= flag;
                *sum += PAGE_SIZE as u64;
            }
        }
        // CAST: Six bits. There is room for all pages of the request.
        let _ = self.pages.push_within_capacity(flags as u8);
    }
}

/// A report that somebody waits for.
#[pin_data]
pub(crate) struct Look {
    #[pin]
    pub(crate) report: Mutex<Report>,
}

/// Room for requests that wait, and one that is put back.
pub(super) fn queue() -> Result<KVVec<Request>> {
    Ok(KVVec::with_capacity(MAX_PENDING + 1, GFP_KERNEL)?)
}

impl<M: Mmu> Space<M> {
    /// Has the worker do something. Does not wait for it, but where it is idle, what takes little is
    /// done at once: then wake-ups would take longer than the work. Sleeps on mmap_lock, killably.
    ///
    /// # Errors
    ///
    /// `EBUSY` if too many wait already, `ENOENT` once the space was detached.
    pub(crate) fn request(self: &Arc<Self>, request: Request) -> Result {
        let mut requests = self.requests.lock();
        if self.is_detached() {
            return Err(ENOENT);
        }
        if requests.len() >= MAX_PENDING {
            return Err(EBUSY);
        }
        let at_once = requests.is_empty() && request.is_short();
        if let Some(mut scratch) = at_once.then(|| self.scratch.try_lock()).flatten() {
            drop(requests);
            scratch.carry_out(self, request);
            drop(scratch);
            if self.requests.lock().is_empty() {
                return Ok(());
            }
        } else {
            // There is room for one more.
            let _ = requests.push_within_capacity(request);
            drop(requests);
        }
        self.wake_worker(self);
        Ok(())
    }

    /// Takes the oldest request, to be given to [`put_request`](Self::put_request) unless it is
    /// done.
    pub(crate) fn take_request(&self) -> Option<Request> {
        self.requests.lock().remove(0).ok()
    }

    /// Puts a request that was taken before all others, unless the space was detached.
    pub(crate) fn put_request(&self, request: Request) {
        let mut requests = self.requests.lock();
        if !self.is_detached() {
            // Only who holds `scratch` does this, and a place is left for it.
            let _ = requests.insert_within_capacity(0, request);
        }
    }

    /// Writes the fence of a request, unless the space was detached: after that the memory may be in
    /// use for something else. Sleeps for a moment only.
    ///
    /// # Errors
    ///
    /// `ENOENT` once the space was detached; those of [`MmSession::store_u64`].
    pub(crate) fn write_fence(
        &self,
        session: &MmSession<'_, Mirrored<M>>,
        addr: VirtAddr,
        value: u64,
    ) -> Result {
        // `detach` takes this lock after it said so.
        let _requests = self.requests.lock();
        if self.is_detached() {
            return Err(ENOENT);
        }
        session.store_u64(addr, value)
    }

    /// Tells where the pages of `range` are. Waits, killably, for the worker.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINTR`; `ENOENT` once the space was detached; `ENODEV` or `EIO` if the device
    /// is gone; those of [`request`](Self::request).
    pub(crate) fn look(self: &Arc<Self>, range: PageRange) -> Result<Report> {
        let report = Report {
            pages: KVVec::with_capacity(range.pages(), GFP_KERNEL_ACCOUNT)?,
            ..Report::default()
        };
        let look = Arc::pin_init(
            pin_init!(Look {
                report <- new_mutex!(report, "Look::report"),
            }),
            GFP_KERNEL,
        )?;
        let mut ranges = KVVec::with_capacity(1, GFP_KERNEL)?;
        ranges.push(range, GFP_KERNEL)?;
        self.request(Request::new(Task::Look(look.clone()), ranges, None))?;
        loop {
            let seen = self.progress.current();
            {
                let mut report = look.report.lock();
                if report.complete {
                    return Ok(core::mem::take(&mut *report));
                }
            }
            if self.is_detached() {
                return Err(ENOENT);
            }
            if self.mmu.is_gone() {
                return Err(ENODEV);
            }
            let until = Instant::now() + RECHECK;
            if self.progress.wait(seen, WaitMode::Killable, Some(until)) == Wake::Signal {
                return Err(EINTR);
            }
        }
    }

    /// Tells who waits for `look` that it has all pages.
    pub(crate) fn looked(&self, look: &Look) {
        look.report.lock().complete = true;
        self.progress.advance();
    }
}
