// SPDX-License-Identifier: GPL-2.0

//! Which pages of 2 MiB of device memory are in use.
//!
//! Bits are set by one thread at a time, under the allocator's lock, and cleared by anybody in any
//! context. A page of the chunk that somebody gives back is therefore seen by the allocator at
//! once, or the next time it looks; both are right.

use core::ops::Range;
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        AtomicFlag,
        Full,
        Relaxed, //
    },
    warn_on, //
};

/// Pages of a chunk.
pub(crate) const CHUNK_PAGES: usize = 512;

/// Pages that one 64 KiB PTE maps, if they are consecutive and aligned.
pub(crate) const GROUP_PAGES: usize = 16;

const WORD_PAGES: usize = u64::BITS as usize;
const GROUP: u64 = (1 << GROUP_PAGES) - 1;

/// A set of the pages of a chunk, or of an aligned 2 MiB window of virtual addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageSet(pub(crate) [u64; CHUNK_PAGES / WORD_PAGES]);

impl PageSet {
    /// All of them.
    pub(crate) const FULL: Self = Self([u64::MAX; CHUNK_PAGES / WORD_PAGES]);

    /// Those of `pages`, which ends at [`CHUNK_PAGES`] at most.
    pub(crate) fn range(pages: Range<usize>) -> Self {
        let mut set = Self::default();
        for (i, word) in set.0.iter_mut().enumerate() {
            let within = |page: usize| page.saturating_sub(i * WORD_PAGES).min(WORD_PAGES);
            let (start, end) = (within(pages.start), within(pages.end));
            if start < end {
                *word = u64::MAX >> (WORD_PAGES - (end - start)) << start;
            }
        }
        set
    }

    /// Those that are in `other`, too.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
        self
    }

    /// The first run of pages in it from page `from` on.
    pub(crate) fn next_run(&self, from: usize) -> Option<Range<usize>> {
        let start = self.first(from, |word| word)?;
        let end = self.first(start, |word| !word);
        Some(start..end.unwrap_or(CHUNK_PAGES))
    }

    /// The first bit from `from` on that is set in what `of` makes of its word.
    fn first(&self, from: usize, of: impl Fn(u64) -> u64) -> Option<usize> {
        let skipped = from / WORD_PAGES;
        let words = self.0.get(skipped..)?;
        words.iter().enumerate().find_map(|(i, &word)| {
            let mut bits = of(word);
            if i == 0 {
                bits &= u64::MAX << (from % WORD_PAGES);
            }
            // CAST: Widening.
            (bits != 0).then(|| (skipped + i) * WORD_PAGES + bits.trailing_zeros() as usize)
        })
    }

    pub(crate) fn len(&self) -> usize {
        // CAST: Widening.
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Adds page `i`, less than [`CHUNK_PAGES`].
    pub(crate) fn insert(&mut self, i: usize) {
        self.0[i / WORD_PAGES] |= 1 << (i % WORD_PAGES);
    }

    pub(crate) fn remove(&mut self, i: usize) {
        self.0[i / WORD_PAGES] &= !(1 << (i % WORD_PAGES));
    }

    pub(crate) fn contains(&self, i: usize) -> bool {
        self.0[i / WORD_PAGES] >> (i % WORD_PAGES) & 1 != 0
    }

    /// Whether all pages of the group that begins with page `i` are in it.
    pub(crate) fn contains_group(&self, i: usize) -> bool {
        self.0[i / WORD_PAGES] >> (i % WORD_PAGES) & GROUP == GROUP
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..CHUNK_PAGES).filter(|&i| self.contains(i))
    }
}

/// 2 MiB of device memory.
pub(crate) struct Chunk {
    words: [Atomic<u64>; CHUNK_PAGES / WORD_PAGES],
    /// At least the number of bits: raised before some are set, lowered after they were cleared.
    /// Zero therefore means that no page is in use, and that nobody is about to say so.
    live: Atomic<u32>,
    /// Its pages are being moved out.
    pub(super) leaving: AtomicFlag,
    /// All of it was handed out in one piece, which was not split as far as is known.
    whole: AtomicFlag,
}

impl Chunk {
    /// One of which nothing is in use.
    pub(crate) const fn new() -> Self {
        Self {
            words: [const { Atomic::new(0) }; CHUNK_PAGES / WORD_PAGES],
            live: Atomic::new(0),
            leaving: AtomicFlag::new(false),
            whole: AtomicFlag::new(false),
        }
    }

