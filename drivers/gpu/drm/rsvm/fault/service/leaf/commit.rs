// SPDX-License-Identifier: GPL-2.0

//! Commits: what is present in a window of the leaf becomes mapped.

use super::{
    patience,
    wanted::{
        page_in_leaf,
        settle, //
    },
    LeafTurn,
    Look,
    Missed,
    Scratch, //
};
use crate::{
    svm::{
        bound::Bindings,
        device::{
            Mmu,
            PageSize,
            LEAF_PAGES,
            LEAF_SIZE, //
        },
        inject::INJECT,
        mirror::Mirrored,
        policy::{
            AtomicMode,
            Attributes, //
        },
        residency::Millis,
        space::Space, //
    },
    vram::PageSet, //
};
use kernel::{
    mm::{
        addr::PageRange,
        hmm::Commit,
        space::{
            addresses_of,
            IntervalRef, //
        },
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::Relaxed, //
};

impl<M: Mmu> Scratch<M> {
    /// Sets aside all that a commit in the leaf `index` can need.
    pub(in crate::fault::service) fn prepare(&mut self, space: &Space<M>, index: usize) -> Result {
        space.mmu.refill(&mut self.supplies.reserve)?;
        space.mirror.prepare(&mut self.supplies, index)
    }
}

/// Pages of a leaf that a commit maps.
#[derive(Default)]
struct Chosen {
    pages: PageSet,
    /// Those in device memory.
    in_vram: PageSet,
    /// Those of these that the device had not mapped.
    arrived: PageSet,
    /// One of them, as a page of device memory.
    last: Option<u32>,
}

impl<M: Mmu> LeafTurn<'_, '_, M> {
    /// Looks at `window`, which `interval` covers, and maps what is present there.
    pub(in crate::fault::service) fn commit(
        &mut self,
        interval: &IntervalRef<Mirrored<M>>,
        window: PageRange,
        look: Look,
    ) -> Result<(), Missed> {
        self.scratch.prepare(self.space, self.index)?;
        let Self {
            space,
            session,
            index,
            scratch,
            ..
        } = self;
        let index = *index;
        let Scratch {
            pfns,
            supplies,
            wanted,
            moved_in,
            lost,
            ..
        } = &mut **scratch;
        // Changes are counted under the lock, after they were made.
        let changes = space.mirror.lock().state().atomic_changes;
        let device_scope = |attributes: &Attributes| attributes.atomic == AtomicMode::Device;
        let free = space
            .policy
            .lock()
            .matching(index * LEAF_PAGES, device_scope);
        let (snapshot, held) = match look {
            Look::Free => {
                let snapshot = session.snapshot(interval, window, patience(), pfns)?;
                (snapshot, None)
            }
            Look::Locked => {
                space.counters.locked_snapshots.add(1);
                let held = session.lock_mappings()?;
                (held.snapshot(interval, window, pfns)?, Some(held))
            }
        };
        if INJECT.before_commit() {
            return Err(Missed::Collided);
        }

        let mut commit = snapshot.commit()?;
        if commit.state().atomic_changes != changes {
            return Err(Missed::Collided);
        }
        let first = page_in_leaf(window.start());
        let now = Millis::now();
        // Neighbours of what moved to device memory may move there, too, when they are wanted.
        let stays = moved_in.then(|| remote(space, &mut commit, index, now));
        let live = live(&mut commit, index);
        let chosen = choose(&commit, &live, index, |page, in_vram| {
            let unwanted = wanted[page].is_none() && !in_vram;
            !(unwanted && stays.is_some_and(|stays| !stays.contains(page)))
        });
        let mapped = commit.map(supplies, |i| {
            let page = first + i;
            // Nobody but the device gets there without a fault, or nobody else matters.
            let atomic = chosen.in_vram.contains(page) || free.contains(page);
            chosen.pages.contains(page).then_some(atomic)
        })?;
        if let (Some(mut leaf), _) = commit.leaf(index) {
            for page in chosen.arrived.iter() {
                if leaf.slot(page).is_live() {
                    leaf.data_mut().arrive(page, now);
                }
            }
            let whole = leaf.slot(0);
            if let (PageSize::Size2M, Some(first)) = (whole.size(), whole.private_page()) {
                leaf.data_mut().arrive_huge(first);
            }
        }
        let strongest = wanted.iter().flatten().copied().max();
        let (leaf, _) = commit.leaf(index);
        let settled = settle(wanted, |page| leaf.as_ref()?.slot(page).rights());
        let usable = leaf.is_some_and(|leaf| leaf.slot(first).is_live());
        drop(commit);
        // What was not mapped is not to be tried again. With a page that some can use, though not
        // for what all want, these get on.
        let served = held.filter(|_| usable);
        if let (Some(held), Some(pdb)) = (served, space.pdb()) {
            space.counters.replays.add(1);
            // A device that does not acknowledge has been stopped.
            let _ = space.mmu.replay(pdb, window);
            lost.forget(window.start());
            drop(held);
        }
        if let (Some(page), Some((_, vram))) = (chosen.last, space.mmu.memory()) {
            vram.touch(page);
        }

        let [small, big, huge] = mapped.ptes;
        let count = small + big * PageSize::Size64K.pages() + huge * LEAF_PAGES;
        let counters = &space.counters;
        counters.count_ptes(mapped.ptes);
        counters.pages_served.add(settled.count);
        counters.prefetched.add(count.saturating_sub(settled.count));
        if let Some(range) = mapped.pages {
            scratch.announce(range);
        }
        if let (Some(pages), Some(access)) = (settled.pages, strongest) {
            let addr = index * LEAF_SIZE + pages.start * PAGE_SIZE;
            space.sink.served(addr as u64, count * PAGE_SIZE, access);
        }
        if mapped.is_partial {
            return Err(Missed::Collided);
        }
        Ok(())
    }
}

/// Pages of the leaf `index` that the device uses in system memory for a while.
fn remote<M: Mmu>(
    space: &Space<M>,
    commit: &mut Commit<'_, '_, Mirrored<M>>,
    index: usize,
    now: Millis,
) -> PageSet {
    let vram = space.mmu.memory().map(|(_, vram)| vram);
    let minimum = vram.map_or(0, |vram| vram.residency_ms.load(Relaxed));
    let (leaf, _) = commit.leaf(index);
    leaf.map_or(PageSet::default(), |leaf| leaf.data().remote(now, minimum))
}

/// Pages of the leaf `index` that are mapped.
fn live<M: Mmu>(commit: &mut Commit<'_, '_, Mirrored<M>>, index: usize) -> PageSet {
    let mut live = PageSet::default();
    if let (Some(leaf), _) = commit.leaf(index) {
        let pages = (0..LEAF_PAGES).filter(|&page| leaf.slot(page).is_live());
        pages.for_each(|page| live.insert(page));
    }
    live
}

/// The pages of the leaf `index` that are present, not bound to a buffer, and `allowed`, which is told
/// whether they are in device memory.
fn choose<M: Mmu>(
    commit: &Commit<'_, '_, Mirrored<M>>,
    live: &PageSet,
    index: usize,
    allowed: impl Fn(usize, bool) -> bool,
) -> Chosen {
    let mut chosen = Chosen::default();
    let window = commit.range();
    let first = page_in_leaf(window.start());
    let bindings = &commit.state().bindings;
    let any_bound = !bindings.is_free(window);
    for i in 0..window.pages() {
        let page = first + i;
        let Some(found) = commit.page(i) else {
            continue;
        };
        let is_bound = any_bound
            && addresses_of(index, page..page + 1).is_some_and(|range| !bindings.is_free(range));
        if is_bound || !allowed(page, found.private.is_some()) {
            continue;
        }
        chosen.pages.insert(page);
        if found.private.is_some() {
            chosen.last = found.private;
            chosen.in_vram.insert(page);
            if !live.contains(page) {
                chosen.arrived.insert(page);
            }
        }
    }
    chosen
}
