// SPDX-License-Identifier: GPL-2.0

//! A mirrored address space.
//!
//! Faults come in through [`Space::submit`] and are served by the space's own worker, so that a
//! fault which blocks, in a user process that serves the memory say, keeps no other space waiting.
//! [`Space::detach`] takes everything away from the device without waiting for the worker; the
//! worker finds the intervals dead, drops what it has, and takes the space apart.
//!
//! Locks, outermost first: `scratch` (of who works for the space, the worker as a rule, and held
//! while it blocks; others only try it) › mmap_lock (inside the wrappers of `kernel::mm`) › folio
//! lock › page-table lock › those of the [`Mmu`].
//! `detaching` is outside of the page-table lock and held by nobody who has one of the others;
//! `pending` is a leaf.

use super::{
    counters::Counters,
    device::{
        Access,
        Mmu,
        Pdb,
        Source, //
    },
    mirror::{
        node_size,
        Book,
        Mirrored, //
    },
    policy::{
        Location,
        Policy, //
    },
    request::{
        self,
        Request, //
    }, //
};
use crate::fault::{
    batch::{
        Batch,
        Fault, //
    },
    service::Scratch,
    FaultInfo, //
};
use crate::vram::Client;
use kernel::{
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        space,
        MmWithUser, //
    },
    module::this_module,
    new_event_count,
    new_mutex,
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        EventCount,
        Mutex,
        Seen,
        SpinLock,
        WaitMode, //
    },
    time::{
        Instant,
        Monotonic, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        ModuleQueue,
        Work,
        WorkItem, //
    }, //
};

/// Faults that may wait for the worker. More than the device has hardware threads, which wait for
/// one page each.
const PENDING_FAULTS: usize = 2048;

/// Sources that can be forgotten during a turn before nothing is cancelled in it any more.
const FORGOTTEN_SOURCES: usize = 64;

/// Where the workers of all spaces run. The module starts it before the first space is made, and
/// what stops it is dropped after the last.
pub(crate) static WORKERS: ModuleQueue = ModuleQueue::new();

/// Where a space tells what became of its faults. May sleep, and is called without a lock.
pub(crate) trait FaultSink: Send + Sync + 'static {
    /// Faults at and behind byte `addr` were served, which mapped `len` bytes.
    fn served(&self, addr: u64, len: usize, access: Access);

    /// A fault of `source` cannot be served; it is about to be cancelled.
    fn failed(&self, source: Source, info: FaultInfo);

    /// `len` bytes at and behind byte `addr` moved to `to`.
    fn migrated(&self, addr: u64, len: usize, to: Location);

    /// `len` bytes from byte `addr` on stay in system memory for a while.
    fn thrashing(&self, addr: u64, len: usize);

    /// A value that somebody may wait for was written to the process's memory.
    fn fence_written(&self);
}

/// Faults that wait for the worker.
struct Pending {
    faults: Batch,
    /// Sources that were forgotten since the worker took faults the last time.
    forgotten: KVec<Source>,
}

/// The mirror of one address space.
#[pin_data]
pub(crate) struct Space<M: Mmu> {
    pub(crate) mmu: Arc<M>,
    pub(crate) mirror: Arc<space::Space<Mirrored<M>>>,
    pdb: Pdb,
    #[pin]
    pending: SpinLock<Pending>,
    #[pin]
    pub(super) scratch: Mutex<Scratch<M>>,
    pub(crate) sink: Arc<dyn FaultSink>,
    pub(crate) counters: Arc<Counters>,
    /// Who device memory is charged to; `None` if there is none.
    pub(crate) client: Option<Arc<Client>>,
    /// A leaf. Not taken in reclaim.
    #[pin]
    pub(crate) policy: Mutex<Policy>,
    /// A leaf.
    #[pin]
    pub(super) requests: Mutex<KVVec<Request>>,
    /// Advanced when a request that somebody waits for is done, and when the space is detached.
    #[pin]
    pub(crate) progress: EventCount,
    /// Advanced when there is something to do for the worker.
    #[pin]
    pub(crate) arrivals: EventCount,
    detached: AtomicFlag,
    /// Held while the space is detached: whoever wants that, too, has to see it done.
    #[pin]
    detaching: Mutex<()>,
    #[pin]
    worker: Work<Space<M>>,
}

