// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Walks of the page tables in memory.

use super::format::{self, Bad, Leaf, Pde, Pde0, Pte};
use super::FaultType;
use crate::config::MmuVersion;
use crate::mem::{MemGuard, PhysAddr};

/// Levels by the numbers of an invalidate's level field.
pub const LEVEL_PTE: u8 = 1;
pub const LEVEL_PDE0: u8 = 2;

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Leaf(Leaf),
    Sparse,
    Fault(FaultType),
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    pub outcome: Outcome,
    /// log2 of the bytes, around the address, that the entry decides about.
    pub shift: u32,
    /// Level of the entry: 1 PTE, 2 PDE0, 3 PDE1 and so on.
    pub level: u8,
    /// The entry itself, and its (low) eight bytes; none if there is no root.
    pub entry: Option<(PhysAddr, u64)>,
}

/// Index fields of one level, top down: VA bits `shift + bits - 1 : shift`.
struct Level {
    level: u8,
    shift: u32,
    bits: u32,
}

const UPPER: [Level; 4] = [
    Level {
        level: 6,
        shift: 56,
        bits: 1,
    },
    Level {
        level: 5,
        shift: 47,
        bits: 9,
    },
    Level {
        level: 4,
        shift: 38,
        bits: 9,
    },
    Level {
        level: 3,
        shift: 29,
        bits: 9,
    },
];

/// Levels above PDE0. The root of v2 has four entries only.
fn upper(version: MmuVersion) -> &'static [Level] {
    match version {
        MmuVersion::V2 => &UPPER[1..],
        MmuVersion::V3 => &UPPER,
    }
}

/// Width of a virtual address in bits.
pub fn va_bits(version: MmuVersion) -> u32 {
    match version {
        MmuVersion::V2 => 49,
        MmuVersion::V3 => 57,
    }
}

fn index(va: u64, shift: u32, bits: u32) -> u64 {
    va >> shift & ((1 << bits) - 1)
}

/// An upper directory entry, as the caches keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    Pde(Pde),
    /// A page of 512 MiB in PDE1 (v3).
    Leaf(Leaf),
    Pde0(Pde0),
}

/// A directory entry with its address and its (low) eight bytes.
pub type Found = (Directory, PhysAddr, u64);

/// What stands between a walk and memory.
pub trait Cache {
    fn pde(&mut self, level: u8, va: u64, shift: u32) -> Option<Found>;
    fn fill_pde(&mut self, level: u8, va: u64, shift: u32, entry: Found);
    /// A PTE for the page at `va`, which may be a neighbour of the one asked for.
    fn fill_pte(&mut self, va: u64, walked: Walked);
}

/// Reads the page tables as they are.
pub struct Uncached;

impl Cache for Uncached {
    fn pde(&mut self, _: u8, _: u64, _: u32) -> Option<Found> {
        None
    }
    fn fill_pde(&mut self, _: u8, _: u64, _: u32, _: Found) {}
    fn fill_pte(&mut self, _: u64, _: Walked) {}
}

/// Why a walk could not go on, beyond what it returns.
#[derive(Debug)]
pub struct Complaint(pub String);

pub struct Walker<'a, C: Cache> {
    pub version: MmuVersion,
    pub mem: &'a MemGuard<'a>,
    pub cache: C,
    /// Guest errors met.
    pub complaint: Option<Complaint>,
}

