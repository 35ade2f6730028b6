// SPDX-License-Identifier: GPL-2.0

//! Where the pages of a leaf are, and where they should be.

use super::leaf::{
    patience,
    LeafTurn,
    Missed, //
};
use crate::{
    migrate::{
        self,
        Moved,
        Stock, //
    },
    svm::{
        bound::Bindings,
        counters::Stopwatch,
        device::{
            Mmu,
            LEAF_PAGES,
            LEAF_SIZE, //
        },
        mirror::Mirrored,
        policy::{
            Location,
            View, //
        },
        residency::Millis, //
    },
    vram::{
        PageSet,
        Wait, //
    },
};
use kernel::{
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        space::{
            addresses_of,
            IntervalRef, //
        },
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::Relaxed,
    time::{
        Delta,
        Instant, //
    }, //
};

/// How long a fault waits for room; then the memory is used where it is.
const FAULT_WAIT: Delta = Delta::from_millis(100);

/// Where the pages of a leaf were when somebody looked.
pub(super) struct Seen {
    pub(super) system: PageSet,
    pub(super) device: PageSet,
    /// In system memory, and no CPU has it.
    exclusive: PageSet,
    remote: PageSet,
    /// Where only the device uses atomics.
    alone: PageSet,
    pub(super) bound: PageSet,
    /// All of it is one piece of system memory.
    is_huge: bool,
}

impl<M: Mmu> LeafTurn<'_, '_, M> {
    /// Moves to device memory what the policy says. Tells whether pages are wanted that are
    /// nowhere yet.
    pub(super) fn place(
        &mut self,
        node: &IntervalRef<Mirrored<M>>,
        window: PageRange,
    ) -> Result<bool, Missed> {
        if self.space.client.is_none() || self.space.mmu.memory().is_none() {
            return Ok(false);
        }
        let seen = match self.look(node, window) {
            Ok(seen) => seen,
            // Without knowing better, leave it where it is.
            Err(Missed::Collided) => return Ok(false),
            Err(missed) => return Err(missed),
        };
        let wanted = &self.scratch.wanted;
        let view = View {
            wanted,
            system: seen.system,
            device: seen.device,
            remote: seen.remote,
            alone: seen.alone,
            bound: seen.bound,
            is_huge: seen.is_huge,
        };
        let first = self.index * LEAF_PAGES;
        let chosen = view.chosen(&self.space.policy.lock(), first);
        let absent = wanted.iter().enumerate().any(|(page, wanted)| {
            wanted.is_some()
                && !seen.system.contains(page)
                && !seen.device.contains(page)
                && !chosen.contains(page)
        });
        self.scratch.moved_in |= self.move_in(&chosen, FAULT_WAIT);
        Ok(absent)
    }

    /// Looks where the pages of `window`, the leaf or its beginning, are.
    pub(super) fn look(
        &mut self,
        node: &IntervalRef<Mirrored<M>>,
        window: PageRange,
    ) -> Result<Seen, Missed> {
        let (space, index) = (self.space, self.index);
        let pfns = &mut self.scratch.pfns;
        let snapshot = self.session.snapshot(node, window, patience(), pfns)?;
        let minimum = space
            .mmu
            .memory()
            .map_or(0, |(_, vram)| vram.residency_ms.load(Relaxed));
        let mut seen = Seen {
            system: PageSet::default(),
            device: PageSet::default(),
            exclusive: PageSet::default(),
            remote: PageSet::default(),
            alone: PageSet::default(),
            bound: PageSet::default(),
            is_huge: window.pages() == LEAF_PAGES,
        };
        let mut base = None;
        let mut news: [Option<core::ops::Range<usize>>; 4] = [const { None }; 4];

        let mut commit = snapshot.commit()?;
        let bindings = &commit.state().bindings;
        let any_bound = !bindings.is_free(window);
        for page in 0..window.pages() {
            let range = addresses_of(index, page..page + 1);
            if any_bound && range.is_some_and(|range| !bindings.is_free(range)) {
                seen.bound.insert(page);
                seen.is_huge = false;
            }
            match commit.page(page) {
                Some(found) if found.private.is_none() => {
                    seen.system.insert(page);
                    let pfn = found.pfn.as_usize();
                    let base = *base.get_or_insert(pfn);
                    seen.is_huge &= base % LEAF_PAGES == 0 && pfn == base + page;
                }
                found => {
                    if found.is_some() {
                        seen.device.insert(page);
                    }
                    seen.is_huge = false;
                }
            }
        }
        if let (Some(mut leaf), _) = commit.leaf(index) {
            for page in 0..window.pages() {
                if leaf.slot(page).is_exclusive() {
                    seen.exclusive.insert(page);
                    seen.system.insert(page);
                }
            }
            seen.remote = leaf.data().remote(Millis::now(), minimum);
            seen.alone = leaf.data().alone();
            for run in &mut news {
                *run = leaf.data_mut().take_news();
            }
        }
        drop(commit);
        for run in news.into_iter().flatten() {
            space.counters.pages_thrashed.add(run.len());
            let addr = index * LEAF_SIZE + run.start * PAGE_SIZE;
            space.sink.thrashing(addr as u64, run.len() * PAGE_SIZE);
        }
        Ok(seen)
    }

