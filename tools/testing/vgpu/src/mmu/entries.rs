// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The entries of a uTLB, with an index for invalidates.

use super::walk::{Outcome, Walked};
use super::{FaultType, Invalidate};
use crate::mem::{Aperture, PhysAddr};
use std::ops::Range;
use std::ptr::NonNull;

/// Entries of a uTLB, each for 4 KiB of whatever leaf it came from. What is
/// displaced comes back from the shared TLB, as stale as it was.
const ENTRIES: usize = 512;
const NO_PAGE: u64 = u64::MAX;

/// One 4 KiB translation, or the knowledge that there is none.
///
/// # Invariants
///
/// `page` and `pte`, if any, point into VRAM, the sparse pages, or the
/// [`GuestMap`](crate::mem::GuestMap) that the owner of the entry holds: 4096
/// readable and writable bytes, and 8 aligned readable bytes.
pub struct Entry {
    /// VA >> 12, or [`NO_PAGE`].
    vpn: u64,
    pdb: PhysAddr,
    /// Bit `1 << access` is set if the access may go ahead at once.
    pub allowed: u8,
    level: u8,
    shift: u8,
    pub sys: bool,
    pub page: Option<NonNull<u8>>,
    pub pte: Option<NonNull<u8>>,
    pub raw: u64,
    pub outcome: Outcome,
    /// Address of the entry in memory.
    pub pte_at: Option<PhysAddr>,
}

impl Entry {
    const EMPTY: Self = Self {
        vpn: NO_PAGE,
        pdb: PhysAddr {
            aperture: Aperture::Vid,
            addr: 0,
        },
        allowed: 0,
        level: 0,
        shift: 12,
        sys: false,
        page: None,
        pte: None,
        raw: 0,
        outcome: Outcome::Fault(FaultType::Pte),
        pte_at: None,
    };

    /// Says whether this is the entry of page `vpn`.
    #[inline]
    pub fn is_of(&self, pdb: PhysAddr, vpn: u64) -> bool {
        self.vpn == vpn && self.pdb == pdb
    }

    pub fn vpn(&self) -> u64 {
        self.vpn
    }

    pub fn pdb(&self) -> PhysAddr {
        self.pdb
    }

    pub fn level(&self) -> u8 {
        self.level
    }

    /// log2 of the bytes that the PTE or PDE behind this entry decides about.
    pub fn shift(&self) -> u32 {
        self.shift.into()
    }
}

/// Returns the only slot that may have an entry of page `vpn`. The pages of an
/// aligned block of 64 KiB share an aligned group of 16 slots.
#[inline]
pub fn slot(pdb: PhysAddr, vpn: u64) -> usize {
    (vpn ^ vpn >> 9 ^ pdb.addr >> 12) as usize & (ENTRIES - 1)
}

/// A set of slots, a bit each.
type Slots = [u64; ENTRIES / 64];

/// Sets over which 2 MiB regions are spread.
const REGIONS: usize = 16;

