// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Page-table walks.

use crate::common::tables::{pde, Page, Tables};
use crate::rig::Rig;
use proptest::prelude::*;
use rsvm_vgpu::config::{Config, MmuVersion, TlbMode};
use rsvm_vgpu::mem::{Aperture, PhysAddr};
use rsvm_vgpu::mmu::{Access, FaultType};

const APERTURES: [Aperture; 3] = [
    Aperture::Vid,
    Aperture::SysCoherent,
    Aperture::SysNonCoherent,
];

fn rig(mmu: MmuVersion) -> Rig {
    Rig::new(Config {
        mmu,
        tlb: TlbMode::None,
        ..Config::default()
    })
}

fn both(test: impl Fn(Rig)) {
    test(rig(MmuVersion::V2));
    test(rig(MmuVersion::V3));
}

fn fault(rig: &Rig, root: PhysAddr, va: u64, access: Access) -> Option<FaultType> {
    rig.engine
        .try_touch(&rig.space(0, root), 0, va, access)
        .err()
        .map(|f| f.ty)
}

fn load(rig: &Rig, root: PhysAddr, va: u64) -> Result<u64, FaultType> {
    rig.engine
        .try_touch(&rig.space(0, root), 0, va, Access::Read)
        .map_err(|f| f.ty)
}

fn shifts(rig: &Rig) -> &'static [u32] {
    match rig.version() {
        MmuVersion::V2 => &[12, 16, 21],
        MmuVersion::V3 => &[12, 16, 21, 29],
    }
}

#[test]
fn every_leaf_size_in_every_aperture() {
    both(|mut rig| {
        for aperture in APERTURES {
            for &shift in shifts(&rig) {
                let mut tables = Tables::new(&mut rig, &APERTURES);
                let align = if shift == 29 { 1 << 29 } else { 1 << shift };
                // Only the beginning of a 512 MiB page exists.
                let to = if shift == 29 {
                    let base = if aperture.is_sys() { 1 << 32 } else { 0 };
                    PhysAddr::new(aperture, base)
                } else {
                    rig.pages(aperture, align >> 12, align)
                };
                let va = 0x1_7fff_e000_0000;
                tables.map(&mut rig, va, &Page::new(to, shift));
                let last = ((1u64 << shift) - 8).min((32 << 20) - 8);
                for offset in [0, last] {
                    rig.write(to.offset(offset), va + offset);
                    assert_eq!(load(&rig, tables.root, va + offset), Ok(va + offset));
                }
                assert!(load(&rig, tables.root, va + (1 << shift)).is_err());
                assert!(load(&rig, tables.root, va - 8).is_err());
            }
        }
        assert_eq!(rig.guest_errors(), 0);
    });
}

#[test]
fn rights() {
    both(|mut rig| {
        let mut tables = Tables::new(&mut rig, &[Aperture::Vid]);
        let to = rig.sys();
        let root = tables.root;
        let mut map = |rig: &mut Rig, va, change: fn(&mut Page)| {
            let mut page = Page::new(to, 12);
            change(&mut page);
            tables.map(rig, va, &page);
        };
        map(&mut rig, 0x1000, |_| {});
        map(&mut rig, 0x2000, |p| p.read_only = true);
        map(&mut rig, 0x3000, |p| p.no_atomic = true);
        map(&mut rig, 0x4000, |p| p.privileged = true);
        use Access::{Atomic, AtomicWeak, Fetch, Read, Write};
        let ro = Some(FaultType::ReadOnly);
        let expect = [
            (0x1000, Read, None),
            (0x1000, Write, None),
            (0x1000, Atomic, None),
            (0x1000, Fetch, None),
            (0x2000, Read, None),
            (0x2000, Write, ro),
            (0x2000, Atomic, ro),
            (0x2000, AtomicWeak, ro),
            (0x3000, Write, None),
            (0x3000, Atomic, Some(FaultType::Atomic)),
            (0x3000, AtomicWeak, None),
            (0x4000, Read, Some(FaultType::Privilege)),
            (0x5000, Read, Some(FaultType::Pte)),
            (0x20_0000, Read, Some(FaultType::Pde)),
        ];
        for (va, access, want) in expect {
            assert_eq!(fault(&rig, root, va, access), want, "{va:#x} {access:?}");
        }
        let limit = match rig.version() {
            MmuVersion::V2 => 1 << 49,
            MmuVersion::V3 => 1 << 57,
        };
        assert_eq!(fault(&rig, root, limit, Read), Some(FaultType::VaLimit));
        assert_eq!(fault(&rig, root, limit - 8, Read), Some(FaultType::Pde));
        assert_eq!(rig.guest_errors(), 0);
    });
}

