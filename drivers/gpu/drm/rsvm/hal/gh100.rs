// SPDX-License-Identifier: GPL-2.0

//! Hopper: MMU v3.

use super::{
    Hal,
    Level, //
};
use crate::{
    hw::pte::{
        BigPdeV3,
        PdeV3,
        PteV3,
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

struct Gh100;

pub(super) const GH100: &dyn Hal = &Gh100;

const LEVELS: [Level; 4] = [
    Level {
        shift: 56,
        entries: 2,
    },
    Level {
        shift: 47,
        entries: 512,
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

impl Hal for Gh100 {
    fn mmu_version(&self) -> u32 {
        3
    }

    fn va_bits(&self) -> u32 {
        57
    }

    fn levels(&self) -> &'static [Level] {
        &LEVELS
    }

    fn pde(&self, table: u64) -> u64 {
        PdeV3::from_raw(table & PdeV3::FRAME_MASK)
            .with_const_aperture::<PDE_SYS_COHERENT>()
            .with_uncached(true)
            .with_no_ats(true)
            .into_raw()
    }

    fn pde0(&self, big: Option<u64>, small: Option<u64>) -> [u64; 2] {
        let big = big.map_or(0, |table| {
            BigPdeV3::from_raw(table & BigPdeV3::FRAME_MASK)
                .with_const_aperture::<PDE_SYS_COHERENT>()
                .with_uncached(true)
                .with_no_ats(true)
                .into_raw()
        });
        [big, small.map_or(0, |table| self.pde(table))]
    }

    fn pte(&self, target: Target, prot: Prot) -> u64 {
        let frame = |addr: u64| PteV3::from_raw(addr & PteV3::FRAME_MASK);
        let pte = match target {
            Target::System(addr) => frame(addr)
                .with_const_aperture::<PTE_SYS_COHERENT>()
                .with_uncached(true),
            Target::Vram(addr) => frame(addr).with_const_aperture::<PTE_VID>(),
        };
        pte.with_const_kind::<KIND_GENERIC>()
            .with_read_only(!prot.write)
            .with_no_atomic(!prot.atomic)
            .with_access_counter_disabled(true)
            .with_valid(true)
            .into_raw()
    }

    fn compute_engine(&self) -> u32 {
        384
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_hal_gh100)]
mod tests {
    use super::*;

    #[test]
    fn ptes() {
        let rw = Prot {
            write: true,
            atomic: false,
        };
        // KIND 6 in 11:8; PCF: no access counter (7), no atomic (6), uncached (3); aperture 2.
        assert_eq!(
            GH100.pte(Target::System(0x1_2345_6000), rw),
            0x1_2345_6000 | 0x6cd
        );
        let ro = Prot {
            write: false,
            atomic: false,
        };
        assert_eq!(
            GH100.pte(Target::System(0x1_2345_6000), ro),
            0x1_2345_6000 | 0x6ed
        );
        let all = Prot {
            write: true,
            atomic: true,
        };
        assert_eq!(GH100.pte(Target::Vram(0x20_0000), all), 0x20_0000 | 0x681);
    }

    #[test]
    fn pdes() {
        assert_eq!(GH100.pde(0x1_2345_6000), 0x1_2345_6000 | 0x1c);
        assert_eq!(
            GH100.pde0(Some(0x1_2345_6700), Some(0x8000)),
            [0x1_2345_6700 | 0x1c, 0x8000 | 0x1c]
        );
        assert_eq!(GH100.pde0(None, None), [0, 0]);
    }
}
