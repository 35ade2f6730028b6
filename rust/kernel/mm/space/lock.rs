// SPDX-License-Identifier: GPL-2.0

//! The page-table lock, and what it protects.

use super::{
    addresses_of,
    deferred::Capture,
    interval::Interval,
    leaf::{
        self,
        Written, //
    },
    leaf_index,
    pages_of,
    slot::FlushId,
    Mirror,
    PageRange,
    Slot,
    Space,
    Start,
    Supplies,
    VirtAddr,
    LEAF_PAGES, //
};
use crate::{
    page::PAGE_SIZE,
    prelude::*,
    rbtree::RBTree,
    sync::MutexGuard, //
};
use core::ops::Range;

/// Leaves by [`leaf_index`].
pub(super) type Leaves<T> = RBTree<usize, KBox<leaf::Leaf<T>>>;

/// What the page-table lock protects.
pub(super) struct Protected<T: Mirror> {
    pub(super) tables: T::Tables,
    pub(super) leaves: Leaves<T>,
    /// A list of leaves that the device has forgotten, to be dropped without the lock.
    pub(super) discarded: Option<KBox<leaf::Leaf<T>>>,
    /// Watched nodes by address divided by the node size.
    pub(super) nodes: RBTree<usize, Interval<T>>,
    /// The state of the driver.
    pub(super) driver: T::State,
    pub(super) last_flush: FlushId,
    /// The migration under way that waits for its own flush itself.
    pub(super) capture: Option<Capture<T>>,
    /// [`Space::close`] was called: nothing is mapped any more.
    pub(super) is_closed: bool,
}

// Nothing in it is ever handed out pinned.
impl<T: Mirror> Unpin for Protected<T> {}

impl<T: Mirror> Protected<T> {
    pub(super) fn new(tables: T::Tables, state: T::State) -> Self {
        Self {
            tables,
            leaves: RBTree::new(),
            discarded: None,
            nodes: RBTree::new(),
            driver: state,
            last_flush: FlushId(0),
            capture: None,
            is_closed: false,
        }
    }

    /// Calls `f` for each leaf that has pages in `range`, with its number and these pages.
    pub(super) fn for_each_leaf(
        &mut self,
        range: PageRange,
        mut f: impl FnMut(usize, &mut leaf::Leaf<T>, &mut T::Tables, &mut T::State, Range<usize>),
    ) {
        let first = leaf_index(range.start());
        let mut cursor = self.leaves.cursor_lower_bound_mut(&first);
        while let Some(mut at) = cursor {
            let (&index, leaf) = at.current_mut();
            let Some(pages) = pages_of(index, range) else {
                break;
            };
            f(index, leaf, &mut self.tables, &mut self.driver, pages);
            cursor = at.move_next();
        }
    }

    /// Whether the device may reach a page of `range`.
    pub(super) fn is_used(&self, range: PageRange) -> bool {
        let mut from = leaf_index(range.start());
        while let Some(cursor) = self.leaves.cursor_lower_bound(&from) {
            let (&index, leaf) = cursor.current();
            match pages_of(index, range) {
                None => return false,
                Some(pages) if leaf.is_used(pages.clone()) => return true,
                Some(_) => from = index + 1,
            }
        }
        false
    }

    /// The tables, and the leaf for `range`, which lies in one, if something may be mapped there; the
    /// leaf is made if need be.
    fn leaf_for(
        &mut self,
        space: &Space<T>,
        range: PageRange,
        supplies: &mut Supplies<T>,
    ) -> Result<(&mut T::Tables, &mut leaf::Leaf<T>)> {
        let index = leaf_index(range.start());
        let last = VirtAddr::new(range.end().as_usize() - PAGE_SIZE);
        if leaf_index(last) != index {
            return Err(EINVAL);
        }
        if self.is_closed {
            return Err(ESHUTDOWN);
        }
        if supplies.surplus.iter().any(Option::is_some) {
            // They cannot be dropped with the lock held.
            return Err(EAGAIN);
        }
        if self.leaves.get(&index).is_none() {
            self.leaves
                .insert(supplies.take_leaf(space, index).ok_or(EAGAIN)?);
        }
        let leaf = self.leaves.get_mut(&index);
        let leaf = leaf.filter(|leaf| !leaf.is_dying()).ok_or(EAGAIN)?;
        Ok((&mut self.tables, &mut **leaf))
    }
}

