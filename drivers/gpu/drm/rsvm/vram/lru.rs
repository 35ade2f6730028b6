// SPDX-License-Identifier: GPL-2.0

//! The order in which device memory is evicted: what was not used for longest first, whatever it
//! is.

use super::clock::sooner;
use kernel::{
    prelude::*,
    rbtree::{
        CursorMut,
        RBTree,
        RBTreeNodeReservation, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// A place in the order: a greater one was used later. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(u64);

/// A member of the order.
struct Entry<T> {
    /// When it came to device memory.
    since: Instant<Monotonic>,
    what: T,
}

/// A `T` that is no member, and can become one without an allocation.
pub(crate) struct Idle<T> {
    memory: RBTreeNodeReservation<Stamp, Option<Entry<T>>>,
    entry: Entry<T>,
}

impl<T> Idle<T> {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(what: T) -> Result<Self> {
        Ok(Self {
            memory: RBTreeNodeReservation::new(GFP_KERNEL)?,
            entry: Entry {
                since: Instant::now(),
                what,
            },
        })
    }

    pub(crate) fn get(&self) -> &T {
        &self.entry.what
    }

    pub(crate) fn into_inner(self) -> T {
        self.entry.what
    }
}

/// What a search for a victim found.
pub(crate) enum Pick<T> {
    Found(Idle<T>),
    /// Not yet: the first one may be evicted then.
    Young(Instant<Monotonic>),
    /// There is nothing that may be.
    Nothing,
}

/// The order.
pub(crate) struct Lru<T> {
    /// None of the values is `None`, but for the moment in which it is taken out.
    tree: RBTree<Stamp, Option<Entry<T>>>,
    next: u64,
}

impl<T> Lru<T> {
    pub(crate) fn new() -> Self {
        Self {
            tree: RBTree::new(),
            next: 1,
        }
    }

    /// Makes `idle` the one that was used last. `arrived` tells that it is new in device memory.
    pub(crate) fn insert(&mut self, idle: Idle<T>, arrived: bool) -> Stamp {
        let stamp = Stamp(self.next);
        self.next += 1;
        let Idle { memory, mut entry } = idle;
        if arrived {
            entry.since = Instant::now();
        }
        self.tree.insert(memory.into_node(stamp, Some(entry)));
        stamp
    }

    /// Takes the one at `stamp` out, if it is a member.
    pub(crate) fn remove(&mut self, stamp: Stamp) -> Option<Idle<T>> {
        let mut found = self.tree.find_mut(&stamp)?;
        let entry = found.get_mut().take()?;
        let memory = found.remove_node().into_reservation();
        Some(Idle { memory, entry })
    }

    /// Makes it the one that was used last; its new place.
    pub(crate) fn touch(&mut self, stamp: Stamp, arrived: bool) -> Stamp {
        match self.remove(stamp) {
            Some(idle) => self.insert(idle, arrived),
            None => stamp,
        }
    }

    /// All members, the one that was used last at the end.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.tree.values().flatten().map(|entry| &entry.what)
    }

    /// Takes the first one out that `wanted` accepts and that has been in device memory for
    /// `residency` at least.
    pub(crate) fn pick(&mut self, residency: Delta, mut wanted: impl FnMut(&T) -> bool) -> Pick<T> {
        let now = Instant::now();
        let mut young: Option<Instant<Monotonic>> = None;
        let mut cursor = self.tree.cursor_front_mut();
        while let Some(at) = cursor {
            match at.current() {
                (_, Some(entry)) if wanted(&entry.what) => {
                    if now - entry.since >= residency {
                        return take(at).map_or(Pick::Nothing, Pick::Found);
                    }
                    let ripe = entry.since + residency;
                    young = Some(young.map_or(ripe, |other| sooner(other, ripe)));
                }
                _ => (),
            }
            cursor = at.move_next();
        }
        young.map_or(Pick::Nothing, Pick::Young)
    }
}

fn take<T>(mut at: CursorMut<'_, Stamp, Option<Entry<T>>>) -> Option<Idle<T>> {
    let entry = at.current_mut().1.take()?;
    let memory = at.remove_current().1.into_reservation();
    Some(Idle { memory, entry })
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_vram_lru)]
mod tests {
    use super::*;

    fn first(lru: &mut Lru<u32>) -> Option<u32> {
        match lru.pick(Delta::ZERO, |_| true) {
            Pick::Found(idle) => Some(idle.into_inner()),
            _ => None,
        }
    }

    #[test]
    fn the_oldest_goes_first() -> Result {
        let mut lru = Lru::new();
        for i in 0..4 {
            lru.insert(Idle::new(i)?, true);
        }
        assert_eq!(first(&mut lru), Some(0));
        assert_eq!(first(&mut lru), Some(1));
        assert!(lru.iter().eq(&[2, 3]));
        assert_eq!((first(&mut lru), first(&mut lru)), (Some(2), Some(3)));
        assert_eq!(first(&mut lru), None);
        Ok(())
    }

    #[test]
    fn use_makes_young() -> Result {
        let mut lru = Lru::new();
        let mut stamps = KVec::new();
        for i in 0..3 {
            stamps.push(lru.insert(Idle::new(i)?, true), GFP_KERNEL)?;
        }
        stamps[0] = lru.touch(stamps[0], false);
        assert!(lru.iter().eq(&[1, 2, 0]));
        // One that is out cannot be touched.
        let idle = lru.remove(stamps[1]).ok_or(ENOENT)?;
        assert_eq!(lru.touch(stamps[1], false), stamps[1]);
        assert!(lru.iter().eq(&[2, 0]));
        lru.insert(idle, false);
        assert!(lru.iter().eq(&[2, 0, 1]));
        Ok(())
    }

    #[test]
    fn a_fresh_one_stays() -> Result {
        const LONG: Delta = Delta::from_secs(3600);
        let mut lru = Lru::new();
        let begin = Instant::<Monotonic>::now();
        let stamp = lru.insert(Idle::new(7)?, true);
        let Pick::Young(when) = lru.pick(LONG, |_| true) else {
            return Err(EINVAL);
        };
        assert!(when - begin >= LONG);
        // To be used does not make it fresh again, to arrive again does.
        let stamp = lru.touch(stamp, false);
        let Pick::Young(later) = lru.pick(LONG, |_| true) else {
            return Err(EINVAL);
        };
        assert_eq!(later - when, Delta::ZERO);
        lru.touch(stamp, true);
        let Pick::Young(later) = lru.pick(LONG, |_| true) else {
            return Err(EINVAL);
        };
        assert!(later - when > Delta::ZERO);
        Ok(())
    }

    #[test]
    fn only_what_is_wanted() -> Result {
        let mut lru = Lru::new();
        for i in 0..4 {
            lru.insert(Idle::new(i)?, true);
        }
        assert!(matches!(lru.pick(Delta::ZERO, |&i| i > 9), Pick::Nothing));
        let Pick::Found(idle) = lru.pick(Delta::ZERO, |&i| i % 2 == 1) else {
            return Err(EINVAL);
        };
        assert_eq!(*idle.get(), 1);
        assert!(lru.iter().eq(&[0, 2, 3]));
        Ok(())
    }
}