    /// Whether it is in one piece.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Relaxed) && self.is_full()
    }

    pub(crate) fn set_whole(&self, whole: bool) {
        self.whole.store(whole, Relaxed);
    }

    /// Pages in use.
    pub(crate) fn live(&self) -> usize {
        // CAST: Widening.
        self.live.load(Acquire) as usize
    }

    pub(crate) fn is_full(&self) -> bool {
        self.live() == CHUNK_PAGES
    }

    /// The pages in use now. Only fewer can be in use later, as long as the allocator is kept
    /// away.
    pub(crate) fn pages(&self) -> PageSet {
        let mut set = PageSet::default();
        for (word, bits) in set.0.iter_mut().zip(&self.words) {
            *word = bits.load(Acquire);
        }
        set
    }

    /// Sets `mask`, none of which is set, in a word. Allocator's lock held.
    fn set(&self, word: usize, mask: u64) {
        self.live.fetch_add(mask.count_ones(), Relaxed);
        let old = self.words[word].fetch_add(mask, Full);
        debug_assert!(old & mask == 0);
    }

    /// Takes all pages of an empty chunk. Allocator's lock held.
    pub(crate) fn take_all(&self) {
        for word in 0..self.words.len() {
            self.set(word, u64::MAX);
        }
    }

    /// Takes a whole group of aligned pages; the first one of them. Allocator's lock held.
    pub(crate) fn take_group(&self) -> Option<usize> {
        for (word, bits) in self.words.iter().enumerate() {
            let used = bits.load(Acquire);
            for at in (0..WORD_PAGES).step_by(GROUP_PAGES) {
                if used >> at & GROUP == 0 {
                    self.set(word, GROUP << at);
                    return Some(word * WORD_PAGES + at);
                }
            }
        }
        None
    }

    /// Takes one page, of a group that is in use already if there is one. Allocator's lock held.
    pub(crate) fn take_page(&self) -> Option<usize> {
        let mut whole = None;
        for (word, bits) in self.words.iter().enumerate() {
            let used = bits.load(Acquire);
            for at in (0..WORD_PAGES).step_by(GROUP_PAGES) {
                match used >> at & GROUP {
                    GROUP => (),
                    0 => whole = whole.or(Some((word, at))),
                    group => {
                        // CAST: Widening.
                        let page = at + group.trailing_ones() as usize;
                        self.set(word, 1 << page);
                        return Some(word * WORD_PAGES + page);
                    }
                }
            }
        }
        let (word, at) = whole?;
        self.set(word, 1 << at);
        Some(word * WORD_PAGES + at)
    }

    /// Gives `pages` pages from page `first` on back. Any context. True if no page is in use now:
    /// the caller has the chunk looked at, by somebody who holds the allocator's lock.
    pub(crate) fn free(&self, first: usize, pages: usize) -> bool {
        let mut freed = 0;
        let mut at = first;
        while at < first + pages {
            let (word, bit) = (at / WORD_PAGES, at % WORD_PAGES);
            let count = (WORD_PAGES - bit).min(first + pages - at);
            let mask = u64::MAX >> (WORD_PAGES - count) << bit;
            let old = self.words[word].fetch_and_not(mask);
            // A page that nobody has is not given back twice.
            warn_on!(old & mask != mask);
            freed += (old & mask).count_ones();
            at += count;
        }
        freed != 0 && self.live.fetch_sub(freed, Full) == freed
    }
}

/// What the kernel's atomics lack.
trait FetchAndNot {
    /// Clears the bits of `mask`; the value before. Full ordering.
    fn fetch_and_not(&self, mask: u64) -> u64;
}

impl FetchAndNot for Atomic<u64> {
    fn fetch_and_not(&self, mask: u64) -> u64 {
        let mut old = self.load(Relaxed);
        while let Err(now) = self.cmpxchg(old, old & !mask, Full) {
            old = now;
        }
        old
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_vram_chunk)]
mod tests {
    use super::*;
    use kernel::{
        sync::Arc,
        workqueue::OwnedQueue, //
    };

    #[test]
    fn a_group_is_whole_and_aligned() {
        let chunk = Chunk::new();
        assert_eq!(chunk.take_page(), Some(0));
        // The group of page 0 is not whole any more.
        assert_eq!(chunk.take_group(), Some(16));
        // Pages come from a broken group while there is one.
        for page in 1..16 {
            assert_eq!(chunk.take_page(), Some(page));
        }
        assert_eq!(chunk.take_page(), Some(32));
        assert!(!chunk.free(16, 15));
        // One page of the group is still in use.
        assert_eq!(chunk.take_group(), Some(48));
        assert!(!chunk.free(31, 1));
        assert_eq!(chunk.take_group(), Some(16));
    }

