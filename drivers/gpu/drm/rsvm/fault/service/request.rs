// SPDX-License-Identifier: GPL-2.0

//! Requests of users, a few leaves at a time.

use super::{
    leaf::{
        self,
        page_in_leaf,
        LeafTurn,
        Missed, //
    },
    place::Seen,
    Scratch, //
};
use crate::{
    migrate,
    svm::{
        bound::Bindings,
        device::{
            Mmu,
            LEAF_PAGES,
            LEAF_SIZE, //
        },
        mirror::Mirrored,
        policy::{
            AtomicMode,
            Attributes,
            Location, //
        },
        request::{
            Look,
            Request,
            Task, //
        },
        space::Space, //
    },
    vram::PageSet, //
};
use core::{
    mem,
    ops::Range, //
};
use kernel::{
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        space::{
            addresses_of,
            IntervalRef,
            MmSession, //
        },
    },
    page::PAGE_SIZE,
    prelude::*,
    ptr::Alignment,
    sync::Arc,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

/// Leaves of requests in a turn; then faults have theirs.
const LEAVES: usize = 8;
/// Attempts to look at a leaf that changes, or to map what was moved.
const ATTEMPTS: usize = 8;
/// How long the memory of a fence is waited for. Others that move it take as long as their copies
/// do; protection keys and the like refuse a store to memory that is there, and for ever.
const FENCE_WAIT: Delta = Delta::from_secs(10);
/// Between attempts to write a fence, after the first two.
const FENCE_PAUSE: Delta = Delta::from_millis(1);
/// How long one leaf waits for room.
const WAIT: Delta = Delta::from_secs(5);

impl<M: Mmu> Scratch<M> {
    /// Goes on with a request, which is put back unless that was all of it.
    pub(crate) fn carry_out(&mut self, space: &Arc<Space<M>>, mut request: Request) {
        let mut session = space.mirror.enter();
        for _ in 0..LEAVES {
            let Some((index, pages)) = request.next() else {
                break;
            };
            let Some(session) = &mut session else {
                // The process is gone, and nothing is anywhere.
                continue;
            };
            let mut turn = LeafTurn {
                space,
                session,
                index,
                faults: &[],
                scratch: &mut *self,
            };
            turn.scratch.wanted.fill(None);
            turn.scratch.moved_in = false;
            let result = match &request.task {
                Task::Move(Location::Vram) => turn.prefetch(pages),
                Task::Move(_) => turn.recall(pages),
                Task::Look(look) => turn.report(pages, look),
            };
            if matches!(result, Err(Missed::Gone)) {
                break;
            }
        }
        if !self.mapped.is_empty() {
            self.complete(space);
        }
        if space.mirror.mm().is_current() && current!().signal_pending() {
            // A thread that is killed does not wait for mmap_lock. The worker does, for those who
            // wait for this.
            request.restart();
        }
        if !request.is_done() {
            space.put_request(request);
            return;
        }
        match &request.task {
            Task::Look(look) => space.looked(look),
            Task::Move(_) => {
                if let (Some(fence), Some(session)) = (request.fence, session) {
                    if signal(space, &session, fence) == Err(EAGAIN) {
                        space.put_request(request);
                        return;
                    }
                    space.sink.fence_written();
                }
            }
        }
    }
}

/// Writes the fence of a request that is done, unless its memory cannot be written: who made it so
/// does not wait for the fence.
///
/// # Errors
///
/// `EAGAIN` if the memory has to be waited for, which a thread of a process leaves to the worker.
fn signal<M: Mmu>(
    space: &Space<M>,
    session: &MmSession<'_, Mirrored<M>>,
    (addr, value): (VirtAddr, u64),
) -> Result {
    let start = Instant::<Monotonic>::now();
    let mut pause = Delta::ZERO;
    while space.write_fence(session, addr, value) == Err(EAGAIN) {
        fsleep(mem::replace(&mut pause, FENCE_PAUSE));
        match session.wait_writable(addr) {
            Ok(()) | Err(ENOMEM) if start.elapsed() < FENCE_WAIT => (),
            Err(EAGAIN) => return Err(EAGAIN),
            _ => break,
        }
    }
    Ok(())
}

/// A node, and pages of it.
type Window<M> = (IntervalRef<Mirrored<M>>, PageRange);

impl<M: Mmu> LeafTurn<'_, '_, M> {
    /// The node and all of the leaf that a process can have; `None` if that is nothing.
    fn window(&mut self) -> Result<Option<Window<M>>, Missed> {
        let start = VirtAddr::new(self.index * LEAF_SIZE);
        let limit = self.session.limit();
        if start >= limit {
            return Ok(None);
        }
        let leaf = PageRange::block(start, Alignment::new::<LEAF_SIZE>())?;
        let node = self.session.node(start)?;
        let window = PageRange::new(leaf.start(), leaf.end().min(limit))?;
        Ok(Some((node, window)))
    }