/// What mapping did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Covers the pages that the device has to learn about: their PTEs were absent or weaker.
    pub pages: Option<PageRange>,
    /// PTEs written, by [`PageSize`](super::PageSize).
    pub ptes: [usize; 3],
    /// The tables' reserve did not suffice for all.
    pub is_partial: bool,
}

impl<T: Mirror> Space<T> {
    /// Takes the page-table lock; sleeps.
    pub fn lock(&self) -> Guard<'_, T> {
        Guard {
            space: self,
            inner: self.protected.lock(),
        }
    }

    /// Takes the page-table lock if that is possible at once.
    pub(super) fn try_lock(&self) -> Option<Guard<'_, T>> {
        Some(Guard {
            space: self,
            inner: self.protected.try_lock()?,
        })
    }
}

/// Holds the page-table lock of a [`Space`].
pub struct Guard<'a, T: Mirror> {
    space: &'a Space<T>,
    pub(super) inner: MutexGuard<'a, Protected<T>>,
}

impl<'a, T: Mirror> Guard<'a, T> {
    pub(in crate::mm) fn space(&self) -> &'a Space<T> {
        self.space
    }

    /// The driver's state.
    pub fn state(&self) -> &T::State {
        &self.inner.driver
    }

    /// The driver's state, to be changed.
    pub fn state_mut(&mut self) -> &mut T::State {
        &mut self.inner.driver
    }

    /// Whether [`Space::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed
    }

    /// What is known of the page at `addr`.
    pub fn slot(&self, addr: VirtAddr) -> Slot {
        let leaf = self.inner.leaves.get(&leaf_index(addr));
        leaf.map_or(Slot::FREE, |leaf| leaf.slot(page_in_leaf(addr)))
    }

    /// Whether there is a leaf with the number `index`.
    pub(super) fn has_leaf(&self, index: usize) -> bool {
        self.inner.leaves.get(&index).is_some()
    }

    /// The leaf with the number `index`, if there is one, and the driver's state.
    pub fn leaf(&mut self, index: usize) -> (Option<Leaf<'_, T>>, &mut T::State) {
        let inner = &mut *self.inner;
        (
            inner.leaves.get_mut(&index).map(|leaf| Leaf(leaf)),
            &mut inner.driver,
        )
    }

    /// The frame of the page at `addr`, as long as it is mapped for DMA or remembered as device
    /// memory.
    #[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
    pub(in crate::mm) fn frame(&self, addr: VirtAddr) -> Option<crate::mm::addr::Pfn> {
        let leaf = self.inner.leaves.get(&leaf_index(addr))?;
        leaf.frame(page_in_leaf(addr))
    }

    /// The tables, for tests that check them.
    #[cfg(CONFIG_RUST_MM_KUNIT_TEST)]
    pub(in crate::mm) fn tables(&self) -> &T::Tables {
        &self.inner.tables
    }

    /// Maps pages of an object in the driver's own device memory, which no change of the process's
    /// memory concerns, at `range`, in one leaf. `place` gives for each page of `range` the offset in
    /// device memory in bytes; a page without one is left as it is, and so is a page that is mapped
    /// to something else or [leaving](super).
    ///
    /// The range is watched, so that the PTEs go when the node goes.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `range` lies in several leaves; [`EAGAIN`] if no node watches it or `supplies`
    /// were not prepared; [`ESHUTDOWN`] once the space was closed; those of [`Tables::write`](super::Tables::write).
    pub fn map_object(
        &mut self,
        range: PageRange,
        write: bool,
        supplies: &mut Supplies<T>,
        place: impl Fn(usize) -> Option<u64>,
    ) -> Result<Mapped> {
        let key = self.space.node_key(range.start());
        if !self.is_closed() && self.inner.nodes.get(&key).is_none() {
            return Err(EAGAIN);
        }
        self.map_window(range, supplies, |leaf, page| {
            leaf.prepare_object(page, place(page - page_in_leaf(range.start()))?, write)
        })
    }

    /// Has `prepare` say for each page of the leaf that lies in `range` whether it is to be mapped,
    /// and maps those.
    pub(in crate::mm) fn map_window(
        &mut self,
        range: PageRange,
        supplies: &mut Supplies<T>,
        mut prepare: impl FnMut(&mut leaf::Leaf<T>, usize) -> Option<Slot>,
    ) -> Result<Mapped> {
        let space = self.space;
        let (tables, leaf) = self.inner.leaf_for(space, range, supplies)?;
        let index = leaf_index(range.start());
        let dev = space.dma_device();

        let window = &mut supplies.window;
        window.fill(Slot::FREE);
        let first = page_in_leaf(range.start());
        for page in first..first + range.pages() {
            window[page] = prepare(leaf, page).unwrap_or_default();
        }
        let flush = |tables: &T::Tables, pages| space.flush_now(tables, index, pages);
        let reserve = &mut supplies.reserve;
        let (written, result) = leaf.commit(tables, window, reserve, dev.as_deref(), flush);
        let Written {
            mapped,
            ptes,
            surplus,
        } = written;
        supplies.surplus = surplus;
        match result {
            Ok(()) | Err(ENOMEM) => Ok(Mapped {
                pages: mapped.and_then(|pages| addresses_of(index, pages)),
                ptes,
                is_partial: result.is_err(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Maps one page by a PTE of its own, as the slot that `prepare` gives says.
    pub(in crate::mm) fn map_page(
        &mut self,
        range: PageRange,
        supplies: &mut Supplies<T>,
        prepare: impl FnOnce(&mut leaf::Leaf<T>, usize) -> Option<Slot>,
    ) -> Result {
        let space = self.space;
        let (tables, leaf) = self.inner.leaf_for(space, range, supplies)?;
        let index = leaf_index(range.start());
        let dev = space.dma_device();
        let page = page_in_leaf(range.start());
        let slot = prepare(leaf, page).ok_or(EAGAIN)?;
        let flush = |tables: &T::Tables, pages| space.flush_now(tables, index, pages);
        let reserve = &mut supplies.reserve;
        leaf.commit_page(tables, (page, slot), reserve, dev.as_deref(), flush)
    }
}

impl<T: Mirror> Space<T> {
    /// Flushes pages of the leaf `index` whose PTEs are about to be written anew. Sleeps, bounded.
    fn flush_now(&self, tables: &T::Tables, index: usize, pages: Range<usize>) {
        if let Some(range) = addresses_of(index, pages) {
            let flush = self.ops.start_flush(tables, range, Start::Commit);
            self.ops.wait(flush);
        }
    }
}

/// Number of the page in its leaf that holds the byte at `addr`.
pub(in crate::mm) fn page_in_leaf(addr: VirtAddr) -> usize {
    addr.as_usize() / PAGE_SIZE % LEAF_PAGES
}

/// A leaf of a space whose lock is held: what is known of its pages, and the driver's state for it.
pub struct Leaf<'a, T: Mirror>(pub(super) &'a mut leaf::Leaf<T>);

impl<T: Mirror> Leaf<'_, T> {
    /// What is known of page `page`.
    pub fn slot(&self, page: usize) -> Slot {
        self.0.slot(page)
    }

    /// The driver's state.
    pub fn data(&self) -> &T::Leaf {
        &self.0.data
    }

    /// The driver's state, to be changed.
    pub fn data_mut(&mut self) -> &mut T::Leaf {
        &mut self.0.data
    }
}
