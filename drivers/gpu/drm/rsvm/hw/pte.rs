// SPDX-License-Identifier: GPL-2.0

//! Page-table entries of MMU v2 (Pascal to Ampere) and v3 (Hopper).

use kernel::bitfield;

/// Aperture of a page directory entry.
pub(crate) const PDE_SYS_COHERENT: u64 = 2;
/// Aperture of a PTE in device memory.
pub(crate) const PTE_VID: u64 = 0;
/// Aperture of a PTE in system memory.
pub(crate) const PTE_SYS_COHERENT: u64 = 2;
/// Plain, uncompressed memory.
pub(crate) const KIND_GENERIC: u64 = 6;

bitfield! {
    /// A directory entry of MMU v2 above PDE0, and the half of PDE0 with the 4 KiB table.
    pub(crate) struct PdeV2(u64) {
        53:8 frame;
        3:3 volatile => bool;
        2:1 aperture;
        0:0 is_pte => bool;
    }
}

bitfield! {
    /// The half of a PDE0 of MMU v2 with the 64 KiB table, which is aligned to 256 bytes only.
    pub(crate) struct BigPdeV2(u64) {
        53:4 frame;
        3:3 volatile => bool;
        2:1 aperture;
        0:0 is_pte => bool;
    }
}

bitfield! {
    /// A PTE of MMU v2, of any page size.
    pub(crate) struct PteV2(u64) {
        63:56 kind;
        53:8 frame;
        7:7 atomic_disable => bool;
        6:6 read_only => bool;
        5:5 privileged => bool;
        3:3 volatile => bool;
        2:1 aperture;
        0:0 valid => bool;
    }
}

bitfield! {
    /// A directory entry of MMU v3 above PDE0, and the half of PDE0 with the 4 KiB table.
    pub(crate) struct PdeV3(u64) {
        51:12 frame;
        /// ATS-not-allowed.
        4:4 no_ats => bool;
        3:3 uncached => bool;
        2:1 aperture;
        0:0 is_pte => bool;
    }
}

bitfield! {
    /// The half of a PDE0 of MMU v3 with the 64 KiB table.
    pub(crate) struct BigPdeV3(u64) {
        51:8 frame;
        4:4 no_ats => bool;
        3:3 uncached => bool;
        2:1 aperture;
        0:0 is_pte => bool;
    }
}

bitfield! {
    /// A PTE of MMU v3, of any page size. Bits 7:3 are the page classification field.
    pub(crate) struct PteV3(u64) {
        51:12 frame;
        11:8 kind;
        7:7 access_counter_disabled => bool;
        6:6 no_atomic => bool;
        5:5 read_only => bool;
        4:4 privileged => bool;
        3:3 uncached => bool;
        2:1 aperture;
        0:0 valid => bool;
    }
}
