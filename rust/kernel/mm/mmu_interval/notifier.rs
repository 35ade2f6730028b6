// SPDX-License-Identifier: GPL-2.0

//! One registered notifier, and the functions that core mm calls.

use super::*;

/// How many changes of one notifier can be between their passes at once.
const SLOTS: usize = 4;

/// One `struct mmu_interval_notifier`.
///
/// # Invariants
///
/// From [`Notifier::register`] to the end of [`Notifier::unregister`], `raw` is known to core mm and
/// a reference to the notifier exists.
#[pin_data]
pub(in crate::mm) struct Notifier<W: Watcher> {
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    range: PageRange,
    #[pin]
    watcher: W,
    slots: [Slot<W>; SLOTS],
}

/// A place for what goes from the first pass of a change to the second.
///
/// # Invariants
///
/// While `busy` is true, `raw` and `flush` belong to the change that set it.
struct Slot<W: Watcher> {
    raw: Opaque<bindings::mmu_interval_notifier_finish>,
    busy: Atomic<bool>,
    flush: UnsafeCell<Option<W::Flush>>,
}

// SAFETY:
// - `raw` of the notifier is only handed to core mm, which locks it.
// - A slot is only touched by the change that owns it, which the atomic `busy` settles, and
//   what is left in it is `Send`.
// - The watcher is `Send` by the bounds of `Watcher`.
unsafe impl<W: Watcher> Send for Notifier<W> {}
// SAFETY: As for `Send`; the watcher is `Sync` by the bounds of `Watcher`.
unsafe impl<W: Watcher> Sync for Notifier<W> {}

impl<W: Watcher> Notifier<W> {
    /// Makes a notifier of `range` that is not registered yet.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(in crate::mm) fn new(range: PageRange, watcher: impl PinInit<W>) -> Result<Arc<Self>> {
        Arc::pin_init(
            // INVARIANT: Not registered; no slot is busy.
            pin_init!(Self {
                raw: Opaque::zeroed(),
                range,
                watcher <- watcher,
                slots: [const {
                    Slot {
                        raw: Opaque::zeroed(),
                        busy: Atomic::new(false),
                        flush: UnsafeCell::new(None),
                    }
                }; SLOTS],
            }),
            GFP_KERNEL,
        )
    }

    pub(in crate::mm) fn range(&self) -> PageRange {
        self.range
    }

    pub(in crate::mm) fn watcher(&self) -> &W {
        &self.watcher
    }

    pub(in crate::mm) fn raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.raw.get()
    }

    /// Whether a change was accepted since the sequence was `seq`. The caller holds the lock under
    /// which the watcher accepts changes.
    pub(in crate::mm) fn read_retry(&self, seq: usize) -> bool {
        // SAFETY: `raw` lives as long as `self`. `invalidate_seq` is written by
        // `mmu_interval_notifier_insert()`, which `register` calls before anybody else has the
        // notifier, and by `Change::accept` under the lock that the caller holds.
        unsafe { bindings::mmu_interval_read_retry(self.raw.get(), seq) }
    }

    /// Has core mm announce changes of the range in `mm`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and [`EINTR`] when the thread is killed while it waits for `mmap_lock`, which
    /// the first notifier of a process takes.
    ///
    /// # Safety
    ///
    /// Called once, before the notifier is shared, with `mm_users` of `mm` pinned. On success the
    /// caller makes sure that a reference to the notifier lives until [`Notifier::unregister`].
    pub(in crate::mm) unsafe fn register(&self, mm: &ARef<Mm>) -> Result {
        // SAFETY:
        // - `raw` is pinned, zeroed and unknown to core mm, by the caller's promise.
        // - The mm is valid and `mm_users` is not zero, by the caller's promise.
        // - `OPS` is static, and its functions take a `raw` within a `Notifier<W>`. They can be
        //   called before this returns; the notifier is complete.
        to_result(unsafe {
            bindings::mmu_interval_notifier_insert(
                self.raw.get(),
                mm.as_raw(),
                self.range.start().as_usize(),
                self.range.len(),
                Self::OPS,
            )
        })
    }

    /// Ends the announcements. Sleeps until no callback runs or will run.
    ///
    /// # Safety
    ///
    /// Called once, on a registered notifier, not from a callback and with no lock held that a
    /// callback takes.
    pub(in crate::mm) unsafe fn unregister(&self) {
        // SAFETY: Registered, and removed only here, by the caller's promise. The mm that core mm
        // stored is alive: registration holds a reference that this call drops.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }

    const OPS: &'static bindings::mmu_interval_notifier_ops =
        &bindings::mmu_interval_notifier_ops {
            invalidate: None,
            invalidate_start: Some(Self::start),
            invalidate_finish: Some(Self::finish),
        };

    /// # Safety
    ///
    /// Called by core mm as `invalidate_start` with a registered `raw`.
    unsafe extern "C" fn start(
        raw: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
        finish: *mut *mut bindings::mmu_interval_notifier_finish,
    ) -> bool {
        // SAFETY: `raw` is the field of a notifier, which by its invariants is alive while
        // registered; `mmu_interval_notifier_remove()` waits for this call.
        let this = unsafe { &*container_of!(Opaque::cast_from(raw).cast_mut(), Self, raw) };
        let change = Change {
            // SAFETY: Core mm passes a valid range that nobody changes meanwhile.
            raw: unsafe { &*range },
            notifier: raw,
            seq,
        };
        let flush = match W::start(this, &change) {
            Ok(flush) => flush,
            Err(WouldBlock) => return false,
        };
        if let Some(flush) = flush {
            match this.claim_slot(flush) {
                // SAFETY: `finish` is valid for writes. The slot stays valid and ours until core mm
                // passes it to `finish` below, before this change ends.
                Ok(slot) => unsafe { *finish = slot.raw.get() },
                Err(flush) => W::finish(this, flush),
            }
        }
        true
    }

    /// Puts `flush` into a free slot; gives it back if there is none.
    fn claim_slot(&self, flush: W::Flush) -> Result<&Slot<W>, W::Flush> {
        // ORDERING: Acquire pairs with the release in `finish`: its accesses to the slot are over.
        let free = |slot: &&Slot<W>| slot.busy.cmpxchg(false, true, Acquire).is_ok();
        match self.slots.iter().find(free) {
            Some(slot) => {
                // INVARIANT: `busy` was just set by this change.
                // SAFETY: So nobody else accesses `flush`.
                unsafe { *slot.flush.get() = Some(flush) };
                Ok(slot)
            }
            None => Err(flush),
        }
    }

    /// # Safety
    ///
    /// Called by core mm as `invalidate_finish`, once for each time that `start` set `finish`.
    unsafe extern "C" fn finish(finish: *mut bindings::mmu_interval_notifier_finish) {
        // SAFETY: `finish` is the field of a slot, given out by `start` in this change. Core mm
        // set `notifier`, and the notifier is alive as `mmu_interval_notifier_remove()` waits for
        // the end of this change.
        let (slot, this) = unsafe {
            let raw = Opaque::cast_from((*finish).notifier).cast_mut();
            (
                &*container_of!(Opaque::cast_from(finish).cast_mut(), Slot<W>, raw),
                &*container_of!(raw, Self, raw),
            )
        };
        // SAFETY: By the type invariants, as `start` claimed the slot for this change.
        let flush = unsafe { (*slot.flush.get()).take() };
        // INVARIANT: Core mm took the link out of its list before it called, so this was the last
        // access.
        // ORDERING: Release pairs with the acquire in `claim_slot`.
        slot.busy.store(false, Release);
        if let Some(flush) = flush {
            W::finish(this, flush);
        }
    }
}
