// SPDX-License-Identifier: GPL-2.0

//! The intervals of a process, and how they come and go.

use super::{
    node::{
        Node,
        Target, //
    },
    Mirror,
    PtGuard, //
};
use crate::{
    bindings,
    error::to_result,
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        virt::VmaRef,
        Mm,
        MmWithUser,
        MmWithUserAsync, //
    },
    new_condvar,
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        CondVar,
        Mutex,
        SpinLock, //
    },
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    }, //
};

/// All intervals watched in the memory of one process.
#[pin_data]
pub struct IntervalSet<T: Mirror> {
    mm: ARef<Mm>,
    /// Dropped without having been removed; the worker's list.
    #[pin]
    dropped: SpinLock<Option<Arc<Node<T>>>>,
    /// How many are registered.
    #[pin]
    registered: Mutex<usize>,
    /// `registered` became zero.
    #[pin]
    none_left: CondVar,
    #[pin]
    worker: Work<IntervalSet<T>>,
}

impl_has_work! {
    impl{T: Mirror} HasWork<Self> for IntervalSet<T> { self.worker }
}

impl<T: Mirror> IntervalSet<T> {
    /// For the process with the address space `mm`, of which it holds a reference by `mmgrab()`.
    pub fn new(mm: ARef<Mm>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                mm,
                dropped <- new_spinlock!(None, "IntervalSet::dropped"),
                registered <- new_mutex!(0, "IntervalSet::registered"),
                none_left <- new_condvar!("IntervalSet::none_left"),
                worker <- new_work!("IntervalSet::worker"),
            }),
            GFP_KERNEL,
        )
    }

    /// The address space.
    pub fn mm(&self) -> &Mm {
        &self.mm
    }

    /// Keeps the address space in use while the session lives; [`None`] if the process has left
    /// it, in which case its memory is gone.
    pub fn enter(this: &Arc<Self>) -> Option<MmSession<'_, T>> {
        Some(MmSession {
            mm: MmWithUser::into_mmput_async(this.mm.mmget_not_zero()?),
            set: this,
        })
    }

    /// Waits until no interval is registered and the worker has returned, so that no code of `T`
    /// is called any more on behalf of the set.
    ///
    /// Every interval must have been killed or dropped, and nobody may insert. Sleeps as long as
    /// changes of the address space are under way; needs to be called without any lock that a
    /// [`Mirror`] takes, and not from the drop of one.
    pub fn barrier(&self) {
        let mut registered = self.registered.lock();
        while *registered != 0 {
            self.none_left.wait(&mut registered);
        }
        drop(registered);
        // SAFETY: `worker` is initialised and lives as long as `self`.
        unsafe { bindings::flush_work(Work::raw_get(&self.worker)) };
    }

    fn insert(this: &Arc<Self>, range: PageRange, target: Target<T>) -> Result<Interval<T>> {
        let node = Node::new(this.clone(), range, target)?;
        // Before `barrier` could miss it.
        *this.registered.lock() += 1;
        // SAFETY: The node is new, and callers have a session of this set, which pins `mm_users`.
        // `Registration` keeps a reference until it was unregistered.
        if let Err(error) = unsafe { node.register() } {
            this.unregistered();
            return Err(error);
        }
        // INVARIANT: Just registered.
        Ok(Interval(Registration(Some(node))))
    }

    fn unregistered(&self) {
        let mut registered = self.registered.lock();
        *registered -= 1;
        if *registered == 0 {
            self.none_left.notify_all();
        }
    }
}

impl<T: Mirror> WorkItem for IntervalSet<T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let pop = || {
            let mut list = this.dropped.lock();
            let node = list.take()?;
            *list = node.end.lock().next.take();
            Some(node)
        };
        while let Some(node) = pop() {
            node.kill(&mut node.mirror().pt_lock().lock());
            // INVARIANT: Handed over by `Registration::drop`.
            Registration(Some(node)).unregister();
        }
    }
}

/// Ownership of a registered node.
///
/// # Invariants
///
/// The node is registered and this is the only `Registration` of it.
struct Registration<T: Mirror>(Option<Arc<Node<T>>>);

