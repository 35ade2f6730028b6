// SPDX-License-Identifier: GPL-2.0

//! The intervals of a space, and how they come and go.
//!
//! Lock order:
//!
//! 1. page-table lock
//! 2. `Space::dropped`
//! 3. `Watch::end`
//!
//! `Space::registered` is a leaf.

use super::{
    revoke::Pending,
    Event,
    Guard,
    Mirror,
    MmSession,
    PageRange,
    Reason,
    Space,
    Start,
    VirtAddr, //
};
use crate::{
    bindings,
    mm::{
        folio::FolioHolder,
        mmu_interval::{
            Change,
            Notifier,
            Watcher,
            WouldBlock, //
        },
    },
    new_spinlock,
    prelude::*,
    rbtree::RBTreeNodeReservation,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
    warn_on,
    workqueue::{
        self,
        Work,
        WorkItem, //
    }, //
};

/// An interval as core mm sees it.
pub(in crate::mm) type Node<T> = Notifier<Watch<T>>;

/// What a space keeps of an interval.
#[pin_data]
pub(in crate::mm) struct Watch<T: Mirror> {
    space: Arc<Space<T>>,
    /// The interval around it, if it watches pages a second time.
    outer: Option<IntervalRef<T>>,
    /// Changed and relied on under the page-table lock only.
    dead: Atomic<bool>,
    /// How many [`IntervalRef`]s there are. The first one is made under the page-table lock.
    refs: Atomic<usize>,
    /// The worker left the node alone since there were some.
    is_spared: Atomic<bool>,
    #[pin]
    end: SpinLock<End<T>>,
}

/// What an interval needs on its way out.
struct End<T: Mirror> {
    /// The flush that [`Guard::kill`] started.
    pending: Option<Pending<T>>,
    /// The next in the list of intervals to be removed by the worker.
    next: Option<Arc<Node<T>>>,
}

// Nothing in it is ever handed out pinned.
impl<T: Mirror> Unpin for End<T> {}

impl<T: Mirror> Watch<T> {
    pub(in crate::mm) fn space(&self) -> &Arc<Space<T>> {
        &self.space
    }

    /// Whether the interval watches nothing any more, or soon will not. Exact under the page-table
    /// lock.
    pub(in crate::mm) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
            || self
                .outer
                .as_ref()
                .is_some_and(|outer| outer.0.watcher().is_dead())
    }

    /// Completes the flush that [`Guard::kill`] started, if that was not done yet.
    fn settle(&self) {
        let pending = self.end.lock().pending.take();
        if pending.is_some_and(|pending| self.space.complete(pending)) {
            self.space.drop_discarded();
        }
    }
}

impl<T: Mirror> Watcher for Watch<T> {
    type Flush = Pending<T>;

    fn start(node: &Node<T>, change: &Change<'_>) -> Result<Option<Pending<T>>, WouldBlock> {
        node.watcher().space.change(node, change)
    }

    fn finish(node: &Node<T>, pending: Pending<T>) {
        node.watcher().space.complete_in_callback(pending);
    }
}

impl<T: Mirror> Guard<'_, T> {
    /// Marks the interval dead and, unless another one watches the same pages, revokes them.
    fn kill(&mut self, node: &Node<T>) {
        let watch = node.watcher();
        if watch.dead.load(Relaxed) {
            return;
        }
        watch.dead.store(true, Relaxed);
        let key = watch.space.node_key(node.range().start());
        let other = self.inner.nodes.get(&key);
        let is_other = other.is_some_and(|other| !core::ptr::eq(&**other.node(), node));
        if watch.outer.is_none() && !is_other {
            let event = Event::new(node.range(), Reason::Unwatch, Start::Unwatch);
            let pending = self.revoke(&event);
            watch.end.lock().pending = pending;
        }
    }
}

/// Ownership of a registered interval. If it is dropped, a worker kills and removes it.
///
/// # Invariants
///
/// The node is registered and this is the only `Interval` of it.
pub(super) struct Interval<T: Mirror>(Option<Arc<Node<T>>>);

impl<T: Mirror> Interval<T> {
    /// Has core mm announce changes of `range`, which `session` keeps in use.
    fn insert(
        session: &MmSession<'_, T>,
        range: PageRange,
        outer: Option<IntervalRef<T>>,
    ) -> Result<Self> {
        let space = session.space();
        let watch = pin_init!(Watch {
            space: space.clone(),
            outer,
            dead: Atomic::new(false),
            refs: Atomic::new(0),
            is_spared: Atomic::new(false),
            end <- new_spinlock!(End { pending: None, next: None }, "Watch::end"),
        });
        let node = Node::new(range, watch)?;
        // Before `barrier` could miss it.
        *space.registered.lock() += 1;
        // SAFETY: The node is new, and the session pins `mm_users`. `Interval` keeps a reference
        // until it was unregistered.
        if let Err(error) = unsafe { node.register(&space.mm) } {
            space.unregistered();
            return Err(error);
        }
        // INVARIANT: Just registered.
        Ok(Self(Some(node)))
    }