impl<C: Cache> Walker<'_, C> {
    fn bad(&mut self, va: u64, at: PhysAddr, raw: u64, bad: Bad) -> Outcome {
        self.complaint = Some(Complaint(format!(
            "entry {raw:#018x} at {at} for {va:#x}: {bad}"
        )));
        Outcome::Fault(bad.fault)
    }

    fn unreadable(&mut self, va: u64, at: PhysAddr) -> Outcome {
        self.complaint = Some(Complaint(format!(
            "page table at {at} for {va:#x} is in no memory"
        )));
        Outcome::Fault(FaultType::Pde)
    }

    /// Translates the page of `va` through the directory at `root`.
    pub fn walk(&mut self, root: PhysAddr, va: u64) -> Walked {
        let mut table = root;
        for l in upper(self.version) {
            let at = table.offset(index(va, l.shift, l.bits) * 8);
            let (outcome, entry) = match self.upper(l, at, va) {
                Ok((Directory::Pde(Pde::Table(next)), ..)) => {
                    table = next;
                    continue;
                }
                Ok((Directory::Pde(Pde::Sparse), at, raw)) => (Outcome::Sparse, (at, raw)),
                Ok((Directory::Leaf(leaf), at, raw)) => (Outcome::Leaf(leaf), (at, raw)),
                Ok((_, at, raw)) => (Outcome::Fault(FaultType::Pde), (at, raw)),
                Err(refused) => refused,
            };
            return Walked {
                outcome,
                shift: l.shift,
                level: l.level,
                entry: Some(entry),
            };
        }
        self.walk_pde0(table, va)
    }

    fn upper(
        &mut self,
        l: &Level,
        at: PhysAddr,
        va: u64,
    ) -> Result<Found, (Outcome, (PhysAddr, u64))> {
        if let Some(hit) = self.cache.pde(l.level, va, l.shift) {
            return Ok(hit);
        }
        let Ok(raw) = self.mem.read_u64(at) else {
            return Err((self.unreadable(va, at), (at, 0)));
        };
        let leaf = self.version == MmuVersion::V3 && l.shift == 29 && raw & 1 == 1;
        let decoded = if leaf {
            format::pte(self.version, raw, l.shift).map(|pte| match pte {
                Pte::Valid(leaf) => Directory::Leaf(leaf),
                _ => Directory::Pde(Pde::Invalid),
            })
        } else {
            format::pde(self.version, raw).map(Directory::Pde)
        };
        match decoded {
            Ok(directory) => {
                let entry = (directory, at, raw);
                self.cache.fill_pde(l.level, va, l.shift, entry);
                Ok(entry)
            }
            Err(bad) => Err((self.bad(va, at, raw, bad), (at, raw))),
        }
    }

    fn walk_pde0(&mut self, table: PhysAddr, va: u64) -> Walked {
        let at = table.offset(index(va, 21, 8) * 16);
        let here = |outcome, entry| Walked {
            outcome,
            shift: 21,
            level: LEVEL_PDE0,
            entry: Some(entry),
        };
        let (pde0, at, lo) = match self.cache.pde(LEVEL_PDE0, va, 21) {
            Some((Directory::Pde0(pde0), at, lo)) => (pde0, at, lo),
            _ => {
                let (Ok(lo), Ok(hi)) = (self.mem.read_u64(at), self.mem.read_u64(at.offset(8)))
                else {
                    let outcome = self.unreadable(va, at);
                    return here(outcome, (at, 0));
                };
                match format::pde0(self.version, lo, hi) {
                    Ok(pde0) => {
                        let entry = (Directory::Pde0(pde0), at, lo);
                        self.cache.fill_pde(LEVEL_PDE0, va, 21, entry);
                        (pde0, at, lo)
                    }
                    Err(bad) => {
                        let raw = if lo & 1 == 1 || hi == 0 { lo } else { hi };
                        let outcome = self.bad(va, at, raw, bad);
                        return here(outcome, (at, lo));
                    }
                }
            }
        };
        match pde0 {
            Pde0::Leaf(leaf) => here(Outcome::Leaf(leaf), (at, lo)),
            Pde0::Tables {
                big: Pde::Table(big),
                small,
            } => match (
                self.walk_pte(big, va, 16, !matches!(small, Pde::Table(_))),
                small,
            ) {
                (
                    Walked {
                        outcome: Outcome::Fault(FaultType::Pte),
                        entry: Some((_, raw)),
                        ..
                    },
                    Pde::Table(small),
                ) if format::pte(self.version, raw, 16) == Ok(Pte::Invalid) => {
                    self.walk_pte(small, va, 12, true)
                }
                (walked, _) => walked,
            },
            Pde0::Tables {
                small: Pde::Table(small),
                ..
            } => self.walk_pte(small, va, 12, true),
            Pde0::Tables {
                big: Pde::Sparse, ..
            } => here(Outcome::Sparse, (at, lo)),
            Pde0::Tables { .. } => here(Outcome::Fault(FaultType::Pde), (at, lo)),
        }
    }

    /// Reads the PTE, and caches the 32-byte sector it came with. Unless
    /// `decisive`, a plain invalid entry leaves the decision to another table.
    fn walk_pte(&mut self, table: PhysAddr, va: u64, shift: u32, decisive: bool) -> Walked {
        let i = index(va, shift, 21 - shift);
        let mut wanted = None;
        for j in i & !3..(i & !3) + 4 {
            let at = table.offset(j * 8);
            let page = va >> 21 << 21 | j << shift;
            let walked = |outcome, raw| Walked {
                outcome,
                shift,
                level: LEVEL_PTE,
                entry: Some((at, raw)),
            };
            let Ok(raw) = self.mem.read_u64(at) else {
                if i == j {
                    wanted = Some(walked(self.unreadable(va, at), 0));
                }
                continue;
            };
            let outcome = match format::pte(self.version, raw, shift) {
                Ok(Pte::Valid(leaf)) => Outcome::Leaf(leaf),
                Ok(Pte::Sparse) => Outcome::Sparse,
                Ok(Pte::Invalid | Pte::NoValid4k) => Outcome::Fault(FaultType::Pte),
                Err(bad) if i == j => self.bad(va, at, raw, bad),
                Err(_) => continue,
            };
            let walked = walked(outcome, raw);
            if decisive || format::pte(self.version, raw, shift) != Ok(Pte::Invalid) {
                self.cache.fill_pte(page, walked);
            }
            if i == j {
                wanted = Some(walked);
            }
        }
        wanted.expect("the sector holds the entry")
    }
}
