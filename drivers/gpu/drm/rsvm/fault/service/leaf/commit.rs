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
use crate::svm::{
    bound::Bindings,
    device::{
        Flushed,
        Mmu,
        PageSize,
        Prot,
        Target,
        LEAF_PAGES,
        LEAF_SIZE, //
    },
    inject::INJECT,
    leaf::Slot,
    node::{
        addresses_of,
        vram_page,
        Mirrored,
        SpareLeaf, //
    },
    policy::{
        AtomicMode,
        Attributes, //
    },
    residency::Millis,
    space::Space, //
};
use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        addr::PageRange,
        hmm::{
            DmaMap,
            Pages, //
        },
        mmu_interval::IntervalRef, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::Relaxed, //
};

impl<M: Mmu> Scratch<M> {
    /// Sets aside all that a commit in the leaf `index` can need.
    pub(in crate::fault::service) fn prepare(&mut self, space: &Space<M>, index: usize) -> Result {
        space.mmu.refill(&mut self.reserve)?;
        if self.spare.is_none() {
            let known = space.pt.lock().pt().leaves.get(&index).is_some();
            if !known {
                let spare = space.mmu.with_dma_device(SpareLeaf::new).ok_or(ENODEV)??;
                self.spare = Some(spare);
            }
        }
        Ok(())
    }
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
            window: slots,
            wanted,
            reserve,
            spare,
            moved_in,
            lost,
            ..
        } = &mut **scratch;
        // Changes are counted under the lock, after they were made.
        let changes = space.pt.lock().book().atomic_changes;
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
                let held = session.hold_mappings()?;
                (held.snapshot(interval, window, pfns)?, Some(held))
            }
        };
        if INJECT.before_commit() {
            return Err(Missed::Collided);
        }

        let mut guard = space.pt.lock();
        let mut commit = snapshot.commit(&mut guard)?;
        let (tree, book, present) = commit.split();
        if book.dead {
            return Err(Missed::Gone);
        }
        if book.atomic_changes != changes {
            return Err(Missed::Collided);
        }
        if tree.leaves.get(&index).is_none() {
            let spare = spare.take().ok_or(Missed::Collided)?;
            tree.leaves.insert(spare.into_leaf(index));
        }
        let leaf = tree.leaves.get_mut(&index).ok_or(Missed::Collided)?;

        slots.fill(Slot::default());
        let first = page_in_leaf(window.start());
        let any_bound = !book.bindings.is_free(window);
        let now = Millis::now();
        let mut in_vram = None;
        // Neighbours of what moved to device memory may move there, too, when they are wanted.
        let stays = moved_in.then(|| {
            let minimum = space
                .mmu
                .memory()
                .map(|(_, vram)| vram.residency_ms.load(Relaxed));
            leaf.residency.remote(now, minimum.unwrap_or_default())
        });
        let entered = space.mmu.with_dma_device(|dev| {
            for i in 0..window.pages() {
                let Some(dma) = leaf.dma.as_mut() else {
                    continue;
                };
                let bound = |range| !book.bindings.is_free(range);
                if any_bound && addresses_of(index, first + i..first + i + 1).is_some_and(bound) {
                    continue;
                }
                let unwanted = wanted[first + i].is_none() && present.device(i).is_none();
                if unwanted && stays.is_some_and(|stays| !stays.contains(first + i)) {
                    continue;
                }
                // A page without a bus address is as good as absent.
                let Some((target, write)) = enter(dma, dev, first + i, &present, i) else {
                    continue;
                };
                let prot = Prot {
                    write,
                    // Nobody but the device gets there without a fault, or nobody else matters.
                    atomic: write
                        && (matches!(target, Target::Vram(_)) || free.contains(first + i)),
                };
                if matches!(target, Target::Vram(_)) {
                    if !leaf.shadow.slot(first + i).is_live() {
                        leaf.residency.arrive(first + i, now);
                    }
                    in_vram = vram_page(Slot::live(target, prot));
                }
                leaf.shadow.hold(first + i, target);
                slots[first + i] = Slot::live(target, prot);
            }
        });
        if entered.is_none() {
            return Err(Missed::Gone);
        }

        let (done, result) =
            leaf.shadow
                .commit(&mut tree.tables, slots, reserve, space.flush(index));
        if leaf.shadow.slot(0).size() == PageSize::Size2M {
            if let Some(first) = vram_page(leaf.shadow.slot(0)) {
                leaf.residency.arrive_huge(first);
            }
        }
        let strongest = wanted.iter().flatten().copied().max();
        let settled = settle(wanted, |page| leaf.shadow.slot(page));
        let usable = leaf.shadow.slot(first).is_live();
        drop(guard);
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
        drop(done.surplus);
        if let (Some(page), Some((_, vram))) = (in_vram, space.mmu.memory()) {
            vram.touch(page);
        }

        let [small, big, huge] = done.ptes;
        let mapped = small + big * PageSize::Size64K.pages() + huge * LEAF_PAGES;
        let counters = &space.counters;
        counters.count_ptes(done.ptes);
        counters.pages_served.add(settled.count);
        counters
            .prefetched
            .add(mapped.saturating_sub(settled.count));
        if let Some(range) = done.mapped.and_then(|pages| addresses_of(index, pages)) {
            scratch.announce(range);
        }
        if let (Some(pages), Some(access)) = (settled.pages, strongest) {
            let addr = index * LEAF_SIZE + pages.start * PAGE_SIZE;
            space.sink.served(addr as u64, mapped * PAGE_SIZE, access);
        }
        Ok(result?)
    }
}

/// Enters page `i` of a snapshot as page `page` of a leaf: where it is, and whether it may be
/// written.
fn enter(
    dma: &mut DmaMap<Flushed>,
    dev: &Device<Bound>,
    page: usize,
    present: &Pages<'_>,
    i: usize,
) -> Option<(Target, bool)> {
    if let Some(found) = present.device(i) {
        let (index, write) = match found.writable() {
            Some(found) => (dma.record(page, found), true),
            None => (dma.record(page, found), false),
        };
        let offset = u64::from(index.ok()?) * PAGE_SIZE as u64;
        return Some((Target::Vram(offset), write));
    }
    let found = present.get(i)?;
    let (addr, write) = match found.writable() {
        Some(found) => (dma.map(dev, page, found), true),
        None => (dma.map(dev, page, found), false),
    };
    Some((Target::System(addr.ok()?), write))
}
