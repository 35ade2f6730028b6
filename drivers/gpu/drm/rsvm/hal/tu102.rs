// SPDX-License-Identifier: GPL-2.0

//! Turing: MMU v2.

use super::{
    Hal,
    Level, //
};
use crate::{
    hw::pte::{
        BigPdeV2,
        PdeV2,
        PteV2,
        KIND_GENERIC,
        PDE_SYS_COHERENT,
        PTE_SYS_COHERENT,
        PTE_VID, //
    },
    svm::device::{
        Prot,
        Target, //
    },
};
use kernel::prelude::*;

struct Tu102;

pub(super) const TU102: &dyn Hal = &Tu102;

/// Entries hold addresses shifted right by this.
const ADDR_SHIFT: u32 = 4;

const LEVELS: [Level; 3] = [
    Level {
        shift: 47,
        entries: 4,
    },
    Level {
        shift: 38,
        entries: 512,
    },
    Level {
        shift: 29,
        entries: 512,
    },
];

impl Hal for Tu102 {
    fn mmu_version(&self) -> u32 {
        2
    }

    fn va_bits(&self) -> u32 {
        49
    }

    fn levels(&self) -> &'static [Level] {
        &LEVELS
    }

    fn pde(&self, table: u64) -> u64 {
        PdeV2::from_raw(table >> ADDR_SHIFT & PdeV2::FRAME_MASK)
            .with_const_aperture::<PDE_SYS_COHERENT>()
            .with_volatile(true)
            .into_raw()
    }

    fn pde0(&self, big: Option<u64>, small: Option<u64>) -> [u64; 2] {
        let big = big.map_or(0, |table| {
            BigPdeV2::from_raw(table >> ADDR_SHIFT & BigPdeV2::FRAME_MASK)
                .with_const_aperture::<PDE_SYS_COHERENT>()
                .with_volatile(true)
                .into_raw()
        });
        [big, small.map_or(0, |table| self.pde(table))]
    }

    fn pte(&self, target: Target, prot: Prot) -> u64 {
        let frame = |addr: u64| PteV2::from_raw(addr >> ADDR_SHIFT & PteV2::FRAME_MASK);
        let pte = match target {
            Target::System(addr) => frame(addr)
                .with_const_aperture::<PTE_SYS_COHERENT>()
                .with_volatile(true),
            Target::Vram(addr) => frame(addr).with_const_aperture::<PTE_VID>(),
        };
        pte.with_const_kind::<KIND_GENERIC>()
            .with_read_only(!prot.write)
            .with_atomic_disable(!prot.atomic)
            .with_valid(true)
            .into_raw()
    }

    fn compute_engine(&self) -> u32 {
        64
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_hal_tu102)]
mod tests {
    use super::*;

    const RW: Prot = Prot {
        write: true,
        atomic: false,
    };

    #[test]
    fn ptes() {
        // KIND 6 in 63:56, PA >> 4, ATOMIC_DISABLE (7), VOL (3), aperture 2, VALID.
        assert_eq!(
            TU102.pte(Target::System(0x1_2345_6000), RW),
            0x0600_0000_1234_5600 | 0x8d
        );
        let ro = Prot {
            write: false,
            atomic: false,
        };
        assert_eq!(
            TU102.pte(Target::System(0x20_0000), ro),
            0x0600_0000_0002_0000 | 0xcd
        );
        // Device memory: aperture 0, not volatile; atomics allowed.
        let all = Prot {
            write: true,
            atomic: true,
        };
        assert_eq!(
            TU102.pte(Target::Vram(0x1_0000), all),
            0x0600_0000_0000_1000 | 1
        );
        // The highest page there is: PA[57:12] in 53:8.
        assert_eq!(
            TU102.pte(Target::System(0x03ff_ffff_ffff_f000), RW),
            0x063f_ffff_ffff_ff00 | 0x8d
        );
    }

    #[test]
    fn pdes() {
        assert_eq!(TU102.pde(0x1_2345_6000), 0x1234_5600 | 0xc);
        // A 64 KiB table is aligned to 256 bytes only.
        assert_eq!(
            TU102.pde0(Some(0x1_2345_6700), Some(0x8000)),
            [0x1234_5670 | 0xc, 0x800 | 0xc]
        );
        assert_eq!(TU102.pde0(None, None), [0, 0]);
    }
}
