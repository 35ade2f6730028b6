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
    device::{
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
        Mirrored,
        SpareLeaf, //
    }, //
};
use kernel::{
    mm::{
        addr::PageRange,
        mmu_interval::IntervalRef, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

impl<M: Mmu> LeafTurn<'_, '_, M> {
    /// Sets aside all that a commit can need.
    fn prepare(&mut self) -> Result {
        let mmu = &self.space.mmu;
        mmu.refill(&mut self.scratch.reserve)?;
        if self.scratch.spare.is_none() {
            let known = self.space.pt.lock().pt().leaves.get(&self.index).is_some();
            if !known {
                let spare = mmu.with_dma_device(SpareLeaf::new).ok_or(ENODEV)??;
                self.scratch.spare = Some(spare);
            }
        }
        Ok(())
    }

    /// Looks at `window`, which `interval` covers, and maps what is present there.
    pub(super) fn commit(
        &mut self,
        interval: &IntervalRef<Mirrored<M>>,
        window: PageRange,
        look: Look,
    ) -> Result<(), Missed> {
        self.prepare()?;
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
            ..
        } = &mut **scratch;
        let snapshot = match look {
            Look::Free => session.snapshot(interval, window, patience(), pfns)?,
            Look::Locked => {
                space.counters.locked_snapshots.add(1);
                session.lock_and_snapshot(interval, window, pfns)?
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
        if tree.leaves.get(&index).is_none() {
            let spare = spare.take().ok_or(Missed::Collided)?;
            tree.leaves.insert(spare.into_leaf(index));
        }
        let leaf = tree.leaves.get_mut(&index).ok_or(Missed::Collided)?;

        slots.fill(Slot::default());
        let first = page_in_leaf(window.start());
        let entered = space.mmu.with_dma_device(|dev| {
            for i in 0..window.pages() {
                let (Some(page), Some(dma)) = (present.get(i), leaf.dma.as_mut()) else {
                    continue;
                };
                let (addr, write) = match page.writable() {
                    Some(page) => (dma.map(dev, first + i, page), true),
                    None => (dma.map(dev, first + i, page), false),
                };
                // A page without a bus address is as good as absent.
                if let Ok(addr) = addr {
                    let target = Target::System(addr);
                    let prot = Prot {
                        write,
                        atomic: false,
                    };
                    leaf.shadow.hold(first + i, target);
                    slots[first + i] = Slot::live(target, prot);
                }
            }
        });
        if entered.is_none() {
            return Err(Missed::Gone);
        }

        let (done, result) =
            leaf.shadow
                .commit(&mut tree.tables, slots, reserve, |tables, pages| {
                    if let Some(range) = addresses_of(index, pages) {
                        let flush = space.mmu.invalidate(tables, Some(range));
                        // Nothing is given back here: the same pages are mapped again.
                        let _ = space.mmu.wait(flush);
                    }
                });
        let strongest = wanted.iter().flatten().copied().max();
        let settled = settle(wanted, |page| leaf.shadow.slot(page));
        drop(guard);
        drop(done.surplus);

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