    /// Moves `pages` to device memory, and maps them.
    fn prefetch(&mut self, pages: Range<usize>) -> Result<(), Missed> {
        let Some((node, window)) = self.window()? else {
            return Ok(());
        };
        let seen = match self.look(&node, window) {
            Err(Missed::Collided) => None,
            seen => Some(seen?),
        };
        let pinned = |attributes: &Attributes| attributes.no_migrate;
        let first = self.index * LEAF_PAGES;
        let pinned = self.space.policy.lock().matching(first, pinned);
        let mut chosen = PageSet::default();
        for page in pages.filter(|&page| page < window.pages() && !pinned.contains(page)) {
            let stays = |seen: &Seen| seen.device.contains(page) || seen.bound.contains(page);
            if !seen.as_ref().is_some_and(stays) {
                chosen.insert(page);
            }
        }
        self.move_in(&chosen, WAIT);
        for _ in 0..ATTEMPTS {
            match self.commit(&node, window, leaf::Look::Free) {
                Err(Missed::Collided) => self.space.counters.collisions.add(1),
                result => return result,
            }
        }
        Ok(())
    }

    /// Moves `pages` to system memory.
    fn recall(&mut self, pages: Range<usize>) -> Result<(), Missed> {
        let Some((node, window)) = self.window()? else {
            return Ok(());
        };
        let space = self.space;
        let Some((_, vram)) = space.mmu.memory() else {
            return Ok(());
        };
        let wanted = PageSet::range(pages.clone());
        let mut mapped = self.is_mapped_in_vram(&pages).then_some(wanted);
        for _ in 0..ATTEMPTS {
            let away = match mapped.take() {
                Some(away) => away,
                None => match self.look(&node, window) {
                    Err(Missed::Collided) => continue,
                    seen => wanted.and(&seen?.device),
                },
            };
            if away.is_empty() {
                return Ok(());
            }
            space.mirror.lock().state_mut().migrating = self.addresses(0..LEAF_PAGES);
            let (mut moved, mut from) = (0, 0);
            while let Some(run) = away.next_run(from) {
                from = run.end;
                let mapped = self.addresses(run);
                let Some(range) = mapped.and_then(|range| self.session.first_mapped(range)) else {
                    continue;
                };
                from = page_in_leaf(range.start()) + range.pages();
                let whole = away == PageSet::FULL;
                let (session, buf) = (&mut *self.session, &mut self.scratch.migration);
                let result = migrate::to_system(space, session, vram, range, whole, buf);
                // What cannot be had stays.
                moved += result.unwrap_or(0);
            }
            space.mirror.lock().state_mut().migrating = None;
            space.counters.pages_recalled.add(moved);
            let addr = self.index * LEAF_SIZE + pages.start * PAGE_SIZE;
            if moved != 0 {
                let len = moved * PAGE_SIZE;
                space.sink.migrated(addr as u64, len, Location::System);
            }
            if moved == away.len() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the device has all of `pages` mapped, in device memory. Then nobody else has to be
    /// asked where they are, which takes a good part of what their way takes.
    fn is_mapped_in_vram(&self, pages: &Range<usize>) -> bool {
        let Some(addresses) = self.addresses(pages.clone()) else {
            return false;
        };
        let mut guard = self.space.mirror.lock();
        let (leaf, book) = guard.leaf(self.index);
        leaf.is_some_and(|leaf| {
            let is_there = |page: usize| leaf.slot(page).private_page().is_some();
            book.bindings.is_free(addresses) && pages.clone().all(is_there)
        })
    }

    /// Tells where `pages` are.
    fn report(&mut self, pages: Range<usize>, look: &Look) -> Result<(), Missed> {
        let mut seen = None;
        if let Some((node, window)) = self.window()? {
            for _ in 0..ATTEMPTS {
                match self.look(&node, window) {
                    Err(Missed::Collided) => continue,
                    result => seen = Some(result?),
                }
                break;
            }
        }
        let refused = self.refused(&pages);
        let mut report = look.report.lock();
        let mut guard = self.space.mirror.lock();
        let (leaf, _) = guard.leaf(self.index);
        for page in pages {
            let is = |set: fn(&Seen) -> &PageSet| {
                seen.as_ref().is_some_and(|seen| set(seen).contains(page))
            };
            let slot = leaf.as_ref().map(|leaf| leaf.slot(page));
            report.add(
                is(|seen| &seen.system),
                is(|seen| &seen.device),
                refused.contains(page),
                slot,
            );
        }
        Ok(())
    }

    /// Which of `pages` the device can use no atomics on.
    fn refused(&self, pages: &Range<usize>) -> PageSet {
        let first = self.index * LEAF_PAGES;
        let device_scope = |attributes: &Attributes| attributes.atomic == AtomicMode::Device;
        let free = self.space.policy.lock().matching(first, device_scope);
        let mut refused = PageSet::default();
        let mut rest = addresses_of(self.index, pages.clone());
        while let Some(range) = rest {
            let Some(found) = self.session.first_unsupported(range) else {
                break;
            };
            let start = page_in_leaf(found.start());
            let pages = start..start + found.pages();
            pages
                .filter(|&page| !free.contains(page))
                .for_each(|page| refused.insert(page));
            rest = PageRange::new(found.end(), range.end()).ok();
        }
        let seen = refused;
        let guard = self.space.mirror.lock();
        for page in seen.iter() {
            let bound = |range| !guard.state().bindings.is_free(range);
            if addresses_of(self.index, page..page + 1).is_some_and(bound) {
                refused.remove(page);
            }
        }
        refused
    }
}
