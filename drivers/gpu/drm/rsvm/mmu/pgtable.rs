// SPDX-License-Identifier: GPL-2.0

//! Page tables.
//!
//! A tree of tables in coherent memory, with a tree of the same shape beside it that knows where
//! they are. Directories stay until the space goes; the tables below a PDE0 entry, the *leaf*, can
//! be unhooked.
//!
//! A PDE0 entry has two words and the device may read them one at a time. The word that is valid
//! in the end is written last; in between the entry is invalid as a whole, which at worst makes the
//! device fault once more.
//!
//! Where a leaf has tables of both page sizes, the device looks at the 64 KiB PTE first, and goes
//! on to the 4 KiB one if it is invalid with nothing else in it. An absent 64 KiB PTE is therefore
//! zero. Absent with the mark "no valid 4 KiB" it would hide 4 KiB pages, so it never is.

use super::pool::{
    Table,
    TablePool,
    TableSize, //
};
use crate::{
    hal::Hal,
    svm::device::{
        PageSize,
        Pdb,
        Prot,
        Tables,
        Target,
        LEAF_PAGES, //
    },
};
use kernel::{
    alloc::{
        flags::__GFP_NOWARN,
        KVVec, //
    },
    device::{
        Bound,
        Device, //
    },
    mm::addr::VirtAddr,
    prelude::*,
    sync::{
        barrier,
        Arc, //
    }, //
};

/// PDE0 entries in a table, and the lowest address bit that indexes them.
const PDE0_ENTRIES: usize = 256;
const PDE0_SHIFT: u32 = 21;

/// What lies below one PDE0 entry.
#[derive(Default)]
struct Leaf {
    small: Option<Table>,
    big: Option<Table>,
    /// The entry is a 2 MiB PTE; the tables, if any, have no valid entry and wait.
    huge: bool,
}

impl Leaf {
    fn pde0(&self, hal: &dyn Hal) -> [u64; 2] {
        hal.pde0(
            self.big.as_ref().map(Table::addr),
            self.small.as_ref().map(Table::addr),
        )
    }
}

enum Children {
    Upper(KVVec<Option<KBox<Directory>>>),
    Leaves(KVVec<Leaf>),
}

struct Directory {
    table: Table,
    children: Children,
}

impl Directory {
    fn upper(table: Table, entries: usize) -> Result<KBox<Self>> {
        // Whoever gets none is told so.
        let mut children = KVVec::with_capacity(entries, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..entries {
            children.push(None, GFP_KERNEL)?;
        }
        let children = Children::Upper(children);
        Ok(KBox::new(Self { table, children }, GFP_KERNEL)?)
    }

    fn last(table: Table) -> Result<KBox<Self>> {
        let mut leaves = KVVec::with_capacity(PDE0_ENTRIES, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..PDE0_ENTRIES {
            leaves.push(Leaf::default(), GFP_KERNEL)?;
        }
        let children = Children::Leaves(leaves);
        Ok(KBox::new(Self { table, children }, GFP_KERNEL)?)
    }
}

/// Tables and directories set aside for one leaf.
#[derive(Default)]
pub(crate) struct Reserve {
    /// Directories above the last.
    upper: KVec<KBox<Directory>>,
    /// A directory of PDE0 entries.
    last: Option<KBox<Directory>>,
    small: Option<Table>,
    big: Option<Table>,
    /// Another table of 4 KiB pages, for demoting.
    demotion: Option<Table>,
}

impl Reserve {
    /// Tops up to all that any use of one leaf can need: each directory on the way, a table of
    /// each page size, and one to demote it into.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` when the driver is being unbound.
    pub(crate) fn refill(
        &mut self,
        hal: &dyn Hal,
        pool: &Arc<TablePool>,
        dev: &Device<Bound>,
    ) -> Result {
        let levels = hal.levels();
        while self.upper.len() < levels.len() - 1 {
            let table = pool.alloc(dev, TableSize::Page)?;
            // All but the root are alike.
            let entries = levels[levels.len() - 1].entries;
            self.upper
                .push(Directory::upper(table, entries)?, GFP_KERNEL)?;
        }
        if self.last.is_none() {
            self.last = Some(Directory::last(pool.alloc(dev, TableSize::Page)?)?);
        }
        if self.small.is_none() {
            self.small = Some(pool.alloc(dev, TableSize::Page)?);
        }
        if self.demotion.is_none() {
            self.demotion = Some(pool.alloc(dev, TableSize::Page)?);
        }
        if self.big.is_none() {
            self.big = Some(pool.alloc(dev, TableSize::Small)?);
        }
        Ok(())
    }
}

/// The page tables of one address space.
pub(crate) struct PageTables {
    hal: &'static dyn Hal,
    root: KBox<Directory>,
}

/// A leaf and its entry.
struct LeafMut<'a> {
    leaf: &'a mut Leaf,
    table: &'a Table,
    /// First word of the entry.
    at: usize,
}

impl LeafMut<'_> {
    fn write_pde0(&self, words: [u64; 2], last: usize) {
        // Tables are complete before a directory names them.
        barrier::dma_mb(barrier::Write);
        self.table.write(self.at + 1 - last, words[1 - last]);
        barrier::dma_mb(barrier::Write);
        self.table.write(self.at + last, words[last]);
    }

    /// Writes the entry for the tables the leaf has.
    fn write_tables(&self, hal: &dyn Hal) {
        self.write_pde0(self.leaf.pde0(hal), 1);
    }
}

