// SPDX-License-Identifier: GPL-2.0

//! What lies under a space's page-table lock, and how mm takes entries away.
//!
//! A *node* is an aligned block of addresses that is watched by one interval notifier. Nodes are
//! made when a fault lands in them, and removed when nothing in them is mapped any more, both by who
//! holds the space's `scratch`. A smaller node is disturbed less by changes of the address space
//! nearby; a larger one costs less memory and fewer callbacks for a large `munmap()`.

use super::{
    device::{
        Flushed,
        Mmu,
        Target,
        LEAF_PAGES,
        LEAF_SIZE, //
    },
    handover::Handovers,
    inject::INJECT,
    leaf::{
        Leaf,
        Slot, //
    },
    residency::{
        Millis,
        Residency, //
    },
    space::Space, //
};
use crate::vram::Vram;
use core::ops::Range;
use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        hmm::DmaMap,
        memremap::Pagemap,
        mmu_interval::{
            Event,
            Interval,
            Mirror,
            PtLock,
            Reason,
            Revoke, //
        },
    },
    page::PAGE_SIZE,
    prelude::*,
    ptr::Alignment,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    sizes::{
        SZ_1M,
        SZ_64M, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// Memory that a node watches, in MiB, in spaces to come: a power of two from 2 to 512. Larger ones
/// collide with more of what happens elsewhere, smaller ones are more; `make bench` compares them.
pub(crate) static NODE_MIB: Atomic<u32> = Atomic::new(64);

/// [`NODE_MIB`] in bytes.
fn node_size() -> Alignment {
    // CAST: Widening.
    let mib = NODE_MIB.load(Relaxed).clamp(2, 512).next_power_of_two() as usize;
    Alignment::new_checked(mib * SZ_1M).unwrap_or(Alignment::new::<SZ_64M>())
}

/// A leaf with the bus addresses of its pages.
pub(crate) struct MappedLeaf<M: Mmu> {
    pub(crate) shadow: KBox<Leaf<M::Tables>>,
    /// `None` once the leaf was discarded.
    pub(crate) dma: Option<DmaMap<Flushed>>,
    /// Which pages bounce between device and system memory.
    pub(crate) residency: Residency,
}

/// A leaf that is not in the tree yet, with the memory to get there.
pub(crate) struct SpareLeaf<M: Mmu> {
    leaf: MappedLeaf<M>,
    place: RBTreeNodeReservation<usize, MappedLeaf<M>>,
}

impl<M: Mmu> SpareLeaf<M> {
    /// # Errors
    ///
    /// `ENOMEM`; `EOPNOTSUPP` if the device cannot share memory with a process.
    pub(crate) fn new(dev: &Device<Bound>) -> Result<Self> {
        Ok(Self {
            leaf: MappedLeaf {
                shadow: KBox::init(Leaf::new(), GFP_KERNEL)?,
                dma: Some(DmaMap::new(dev, LEAF_PAGES)?),
                residency: Residency::new(),
            },
            place: RBTreeNodeReservation::new(GFP_KERNEL)?,
        })
    }

    /// Makes it the leaf `index`.
    pub(crate) fn into_leaf(mut self, index: usize) -> RBTreeNode<usize, MappedLeaf<M>> {
        // OVERFLOW: A leaf is made for addresses of a process only.
        self.leaf.shadow.place(VirtAddr::new(index * LEAF_SIZE));
        self.place.into_node(index, self.leaf)
    }
}

/// Leaves of a space by [`leaf_index`].
pub(super) type Leaves<M> = RBTree<usize, MappedLeaf<M>>;

/// Which leaf holds the byte at `addr`.
pub(crate) fn leaf_index(addr: VirtAddr) -> usize {
    addr.as_usize() / LEAF_SIZE
}

/// The pages of `range` in the leaf `index`, counted from the leaf's start; `None` if the leaf
/// begins behind them. The leaf does not end before them.
fn pages_of(index: usize, range: PageRange) -> Option<Range<usize>> {
    // OVERFLOW: A leaf exists for addresses of a process only, far from the end of all.
    let base = index * LEAF_SIZE;
    let end = range
        .end()
        .as_usize()
        .checked_sub(base)
        .filter(|&end| end != 0)?;
    let start = range.start().as_usize().saturating_sub(base);
    Some(start / PAGE_SIZE..(end / PAGE_SIZE).min(LEAF_PAGES))
}

/// The addresses of `pages` of the leaf `index`, which are not none.
pub(crate) fn addresses_of(index: usize, pages: Range<usize>) -> Option<PageRange> {
    let at = |page: usize| VirtAddr::new(index * LEAF_SIZE + page * PAGE_SIZE);
    PageRange::new(at(pages.start), at(pages.end)).ok()
}

/// The page tables of a space and their shadow.
pub(crate) struct Tree<M: Mmu> {
    pub(crate) tables: M::Tables,
    pub(crate) leaves: Leaves<M>,
}

impl<M: Mmu> Tree<M> {
    /// Calls `f` for each leaf that has pages in `range`, with these.
    fn for_each_leaf(
        &mut self,
        range: PageRange,
        mut f: impl FnMut(&mut M::Tables, usize, &mut MappedLeaf<M>, Range<usize>),
    ) {
        let mut cursor = self
            .leaves
            .cursor_lower_bound_mut(&leaf_index(range.start()));
        while let Some(mut leaf) = cursor {
            let (&index, mapped) = leaf.current_mut();
            let Some(pages) = pages_of(index, range) else {
                break;
            };
            f(&mut self.tables, index, mapped, pages);
            cursor = leaf.move_next();
        }
    }

    /// Whether something is mapped in `range`, or may still be in use.
    pub(super) fn is_hit(&self, range: PageRange) -> bool {
        let mut from = leaf_index(range.start());
        while let Some(cursor) = self.leaves.cursor_lower_bound(&from) {
            let (&index, leaf) = cursor.current();
            match pages_of(index, range) {
                None => return false,
                Some(pages) if leaf.shadow.is_hit(pages.clone()) => return true,
                Some(_) => from = index + 1,
            }
        }
        false
    }
}

/// Other state under the lock.
pub(crate) struct Book<M: Mmu> {
    /// By address divided by `node_size`.
    pub(super) nodes: RBTree<usize, Interval<Mirrored<M>>>,
    /// Size of a node in bytes.
    pub(super) node_size: Alignment,
    /// Leaves that were taken out of the tree, to be dropped without the lock.
    pub(super) discarded: Leaves<M>,
    /// Ranges in which nothing of the process is entered.
    pub(crate) bindings: M::Bindings,
    /// How many times attributes changed that say what atomics need.
    pub(crate) atomic_changes: u64,
    /// Whose turn it is with pages that both use atomics on.
    pub(crate) handovers: Handovers,
    /// What the worker is moving to device memory: there it is not the CPU that takes pages away.
    pub(crate) migrating: Option<PageRange>,
    /// The space was destroyed: nothing is entered any more.
    pub(crate) dead: bool,
    /// A node may have become empty.
    pub(super) wants_prune: bool,
}

impl<M: Mmu> Book<M> {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(bindings: M::Bindings) -> Result<Self> {
        Ok(Self {
            nodes: RBTree::new(),
            node_size: node_size(),
            discarded: RBTree::new(),
            bindings,
            atomic_changes: 0,
            handovers: Handovers::new()?,
            migrating: None,
            dead: false,
            wants_prune: false,
        })
    }

    /// Whether a node that lives has `addr`.
    pub(crate) fn is_watched(&self, addr: VirtAddr) -> bool {
        let key = addr.as_usize() / self.node_size.as_usize();
        self.nodes.get(&key).is_some()
    }
}

/// A space as mm calls it back.
pub(crate) struct Mirrored<M: Mmu>(pub(super) Arc<Space<M>>);

/// An invalidation under way.
pub(crate) struct Flush<M: Mmu> {
    in_flight: M::InFlight,
    due: Due,
}

impl<M: Mmu> Flush<M> {
    /// What the device has to do.
    pub(crate) fn in_flight(&mut self) -> &mut M::InFlight {
        &mut self.in_flight
    }
}

/// What to do when it was acknowledged.
#[derive(Clone, Copy)]
pub(crate) struct Due {
    /// Pages to retire: those that mm asked for.
    range: PageRange,
    /// The node goes, and its leaves with it.
    discard: bool,
    /// The node may be empty then.
    prune: bool,
    /// A migration has it done.
    is_owed: bool,
}

impl<M: Mmu> Mirror for Mirrored<M> {
    type Pt = Tree<M>;
    type Book = Book<M>;
    type Flush = Flush<M>;
    type Flushed = (Flushed, Due);
    type Memory = M::Memory;

    fn pagemap(&self) -> Option<&Pagemap<M::Memory>> {
        self.0.mmu.memory().map(|(pagemap, _)| pagemap)
    }

    fn pt_lock(&self) -> &PtLock<Self> {
        &self.0.pt
    }

    fn is_live(&self, range: PageRange, pt: &Tree<M>) -> bool {
        pt.is_hit(range)
    }

    fn revoke(&self, event: &Event, mut pt: Revoke<'_, Self>) -> Option<Flush<M>> {
        let space = &*self.0;
        let range = event.range();
        let discard = event.reason() == Reason::Kill;
        let mut cleared: Option<PageRange> = None;
        let (tree, book) = pt.split();
        let own = book.migrating;
        let foreign = own.is_none_or(|own| own.intersect(range).is_none());
        let by_cpu = foreign && event.reason() == Reason::Migrate;
        // From system memory it is mostly a CPU's fault. Whatever it is, the page stays wanted.
        let handed_over = foreign
            && matches!(
                event.reason(),
                Reason::Clear | Reason::Exclusive | Reason::Migrate
            );
        let now = Instant::<Monotonic>::now();
        let vram = space.mmu.memory().map(|(_, vram)| vram);
        tree.for_each_leaf(range, |tables, index, leaf, hit| {
            let mut pages = None;
            if let Some(vram) = vram {
                note_return(leaf, hit.clone(), vram, by_cpu);
                // `munmap()` and `madvise()` may leave a part of a large folio mapped.
                if hit.len() < LEAF_PAGES && is_unmapping(event.reason()) {
                    let at = |page| vram_page(leaf.shadow.slot(page));
                    let ends = [at(hit.start), at(hit.end - 1), leaf.residency.take_huge()];
                    for page in ends.into_iter().flatten() {
                        vram.split_later(page);
                    }
                }
            }
            for page in hit.clone() {
                if leaf.shadow.slot(page).is_exclusive() {
                    space.counters.exclusive_revoked.add(1);
                    if handed_over {
                        leaf.residency.hand_over(page);
                        book.handovers.take(index * LEAF_PAGES + page, now);
                    }
                }
            }
            if let Some(revoked) = leaf.shadow.revoke(tables, hit.clone()) {
                space.counters.demotions.add(usize::from(revoked.demoted));
                let dma = leaf.dma.as_mut().map(|dma| dma.revoke(hit));
                space.counters.dirtied.add(dma.unwrap_or_default().dirtied);
                pages = Some(revoked.pages);
            }
            if discard {
                leaf.shadow.unhook(tables);
                pages = Some(0..LEAF_PAGES);
            }
            if let Some(more) = pages.and_then(|pages| addresses_of(index, pages)) {
                cleared = Some(cleared.map_or(more, |range| range.hull(more)));
            }
        });
        if cleared.is_some() && !discard {
            space.counters.invalidations.add(1);
        }
        if event.must_flush() {
            cleared = Some(cleared.map_or(range, |cleared| cleared.hull(range)));
        }
        let prune = event.reason() == Reason::Unmap;
        let Some(cleared) = cleared else {
            if prune {
                self.want_prune(book);
            }
            return None;
        };
        let in_flight = if event.is_owed() {
            space.mmu.invalidate_later(&tree.tables, cleared)
        } else {
            space.mmu.invalidate(&tree.tables, Some(cleared))
        };
        Some(Flush {
            in_flight,
            due: Due {
                range,
                discard,
                prune,
                is_owed: event.is_owed(),
            },
        })
    }

    fn wait(&self, flush: Flush<M>) -> (Flushed, Due) {
        if !flush.due.discard && !flush.due.is_owed {
            INJECT.during_invalidation();
        }
        (self.0.mmu.wait(flush.in_flight), flush.due)
    }

    fn flushed(&self, (proof, due): (Flushed, Due), mut pt: Revoke<'_, Self>) {
        let (tree, book) = pt.split();
        // Without a device there is nothing left to unmap: spaces are destroyed before it goes.
        self.0.mmu.with_dma_device(|dev| {
            tree.for_each_leaf(due.range, |_, _, leaf, pages| {
                // The only error is another device than the one the map was made for.
                let _ = if due.discard {
                    leaf.dma.take().map_or(Ok(()), |dma| dma.free(dev, &proof))
                } else {
                    leaf.dma
                        .as_mut()
                        .map_or(Ok(()), |dma| dma.unmap(dev, pages, &proof))
                };
            })
        });
        tree.for_each_leaf(due.range, |_, _, leaf, pages| leaf.shadow.retire(pages));
        if due.discard {
            discard_leaves(tree, book, due.range);
        }
        // Not before: until it is retired, a page keeps its node.
        if due.prune {
            self.want_prune(book);
        }
    }
}

impl<M: Mmu> Mirrored<M> {
    /// Has the worker look for nodes in which nothing is mapped.
    fn want_prune(&self, book: &mut Book<M>) {
        if !book.dead {
            book.wants_prune = true;
            self.0.wake_worker(&self.0);
        }
    }
}

/// The page of device memory that is mapped.
pub(crate) fn vram_page(slot: Slot) -> Option<u32> {
    match slot.target() {
        // CAST: Pages of device memory are counted by 32 bits.
        Target::Vram(offset) if slot.is_held() => Some((offset / PAGE_SIZE as u64) as u32),
        _ => None,
    }
}

/// Whether pages may have gone for good.
fn is_unmapping(reason: Reason) -> bool {
    matches!(reason, Reason::Unmap | Reason::Clear)
}

/// Remembers which of `hit` pages leave device memory, and why: the CPU takes them, or others need
/// the room.
fn note_return<M: Mmu>(leaf: &mut MappedLeaf<M>, hit: Range<usize>, vram: &Vram, by_cpu: bool) {
    let now = Millis::now();
    let minimum = vram.residency_ms.load(Relaxed);
    for page in hit {
        let Some(at) = vram_page(leaf.shadow.slot(page)) else {
            continue;
        };
        if vram.is_leaving(at) {
            leaf.residency.evict(page, now);
        } else if by_cpu {
            leaf.residency.come_back(page, now, minimum);
        }
    }
}

/// Moves the leaves in `range` from the tree to where they are dropped from without the lock.
fn discard_leaves<M: Mmu>(tree: &mut Tree<M>, book: &mut Book<M>, range: PageRange) {
    let first = leaf_index(range.start());
    // Looked up each time: behind the last leaf of the tree, `remove_current` gives the one before.
    while let Some(leaf) = tree.leaves.cursor_lower_bound_mut(&first) {
        if pages_of(*leaf.current().0, range).is_none() {
            break;
        }
        book.discarded.insert(leaf.remove_current().1);
    }
}
