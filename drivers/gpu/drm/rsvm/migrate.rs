// SPDX-License-Identifier: GPL-2.0

//! Pages on their way between system and device memory.
//!
//! To device memory: memory is allocated first, since nothing may be allocated or evicted while
//! pages are locked; then core unmaps and locks the pages ([`MmSession::migrate`]), the device
//! copies them, and only what was certainly copied is installed. What could not be moved is where
//! it was. Nothing here writes a PTE of the device: that takes a snapshot made afterwards.
//!
//! Back to system memory, for a CPU that touches a page or to make room, it is the other way round:
//! see [`memory`].
//!
//! Locks: called with none but the worker's own. While folios are locked, the copy engine's are
//! taken, and after these the page-table lock and what it is outside of.

pub(crate) mod memory;

use crate::{
    svm::{
        counters::Stopwatch,
        device::{
            Mmu,
            Target,
            Transfer,
            UnderWay,
            LEAF_SIZE, //
        },
        mirror::{
            Flush,
            Mirrored, //
        },
        space::Space, //
    },
    vram::{
        Client,
        PageSet,
        Pages,
        Vram,
        Wait, //
    },
};
use kernel::{
    mm::{
        addr::PageRange,
        memremap::{
            DevFolio,
            DeviceMemory,
            Order,
            Pagemap, //
        },
        migrate::{
            Mapped,
            MigrateBuf, //
        },
        space::{
            addresses_of,
            MmSession, //
        },
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

/// Byte offset in device memory of a page there.
fn offset_of(page: u32) -> u64 {
    u64::from(page) * PAGE_SIZE as u64
}

/// Device memory for pages of a leaf. What is not given out goes back.
pub(crate) struct Stock<'a, D: DeviceMemory> {
    pagemap: &'a Pagemap<D>,
    vram: &'a Arc<Vram>,
    pages: Pages,
    /// First page of 2 MiB in one piece.
    huge: Option<u32>,
    /// Pages of that which were given out one by one.
    given: PageSet,
}

impl<'a, D: DeviceMemory> Stock<'a, D> {
    /// Allocates for `pages`: for a whole leaf in one piece if there is one. May sleep, and evict;
    /// no folio is locked.
    ///
    /// # Errors
    ///
    /// As for [`Vram::alloc_window`].
    pub(crate) fn new(
        (pagemap, vram): (&'a Arc<Pagemap<D>>, &'a Arc<Vram>),
        client: &Arc<Client>,
        pages: &PageSet,
        wait: Wait<'_>,
    ) -> Result<Self> {
        let mut pages = if *pages == PageSet::FULL {
            vram.alloc_huge(client, wait)?
        } else {
            vram.alloc_window(client, pages, wait)?
        };
        Ok(Self {
            pagemap,
            vram,
            huge: pages.take_huge(),
            pages,
            given: PageSet::default(),
        })
    }

    /// A folio for page `page` of the leaf. Does not sleep.
    fn give(&mut self, page: usize, order: Order) -> Option<DevFolio<'a, D>> {
        let Some(first) = self.huge else {
            if order == Order::Huge {
                return None;
            }
            let index = self.pages.take(page)?;
            return self.claim(index);
        };
        match order {
            Order::Huge => {
                if !self.given.is_empty() {
                    return None;
                }
                let folio = self.pagemap.folio(first, order).ok()?;
                self.huge = None;
                Some(folio)
            }
            Order::Page => {
                if self.given.contains(page) {
                    return None;
                }
                self.given.insert(page);
                // CAST: Less than 512.
                self.claim(first + page as u32)
            }
        }
    }

    /// Makes a small folio of a page that belongs to nobody else from now on.
    fn claim(&self, index: u32) -> Option<DevFolio<'a, D>> {
        self.pagemap
            .folio(index, Order::Page)
            .inspect_err(|_| self.vram.free(index, 1))
            .ok()
    }
}

impl<D: DeviceMemory> Drop for Stock<'_, D> {
    fn drop(&mut self) {
        let Some(first) = self.huge else { return };
        let mut rest = PageSet::FULL;
        self.given.iter().for_each(|page| rest.remove(page));
        let mut from = 0;
        while let Some(run) = rest.next_run(from) {
            // CAST: Less than 512.
            self.vram.free(first + run.start as u32, run.len() as u32);
            from = run.end;
        }
    }
}

/// What the device has to do for pages on their way to system memory.
fn copies_home<'a, D: DeviceMemory>(
    mapped: &'a Mapped<'_, '_, D>,
) -> impl Iterator<Item = Transfer> + 'a {
    mapped.copies().filter_map(|(copy, addr)| {
        Some(Transfer {
            from: Some(Target::Vram(offset_of(copy.device))),
            to: Target::System(addr?),
            len: copy.pages * PAGE_SIZE,
        })
    })
}

