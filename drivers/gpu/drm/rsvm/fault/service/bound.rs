// SPDX-License-Identifier: GPL-2.0

//! Faults in ranges that are bound to buffers of the device.

use super::leaf::{
    page_in_leaf,
    settle,
    LeafTurn,
    Missed, //
};
use crate::{
    fault::Reason,
    svm::{
        bound::{
            Bindings,
            Bound,
            Buffer,
            Places, //
        },
        device::{
            Access,
            Mmu,
            Prot,
            LEAF_PAGES,
            LEAF_SIZE, //
        },
        leaf::Slot,
        node::addresses_of, //
    },
};
use kernel::{
    mm::addr::{
        PageRange,
        VirtAddr, //
    },
    page::PAGE_SIZE,
    prelude::*,
};

type BufferOf<M> = <<M as Mmu>::Bindings as Bindings>::Buffer;

impl<M: Mmu> LeafTurn<'_, '_, M> {
    /// Maps all of each binding in the leaf that has a wanted page. Other pages stay wanted.
    pub(super) fn serve_bound(&mut self) -> Result<(), Missed> {
        let mut rest = self.addresses(0..LEAF_PAGES);
        while let Some(range) = rest {
            let Some(bound) = self.space.pt.lock().book().bindings.first(range) else {
                break;
            };
            let Some(piece) = bound.range.intersect(range) else {
                break;
            };
            rest = PageRange::new(piece.end(), range.end()).ok();
            self.serve_binding(&bound, piece)?;
        }
        Ok(())
    }

    fn serve_binding(
        &mut self,
        bound: &Bound<BufferOf<M>>,
        piece: PageRange,
    ) -> Result<(), Missed> {
        let first = page_in_leaf(piece.start());
        let pages = first..first + piece.pages();
        let mut wanted = false;
        for page in pages {
            if !bound.write {
                while self.scratch.wanted[page] > Some(Access::Read) {
                    self.fail(page, Reason::Protection);
                }
            }
            wanted |= self.scratch.wanted[page].is_some();
        }
        if !wanted {
            return Ok(());
        }
        // Commits are for ranges that somebody watches: what is entered goes with the node.
        self.space.node(self.session, piece.start())?;
        self.scratch.prepare(self.space, self.index)?;
        let space = self.space.clone();
        let cancelled = || space.is_detached() || space.mmu.is_gone();
        match bound
            .buffer
            .with_places(&cancelled, |places| self.commit_bound(bound, piece, places))
        {
            Ok(result) => result,
            // It was unbound and destroyed meanwhile, and what was bound then may be another.
            Err(ENOENT) => Err(Missed::Collided),
            Err(EINTR) => Err(Missed::Gone),
            Err(err) => Err(err.into()),
        }
    }

    /// Enters the PTEs of `piece`. The places stay as they are.
    fn commit_bound(
        &mut self,
        bound: &Bound<BufferOf<M>>,
        piece: PageRange,
        places: Places<'_>,
    ) -> Result<(), Missed> {
        let Self {
            space,
            index,
            scratch,
            ..
        } = self;
        let index = *index;
        scratch.window.fill(Slot::default());

        let mut guard = space.pt.lock();
        let (tree, book) = guard.device_memory();
        let same = |now: Bound<BufferOf<M>>| {
            now.buffer == bound.buffer
                && now.write == bound.write
                && now.range.covers(piece)
                && now.offset_of(piece.start()) == bound.offset_of(piece.start())
        };
        if book.dead {
            return Err(Missed::Gone);
        }
        if !book.bindings.first(piece).is_some_and(same) || !book.is_watched(piece.start()) {
            return Err(Missed::Collided);
        }
        if tree.leaves.get(&index).is_none() {
            let spare = scratch.spare.take().ok_or(Missed::Collided)?;
            tree.leaves.insert(spare.into_leaf(index));
        }
        let leaf = tree.leaves.get_mut(&index).ok_or(Missed::Collided)?;

        let prot = Prot {
            write: bound.write,
            atomic: bound.write,
        };
        for i in 0..piece.pages() {
            let addr = VirtAddr::new(piece.start().as_usize() + i * PAGE_SIZE);
            let target = places(bound.offset_of(addr)).ok_or(Missed::Collided)?;
            let page = page_in_leaf(addr);
            leaf.shadow.hold(page, target);
            scratch.window[page] = Slot::live(target, prot);
        }
        let (done, result) = leaf.shadow.commit(
            &mut tree.tables,
            &mut scratch.window,
            &mut scratch.reserve,
            space.flush(index),
        );
        let settled = settle(&mut scratch.wanted, |page| leaf.shadow.slot(page));
        drop(guard);
        drop(done.surplus);

        let counters = &space.counters;
        counters.count_ptes(done.ptes);
        counters.pages_served.add(settled.count);
        if let Some(range) = done.mapped.and_then(|pages| addresses_of(index, pages)) {
            scratch.announce(range);
        }
        if let Some(pages) = settled.pages {
            let addr = index * LEAF_SIZE + pages.start * PAGE_SIZE;
            let access = if bound.write {
                Access::Write
            } else {
                Access::Read
            };
            space.sink.served(addr as u64, piece.len(), access);
        }
        Ok(result?)
    }
}