impl_has_work! {
    impl{M: Mmu} HasWork<Self> for Space<M> { self.worker }
}

impl<M: Mmu> Space<M> {
    /// Mirrors `mm` for the device behind `mmu`; in `bindings` nothing is bound. May sleep on
    /// mmap_lock. [`Self::detach`] has to be called in the end.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINTR` if the calling thread is killed; those of [`Mmu::new_tables`].
    pub(crate) fn new(
        mmu: Arc<M>,
        mm: &MmWithUser,
        sink: Arc<dyn FaultSink>,
        bindings: M::Bindings,
        client: Option<Arc<Client>>,
    ) -> Result<Arc<Self>> {
        let tables = mmu.new_tables()?;
        let pdb = M::pdb(&tables);
        let scratch = Scratch::new(PENDING_FAULTS)?;
        let requests = request::queue()?;
        let book = Book::new(bindings)?;
        let pending = Pending {
            faults: Batch::new(PENDING_FAULTS)?,
            forgotten: KVec::with_capacity(FORGOTTEN_SOURCES, GFP_KERNEL)?,
        };
        let counters = Arc::new(Counters::new(), GFP_KERNEL)?;
        let mirrored = Mirrored {
            mmu: mmu.clone(),
            counters: counters.clone(),
        };
        let pagemap = mmu.memory().map(|(pagemap, _)| pagemap.clone());
        let mirror = space::Space::new(
            (&**mm).into(),
            mmu.dma().clone(),
            pagemap,
            node_size(),
            (tables, book),
            mirrored,
        )?;
        let its_mirror = mirror.clone();
        let this = Arc::pin_init(
            pin_init!(Self {
                mmu,
                mirror: its_mirror,
                pdb,
                pending <- new_spinlock!(pending, "Space::pending"),
                scratch <- new_mutex!(scratch, "Space::scratch"),
                sink,
                counters,
                client,
                policy <- new_mutex!(Policy::new(), "Space::policy"),
                requests <- new_mutex!(requests, "Space::requests"),
                progress <- new_event_count!("Space::progress"),
                arrivals <- new_event_count!("Space::arrivals"),
                detached: AtomicFlag::new(false),
                detaching <- new_mutex!((), "Space::detaching"),
                worker <- new_work!("Space::worker"),
            }),
            GFP_KERNEL,
        );
        if this.is_err() {
            mirror.close();
            mirror.barrier();
        }
        this
    }

    /// Names the page tables in faults and invalidations; `None` once the space was detached.
    pub(crate) fn pdb(&self) -> Option<Pdb> {
        (!self.is_detached()).then_some(self.pdb)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether [`Self::detach`] was called.
    pub(crate) fn is_detached(&self) -> bool {
        self.detached.load(Relaxed)
    }

    /// Hands faults of this space to its worker. Does not sleep or allocate.
    ///
    /// What finds no room is dropped: the worker ends each turn with a replay, after which the
    /// device reports it again.
    pub(crate) fn submit(self: &Arc<Self>, faults: &[Fault]) {
        self.counters.faults.add(faults.len());
        let dropped = self.pending.lock().faults.extend(faults.iter());
        self.counters.overflows.add(dropped);
        self.wake_worker(self);
    }

    /// Puts faults that were taken behind those that wait.
    pub(crate) fn put_back<'a>(&self, faults: impl Iterator<Item = &'a Fault>) {
        let Pending {
            faults: waiting,
            forgotten,
        } = &mut *self.pending.lock();
        let known = faults.filter(|fault| !forgotten.contains(&fault.source));
        self.counters.overflows.add(waiting.extend(known));
    }

    /// Swaps the faults that wait with `batch`, which is empty.
    pub(crate) fn take_faults(&self, batch: &mut Batch) {
        let mut pending = self.pending.lock();
        pending.forgotten.clear();
        core::mem::swap(&mut pending.faults, batch);
    }

    /// Whether a fault for an atomic on `page` was submitted of which the device reported number
    /// `from` or a later one.
    pub(crate) fn was_reported(&self, page: VirtAddr, from: u64) -> bool {
        let pending = self.pending.lock();
        pending.faults.faults().iter().any(|fault| {
            fault.addr.page() == page && fault.access == Access::Atomic && fault.serial >= from
        })
    }