/// What came of a migration.
#[derive(Default)]
pub(crate) struct Moved {
    /// Pages that are in device memory now and were not before.
    pub(crate) pages: PageSet,
    /// How many of them had no memory before.
    pub(crate) zeroed: usize,
    /// The device failed, and something stayed for that reason.
    pub(crate) failed: bool,
}

/// Moves what of `range`, in one leaf, is in device memory to system memory; a `whole` leaf in one
/// piece if that is how it lies there. Returns how many pages moved. Takes mmap_lock.
///
/// # Errors
///
/// Those of [`MmSession::recall`] and [`Mmu::transfer`], if nothing moved. What did not move stays.
pub(crate) fn to_system<M: Mmu>(
    space: &Arc<Space<M>>,
    session: &mut MmSession<'_, Mirrored<M>>,
    vram: &Arc<Vram>,
    range: PageRange,
    whole: bool,
    buf: &mut MigrateBuf,
) -> Result<usize> {
    let (counters, mmu) = (&space.counters, &space.mmu);
    let mut watch = Stopwatch::start();
    let Some(filled) = session.recall(range, whole, buf)? else {
        return Ok(0);
    };
    watch.lap(&counters.migrate_unmap_ns);
    let installed = mmu.with_dma_device(|dev| {
        let (mut mapped, under_way) = filled.map(dev).copy(|flush, mapped| {
            mmu.transfer(flush.map(Flush::in_flight), &mut copies_home(mapped))
        });
        let copied = under_way.and_then(|mut under_way| {
            while let Some(pieces) = under_way.arrive()? {
                watch.lap(&counters.migrate_copy_ns);
                // The device goes on meanwhile.
                vram.tend(|| mapped.install_first(pieces));
                watch.lap(&counters.migrate_install_ns);
            }
            Ok(())
        });
        (mapped.install(|_| copied.is_ok()), copied)
    });
    let (installed, copied) = installed.ok_or(ENODEV)?;
    let moved = installed.pages();
    vram.tend(|| installed.finalize());
    watch.lap(&counters.migrate_install_ns);
    if moved == 0 {
        copied?;
    }
    Ok(moved)
}

/// Moves `pages` of the leaf `index` to the device memory in `stock`: those of anonymous memory,
/// and those that have no memory yet. Takes mmap_lock.
pub(crate) fn to_vram<M: Mmu>(
    space: &Arc<Space<M>>,
    session: &mut MmSession<'_, Mirrored<M>>,
    index: usize,
    pages: &PageSet,
    stock: &mut Stock<'_, M::Memory>,
    buf: &mut MigrateBuf,
) -> Moved {
    let (counters, mmu) = (&space.counters, &space.mmu);
    let mut watch = Stopwatch::start();
    let mut moved = Moved::default();
    let whole = *pages == PageSet::FULL;
    let mut at = 0;
    while let Some(run) = pages.next_run(at) {
        let Some(range) = addresses_of(index, run.clone()) else {
            break;
        };
        let Some(mapped) = session.first_mapped(range) else {
            at = run.end;
            continue;
        };
        let first = mapped.start().as_usize() % LEAF_SIZE / PAGE_SIZE;
        at = first + mapped.pages();
        let collected = match session.migrate(mapped, whole, buf) {
            Ok(Some(collected)) => collected,
            // Nothing there can move, or it is not mapped any more.
            Ok(None) | Err(EINVAL | ENOENT) => continue,
            // No memory, or the process is going.
            Err(_) => break,
        };
        at = first + collected.range().pages();
        let filled = collected.fill(|page, order| stock.give(first + page, order));
        watch.lap(&counters.migrate_unmap_ns);
        if filled.is_empty() {
            continue;
        }
        let installed = mmu.with_dma_device(|dev| {
            let (mapped, copied) = filled.map(dev).copy(|flush, mapped| {
                let mut copies = mapped.copies().map(|(copy, addr)| Transfer {
                    from: addr.map(Target::System),
                    to: Target::Vram(offset_of(copy.device)),
                    len: copy.pages * PAGE_SIZE,
                });
                mmu.transfer(flush.map(Flush::in_flight), &mut copies)?
                    .finish()
            });
            watch.lap(&counters.migrate_copy_ns);
            moved.failed |= copied.is_err();
            mapped.install(|_| copied.is_ok())
        });
        let Some(installed) = installed else { break };
        for copy in installed.moved() {
            let start = first + copy.page;
            (start..start + copy.pages).for_each(|page| moved.pages.insert(page));
            if copy.hole {
                moved.zeroed += copy.pages;
            }
        }
        installed.finalize();
        watch.lap(&counters.migrate_install_ns);
    }
    moved
}
