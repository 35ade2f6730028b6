// SPDX-License-Identifier: GPL-2.0

//! The lock of a device's page tables.

use super::{
    owed::Catcher,
    Mirror, //
};
use crate::{
    mm::addr::PageRange,
    prelude::*,
    str::CStr,
    sync::{
        LockClassKey,
        Mutex,
        MutexGuard, //
    }, //
};

/// Creates a [`PtLock`] initialiser from the tables, the book and a name, with a lock class of its
/// own.
#[macro_export]
macro_rules! new_pt_lock {
    ($pt:expr, $book:expr $(, $name:literal)? $(,)?) => {
        $crate::mm::mmu_interval::PtLock::new(
            $pt, $book, $crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}

/// What the lock protects.
pub(in crate::mm) struct Protected<T: Mirror> {
    pub(in crate::mm) pt: T::Pt,
    pub(in crate::mm) book: T::Book,
    /// Where a flush is due that was not waited for.
    unacknowledged: Hull,
    /// Where, until then, nothing may be entered though the process's memory does not change.
    withheld: Hull,
    /// The migration under way that waits for its own flush itself.
    pub(super) catcher: Option<Catcher<T>>,
}

// Nothing in it is ever handed out pinned.
impl<T: Mirror> Unpin for Protected<T> {}

/// What covers some ranges.
#[derive(Default)]
struct Hull {
    /// How many ranges there are.
    count: usize,
    /// [`None`] if and only if `count` is zero.
    hull: Option<PageRange>,
}

impl Hull {
    fn add(&mut self, range: PageRange) {
        self.count += 1;
        self.hull = Some(self.hull.map_or(range, |hull| hull.hull(range)));
    }

    fn remove(&mut self) {
        self.count -= 1;
        if self.count == 0 {
            self.hull = None;
        }
    }

    fn meets(&self, range: PageRange) -> bool {
        self.hull
            .is_some_and(|hull| hull.intersect(range).is_some())
    }
}

/// The page-table lock: a mutex around the device's page tables of one process.
///
/// Its address identifies the mirrored space.
#[pin_data]
pub struct PtLock<T: Mirror> {
    #[pin]
    inner: Mutex<Protected<T>>,
}

impl<T: Mirror> PtLock<T> {
    /// Made by [`new_pt_lock!`](crate::new_pt_lock).
    pub fn new(
        pt: T::Pt,
        book: T::Book,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Mutex::new(
                Protected::<T> {
                    pt,
                    book,
                    unacknowledged: Hull::default(),
                    withheld: Hull::default(),
                    catcher: None,
                },
                name,
                key,
            ),
        })
    }

    /// Takes the lock; sleeps.
    pub fn lock(&self) -> PtGuard<'_, T> {
        PtGuard {
            lock: self,
            inner: self.inner.lock(),
        }
    }

    /// Takes the lock if that is possible at once.
    pub fn try_lock(&self) -> Option<PtGuard<'_, T>> {
        Some(PtGuard {
            lock: self,
            inner: self.inner.try_lock()?,
        })
    }

    /// The value by which core tells exclusive access of this space from that of others.
    pub(in crate::mm) fn owner(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

/// Holds a [`PtLock`].
///
/// The tables can only be read through it: entries enter through a
/// [`Commit`](crate::mm::hmm::Commit) and go through a [`Revoke`].
pub struct PtGuard<'a, T: Mirror> {
    lock: &'a PtLock<T>,
    inner: MutexGuard<'a, Protected<T>>,
}

impl<T: Mirror> PtGuard<'_, T> {
    /// The page tables.
    pub fn pt(&self) -> &T::Pt {
        &self.inner.pt
    }

    /// The other state under the lock.
    pub fn book(&self) -> &T::Book {
        &self.inner.book
    }

    /// The other state under the lock, to be changed.
    pub fn book_mut(&mut self) -> &mut T::Book {
        &mut self.inner.book
    }

    /// Both at once.
    pub fn split(&mut self) -> (&T::Pt, &mut T::Book) {
        let inner = &mut *self.inner;
        (&inner.pt, &mut inner.book)
    }

    /// The tables, to enter memory that is the device's own and that no change of a process's
    /// mappings concerns. What belongs to a process enters through a
    /// [`Commit`](crate::mm::hmm::Commit) only.
    pub fn device_memory(&mut self) -> (&mut T::Pt, &mut T::Book) {
        let inner = &mut *self.inner;
        (&mut inner.pt, &mut inner.book)
    }

    /// Whether this is a guard of `lock`.
    pub(in crate::mm) fn is_of(&self, lock: &PtLock<T>) -> bool {
        core::ptr::eq(self.lock, lock)
    }

    /// For [`Commit`](crate::mm::hmm::Commit).
    pub(in crate::mm) fn protected(&mut self) -> &mut Protected<T> {
        &mut self.inner
    }

    pub(super) fn revoke(&mut self) -> Revoke<'_, T> {
        Revoke {
            inner: &mut self.inner,
        }
    }

    /// Notes that a flush of `range` is due, and whether nothing may be entered there until it was
    /// acknowledged.
    pub(super) fn flush_is_due(&mut self, range: PageRange, withhold: bool) {
        self.inner.unacknowledged.add(range);
        if withhold {
            self.inner.withheld.add(range);
        }
    }

    /// Notes that one flush was acknowledged.
    pub(super) fn flush_acknowledged(&mut self, was_withheld: bool) {
        self.inner.unacknowledged.remove();
        if was_withheld {
            self.inner.withheld.remove();
        }
    }

    /// Whether a flush is due that may concern `range`.
    pub(super) fn is_unacknowledged(&self, range: PageRange) -> bool {
        self.inner.unacknowledged.meets(range)
    }

    /// Whether nothing may be entered in `range` at the moment.
    pub(in crate::mm) fn is_withheld(&self, range: PageRange) -> bool {
        self.inner.withheld.meets(range)
    }
}

/// The page tables, to take entries and rights away.
///
/// Nothing may be entered through it, except that a large entry may be replaced by smaller ones
/// with the same pages and equal or fewer rights.
pub struct Revoke<'a, T: Mirror> {
    inner: &'a mut Protected<T>,
}

impl<T: Mirror> Revoke<'_, T> {
    /// The page tables.
    pub fn pt(&mut self) -> &mut T::Pt {
        &mut self.inner.pt
    }

    /// The other state under the lock.
    pub fn book(&mut self) -> &mut T::Book {
        &mut self.inner.book
    }

    /// Both at once.
    pub fn split(&mut self) -> (&mut T::Pt, &mut T::Book) {
        (&mut self.inner.pt, &mut self.inner.book)
    }
}
