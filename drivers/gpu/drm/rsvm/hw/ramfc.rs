// SPDX-License-Identifier: GPL-2.0

//! Instance block: RAMFC at its start, then page directories; and USERD.

use kernel::bitfield;

/// Bytes of an instance block.
pub(crate) const INSTANCE_SIZE: usize = 4096;

/// Byte offsets in an instance block.
pub(crate) mod offset {
    pub(crate) const USERD_LO: usize = 0x008;
    pub(crate) const USERD_HI: usize = 0x00c;
    pub(crate) const SIGNATURE: usize = 0x010;
    pub(crate) const ACQUIRE: usize = 0x030;
    pub(crate) const GP_BASE_LO: usize = 0x048;
    pub(crate) const GP_BASE_HI: usize = 0x04c;
    pub(crate) const FORMATS: usize = 0x084;
    pub(crate) const TARGET: usize = 0x094;
    pub(crate) const COPY_CONFIG: usize = 0x0e4;
    pub(crate) const CHID: usize = 0x0e8;
    pub(crate) const CONFIG: usize = 0x0f4;
    pub(crate) const METHOD_CONTROL: usize = 0x0f8;
    pub(crate) const CHANNEL_INFO: usize = 0x0fc;
    /// Page directory of the host and the copy engine.
    pub(crate) const PDB_LO: usize = 0x200;
    pub(crate) const ENGINE_VEID: usize = 0x218;
    /// Which subcontexts have a page directory, 64 bits.
    pub(crate) const SUBCONTEXTS: usize = 0x298;
    /// Page directory of subcontext 0; 16 bytes for each.
    pub(crate) const SUBCONTEXT_PDB: usize = 0x2a0;
    pub(crate) const SUBCONTEXT_STRIDE: usize = 16;
}

/// Constants as nouveau writes them.
pub(crate) mod value {
    pub(crate) const SIGNATURE: u32 = 0xface;
    pub(crate) const ACQUIRE: u32 = 0x7fff_f902;
    pub(crate) const FORMATS: u32 = 0x2040_0000;
    pub(crate) const TARGET: u32 = 0x3000_0fff;
    pub(crate) const METHOD_CONTROL: u32 = 0x1000_3080;
}

/// Aperture of an instance block, of USERD, of a page directory, of a runlist.
pub(crate) const TARGET_SYS_COHERENT: u32 = 2;
/// A page directory that is none.
pub(crate) const TARGET_INVALID: u32 = 1;

bitfield! {
    /// `offset::USERD_LO`.
    pub(crate) struct UserdLo(u32) {
        31:9 addr;
        1:0 target;
    }
}

bitfield! {
    /// `offset::GP_BASE_HI`.
    pub(crate) struct GpBaseHi(u32) {
        20:16 log2_entries;
        7:0 addr;
    }
}

bitfield! {
    /// `offset::COPY_CONFIG`.
    pub(crate) struct CopyConfig(u32) {
        5:5 physical => bool;
    }
}

bitfield! {
    /// `offset::CONFIG`.
    pub(crate) struct Config(u32) {
        12:12 userd_writeback => bool;
        8:8 privileged => bool;
    }
}

bitfield! {
    /// `offset::CHANNEL_INFO`.
    pub(crate) struct ChannelInfo(u32) {
        27:16 chid;
        13:8 veid;
    }
}

bitfield! {
    /// Low word of a page directory base.
    pub(crate) struct PdbLo(u32) {
        31:12 addr;
        11:11 big_64k => bool;
        10:10 version_2 => bool;
        5:5 replay_fetch => bool;
        4:4 replay_data => bool;
        2:2 volatile => bool;
        1:0 target;
    }
}

/// USERD, by 32-bit word.
pub(crate) mod userd {
    /// Bytes; it is aligned to that.
    pub(crate) const SIZE: usize = 512;
    pub(crate) const GP_GET: usize = 0x88 / 4;
    pub(crate) const GP_PUT: usize = 0x8c / 4;
}

bitfield! {
    /// First word of a GP entry.
    pub(crate) struct GpEntryLo(u32) {
        31:2 addr;
    }
}

bitfield! {
    /// Second word of a GP entry. The length is in 32-bit words.
    pub(crate) struct GpEntryHi(u32) {
        31:31 sync => bool;
        30:10 length;
        9:9 subroutine => bool;
        7:0 addr;
    }
}
