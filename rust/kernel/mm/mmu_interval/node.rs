// SPDX-License-Identifier: GPL-2.0

//! One interval as core sees it, and what core calls.

use super::{
    withdraw::{
        self,
        Due, //
    },
    Event,
    IntervalSet,
    Mirror,
    PtGuard,
    Reason, //
};
use crate::{
    bindings,
    container_of,
    error::to_result,
    mm::addr::{
        PageRange,
        VirtAddr, //
    },
    new_spinlock,
    page::page_align,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SpinLock, //
    },
    types::Opaque, //
};
use core::cell::UnsafeCell;

/// How many invalidations of one interval can be between their passes at once.
const SLOTS: usize = 4;

/// Whose entries an interval watches.
pub(super) enum Target<T: Mirror> {
    /// All in its range.
    Own(T),
    /// Those of the interval around it.
    Within(Arc<Node<T>>),
}

/// One registered `struct mmu_interval_notifier`.
///
/// # Invariants
///
/// From [`Node::register`] to the end of [`Node::unregister`], `raw` is known to core and a
/// reference to the node exists.
#[pin_data]
pub(in crate::mm) struct Node<T: Mirror> {
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    range: PageRange,
    target: Target<T>,
    pub(super) set: Arc<IntervalSet<T>>,
    /// Changed and relied on under the page-table lock only.
    dead: Atomic<bool>,
    slots: [Slot<T>; SLOTS],
    #[pin]
    pub(super) end: SpinLock<End<T>>,
}

/// What a node needs on its way out.
pub(super) struct End<T: Mirror> {
    /// The flush that [`Node::kill`] started.
    due: Option<Due<T>>,
    /// The next in the list of nodes to be removed by the worker.
    pub(super) next: Option<Arc<Node<T>>>,
}

// Nothing in it is ever handed out pinned.
impl<T: Mirror> Unpin for End<T> {}

/// A place for what goes from the first pass of an invalidation to the second.
///
/// # Invariants
///
/// While `busy` is true, `raw` and `due` belong to the invalidation that set it.
struct Slot<T: Mirror> {
    raw: Opaque<bindings::mmu_interval_notifier_finish>,
    busy: Atomic<bool>,
    due: UnsafeCell<Option<Due<T>>>,
}

// SAFETY:
// - `raw` of the node is only handed to core, which locks it.
// - A slot is only touched by the invalidation that owns it, which the atomic `busy` settles, and
//   what is left in it is `Send`.
// - All else is `Send` by the bounds of `Mirror`.
unsafe impl<T: Mirror> Send for Node<T> {}
// SAFETY: As for `Send`; what is shared is `Sync` by the bounds of `Mirror`, or behind a lock.
unsafe impl<T: Mirror> Sync for Node<T> {}

