// SPDX-License-Identifier: GPL-2.0

//! Memory for page tables.
//!
//! Tables are 4 KiB, or 256 bytes for those of 64 KiB pages, so they are cut from larger chunks of
//! coherent memory.
//!
//! Locks: the pool's own, a leaf; nothing is allocated under it, so that tables may be given back
//! wherever one may sleep.

use crate::dma::DmaBuffer;
use kernel::{
    device::{
        Bound,
        Device, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// Bytes of a chunk.
const CHUNK_SIZE: usize = 64 << 10;
/// Bytes of a page of a chunk, which is one table or up to 16 small ones.
const PAGE: usize = 4096;
const PAGES: usize = CHUNK_SIZE / PAGE;
/// Bytes of a small table.
const SMALL: usize = 256;
const WORD: usize = size_of::<u64>();

/// Size of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableSize {
    /// 4 KiB: 512 entries.
    Page,
    /// 256 bytes: the 32 entries for 64 KiB pages.
    Small,
}

impl TableSize {
    fn words(self) -> usize {
        match self {
            Self::Page => PAGE / WORD,
            Self::Small => SMALL / WORD,
        }
    }
}

/// For each page of a chunk, which of its 16 small tables are in use.
#[derive(PartialEq, Eq)]
struct Used([u16; PAGES]);

impl Used {
    const NOTHING: Self = Self([0; PAGES]);

    /// Takes a table; its first word.
    fn take(&mut self, size: TableSize) -> Option<usize> {
        let (page, bits) = match size {
            TableSize::Page => (self.0.iter().position(|&used| used == 0)?, u16::MAX),
            TableSize::Small => {
                let partly = |&used: &u16| used != 0 && used != u16::MAX;
                let page = self
                    .0
                    .iter()
                    .position(partly)
                    .or_else(|| self.0.iter().position(|&used| used == 0))?;
                (page, 1 << self.0[page].trailing_ones())
            }
        };
        self.0[page] |= bits;
        Some((page * PAGE + bits.trailing_zeros() as usize * SMALL) / WORD)
    }

    fn give_back(&mut self, first: usize, size: TableSize) {
        let byte = first * WORD;
        let bits = match size {
            TableSize::Page => u16::MAX,
            TableSize::Small => 1 << (byte % PAGE / SMALL),
        };
        self.0[byte / PAGE] &= !bits;
    }
}

struct Chunk {
    memory: Arc<DmaBuffer<u64>>,
    used: Used,
}

/// Where page tables come from.
#[pin_data]
pub(crate) struct TablePool {
    #[pin]
    chunks: Mutex<KVec<Chunk>>,
}

impl TablePool {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                chunks <- new_mutex!(KVec::new()),
            }),
            GFP_KERNEL,
        )
    }

    /// A zeroed table. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` when the driver is being unbound.
    pub(crate) fn alloc(self: &Arc<Self>, dev: &Device<Bound>, size: TableSize) -> Result<Table> {
        let taken = match self.take(size) {
            Some(taken) => taken,
            None => {
                self.grow(dev)?;
                self.take(size).ok_or(ENOMEM)?
            }
        };
        let (memory, first) = taken;
        let table = Table {
            pool: self.clone(),
            memory,
            first,
            size,
        };
        table.memory.fill(first, size.words(), 0)?;
        Ok(table)
    }

    fn take(&self, size: TableSize) -> Option<(Arc<DmaBuffer<u64>>, usize)> {
        let mut chunks = self.chunks.lock();
        chunks.iter_mut().find_map(|chunk| {
            let first = chunk.used.take(size)?;
            Some((chunk.memory.clone(), first))
        })
    }

    fn grow(&self, dev: &Device<Bound>) -> Result {
        let chunk = Chunk {
            memory: Arc::new(DmaBuffer::new(dev, CHUNK_SIZE / WORD)?, GFP_KERNEL)?,
            used: Used::NOTHING,
        };
        loop {
            let len = self.chunks.lock().len();
            let mut longer = KVec::with_capacity((len + 1).next_power_of_two(), GFP_KERNEL)?;
            let mut chunks = self.chunks.lock();
            if chunks.len() < chunks.capacity() {
                return chunks.push_within_capacity(chunk).map_err(|_| ENOMEM);
            }
            if longer.capacity() > chunks.len() {
                for old in chunks.drain_all() {
                    longer.push_within_capacity(old).map_err(|_| ENOMEM)?;
                }
                // Frees the shorter array only after the lock.
                core::mem::swap(&mut *chunks, &mut longer);
            }
        }
    }

    fn give_back(&self, table: &Table) {
        let mut chunks = self.chunks.lock();
        let Some(at) = chunks
            .iter()
            .position(|chunk| Arc::ptr_eq(&chunk.memory, &table.memory))
        else {
            return;
        };
        chunks[at].used.give_back(table.first, table.size);
        // One chunk stays, so that a table that comes and goes does not allocate.
        let unused = |chunk: &Chunk| chunk.used == Used::NOTHING;
        if unused(&chunks[at]) && chunks.iter().filter(|chunk| unused(chunk)).count() > 1 {
            let spare = chunks.remove(at).ok();
            drop(chunks);
            drop(spare);
        }
    }
}

/// A page table in coherent memory. Goes back to its pool when dropped; the device must not know
/// it any more then.
pub(crate) struct Table {
    pool: Arc<TablePool>,
    memory: Arc<DmaBuffer<u64>>,
    first: usize,
    size: TableSize,
}

impl Table {
    /// Bus address.
    pub(crate) fn addr(&self) -> u64 {
        self.memory.addr() + (self.first * WORD) as u64
    }

    /// Writes one word, as one access; nothing after the driver was unbound.
    pub(crate) fn write(&self, index: usize, value: u64) {
        debug_assert!(index < self.size.words());
        // The only error that can be is that the memory is gone, and then there is no device.
        let _ = self.memory.write(self.first + index, value);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.pool.give_back(self);
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_mmu_pool)]
mod tests {
    use super::*;

    #[test]
    fn tables_do_not_overlap_and_come_back() {
        let mut chunk = Used::NOTHING;
        assert_eq!(chunk.take(TableSize::Small), Some(0));
        assert_eq!(chunk.take(TableSize::Page), Some(512));
        assert_eq!(chunk.take(TableSize::Small), Some(32));
        chunk.give_back(0, TableSize::Small);
        assert_eq!(chunk.take(TableSize::Small), Some(0));
        for page in 2..PAGES {
            assert_eq!(chunk.take(TableSize::Page), Some(page * 512));
        }
        assert_eq!(chunk.take(TableSize::Page), None);
        assert_eq!(chunk.take(TableSize::Small), Some(64));
        chunk.give_back(512, TableSize::Page);
        assert_eq!(chunk.take(TableSize::Page), Some(512));
    }
}