#[test]
fn dual_directories() {
    both(|mut rig| {
        let mut tables = Tables::new(&mut rig, &[Aperture::SysCoherent]);
        let root = tables.root;
        let small = rig.sys();
        let big = rig.pages(Aperture::SysCoherent, 16, 1 << 16);
        rig.write(small, 1);
        rig.write(big, 2);
        tables.map(&mut rig, 0, &Page::new(small, 12));
        // An invalid 64 KiB entry leaves the decision to the 4 KiB one.
        let entry = tables.entry(&mut rig, 0, 16);
        assert_eq!(load(&rig, root, 0), Ok(1));
        // A valid one wins.
        tables.map(&mut rig, 0, &Page::new(big, 16));
        assert_eq!(load(&rig, root, 0), Ok(2));
        // One that says so hides the 4 KiB entries.
        let no_valid_4k = match rig.version() {
            MmuVersion::V2 => 1 << 5,
            MmuVersion::V3 => 3 << 3,
        };
        rig.write(entry, no_valid_4k);
        assert_eq!(load(&rig, root, 0), Err(FaultType::Pte));
        // Sparse reads zero and forgets writes; v2 VOL and v3 PCF 1 are one bit.
        rig.write(entry, 1 << 3);
        assert_eq!(load(&rig, root, 0), Ok(0));
        assert_eq!(fault(&rig, root, 0, Access::Write), None);
        assert_eq!(rig.read(small), 1);
        assert_eq!(rig.guest_errors(), 0);
    });
}

#[test]
fn sparse_directory() {
    both(|mut rig| {
        let mut tables = Tables::new(&mut rig, &[Aperture::Vid]);
        let pde0 = tables.entry(&mut rig, 0x40_0000, 21);
        rig.write(pde0, 1 << 3);
        assert_eq!(load(&rig, tables.root, 0x40_0000), Ok(0));
        // VOL_BIG says nothing beside a table.
        let table = rig.sys();
        rig.write(pde0.offset(8), pde(rig.version(), table));
        assert_eq!(load(&rig, tables.root, 0x40_0000), Err(FaultType::Pte));
    });
}

/// Each bad bit is one guest error and a fault that cannot be served.
#[test]
fn reserved_bits_stop() {
    use FaultType::{Aperture as Ap, Kind, Pde, PdeSize, Pte, Region};
    let cases: [(MmuVersion, u32, u64, FaultType); 14] = [
        // v2 PTE: ENC, peer aperture, kind 0x0f, address bits 55:54, comptag.
        (MmuVersion::V2, 12, 1 | 2 << 1 | 1 << 4, Pte),
        (MmuVersion::V2, 12, 1 | 1 << 1, Ap),
        (MmuVersion::V2, 12, 1 | 2 << 1 | 0xf << 56, Kind),
        (MmuVersion::V2, 12, 1 | 2 << 1 | 1 << 54, Pte),
        (MmuVersion::V2, 12, 1 | 1 << 36, Kind),
        // Device memory beyond 37 bits, a 64 KiB page at 4 KiB.
        (MmuVersion::V2, 12, 1 | 1 << 33, Region),
        (MmuVersion::V2, 16, 1 | 2 << 1 | 1 << 8, Region),
        // v2 PDE1 that says it is a PTE, with a reserved bit, misplaced.
        (MmuVersion::V2, 29, 1 | 2 << 1, PdeSize),
        (MmuVersion::V2, 29, 2 << 1 | 1 << 6, Pde),
        (MmuVersion::V2, 29, 1 << 1 | 1 << 33, Region),
        // v3: PCF of an invalid PTE, reserved bits, peer id, PDE PCF bit 2.
        (MmuVersion::V3, 12, 4 << 3, Pte),
        (MmuVersion::V3, 12, 1 | 2 << 1 | 1 << 52, Pte),
        (MmuVersion::V3, 12, 1 | 2 << 1 | 1 << 61, Ap),
        (MmuVersion::V3, 38, 2 << 1 | 1 << 5, Pde),
    ];
    for (version, shift, raw, want) in cases {
        let mut rig = rig(version);
        let mut tables = Tables::new(&mut rig, &[Aperture::Vid]);
        let at = if shift == 38 || (shift == 29 && version == MmuVersion::V2) {
            // The entry at that level, reached by hand.
            tables.entry(&mut rig, 0, 12);
            let mut at = tables.root;
            let levels: &[u32] = match version {
                MmuVersion::V2 => &[47, 38],
                MmuVersion::V3 => &[56, 47],
            };
            for _ in levels {
                let e = rig.read(at);
                let addr = match version {
                    MmuVersion::V2 => e >> 8 << 12,
                    MmuVersion::V3 => e >> 12 << 12,
                };
                at = PhysAddr::new(Aperture::Vid, addr);
            }
            at
        } else {
            tables.entry(&mut rig, 0, shift)
        };
        rig.write(at, raw);
        assert_eq!(rig.guest_errors(), 0);
        assert_eq!(
            load(&rig, tables.root, 0),
            Err(want),
            "{version:?} {shift} {raw:#x}"
        );
        assert_eq!(rig.guest_errors(), 1, "{version:?} {shift} {raw:#x}");
    }
}