    fn handle(&self) -> IntervalRef<T> {
        let node = self.node().clone();
        node.watcher().refs.fetch_add(1usize, Full);
        IntervalRef(node)
    }

    fn node(&self) -> &Arc<Node<T>> {
        // PANIC: `None` only in `remove` and `drop`, which take the node.
        self.0.as_ref().expect("registered")
    }

    /// Takes the dead interval out of the process. Sleeps as long as changes of the address space
    /// are under way; called without a lock that a callback takes, and in none.
    fn remove(mut self) {
        if let Some(node) = self.0.take() {
            debug_assert!(node.watcher().is_dead());
            node.watcher().settle();
            // SAFETY:
            // - Registered and, as `self` is used up, never unregistered again.
            // - Only the worker, `prune` and `OwnInterval::remove` call this. A driver that calls the
            //   latter in a callback, for which it would have to make a session there, or with a lock
            //   held that a callback takes, waits for itself; no memory is at risk.
            unsafe { node.unregister() };
            // The node may be the last to keep the space.
            let space = node.watcher().space.clone();
            drop(node);
            space.unregistered();
        }
    }
}

impl<T: Mirror> Drop for Interval<T> {
    /// Does not sleep, so it is fine in a callback and under the lock.
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            let space = node.watcher().space.clone();
            let mut list = space.dropped.lock();
            node.watcher().end.lock().next = list.take();
            *list = Some(node);
            drop(list);
            space.wake_worker();
        }
    }
}

/// Refers to an interval, dead or alive. As long as one exists the node is not removed though nothing
/// is mapped in it.
pub struct IntervalRef<T: Mirror>(pub(in crate::mm) Arc<Node<T>>);

impl<T: Mirror> Clone for IntervalRef<T> {
    fn clone(&self) -> Self {
        self.0.watcher().refs.fetch_add(1usize, Full);
        Self(self.0.clone())
    }
}

impl<T: Mirror> Drop for IntervalRef<T> {
    fn drop(&mut self) {
        let watch = self.0.watcher();
        // ORDERING: `prune` says that it spared the node before it looks at the count, and this
        // changes the count before it looks whether the node was spared. One sees the other.
        if watch.refs.fetch_sub(1usize, Full) == 1 && watch.is_spared.load(Relaxed) {
            watch.space.wants_prune.store(true, Relaxed);
            watch.space.wake_worker();
        }
    }
}

impl<T: Mirror> IntervalRef<T> {
    /// The pages watched.
    pub fn range(&self) -> PageRange {
        self.0.range()
    }
}

/// An interval within another, for commits that do not get through that one. If it is dropped a worker
/// removes it.
#[must_use]
pub struct OwnInterval<T: Mirror>(Interval<T>);

impl<T: Mirror> OwnInterval<T> {
    /// A reference for looking into the memory.
    pub fn handle(&self) -> IntervalRef<T> {
        self.0.handle()
    }

    /// Ends the interval. Nothing is revoked: the outer one still watches the pages.
    ///
    /// Sleeps as long as changes of the address space are under way. Needs to be called without any
    /// lock that a [`Mirror`] takes. Callbacks, which would wait for themselves, have no session.
    pub fn remove(self, _session: &MmSession<'_, T>) {
        let node = self.0.node();
        node.watcher().space().lock().kill(node);
        // A thread that has a folio locked leaves it to the worker.
        if !FolioHolder::is_current() {
            self.0.remove();
        }
    }
}

impl<T: Mirror> MmSession<'_, T> {
    /// The node that watches `addr`, which is created if need be. Sleeps; no lock may be held that a
    /// [`Mirror`] takes.
    ///
    /// # Errors
    ///
    /// [`ESHUTDOWN`] if the space was closed; [`EINVAL`] if no process can have that address;
    /// [`ENOMEM`].
    pub fn node(&self, addr: VirtAddr) -> Result<IntervalRef<T>> {
        let space = self.space();
        let key = space.node_key(addr);
        let known = |guard: &Guard<'_, T>| Some(guard.inner.nodes.get(&key)?.handle());
        if let Some(node) = known(&space.lock()) {
            return Ok(node);
        }
        let range = PageRange::block(addr, space.node_size)?;
        let entry = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let interval = Interval::insert(self, range, None)?;
        let watched = interval.handle();
        let entry = entry.into_node(key, interval);
        let mut guard = space.lock();
        if guard.is_closed() {
            drop(guard);
            return Err(ESHUTDOWN);
        }
        if let Some(node) = known(&guard) {
            // Another thread was faster.
            drop(guard);
            return Ok(node);
        }
        guard.inner.nodes.insert(entry);
        drop(guard);
        space.ops.node_changed(false);
        Ok(watched)
    }

    /// Watches `range` a second time, for commits that do not get through `outer`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `range` does not lie in `outer` or that is of another space; [`ENOMEM`].
    pub fn insert_within(
        &self,
        outer: &IntervalRef<T>,
        range: PageRange,
    ) -> Result<OwnInterval<T>> {
        if !self.watches(outer, range) {
            return Err(EINVAL);
        }
        let outer = Some(outer.clone());
        Ok(OwnInterval(Interval::insert(self, range, outer)?))
    }
}

