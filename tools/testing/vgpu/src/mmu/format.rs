// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Page-table entries of MMU v2 (Pascal to Ampere) and v3 (Hopper).
//!
//! Source: NVIDIA open-gpu-doc, gp100-mmu-format, and dev_mmu.h of Hopper.
//! A bit that is reserved, or an aperture that has no meaning here, makes the
//! entry [`Bad`], with a message that names it.

use super::FaultType;
use crate::config::MmuVersion;
use crate::mem::{Aperture, PhysAddr};

/// What a page is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First byte of the page.
    pub at: PhysAddr,
    pub read_only: bool,
    pub atomic_disable: bool,
    pub privileged: bool,
    /// Accesses are not counted (v3 only).
    pub uncounted: bool,
}

/// A last-level entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pte {
    Invalid,
    /// Reads zero, forgets writes.
    Sparse,
    /// In a 64 KiB entry: the 4 KiB entries below are not looked at.
    NoValid4k,
    Valid(Leaf),
}

/// A directory entry of the upper levels, or half of a dual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pde {
    Invalid,
    Sparse,
    Table(PhysAddr),
}

/// A dual directory entry (PDE0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pde0 {
    Leaf(Leaf),
    Tables { big: Pde, small: Pde },
}

/// An entry that hardware does not define.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: bits {hi}:{lo} are {value:#x}")]
pub struct Bad {
    pub fault: FaultType,
    what: &'static str,
    hi: u32,
    lo: u32,
    value: u64,
}

fn field(raw: u64, hi: u32, lo: u32) -> u64 {
    raw << (63 - hi) >> (63 - hi + lo)
}

/// Fails unless bits `hi:lo` are zero.
fn zero(what: &'static str, fault: FaultType, raw: u64, hi: u32, lo: u32) -> Result<(), Bad> {
    match field(raw, hi, lo) {
        0 => Ok(()),
        value => Err(Bad {
            fault,
            what,
            hi,
            lo,
            value,
        }),
    }
}

const RESERVED: &str = "reserved";
const ADDRESS: &str = "address beyond the aperture or misaligned";

/// Position of a page or table address in an entry.
struct Address {
    /// Bit 0 of the address sits at bit -`shift` of the entry.
    shift: u32,
    /// Highest bit in the entry, in system memory and in VRAM.
    hi_sys: u32,
    hi_vid: u32,
}

const V2: Address = Address {
    shift: 4,
    hi_sys: 53,
    hi_vid: 32,
};
const V3: Address = Address {
    shift: 0,
    hi_sys: 51,
    hi_vid: 39,
};

impl Address {
    fn of(version: MmuVersion) -> &'static Self {
        match version {
            MmuVersion::V2 => &V2,
            MmuVersion::V3 => &V3,
        }
    }

    /// The address whose bits from `align` upwards are in the entry; bits from
    /// `first` up to there must be zero.
    fn decode(
        &self,
        raw: u64,
        aperture: Aperture,
        first: u32,
        align: u32,
    ) -> Result<PhysAddr, Bad> {
        let hi = if aperture == Aperture::Vid {
            self.hi_vid
        } else {
            self.hi_sys
        };
        let lo = align - self.shift;
        if hi < self.hi_sys {
            zero(ADDRESS, FaultType::Region, raw, self.hi_sys, hi + 1)?;
        }
        if lo > first {
            zero(ADDRESS, FaultType::Region, raw, lo - 1, first)?;
        }
        Ok(PhysAddr::new(aperture, field(raw, hi, lo) << align))
    }
}

/// A PDE above PDE0. The caller has looked at bit 0 where a leaf is possible.
pub fn pde(version: MmuVersion, raw: u64) -> Result<Pde, Bad> {
    zero("IS_PTE in a directory", FaultType::PdeSize, raw, 0, 0)?;
    table(version, raw, 12)
}

/// Aperture and address of a directory entry or of half of a PDE0; the table
/// is aligned to `1 << align` bytes.
fn table(version: MmuVersion, raw: u64, align: u32) -> Result<Pde, Bad> {
    let aperture = match field(raw, 2, 1) {
        0 => None,
        1 => Some(Aperture::Vid),
        2 => Some(Aperture::SysCoherent),
        _ => Some(Aperture::SysNonCoherent),
    };
    let res = |hi, lo| zero(RESERVED, FaultType::Pde, raw, hi, lo);
    let first = match version {
        MmuVersion::V2 => {
            // A 256-byte aligned table needs bits 4 and 5 for its address, so
            // NO_ATS (bit 5) exists for the others only.
            if align == 12 {
                res(4, 4)?;
                res(7, 6)?;
            }
            res(63, 54)?;
            align - 4
        }
        MmuVersion::V3 => {
            res(5, 5)?;
            res(7, 6)?;
            res(63, 52)?;
            if align == 12 {
                8
            } else {
                align
            }
        }
    };
    let Some(aperture) = aperture else {
        // Volatile (v2) or uncached (v3) without an aperture.
        return Ok(if field(raw, 3, 3) == 1 {
            Pde::Sparse
        } else {
            Pde::Invalid
        });
    };
    Address::of(version)
        .decode(raw, aperture, first, align)
        .map(Pde::Table)
}