impl PageTables {
    /// Empty tables. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` when the driver is being unbound.
    pub(crate) fn new(
        hal: &'static dyn Hal,
        pool: &Arc<TablePool>,
        dev: &Device<Bound>,
    ) -> Result<Self> {
        let root = Directory::upper(pool.alloc(dev, TableSize::Page)?, hal.levels()[0].entries)?;
        Ok(Self { hal, root })
    }

    fn index(va: VirtAddr, shift: u32, entries: usize) -> usize {
        va.as_usize() >> shift & (entries - 1)
    }

    /// Names the tables in faults and invalidations.
    pub(crate) fn pdb(&self) -> Pdb {
        Pdb(self.root.table.addr())
    }

    /// The leaf at `va`. Directories on the way that are missing come from `reserve`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when one is missing and the reserve has none; `EINVAL` beyond the address space.
    fn leaf(&mut self, va: VirtAddr, mut reserve: Option<&mut Reserve>) -> Result<LeafMut<'_>> {
        let hal = self.hal;
        if va.as_u64() >> hal.va_bits() != 0 {
            return Err(EINVAL);
        }
        let levels = hal.levels();
        let mut directory = &mut *self.root;
        for (depth, level) in levels.iter().enumerate() {
            let index = Self::index(va, level.shift, level.entries);
            let Directory { table, children } = directory;
            let Children::Upper(children) = children else {
                return Err(EINVAL);
            };
            let child = &mut children[index];
            if child.is_none() {
                let reserve = reserve.as_deref_mut().ok_or(ENOMEM)?;
                let new = if depth + 1 == levels.len() {
                    reserve.last.take()
                } else {
                    reserve.upper.pop()
                }
                .ok_or(ENOMEM)?;
                barrier::dma_mb(barrier::Write);
                table.write(index, hal.pde(new.table.addr()));
                *child = Some(new);
            }
            directory = child.as_deref_mut().ok_or(ENOMEM)?;
        }
        let index = Self::index(va, PDE0_SHIFT, PDE0_ENTRIES);
        let Directory { table, children } = directory;
        let Children::Leaves(leaves) = children else {
            return Err(EINVAL);
        };
        Ok(LeafMut {
            leaf: &mut leaves[index],
            table,
            at: index * 2,
        })
    }
}

impl Tables for PageTables {
    type Reserve = Reserve;

    fn write(
        &mut self,
        va: VirtAddr,
        size: PageSize,
        target: Target,
        prot: Prot,
        reserve: &mut Reserve,
    ) -> Result {
        let hal = self.hal;
        let pte = hal.pte(target, prot);
        let leaf = self.leaf(va, Some(reserve))?;
        match size {
            PageSize::Size2M => {
                leaf.leaf.huge = true;
                leaf.write_pde0([pte, 0], 0);
            }
            PageSize::Size64K | PageSize::Size4K => {
                let (table, spare, index) = match size {
                    PageSize::Size64K => {
                        let index = Self::index(va, 16, LEAF_PAGES / 16);
                        (&mut leaf.leaf.big, &mut reserve.big, index)
                    }
                    _ => {
                        let index = Self::index(va, 12, LEAF_PAGES);
                        (&mut leaf.leaf.small, &mut reserve.small, index)
                    }
                };
                if let Some(table) = table {
                    table.write(index, pte);
                    return Ok(());
                }
                let new = spare.take().ok_or(ENOMEM)?;
                new.write(index, pte);
                *table = Some(new);
                leaf.write_tables(hal);
            }
        }
        Ok(())
    }

    fn clear(&mut self, va: VirtAddr, size: PageSize) {
        let hal = self.hal;
        let Ok(leaf) = self.leaf(va, None) else {
            return;
        };
        match size {
            PageSize::Size2M => {
                leaf.leaf.huge = false;
                leaf.write_tables(hal);
            }
            PageSize::Size64K => {
                if let Some(table) = &leaf.leaf.big {
                    table.write(Self::index(va, 16, LEAF_PAGES / 16), 0);
                }
            }
            PageSize::Size4K => {
                if let Some(table) = &leaf.leaf.small {
                    table.write(Self::index(va, 12, LEAF_PAGES), 0);
                }
            }
        }
    }

    fn demote(
        &mut self,
        va: VirtAddr,
        reserve: &mut Reserve,
        mut entry: impl FnMut(usize) -> Option<(Target, Prot)>,
    ) -> Result {
        let hal = self.hal;
        let leaf = self.leaf(va, None)?;
        if leaf.leaf.small.is_none() {
            leaf.leaf.small = Some(reserve.small.take().ok_or(ENOMEM)?);
        }
        if let Some(table) = &leaf.leaf.small {
            for page in 0..LEAF_PAGES {
                if let Some((target, prot)) = entry(page) {
                    table.write(page, hal.pte(target, prot));
                }
            }
        }
        leaf.leaf.huge = false;
        leaf.write_tables(hal);
        Ok(())
    }

    fn unhook(&mut self, va: VirtAddr) -> Reserve {
        let mut unhooked = Reserve::default();
        let hal = self.hal;
        if let Ok(leaf) = self.leaf(va, None) {
            unhooked.small = leaf.leaf.small.take();
            unhooked.big = leaf.leaf.big.take();
            if !leaf.leaf.huge {
                leaf.write_tables(hal);
            }
        }
        unhooked
    }

    fn take_demotion(reserve: &mut Reserve) -> Reserve {
        Reserve {
            small: reserve.demotion.take(),
            ..Reserve::default()
        }
    }
}