    /// Gives those of `pages` back to the CPUs that none of them has, which core leaves where they
    /// are.
    fn release_exclusive(&mut self, pages: &PageSet) {
        let (space, index) = (self.space, self.index);
        let exclusive = {
            let mut guard = space.mirror.lock();
            let (leaf, book) = guard.leaf(index);
            book.migrating = addresses_of(index, 0..LEAF_PAGES);
            let mut exclusive = PageSet::default();
            if let Some(leaf) = leaf {
                let is_exclusive = |page: &usize| leaf.slot(*page).is_exclusive();
                let found = pages.iter().filter(is_exclusive);
                found.for_each(|page| exclusive.insert(page));
            }
            exclusive
        };
        for page in exclusive.iter() {
            if let (Ok(node), Some(range)) = (
                self.session.node(VirtAddr::new(index * LEAF_SIZE)),
                addresses_of(index, page..page + 1),
            ) {
                let pfns = &mut self.scratch.pfns;
                // What stays exclusive stays where it is.
                let _ = self.session.fault_in(&node, range, false, patience(), pfns);
            }
        }
        space.mirror.lock().state_mut().migrating = None;
    }

    /// Moves `pages` to device memory, as many as can be, and waits so long for room. Tells whether
    /// some moved.
    pub(super) fn move_in(&mut self, pages: &PageSet, wait: Delta) -> bool {
        let (space, index) = (self.space, self.index);
        let (Some(memory), Some(client)) = (space.mmu.memory(), &space.client) else {
            return false;
        };
        if pages.is_empty() {
            return false;
        }
        self.release_exclusive(pages);
        let cancelled = || space.is_detached() || space.mmu.is_gone();
        let wait = Wait::until(Instant::now() + wait, &cancelled);
        let mut watch = Stopwatch::start();
        let Ok(mut stock) = Stock::new(memory, client, pages, wait) else {
            space.counters.no_room.add(1);
            return false;
        };
        watch.lap(&space.counters.migrate_alloc_ns);
        space.mirror.lock().state_mut().migrating = self.addresses(0..LEAF_PAGES);
        let Moved {
            pages,
            zeroed,
            failed,
        } = migrate::to_vram(
            space,
            self.session,
            index,
            pages,
            &mut stock,
            &mut self.scratch.migration,
        );
        space.mirror.lock().state_mut().migrating = None;
        drop(stock);

        let counters = &space.counters;
        counters.failed_copies.add(usize::from(failed));
        if pages.is_empty() {
            return false;
        }
        counters.migrations.add(1);
        counters.pages_to_vram.add(pages.len());
        counters.pages_zeroed.add(zeroed);
        let mut from = 0;
        while let Some(run) = pages.next_run(from) {
            from = run.end;
            let addr = index * LEAF_SIZE + run.start * PAGE_SIZE;
            let len = run.len() * PAGE_SIZE;
            space.sink.migrated(addr as u64, len, Location::Vram);
        }
        true
    }
}