/// A PDE0: `lo` has the 64 KiB table or a 2 MiB page, `hi` the 4 KiB table.
pub fn pde0(version: MmuVersion, lo: u64, hi: u64) -> Result<Pde0, Bad> {
    if lo & 1 == 1 {
        zero("high half of a 2 MiB PTE", FaultType::PdeSize, hi, 63, 0)?;
        return match pte(version, lo, 21)? {
            Pte::Valid(leaf) => Ok(Pde0::Leaf(leaf)),
            _ => unreachable!("bit 0 is VALID"),
        };
    }
    zero(RESERVED, FaultType::Pde, hi, 0, 0)?;
    let big = table(version, lo, 8)?;
    // Only the big half says sparse, and only if there is no table at all.
    let small = match table(version, hi, 12)? {
        Pde::Sparse => Pde::Invalid,
        small => small,
    };
    Ok(Pde0::Tables { big, small })
}

/// A PTE of a page of `1 << shift` bytes.
pub fn pte(version: MmuVersion, raw: u64, shift: u32) -> Result<Pte, Bad> {
    match version {
        MmuVersion::V2 => pte_v2(raw, shift),
        MmuVersion::V3 => pte_v3(raw, shift),
    }
}

fn pte_aperture(raw: u64) -> Result<Aperture, Bad> {
    Ok(match field(raw, 2, 1) {
        0 => Aperture::Vid,
        2 => Aperture::SysCoherent,
        3 => Aperture::SysNonCoherent,
        value => {
            return Err(Bad {
                fault: FaultType::Aperture,
                what: "peer aperture in a PTE",
                hi: 2,
                lo: 1,
                value,
            })
        }
    })
}

/// Pitch (0) and generic memory (6) are the kinds that mean plain bytes.
fn kind(raw: u64, hi: u32, lo: u32) -> Result<(), Bad> {
    match field(raw, hi, lo) {
        0 | 6 => Ok(()),
        value => Err(Bad {
            fault: FaultType::Kind,
            what: "kind",
            hi,
            lo,
            value,
        }),
    }
}

fn pte_v2(raw: u64, shift: u32) -> Result<Pte, Bad> {
    if raw & 1 == 0 {
        return Ok(if field(raw, 3, 3) == 1 {
            Pte::Sparse
        } else if field(raw, 5, 5) == 1 && shift == 16 {
            Pte::NoValid4k
        } else {
            Pte::Invalid
        });
    }
    let aperture = pte_aperture(raw)?;
    zero("encrypted", FaultType::Pte, raw, 4, 4)?;
    kind(raw, 63, 56)?;
    if aperture == Aperture::Vid {
        zero("compression tag", FaultType::Kind, raw, 55, 36)?;
    } else {
        zero(RESERVED, FaultType::Pte, raw, 55, 54)?;
    }
    Ok(Pte::Valid(Leaf {
        at: V2.decode_page(raw, aperture, shift)?,
        privileged: field(raw, 5, 5) == 1,
        read_only: field(raw, 6, 6) == 1,
        atomic_disable: field(raw, 7, 7) == 1,
        uncounted: false,
    }))
}

fn pte_v3(raw: u64, shift: u32) -> Result<Pte, Bad> {
    let pcf = field(raw, 7, 3);
    if raw & 1 == 0 {
        return match pcf {
            0 => Ok(Pte::Invalid),
            // "Nowhere" reads zero and forgets writes, too.
            1 | 2 => Ok(Pte::Sparse),
            3 if shift == 16 => Ok(Pte::NoValid4k),
            3 => Ok(Pte::Invalid),
            value => Err(Bad {
                fault: FaultType::Pte,
                what: "PCF of an invalid PTE",
                hi: 7,
                lo: 3,
                value,
            }),
        };
    }
    let aperture = pte_aperture(raw)?;
    kind(raw, 11, 8)?;
    zero(RESERVED, FaultType::Pte, raw, 60, 52)?;
    zero("peer id", FaultType::Aperture, raw, 63, 61)?;
    Ok(Pte::Valid(Leaf {
        at: V3.decode_page(raw, aperture, shift)?,
        privileged: pcf & 2 != 0,
        read_only: pcf & 4 != 0,
        atomic_disable: pcf & 8 != 0,
        uncounted: pcf & 16 != 0,
    }))
}

impl Address {
    fn decode_page(&self, raw: u64, aperture: Aperture, shift: u32) -> Result<PhysAddr, Bad> {
        self.decode(raw, aperture, 12 - self.shift, shift)
    }
}
