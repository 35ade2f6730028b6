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
            LEAF_PAGES,
            LEAF_SIZE, //
        },
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
            let Some(bound) = self.space.mirror.lock().state().bindings.first(range) else {
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
        self.session.node(piece.start())?;
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

        let mut guard = space.mirror.lock();
        let same = |now: Bound<BufferOf<M>>| {
            now.buffer == bound.buffer
                && now.write == bound.write
                && now.range.covers(piece)
                && now.offset_of(piece.start()) == bound.offset_of(piece.start())
        };
        if !guard.state().bindings.first(piece).is_some_and(same) {
            return Err(Missed::Collided);
        }
        let mapped = guard.map_object(piece, bound.write, &mut scratch.supplies, |i| {
            let addr = VirtAddr::new(piece.start().as_usize() + i * PAGE_SIZE);
            places(bound.offset_of(addr))
        })?;
        let (leaf, _) = guard.leaf(index);
        let settled = settle(&mut scratch.wanted, |page| {
            leaf.as_ref()?.slot(page).rights()
        });
        drop(guard);

        let counters = &space.counters;
        counters.count_ptes(mapped.ptes);
        counters.pages_served.add(settled.count);
        if let Some(range) = mapped.pages {
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
        let first = page_in_leaf(piece.start());
        if scratch.wanted[first..first + piece.pages()]
            .iter()
            .any(Option::is_some)
        {
            // The process's page is still leaving.
            return Err(Missed::Collided);
        }
        Ok(())
    }
}