impl<T: Mirror> Node<T> {
    pub(super) fn new(
        set: Arc<IntervalSet<T>>,
        range: PageRange,
        target: Target<T>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            // INVARIANT: Not registered; no slot is busy.
            pin_init!(Self {
                raw: Opaque::zeroed(),
                range,
                target,
                set,
                dead: Atomic::new(false),
                slots: [const {
                    Slot {
                        raw: Opaque::zeroed(),
                        busy: Atomic::new(false),
                        due: UnsafeCell::new(None),
                    }
                }; SLOTS],
                end <- new_spinlock!(End { due: None, next: None }, "Node::end"),
            }),
            GFP_KERNEL,
        )
    }

    pub(in crate::mm) fn range(&self) -> PageRange {
        self.range
    }

    pub(in crate::mm) fn raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.raw.get()
    }

    pub(in crate::mm) fn mirror(&self) -> &T {
        match &self.target {
            Target::Own(mirror) => mirror,
            Target::Within(outer) => outer.mirror(),
        }
    }

    /// Whether nobody watches the range any more, or soon nobody will. Exact under the lock.
    pub(in crate::mm) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
            || match &self.target {
                Target::Own(_) => false,
                Target::Within(outer) => outer.is_dead(),
            }
    }

    /// Whether the sequence of this node changed since `mmu_interval_read_begin()` returned `seq`.
    /// `guard` is of this node's space.
    pub(in crate::mm) fn read_retry(&self, _guard: &PtGuard<'_, T>, seq: usize) -> bool {
        // SAFETY: `raw` lives as long as `self`. `invalidate_seq` is written by
        // `mmu_interval_notifier_insert()`, which `register` calls before anybody else has the
        // node, and by `start` below under the lock that `_guard` holds.
        unsafe { bindings::mmu_interval_read_retry(self.raw.get(), seq) }
    }

    /// Has core watch the range.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and [`EINTR`] when the thread is killed while it waits for `mmap_lock`, which
    /// the first interval of a process takes.
    ///
    /// # Safety
    ///
    /// Called once, before the node is shared, with `mm_users` of the set's mm pinned. On success
    /// the caller makes sure that a reference to the node lives until [`Node::unregister`].
    pub(super) unsafe fn register(&self) -> Result {
        // SAFETY:
        // - `raw` is pinned, zeroed and unknown to core, by the caller's promise.
        // - The mm is valid and `mm_users` is not zero, by the caller's promise.
        // - `OPS` is static, and its functions take a `raw` within a `Node<T>`. They can be called
        //   before this returns; the node is complete.
        to_result(unsafe {
            bindings::mmu_interval_notifier_insert(
                self.raw.get(),
                self.set.mm().as_raw(),
                self.range.start().as_usize(),
                self.range.len(),
                &Self::OPS,
            )
        })
    }

    /// Marks the node dead and, unless another one watches the same pages, takes away all entries.
    /// `guard` is of this node's space.
    pub(super) fn kill(&self, guard: &mut PtGuard<'_, T>) {
        if self.dead.load(Relaxed) {
            return;
        }
        self.dead.store(true, Relaxed);
        if matches!(self.target, Target::Own(_)) {
            let due = withdraw::revoke(self.mirror(), guard, Event::new(self.range, Reason::Kill));
            self.end.lock().due = due;
        }
    }

    /// Waits for the flush that [`Node::kill`] started, if nobody else did.
    pub(super) fn settle(&self) {
        let due = self.end.lock().due.take();
        if let Some(due) = due {
            withdraw::complete(self.mirror(), due);
        }
    }

    /// Takes the dead node out of the process. Sleeps until no callback of it runs or will run.
    ///
    /// # Safety
    ///
    /// Called once, on a registered dead node, not from a callback and with no lock held that a
    /// callback takes.
    pub(super) unsafe fn unregister(&self) {
        debug_assert!(self.is_dead());
        self.settle();
        // SAFETY: Registered, and removed only here, by the caller's promise. The mm that core
        // stored is alive: registration holds a reference that this call drops.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }

    /// The part of `range` that lies in this node.
    fn clip(&self, range: &bindings::mmu_notifier_range) -> Option<PageRange> {
        let end = page_align(range.end).map_or(self.range.end(), VirtAddr::new);
        PageRange::new(
            VirtAddr::new(range.start).page().max(self.range.start()),
            end.min(self.range.end()),
        )
        .ok()
    }

    const OPS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: None,
        invalidate_start: Some(Self::start),
        invalidate_finish: Some(Self::finish),
    };

    /// First pass: take entries away, start the flush.
    ///
    /// # Safety
    ///
    /// Called by core as `invalidate_start` with a registered `raw`.
    unsafe extern "C" fn start(
        raw: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
        finish: *mut *mut bindings::mmu_interval_notifier_finish,
    ) -> bool {
        // SAFETY: `raw` is the field of a node, which by its invariants is alive while registered;
        // `mmu_interval_notifier_remove()` waits for this call.
        let node = unsafe { &*container_of!(Opaque::cast_from(raw).cast_mut(), Self, raw) };
        // SAFETY: Core passes a valid range that nobody changes meanwhile.
        let range = unsafe { &*range };
        let lock = node.mirror().pt_lock();

        if range.event == bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE
            && range.owner == lock.owner()
        {
            return true;
        }

        let may_sleep = range.flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0;
        let mut guard = if may_sleep {
            lock.lock()
        } else {
            match lock.try_lock() {
                Some(guard) => guard,
                None => return false,
            }
        };

        let hit = node.clip(range);
        if !may_sleep
            && hit.is_some_and(|hit| {
                node.mirror().is_live(hit, guard.pt()) || guard.is_unacknowledged(hit)
            })
        {
            return false;
        }

        // SAFETY: `raw` is registered and the lock that `read_retry` is called under is held.
        unsafe { bindings::mmu_interval_set_seq(raw, seq) };

        let is_owed = guard.catches(range);
        let mut due = match hit {
            Some(hit) if may_sleep => {
                let event = Event {
                    is_owed,
                    ..Event::new(hit, Reason::from_raw(range.event))
                };
                withdraw::revoke(node.mirror(), &mut guard, event)
            }
            _ => None,
        };
        if let Some(due) = due.take_if(|_| is_owed) {
            guard.catch(due);
        }
        drop(guard);

        if let Some(due) = due {
            match node.claim_slot(due) {
                // SAFETY: `finish` is valid for writes. The slot stays valid and ours until core
                // passes it to `finish` below, before this invalidation ends.
                Ok(slot) => unsafe { *finish = slot.raw.get() },
                Err(due) => withdraw::complete(node.mirror(), due),
            }
        }
        true
    }

    /// Puts `due` into a free slot; gives it back if there is none.
    fn claim_slot(&self, due: Due<T>) -> Result<&Slot<T>, Due<T>> {
        // ORDERING: Acquire pairs with the release in `finish`: its accesses to the slot are over.
        let free = |slot: &&Slot<T>| slot.busy.cmpxchg(false, true, Acquire).is_ok();
        match self.slots.iter().find(free) {
            Some(slot) => {
                // INVARIANT: `busy` was just set by this invalidation.
                // SAFETY: So nobody else accesses `due`.
                unsafe { *slot.due.get() = Some(due) };
                Ok(slot)
            }
            None => Err(due),
        }
    }

    /// Second pass: wait for the flush.
    ///
    /// # Safety
    ///
    /// Called by core as `invalidate_finish`, once for each time that [`Node::start`] set `finish`.
    unsafe extern "C" fn finish(finish: *mut bindings::mmu_interval_notifier_finish) {
        // SAFETY: `finish` is the field of a slot, given out by `start` in this invalidation. Core
        // set `notifier`, and the node is alive as `mmu_interval_notifier_remove()` waits for the
        // end of this invalidation.
        let (slot, node) = unsafe {
            let raw = Opaque::cast_from((*finish).notifier).cast_mut();
            (
                &*container_of!(Opaque::cast_from(finish).cast_mut(), Slot<T>, raw),
                &*container_of!(raw, Self, raw),
            )
        };
        // SAFETY: By the type invariants, as `start` claimed the slot for this invalidation.
        let due = unsafe { (*slot.due.get()).take() };
        // INVARIANT: Core took the link out of its list before it called, so this was the last
        // access.
        // ORDERING: Release pairs with the acquire in `claim_slot`.
        slot.busy.store(false, Release);
        if let Some(due) = due {
            withdraw::complete(node.mirror(), due);
        }
    }
}