impl<T: Mirror> Registration<T> {
    /// Takes the dead node out of the process; sleeps.
    fn unregister(mut self) {
        if let Some(node) = self.0.take() {
            // SAFETY:
            // - Registered and, as `self` is used up, never unregistered again.
            // - Dead: the callers killed it.
            // - Callbacks cannot get here: they own no `DeadInterval`, and to wait in one for a
            //   lock-holder that does would be a deadlock that lockdep reports, no more.
            unsafe { node.unregister() };
            // The node may be the last to keep the set.
            let set = node.set.clone();
            drop(node);
            set.unregistered();
        }
    }
}

impl<T: Mirror> Drop for Registration<T> {
    /// Does not sleep, so it is fine in a callback and under the lock.
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            let set = node.set.clone();
            let mut list = set.dropped.lock();
            node.end.lock().next = list.take();
            *list = Some(node);
            drop(list);
            // If it is queued already it has yet to look at the list.
            let _ = workqueue::system_dfl().enqueue(set);
        }
    }
}

/// A range of a process's memory that is watched.
///
/// The driver keeps it, most often in [`Mirror::Book`], as long as there are entries in the range.
/// If it is dropped, a worker kills and removes it.
pub struct Interval<T: Mirror>(Registration<T>);

impl<T: Mirror> Interval<T> {
    /// The pages watched.
    pub fn range(&self) -> PageRange {
        self.handle().range()
    }

    /// A reference for looking into the memory without the lock.
    pub fn handle(&self) -> IntervalRef<T> {
        // PANIC: `None` only after `unregister` and `drop`, which take the registration.
        IntervalRef(self.0 .0.clone().expect("registered"))
    }

    /// Takes away all entries in the range, or none if it lies within another interval, and makes
    /// every commit through this interval fail.
    ///
    /// # Errors
    ///
    /// Gives the interval back if `guard` is of another space.
    pub fn kill(self, guard: &mut PtGuard<'_, T>) -> Result<DeadInterval<T>, Self> {
        let node = self.handle().0;
        if !guard.is_of(node.mirror().pt_lock()) {
            return Err(self);
        }
        node.kill(guard);
        Ok(DeadInterval(self.0))
    }
}

/// An interval that no entry depends on any more. If it is dropped, a worker removes it.
pub struct DeadInterval<T: Mirror>(Registration<T>);

impl<T: Mirror> DeadInterval<T> {
    /// Waits, for a bounded time, until the device acknowledged that the entries are gone, and
    /// gives back what they held. [`Self::remove`] does it as well; what comes first here is that
    /// changes of the address space are not waited for.
    ///
    /// Needs to be called without any lock that a [`Mirror`] takes.
    pub fn settle(&self) {
        if let Some(node) = &self.0 .0 {
            node.settle();
        }
    }

    /// Waits until the device acknowledged that the entries are gone, then takes the interval out
    /// of the process.
    ///
    /// Sleeps as long as changes of the address space are under way. Needs to be called without
    /// any lock that a [`Mirror`] takes, and not from one of its methods.
    pub fn remove(self) {
        self.0.unregister();
    }
}

/// Refers to an interval, dead or alive.
pub struct IntervalRef<T: Mirror>(pub(in crate::mm) Arc<Node<T>>);

impl<T: Mirror> Clone for IntervalRef<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Mirror> IntervalRef<T> {
    /// The pages watched.
    pub fn range(&self) -> PageRange {
        self.0.range()
    }

    /// Whether it was killed. Exact with the lock of its space held, else a hint.
    pub fn is_dead(&self) -> bool {
        self.0.is_dead()
    }
}

/// The right to look into a process's memory: `mm_users` is pinned while it lives.
///
/// It is given up without sleeping, so the last reference to the address space may be dropped
/// here without waiting for the teardown, which calls back into the driver.
pub struct MmSession<'a, T: Mirror> {
    mm: ARef<MmWithUserAsync>,
    set: &'a Arc<IntervalSet<T>>,
}