    /// Drops faults on `page` that the device reported before number `before`.
    pub(crate) fn forget_reports(&self, page: VirtAddr, before: u64) {
        let mut pending = self.pending.lock();
        pending
            .faults
            .retain(|fault| fault.addr.page() != page || fault.serial >= before);
    }

    /// Sleeps until then, or until there is something to do that was not `seen`.
    pub(crate) fn rest(&self, seen: Seen, until: Instant<Monotonic>) {
        self.arrivals
            .wait(seen, WaitMode::Uninterruptible, Some(until));
    }

    /// Neither serves nor cancels faults of `source` that are known so far: the queue is gone, and
    /// another one may get its name.
    pub(crate) fn forget(&self, source: Source) {
        let mut pending = self.pending.lock();
        pending.faults.retain(|fault| fault.source != source);
        if !pending.forgotten.contains(&source) {
            // If it is full, nothing is cancelled in this turn.
            let _ = pending.forgotten.push_within_capacity(source);
        }
    }

    /// Whether a fault of `source` that was taken may be one of a queue that was forgotten. If it
    /// is not, the device reports it again.
    fn is_forgotten(&self, source: Source) -> bool {
        let forgotten = &self.pending.lock().forgotten;
        forgotten.len() == forgotten.capacity() || forgotten.contains(&source)
    }

    /// Tells the owner of `source` that it failed; false if nobody owns it any more.
    pub(crate) fn fault_failed(&self, source: Source, info: FaultInfo) -> bool {
        let known = !self.is_forgotten(source);
        if known {
            self.sink.failed(source, info);
        }
        known
    }

    /// Tells the owner of `source` about a failure that the hardware reported.
    pub(crate) fn queue_failed(&self, source: Source, info: FaultInfo) {
        self.sink.failed(source, info);
    }

    /// The attributes of `range` that say what atomics need were changed. When this returns nothing
    /// is mapped there by the old ones. Bounded; sleeps on the page-table lock.
    pub(crate) fn atomic_mode_changed(self: &Arc<Self>, range: PageRange) {
        let first = range.start().as_usize() / PAGE_SIZE;
        // The only error is that of the change.
        let _ = self.mirror.revoke(range, |book, _| {
            book.atomic_changes += 1;
            book.handovers.forget(first..first + range.pages());
            Ok(())
        });
    }

    /// Has the worker look for something to do. Any context; `this` is the same space.
    pub(super) fn wake_worker(&self, this: &Arc<Self>) {
        self.arrivals.advance();
        // Either it is queued now, or was queued already and has yet to run, or the module is going
        // and no space is left.
        let _ = WORKERS.enqueue(this.clone());
    }

    /// Takes the whole address space away from the device, for good: no PTE is left, the device
    /// acknowledged that, and the pages are unmapped for DMA. Faults that wait are dropped.
    ///
    /// Bounded: neither the worker nor changes of the address space are waited for. The queues of
    /// the space have been stopped, or else their next access is a fault that nobody serves.
    pub(crate) fn detach(self: &Arc<Self>) {
        let _detaching = self.detaching.lock();
        self.detached.store(true, Relaxed);
        self.pending.lock().faults.clear();
        let requests = core::mem::take(&mut *self.requests.lock());
        drop(requests);
        self.progress.advance();
        self.mirror.close();
        self.wake_worker(self);
    }
}

impl<M: Mmu> WorkItem for Space<M> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if this.is_detached() {
            // Nothing is inserted any more once a request in somebody's own thread is through, and
            // no callback may outlive the module.
            drop(this.scratch.lock());
            this.mirror.barrier();
            return;
        }
        // A turn can block for as long as a user likes, so the module must not be unloaded
        // meanwhile. If it is being unloaded already, this space is about to be detached.
        let Some(_module) = this_module::<crate::LocalModule>().try_get() else {
            return;
        };
        this.scratch.lock().turn(&this);
        if !this.pending.lock().faults.is_empty() || !this.requests.lock().is_empty() {
            this.wake_worker(&this);
        }
    }
}
