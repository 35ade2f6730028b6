// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Decoded code pages of a hart group, by the memory they were read from.

use super::rv64::decode::CodePage;
use super::rv64::decode::PAGE_INSNS;
use crate::mem::HostPtr;
use std::sync::Arc;

const ENTRIES: usize = 64;

struct Entry {
    page: usize,
    /// The epoch in which `words` was last known to be what memory holds.
    epoch: u64,
    words: Box<[u32; PAGE_INSNS]>,
    decoded: Arc<CodePage>,
}

/// An instruction cache that is incoherent no longer than an epoch: after
/// [`InsnCache::new_epoch`] each page is compared with memory once.
pub struct InsnCache {
    entries: [Option<Entry>; ENTRIES],
    epoch: u64,
}

impl InsnCache {
    pub fn new() -> Self {
        InsnCache {
            entries: std::array::from_fn(|_| None),
            epoch: 0,
        }
    }

    /// To be called for FENCE.I and whenever translations may have changed.
    pub fn new_epoch(&mut self) {
        self.epoch += 1;
    }

    /// The decoded page at `page`, the first byte of a 4 KiB page.
    pub fn get(&mut self, page: HostPtr<'_>) -> Arc<CodePage> {
        let key = page.as_ptr() as usize;
        let epoch = self.epoch;
        let slot = &mut self.entries[(key >> 12) % ENTRIES];
        if let Some(entry) = slot.as_mut().filter(|e| e.page == key) {
            if entry.epoch == epoch {
                return entry.decoded.clone();
            }
            if *entry.words == *read(page) {
                entry.epoch = epoch;
                return entry.decoded.clone();
            }
        }
        let words = read(page);
        let decoded = Arc::new(CodePage::new(&words));
        *slot = Some(Entry {
            page: key,
            epoch,
            words,
            decoded: decoded.clone(),
        });
        decoded
    }
}

fn read(page: HostPtr<'_>) -> Box<[u32; PAGE_INSNS]> {
    let mut words = Box::new([0; PAGE_INSNS]);
    for (i, pair) in words.chunks_exact_mut(2).enumerate() {
        let value = page.add(i * 8).load(8);
        pair.copy_from_slice(&[value as u32, (value >> 32) as u32]);
    }
    words
}
