// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The shared (second-level) TLB and the page directory caches.
//!
//! Not coherent with memory: entries, invalid ones too, stay until they are
//! invalidated.

use super::walk::{Cache, Found, Walked};
use crate::mem::PhysAddr;
use std::collections::BTreeMap;

/// What an invalidate throws away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidate {
    /// One page directory, or all.
    pub pdb: Option<PhysAddr>,
    /// First byte and last byte, or all addresses.
    pub range: Option<(u64, u64)>,
    /// Levels up to this (1 PTEs only, 2 PDE0, …), or 0 for all.
    pub level: u8,
    /// Only what the hub's clients (host, copy engine) cached.
    pub hub_only: bool,
}

impl Invalidate {
    pub const ALL: Self = Self {
        pdb: None,
        range: None,
        level: 0,
        hub_only: false,
    };

    /// Whether an entry of `level` that decides about `1 << shift` bytes around
    /// `va` goes.
    #[inline]
    pub fn hits(&self, pdb: PhysAddr, va: u64, shift: u32, level: u8) -> bool {
        let start = va >> shift << shift;
        (self.level == 0 || level <= self.level)
            && self.pdb.is_none_or(|p| p == pdb)
            && self
                .range
                .is_none_or(|(first, last)| start <= last && start + ((1 << shift) - 1) >= first)
    }
}

type Key = (PhysAddr, u32, u64);

/// Leaf entries by (PDB, page shift, page number), directory entries likewise.
#[derive(Default)]
pub struct Caches {
    ptes: BTreeMap<Key, Walked>,
    pdes: BTreeMap<Key, (u8, Found)>,
}

const PTE_SHIFTS: [u32; 2] = [12, 16];

impl Caches {
    /// A cached PTE for `va`. Larger pages are found through the PDE caches.
    pub fn pte(&self, pdb: PhysAddr, va: u64) -> Option<Walked> {
        PTE_SHIFTS
            .iter()
            .find_map(|&shift| self.ptes.get(&(pdb, shift, va >> shift)).copied())
    }

    pub fn forget_pte(&mut self, pdb: PhysAddr, va: u64) {
        for shift in PTE_SHIFTS {
            self.ptes.remove(&(pdb, shift, va >> shift));
        }
    }

    pub fn invalidate(&mut self, op: &Invalidate) {
        remove(&mut self.ptes, op, &PTE_SHIFTS, |_| super::walk::LEVEL_PTE);
        if op.level != super::walk::LEVEL_PTE {
            remove(&mut self.pdes, op, &[21, 29, 38, 47, 56], |e| e.0);
        }
    }
}

fn remove<T>(
    map: &mut BTreeMap<Key, T>,
    op: &Invalidate,
    shifts: &[u32],
    level: impl Fn(&T) -> u8,
) {
    let Some(pdb) = op.pdb else {
        map.retain(|&(pdb, shift, page), e| !op.hits(pdb, page << shift, shift, level(e)));
        return;
    };
    let (first, last) = op.range.unwrap_or((0, u64::MAX));
    for &shift in shifts {
        let range = (pdb, shift, first >> shift)..=(pdb, shift, last >> shift);
        let keys: Vec<Key> = map
            .range(range)
            .filter(|(_, e)| op.level == 0 || level(e) <= op.level)
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            map.remove(&key);
        }
    }
}

/// The caches as a walk through one page directory sees them.
pub struct View<'a> {
    pub caches: &'a mut Caches,
    pub pdb: PhysAddr,
}

impl Cache for View<'_> {
    fn pde(&mut self, _: u8, va: u64, shift: u32) -> Option<Found> {
        self.caches
            .pdes
            .get(&(self.pdb, shift, va >> shift))
            .map(|e| e.1)
    }

    fn fill_pde(&mut self, level: u8, va: u64, shift: u32, entry: Found) {
        self.caches
            .pdes
            .insert((self.pdb, shift, va >> shift), (level, entry));
    }

    fn fill_pte(&mut self, va: u64, walked: Walked) {
        // What is cached stays as it is, as stale as it may be.
        self.caches
            .ptes
            .entry((self.pdb, walked.shift, va >> walked.shift))
            .or_insert(walked);
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Pde;
    use super::super::walk::{Directory, Outcome, LEVEL_PTE};
    use super::super::FaultType;
    use super::*;
    use crate::mem::Aperture;

    #[test]
    fn all_of_one_directory_goes_and_no_other() {
        let mut caches = Caches::default();
        let pdbs = [0, 1, 2].map(|n| PhysAddr::new(Aperture::Vid, n << 12));
        for pdb in pdbs {
            let caches = &mut caches;
            let mut view = View { caches, pdb };
            for va in [0, (1 << 57) - (1 << 12)] {
                for shift in PTE_SHIFTS {
                    let walked = Walked {
                        outcome: Outcome::Fault(FaultType::Pte),
                        shift,
                        level: LEVEL_PTE,
                        entry: None,
                    };
                    view.fill_pte(va, walked);
                }
                for (shift, level) in [(21, 2), (29, 3), (38, 4), (47, 5), (56, 6)] {
                    let entry = (Directory::Pde(Pde::Invalid), pdb, 0);
                    view.fill_pde(level, va, shift, entry);
                }
            }
        }
        let op = Invalidate {
            pdb: Some(pdbs[1]),
            ..Invalidate::ALL
        };
        caches.invalidate(&op);
        for (i, pdb) in pdbs.into_iter().enumerate() {
            let ptes = caches.ptes.keys().filter(|key| key.0 == pdb).count();
            let pdes = caches.pdes.keys().filter(|key| key.0 == pdb).count();
            assert_eq!((ptes, pdes), if i == 1 { (0, 0) } else { (4, 10) });
        }
    }
}