fn region_set(region: u64) -> usize {
    (region.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % REGIONS
}

/// A direct-mapped table, with an index for invalidates.
///
/// # Invariants
///
/// `valid` has the slots of all entries that are not empty. An entry whose PTE or
/// PDE decides about more than 64 KiB has its slot in one set of `large`, too: for
/// 2 MiB the set is number [`region_set`], for more it is the last.
pub struct Entries {
    entries: Box<[Entry; ENTRIES]>,
    valid: Slots,
    large: [Slots; REGIONS + 1],
}

/// Returns the numbers of the blocks of `1 << shift` bytes that a range touches.
fn cover((first, last): (u64, u64), shift: u32) -> Range<u64> {
    first >> shift..(last >> shift) + 1
}

impl Entries {
    pub fn new() -> Self {
        Self {
            entries: Box::new([Entry::EMPTY; ENTRIES]),
            valid: Slots::default(),
            large: Default::default(),
        }
    }

    #[inline]
    pub fn at(&self, slot: usize) -> &Entry {
        &self.entries[slot]
    }

    pub fn at_mut(&mut self, slot: usize) -> &mut Entry {
        &mut self.entries[slot]
    }

    /// Puts the result of a walk for page `vpn` into its slot.
    pub fn fill(&mut self, pdb: PhysAddr, vpn: u64, walked: &Walked) {
        let at = slot(pdb, vpn);
        self.remove(at);
        self.entries[at] = Entry {
            vpn,
            pdb,
            level: walked.level,
            shift: walked.shift as u8,
            raw: walked.entry.map_or(0, |e| e.1),
            outcome: walked.outcome,
            pte_at: walked.entry.map(|e| e.0),
            ..Entry::EMPTY
        };
        self.flip(at);
    }

    fn remove(&mut self, at: usize) {
        if self.entries[at].vpn != NO_PAGE {
            self.flip(at);
            self.entries[at] = Entry::EMPTY;
        }
    }

    /// Adds the slot of an entry to the sets it belongs to, or removes it there.
    fn flip(&mut self, at: usize) {
        let entry = &self.entries[at];
        let large = match entry.shift {
            0..=16 => None,
            21 => Some(region_set(entry.vpn >> 9)),
            _ => Some(REGIONS),
        };
        let (word, bit) = (at / 64, 1 << (at % 64));
        self.valid[word] ^= bit;
        if let Some(n) = large {
            self.large[n][word] ^= bit;
        }
    }

    /// Removes all entries that `op` hits.
    pub fn forget(&mut self, op: &Invalidate) {
        for (word, mut slots) in self.candidates(op).into_iter().enumerate() {
            while slots != 0 {
                let at = word * 64 + slots.trailing_zeros() as usize;
                slots &= slots - 1;
                let entry = &self.entries[at];
                if op.hits(entry.pdb, entry.vpn << 12, entry.shift(), entry.level) {
                    self.remove(at);
                }
            }
        }
    }

    /// Returns the slots of all entries that `op` can hit, and of few others.
    fn candidates(&self, op: &Invalidate) -> Slots {
        let (Some(pdb), Some(range)) = (op.pdb, op.range) else {
            return self.valid;
        };
        // Pages of a range of 2 MiB use all slots.
        if range.1 - range.0 >= 1 << 21 {
            return self.valid;
        }
        let mut slots = self.large[REGIONS];
        for region in cover(range, 21) {
            let large = &self.large[region_set(region)];
            slots
                .iter_mut()
                .zip(large)
                .for_each(|(to, from)| *to |= from);
        }
        for block in cover(range, 16) {
            let at = slot(pdb, block << 4);
            slots[at / 64] |= self.valid[at / 64] & 0xffff << (at % 64 / 16 * 16);
        }
        slots
    }

    /// Forgets the host addresses of pages and PTEs, but no translation.
    pub fn forget_pointers(&mut self) {
        for entry in self.entries.iter_mut() {
            entry.page = None;
            entry.pte = None;
            entry.allowed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::walk::{LEVEL_PDE0, LEVEL_PTE};
    use super::*;
    use crate::rng::Rng;

    /// Sizes, as log2 of bytes, and levels of the PTEs and PDEs that a walk can end at.
    const SIZES: [(u32, u8); 7] = [
        (12, LEVEL_PTE),
        (16, LEVEL_PTE),
        (21, LEVEL_PDE0),
        (29, 3),
        (38, 4),
        (47, 5),
        (56, 6),
    ];
    /// All pages lie around this address.
    const CENTRE: u64 = 0x7f12_3456_7000;

    fn pdb(n: u64) -> PhysAddr {
        PhysAddr::new(Aperture::Vid, n * 0x1000)
    }

    /// Returns an address that is at most 4 KiB, 8 KiB, … or 4 GiB away from `va`.
    fn near(rng: &mut Rng, va: u64) -> u64 {
        let reach = 0x1000 << rng.below(21);
        va - reach + rng.below(2 * reach)
    }

    /// Slot, page directory, page, shift and level of all entries.
    type Model = Vec<(usize, PhysAddr, u64, u32, u8)>;

    fn contents(entries: &Entries) -> Model {
        let valid = |(_, e): &(usize, &Entry)| e.vpn != NO_PAGE;
        let all = entries.entries.iter().enumerate().filter(valid);
        all.map(|(at, e)| (at, e.pdb, e.vpn, e.shift(), e.level))
            .collect()
    }

    fn fill(entries: &mut Entries, rng: &mut Rng, sizes: &[(u32, u8)]) {
        for _ in 0..2 * ENTRIES {
            let (shift, level) = sizes[rng.below(sizes.len() as u64) as usize];
            let walked = Walked {
                outcome: Outcome::Fault(FaultType::Pte),
                shift,
                level,
                entry: None,
            };
            let vpn = near(rng, CENTRE) >> 12;
            entries.fill(pdb(rng.below(3)), vpn, &walked);
        }
    }

    fn operation(rng: &mut Rng) -> Invalidate {
        let range = rng.below(8) != 0;
        let first = near(rng, CENTRE);
        let most = 0x1000 << rng.below(14);
        let bytes = 1 + rng.below(most);
        Invalidate {
            pdb: (rng.below(8) != 0).then(|| pdb(rng.below(3))),
            range: range.then(|| (first, first + bytes - 1)),
            level: [0, 0, 1, 2, 3][rng.below(5) as usize],
            hub_only: false,
        }
    }

    /// Removes the entries that `op` hits by its definition.
    fn sweep(model: &mut Model, op: &Invalidate) {
        model.retain(|&(_, pdb, vpn, shift, level)| {
            let start = vpn << 12 >> shift << shift;
            let bytes = start..start + (1 << shift);
            let of_space = op.pdb.is_none() || op.pdb == Some(pdb);
            let of_level = op.level == 0 || level <= op.level;
            let in_range = op
                .range
                .is_none_or(|(first, last)| bytes.start <= last && first < bytes.end);
            !(of_space && of_level && in_range)
        });
    }

    #[test]
    fn an_invalidate_removes_the_same_entries_as_a_sweep() {
        // With one size at a time, too: the larger ones displace the others.
        let sets = SIZES.chunks(1).chain([&SIZES[..2], &SIZES[..3], &SIZES]);
        for (seed, sizes) in sets.enumerate() {
            let rng = &mut Rng::stream(0xa5, seed as u64);
            let mut entries = Entries::new();
            let (mut removed, mut kept) = (0, 0);
            for _ in 0..200 {
                fill(&mut entries, rng, sizes);
                for _ in 0..4 {
                    let op = operation(rng);
                    let mut model = contents(&entries);
                    removed += model.len();
                    sweep(&mut model, &op);
                    removed -= model.len();
                    kept += model.len();
                    entries.forget(&op);
                    assert!(contents(&entries) == model, "{op:x?}, {sizes:?}");
                }
            }
            assert!(removed > 1000 && kept > 1000, "{removed}, {kept}");
        }
    }

    #[test]
    fn an_invalidate_looks_at_few_other_entries() {
        let rng = &mut Rng::new(0xa5);
        let mut entries = Entries::new();
        let looked_at = |entries: &Entries, first: u64, bytes: u64| {
            let op = Invalidate {
                pdb: Some(pdb(0)),
                range: Some((first, first + bytes - 1)),
                ..Invalidate::ALL
            };
            let slots = entries.candidates(&op);
            slots.iter().map(|word| word.count_ones()).sum::<u32>()
        };
        assert_eq!(looked_at(&entries, 0, 1 << 48), 0);
        fill(&mut entries, rng, &SIZES[..2]);
        assert!(looked_at(&entries, CENTRE, 0x1000) <= 16);
        assert!(looked_at(&entries, CENTRE, 0x1_0000) <= 32);
        // Entries of 2 MiB pages are those of one region in 16.
        fill(&mut entries, rng, &SIZES[2..3]);
        let far = CENTRE + (1 << 40);
        let sum: u32 = (0..64)
            .map(|n| looked_at(&entries, far + (n << 21), 0x1000))
            .sum();
        assert!(sum < 64 * 64, "{sum}");
    }
}