impl<T: Mirror> Space<T> {
    fn unregistered(&self) {
        let mut registered = self.registered.lock();
        *registered -= 1;
        if *registered == 0 {
            self.none_left.notify_all();
        }
    }

    /// Has the worker look for something to do. Any context.
    pub(super) fn wake_worker(self: &Arc<Self>) {
        // If it is queued already it has yet to look.
        let _ = workqueue::system_dfl().enqueue(self.clone());
    }

    /// Takes the whole address space away from the device, for good: no PTE is left, the device has
    /// acknowledged that, and the pages are unmapped from DMA.
    ///
    /// Sleeps for a bounded time: changes of the address space are not waited for. Needs to be called
    /// without any lock that a [`Mirror`] takes.
    pub fn close(self: &Arc<Self>) {
        loop {
            let mut guard = self.lock();
            guard.inner.is_closed = true;
            let Some(first) = guard.inner.nodes.cursor_front_mut() else {
                break;
            };
            let (_, entry) = first.remove_current();
            let interval = entry.to_key_value().1;
            let node = interval.node().clone();
            guard.kill(&node);
            drop(guard);
            node.watcher().settle();
        }
        self.drop_discarded();
    }

    /// Waits until no interval is registered and the worker has returned, so that no code of `T`
    /// is called any more on behalf of the space. [`Space::close`] was called before, and
    /// every session ended.
    ///
    /// Sleeps as long as changes of the address space are under way. Needs to be called without any
    /// lock that a [`Mirror`] takes, and not from the drop of one.
    pub fn barrier(&self) {
        let mut registered = self.registered.lock();
        while *registered != 0 {
            self.none_left.wait(&mut registered);
        }
        drop(registered);
        // Mapped after the last interval was gone, it would stay for ever.
        warn_on!(!self.lock().inner.leaves.is_empty());
        // SAFETY: `worker` is initialised and lives as long as `self`.
        unsafe { bindings::flush_work(Work::raw_get(&self.worker)) };
    }

    /// Waits until the worker has done what it was woken for.
    #[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
    pub(super) fn settle(&self) {
        // SAFETY: `worker` is initialised and lives as long as `self`.
        unsafe { bindings::flush_work(Work::raw_get(&self.worker)) };
    }

    /// Removes the nodes in which nothing is mapped and to which nobody refers.
    fn prune(&self) {
        // The first node is there for good.
        let mut from = 1;
        loop {
            let mut guard = self.lock();
            let Some(cursor) = guard.inner.nodes.cursor_lower_bound(&from) else {
                break;
            };
            let (&key, interval) = cursor.current();
            from = key + 1;
            if guard.inner.is_used(interval.node().range()) {
                continue;
            }
            let watch = interval.node().watcher();
            watch.is_spared.store(true, Relaxed);
            // ORDERING: See the drop of `IntervalRef`. A reading access that is fully ordered.
            if watch.refs.fetch_add(0usize, Full) != 0 {
                continue;
            }
            let Some(interval) = guard.inner.nodes.remove(&key) else {
                continue;
            };
            guard.kill(interval.node());
            drop(guard);
            interval.remove();
            self.ops.node_changed(true);
        }
    }

    /// Frees the leaves that the device has forgotten. May sleep.
    pub(super) fn drop_discarded(&self) {
        let mut list = self.lock().inner.discarded.take();
        while let Some(mut leaf) = list {
            list = leaf.next.take();
        }
    }
}

impl<T: Mirror> WorkItem for Space<T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let pop = || {
            let mut list = this.dropped.lock();
            let node = list.take()?;
            *list = node.watcher().end.lock().next.take();
            Some(node)
        };
        while let Some(node) = pop() {
            this.lock().kill(&node);
            // INVARIANT: Handed over by `Interval::drop`.
            Interval(Some(node)).remove();
        }
        // ORDERING: What is found after this is pruned, and the next one who wants it says so again.
        if this.wants_prune.xchg(false, Full) {
            this.prune();
        }
        this.drop_discarded();
    }
}
