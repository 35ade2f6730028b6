// SPDX-License-Identifier: GPL-2.0

//! A driver without a device: page tables that are plain arrays and check their contract.

use crate::{
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        space::{
            leaf_index,
            Event,
            Guard,
            Leaf,
            Mirror,
            PageSize,
            Prot,
            Reason,
            Start,
            Tables,
            Target,
            LEAF_PAGES, //
        },
        testing::{
            pause,
            Ram, //
        },
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            AtomicFlag,
            Full,
            Relaxed, //
        },
        Mutex, //
    }, //
};
use core::ops::Range;

const PAGES_64K: usize = PageSize::Size64K.pages();

pub(in crate::mm) type Pte = Option<(Target, Prot)>;

/// How many tables a reserve holds.
#[derive(Default)]
pub struct FakeReserve(pub usize);

/// The PTEs of one leaf, by size, and which tables are hooked.
pub struct FakeTables {
    index: usize,
    small: KVec<Pte>,
    big: KVec<Pte>,
    huge: Pte,
    pub has_small: bool,
    has_big: bool,
    /// Something was written over something else, or in another leaf.
    pub broken: bool,
}

fn take(reserve: &mut FakeReserve, has: &mut bool) -> Result {
    if !*has {
        reserve.0 = reserve.0.checked_sub(1).ok_or(ENOMEM)?;
        *has = true;
    }
    Ok(())
}

impl FakeTables {
    /// For the leaf with the number `index`.
    pub fn new(index: usize) -> Result<Self> {
        Ok(Self {
            index,
            small: KVec::from_elem(None, LEAF_PAGES, GFP_KERNEL)?,
            big: KVec::from_elem(None, LEAF_PAGES / PAGES_64K, GFP_KERNEL)?,
            huge: None,
            has_small: false,
            has_big: false,
            broken: false,
        })
    }

    fn page(&mut self, va: VirtAddr) -> usize {
        self.broken |= leaf_index(va) != self.index;
        va.as_usize() / PAGE_SIZE % LEAF_PAGES
    }

    /// The PTE that the device finds when it walks to `page`, and how many PTEs claim it.
    pub(in crate::mm) fn walk(&self, page: usize) -> (Pte, usize) {
        let at = |pte: Pte, pages: usize| pte.map(|(t, prot)| (t.offset(page % pages), prot));
        let found = [
            at(self.huge, LEAF_PAGES),
            at(self.big[page / PAGES_64K], PAGES_64K),
            at(self.small[page], 1),
        ];
        let count = found.iter().flatten().count();
        (found.into_iter().flatten().next(), count)
    }
}

impl Tables for FakeTables {
    type Reserve = FakeReserve;

    fn write(
        &mut self,
        va: VirtAddr,
        size: PageSize,
        target: Target,
        prot: Prot,
        reserve: &mut FakeReserve,
    ) -> Result {
        let page = self.page(va);
        let pte = Some((target, prot));
        self.broken |= !target.is_aligned(size) || page % size.pages() != 0;
        match size {
            PageSize::Size4K => {
                take(reserve, &mut self.has_small)?;
                self.broken |= self.huge.is_some() || self.big[page / PAGES_64K].is_some();
                self.small[page] = pte;
            }
            PageSize::Size64K => {
                take(reserve, &mut self.has_big)?;
                let under = &self.small[page..page + PAGES_64K];
                self.broken |= self.huge.is_some() || under.iter().any(Option::is_some);
                self.big[page / PAGES_64K] = pte;
            }
            PageSize::Size2M => {
                self.broken |= self.has_small || self.has_big;
                self.huge = pte;
            }
        }
        Ok(())
    }

    fn clear(&mut self, va: VirtAddr, size: PageSize) {
        let page = self.page(va);
        let pte = match size {
            PageSize::Size4K => &mut self.small[page],
            PageSize::Size64K => &mut self.big[page / PAGES_64K],
            PageSize::Size2M => &mut self.huge,
        };
        self.broken |= pte.take().is_none();
    }

    fn demote(
        &mut self,
        va: VirtAddr,
        reserve: &mut FakeReserve,
        entry: impl FnMut(usize) -> Option<(Target, Prot)>,
    ) -> Result {
        self.page(va);
        take(reserve, &mut self.has_small)?;
        self.broken |= self.huge.take().is_none();
        for (pte, new) in self.small.iter_mut().zip((0..LEAF_PAGES).map(entry)) {
            *pte = new;
        }
        Ok(())
    }

    fn unhook(&mut self, va: VirtAddr) -> FakeReserve {
        self.page(va);
        let valid = |ptes: &[Pte]| ptes.iter().any(Option::is_some);
        self.broken |= valid(&self.small) || valid(&self.big);
        let tables = usize::from(self.has_small) + usize::from(self.has_big);
        self.has_small = false;
        self.has_big = false;
        FakeReserve(tables)
    }

    fn take_demotion(reserve: &mut FakeReserve) -> FakeReserve {
        let taken = reserve.0.min(1);
        reserve.0 -= taken;
        FakeReserve(taken)
    }
}

/// What the driver was asked to do.
#[derive(Default)]
pub struct Log {
    pub revokes: usize,
    pub last: Option<(PageRange, Reason)>,
}

type Hook = KBox<dyn FnMut(PageRange) + Send>;

/// The driver.
#[pin_data]
pub struct Fake {
    waits: Atomic<i32>,
    /// The device does not acknowledge flushes.
    pub is_slow: AtomicFlag,
    /// Called with each flush that is waited for, before the space hears that it was acknowledged.
    #[pin]
    hook: Mutex<Option<Hook>>,
}

impl Fake {
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            waits: Atomic::new(0),
            is_slow: AtomicFlag::new(false),
            hook <- new_mutex!(None, "kunit::hook"),
        })
    }

    pub fn waits(&self) -> i32 {
        self.waits.load(Relaxed)
    }

    /// Calls `hook` with each flush that is waited for from now on, before the space hears that it was
    /// acknowledged.
    pub fn when_acknowledged(&self, hook: Hook) {
        *self.hook.lock() = Some(hook);
    }
}

impl Mirror for Fake {
    type Tables = FakeTables;
    type State = Log;
    type Leaf = ();
    type Flush = PageRange;
    type Memory = Ram;

    fn start_flush(&self, _: &FakeTables, range: PageRange, _: Start) -> PageRange {
        range
    }

    fn wait(&self, flush: PageRange) {
        self.waits.fetch_add(1, Full);
        while self.is_slow.load(Relaxed) {
            pause();
        }
        if let Some(hook) = &mut *self.hook.lock() {
            hook(flush);
        }
    }

    fn revoking(
        &self,
        event: &Event,
        _: usize,
        _: &mut Leaf<'_, Self>,
        _: Range<usize>,
        log: &mut Log,
    ) {
        log.revokes += 1;
        log.last = Some((event.range(), event.reason()));
    }
}

impl Guard<'_, Fake> {
    /// Whether the tables are as the shadow says, and their contract was kept.
    pub fn tables_agree(&self) -> bool {
        let tables = self.tables();
        let base = tables.index * LEAF_PAGES;
        !tables.broken
            && (0..LEAF_PAGES).all(|page| {
                let slot = self.slot(VirtAddr::new((base + page) * PAGE_SIZE));
                let shadow = slot.is_live().then(|| (slot.target(), slot.prot()));
                let (walked, claims) = tables.walk(page);
                walked == shadow && claims <= 1
            })
    }
}