impl<T: Mirror> MmSession<'_, T> {
    /// Watches `range`. Entries in it may be committed from now on.
    ///
    /// The first interval of a process takes `mmap_lock` for writing; needs to be called without
    /// any lock that a [`Mirror`] takes.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINTR`] if the calling thread is killed.
    pub fn insert(&self, range: PageRange, mirror: T) -> Result<Interval<T>> {
        IntervalSet::insert(self.set, range, Target::Own(mirror))
    }

    /// Watches `range` a second time, for commits that do not get through `outer`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `range` does not lie in `outer` or that is of another process; [`ENOMEM`].
    pub fn insert_within(&self, outer: &IntervalRef<T>, range: PageRange) -> Result<Interval<T>> {
        if !self.watches(outer, range) {
            return Err(EINVAL);
        }
        IntervalSet::insert(self.set, range, Target::Within(outer.0.clone()))
    }

    /// The address space.
    pub fn mm(&self) -> &MmWithUser {
        &self.mm
    }

    /// The first address beyond what the process can map.
    pub fn limit(&self) -> VirtAddr {
        // SAFETY: The mm is valid, and `task_size` does not change while somebody uses it.
        VirtAddr::new(unsafe { (*self.mm.as_raw()).__bindgen_anon_1.task_size })
    }

    /// What of `range` the first mapping in it covers, at this moment; [`None`] if nothing is mapped
    /// there. Takes `mmap_lock`.
    pub fn first_mapped(&self, range: PageRange) -> Option<PageRange> {
        let _mmap = self.mm.mmap_read_lock_killable().ok()?;
        // SAFETY: The lock is held.
        let vma = unsafe { bindings::find_vma(self.mm.as_raw(), range.start().as_usize()) };
        if vma.is_null() {
            return None;
        }
        // SAFETY: As above.
        let vma = unsafe { VmaRef::from_raw(vma) };
        let vma = PageRange::new(VirtAddr::new(vma.start()), VirtAddr::new(vma.end())).ok()?;
        vma.intersect(range)
    }

    /// Writes a value to the process's memory with a single store, for threads that look at it all
    /// the time. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the address is not a multiple of eight; [`EAGAIN`] if the memory is not there at
    /// the moment, see [`wait_writable`](Self::wait_writable), or not for a thread of another process.
    pub fn store_u64(&self, addr: VirtAddr, value: u64) -> Result {
        if addr.as_usize() % size_of::<u64>() != 0 {
            return Err(EINVAL);
        }
        // SAFETY: `self` keeps `mm_users` up. The address is checked by `put_user`, and the thread
        // by the helper.
        to_result(unsafe {
            bindings::mm_put_user_u64(
                self.mm.as_raw(),
                value,
                core::ptr::without_provenance_mut(addr.as_usize()),
            )
        })
    }

    /// Has the memory at `addr` ready to be written. For kernel threads, such as those of a workqueue:
    /// sleeps as long as the owner of the memory likes. Takes `mmap_lock`.
    ///
    /// A store may still be refused: core leaves the memory to others that are moving it and reports
    /// success, it may be gone again, and protection keys and the like are asked for a store only. So
    /// try again, with pauses, and not for ever. A stack does not grow for this.
    ///
    /// # Errors
    ///
    /// [`EFAULT`], [`ENOMEM`] and the like if it cannot be written; [`EAGAIN`] for other threads.
    pub fn wait_writable(&self, addr: VirtAddr) -> Result {
        if current!().mm().is_some() {
            return Err(EAGAIN);
        }
        let flags = bindings::fault_flag_FAULT_FLAG_WRITE | bindings::fault_flag_FAULT_FLAG_REMOTE;
        let mut unlocked = false;
        let _mmap = self.mm.mmap_read_lock();
        // SAFETY: The lock is held, and is again when this returns; `self` keeps `mm_users` up.
        to_result(unsafe {
            bindings::fixup_user_fault(self.mm.as_raw(), addr.as_usize(), flags, &mut unlocked)
        })
    }

    /// Whether `interval` watches all of `range` in this session's process.
    pub(in crate::mm) fn watches(&self, interval: &IntervalRef<T>, range: PageRange) -> bool {
        Arc::ptr_eq(&interval.0.set, self.set) && interval.range().covers(range)
    }
}
