// SPDX-License-Identifier: GPL-2.0

//! Fault packets (class clc369).

use kernel::bitfield;

/// 32-bit words of a packet.
pub(crate) const PACKET_WORDS: usize = 8;
/// The word of a packet that has VALID, and is cleared when the packet was read.
pub(crate) const VALID_WORD: usize = 7;

bitfield! {
    /// Word 7 of a packet.
    pub(crate) struct FaultStatus(u32) {
        31:31 valid => bool;
        30:30 replay_enabled => bool;
        28:24 gpc;
        20:20 hub => bool;
        19:16 access;
        14:8 client;
        7:7 replayable => bool;
        4:0 kind;
    }
}

bitfield! {
    /// Word 6 of a packet.
    pub(crate) struct FaultEngine(u32) {
        8:0 id;
    }
}

bitfield! {
    /// Word 2 of a packet.
    pub(crate) struct FaultAddress(u32) {
        31:12 page;
        1:0 aperture;
    }
}

/// Values of [`FaultStatus::access`].
pub(crate) mod access {
    pub(crate) const WRITE: u32 = 1;
    pub(crate) const ATOMIC_STRONG: u32 = 2;
    pub(crate) const ATOMIC_WEAK: u32 = 4;
    pub(crate) const PHYS_READ: u32 = 8;
}

/// Values of [`FaultStatus::kind`].
pub(crate) mod kind {
    pub(crate) const PDE: u32 = 0;
    pub(crate) const PTE: u32 = 2;
    pub(crate) const VA_LIMIT: u32 = 3;
    pub(crate) const PRIVILEGE: u32 = 5;
    pub(crate) const READ_ONLY: u32 = 6;
    pub(crate) const POISON: u32 = 0xe;
    pub(crate) const ATOMIC: u32 = 0xf;
}

/// Client that fetches instructions.
pub(crate) const CLIENT_GCC: u32 = 0x11;