#[test]
fn a_table_that_is_nowhere_is_a_guest_error() {
    both(|mut rig| {
        let root = rig.page(Aperture::Vid);
        let nowhere = PhysAddr::new(Aperture::SysCoherent, 0x2000);
        rig.write(root, pde(rig.version(), nowhere));
        assert_eq!(load(&rig, root, 0), Err(FaultType::Pde));
        assert_eq!(rig.guest_errors(), 1);
    });
}

#[derive(Clone, Debug)]
struct Mapping {
    va: u64,
    size: usize,
    aperture: usize,
    offset: u64,
    read_only: bool,
    no_atomic: bool,
}

fn mapping() -> impl Strategy<Value = Mapping> {
    (
        any::<u64>(),
        0..3usize,
        0..3usize,
        any::<u64>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(va, size, aperture, offset, read_only, no_atomic)| Mapping {
                va,
                size,
                aperture,
                offset,
                read_only,
                no_atomic,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    /// What the encoder maps, the walker finds, with its rights; and nothing
    /// beside it.
    #[test]
    fn walker_agrees_with_the_encoder(
        v3 in any::<bool>(),
        homes in 0..3usize,
        mappings in prop::collection::vec(mapping(), 1..6),
    ) {
        let mut rig = rig(if v3 { MmuVersion::V3 } else { MmuVersion::V2 });
        let bits = if v3 { 57 } else { 49 };
        let mut tables = Tables::new(&mut rig, &APERTURES[homes..]);
        let mut taken: Vec<u64> = Vec::new();
        for m in &mappings {
            let shift = [12, 16, 21][m.size];
            let va = m.va % (1 << bits) >> shift << shift;
            // One mapping for 2 MiB: mixed tables have a test of their own.
            if taken.contains(&(va >> 21)) || taken.len() > 4 {
                continue;
            }
            taken.push(va >> 21);
            let aperture = APERTURES[m.aperture];
            let to = rig.pages(aperture, 1 << (shift - 12), 1 << shift);
            let page = Page {
                read_only: m.read_only,
                no_atomic: m.no_atomic,
                ..Page::new(to, shift)
            };
            tables.map(&mut rig, va, &page);
            let offset = m.offset % (1 << shift) & !7;
            rig.write(to.offset(offset), m.va ^ 0x5555);
            let at = va + offset;
            prop_assert_eq!(load(&rig, tables.root, at), Ok(m.va ^ 0x5555));
            prop_assert_eq!(
                fault(&rig, tables.root, at, Access::Write),
                m.read_only.then_some(FaultType::ReadOnly)
            );
            let atomic = match (m.read_only, m.no_atomic) {
                (true, _) => Some(FaultType::ReadOnly),
                (_, true) => Some(FaultType::Atomic),
                _ => None,
            };
            prop_assert_eq!(fault(&rig, tables.root, at, Access::Atomic), atomic);
            let beside = (va + (1 << shift)) % (1 << bits);
            if !taken.contains(&(beside >> 21)) || beside >> 21 == va >> 21 {
                prop_assert!(load(&rig, tables.root, beside).is_err());
            }
        }
        prop_assert_eq!(rig.guest_errors(), 0);
    }
}