    #[test]
    fn full_is_full() {
        let chunk = Chunk::new();
        for group in 0..CHUNK_PAGES / GROUP_PAGES {
            assert_eq!(chunk.take_group(), Some(group * GROUP_PAGES));
        }
        assert!(chunk.is_full());
        assert_eq!(chunk.take_group(), None);
        assert_eq!(chunk.take_page(), None);
        assert_eq!(chunk.pages(), PageSet::FULL);
        assert!(!chunk.free(0, 1));
        assert_eq!(chunk.take_group(), None);
        assert_eq!(chunk.take_page(), Some(0));
        // Also across words.
        assert!(!chunk.free(60, 8));
        assert_eq!(chunk.live(), CHUNK_PAGES - 8);
        assert_eq!(
            chunk
                .pages()
                .iter()
                .filter(|&i| (60..68).contains(&i))
                .count(),
            0
        );
        assert!(!chunk.free(0, 60));
        assert!(chunk.free(68, CHUNK_PAGES - 68));
        assert!(chunk.pages().is_empty());
    }

    #[test]
    fn only_the_last_page_empties() {
        let chunk = Chunk::new();
        chunk.take_all();
        for page in 1..CHUNK_PAGES {
            assert!(!chunk.free(page, 1));
        }
        assert_eq!(chunk.pages().iter().next(), Some(0));
        assert!(chunk.free(0, 1));
    }

    #[test]
    fn a_set_knows_its_groups() {
        let mut set = PageSet::default();
        assert!(set.is_empty());
        for i in 16..32 {
            assert!(!set.contains_group(16));
            set.insert(i);
        }
        assert!(set.contains_group(16) && !set.contains_group(0) && !set.contains_group(32));
        assert_eq!(set.len(), 16);
        assert!(set.iter().eq(16..32));
    }

    #[test]
    fn a_set_knows_its_runs() {
        assert!(PageSet::range(0..CHUNK_PAGES) == PageSet::FULL);
        assert!(PageSet::range(7..7).is_empty());
        for pages in [0..1, 63..64, 60..70, 64..128, 1..511, 500..512] {
            let set = PageSet::range(pages.clone());
            assert!(set.iter().eq(pages.clone()));
            assert_eq!(set.next_run(0), Some(pages.clone()));
            assert_eq!(set.next_run(pages.start), Some(pages.clone()));
            assert_eq!(set.next_run(pages.end), None);
        }
        let mut set = PageSet::range(10..300);
        set.remove(64);
        assert_eq!(set.next_run(0), Some(10..64));
        assert_eq!(set.next_run(64), Some(65..300));
        assert_eq!(set.next_run(299), Some(299..300));
        let around = set.and(&PageSet::range(62..67));
        assert!(around.iter().eq([62, 63, 65, 66]));
    }

    /// One thread takes, as under the allocator's lock, while others give back: no page is handed
    /// out twice, none is lost, and each time that nothing is left somebody is told.
    #[test]
    fn taking_races_with_giving_back() -> Result {
        const FREERS: usize = 3;
        const ROUNDS: usize = 20_000;

        struct Shared {
            chunk: Chunk,
            /// What each of the others has to give back; 0 for nothing, else one more than a page.
            slots: [Atomic<u32>; FREERS],
            emptied: Atomic<u32>,
            stop: Atomic<u32>,
        }

        let shared = Arc::new(
            Shared {
                chunk: Chunk::new(),
                slots: [const { Atomic::new(0) }; FREERS],
                emptied: Atomic::new(0),
                stop: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        let queue = OwnedQueue::new_unbound(c"rsvm_chunk_test", 8)?;
        for freer in 0..FREERS {
            let shared = shared.clone();
            queue.try_spawn(GFP_KERNEL, move || loop {
                let stopping = shared.stop.load(Acquire) != 0;
                match shared.slots[freer].xchg(0, Full) {
                    0 if stopping => break,
                    0 => core::hint::spin_loop(),
                    page => {
                        if shared.chunk.free(page as usize - 1, 1) {
                            shared.emptied.fetch_add(1u32, Full);
                        }
                    }
                }
            })?;
        }
        let mut given = [None; FREERS];
        let mut taken = 0;
        for round in 0..ROUNDS {
            let freer = round % FREERS;
            if shared.slots[freer].load(Acquire) != 0 {
                continue;
            }
            let Some(page) = shared.chunk.take_page() else {
                continue;
            };
            // Nobody else may have it: what another is about to give back is still marked.
            for (other, theirs) in given.iter().enumerate() {
                if other != freer && *theirs == Some(page) {
                    assert_eq!(shared.slots[other].load(Acquire), 0);
                }
            }
            given[freer] = Some(page);
            taken += 1;
            // CAST: Pages fit.
            shared.slots[freer].store(page as u32 + 1, kernel::sync::atomic::Release);
        }
        shared.stop.store(1, kernel::sync::atomic::Release);
        drop(queue);
        assert!(taken > 0);
        assert!(shared.chunk.pages().is_empty());
        assert_eq!(shared.chunk.live(), 0);
        assert!(shared.emptied.load(Acquire) > 0);
        Ok(())
    }
}
