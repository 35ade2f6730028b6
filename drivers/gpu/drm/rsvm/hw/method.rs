// SPDX-License-Identifier: GPL-2.0

//! Methods: what a pushbuffer is made of.

use kernel::{
    bitfield,
    prelude::*, //
};

bitfield! {
    /// The word in front of the data of methods.
    pub(crate) struct Header(u32) {
        31:29 op;
        28:16 count;
        15:13 subchannel;
        11:0 method;
    }
}

/// Data go to this method and the ones after it.
const OP_INCREASING: u32 = 1;

/// Header for `count` words of data that go to `method`, a byte address, and those after it.
pub(crate) fn increasing(subchannel: u32, method: u32, count: usize) -> u32 {
    // CAST: Callers push a handful of words.
    Header::zeroed()
        .with_const_op::<OP_INCREASING>()
        .try_with_count(count as u32)
        .and_then(|h| h.try_with_subchannel(subchannel))
        .and_then(|h| h.try_with_method(method / 4))
        .map_or(0, Header::into_raw)
}

/// Methods of the host.
pub(crate) mod host {
    pub(crate) const SET_OBJECT: u32 = 0x00;
    pub(crate) const MEM_OP_A: u32 = 0x28;
    pub(crate) const SEM_ADDR_LO: u32 = 0x5c;
}

bitfield! {
    pub(crate) struct MemOpA(u32) {
        31:12 va_lo;
        11:11 sysmembar => bool;
        /// log2 of the pages of 4 KiB to invalidate.
        5:0 size;
    }
}

bitfield! {
    /// `MEM_OP_A` of a cancel by address.
    pub(crate) struct MemOpACancel(u32) {
        31:12 va_lo;
        11:11 sysmembar => bool;
        8:0 engine;
    }
}

bitfield! {
    pub(crate) struct MemOpC(u32) {
        31:12 pdb_lo;
        11:10 pdb_aperture;
        /// The last level that is invalidated, or, when cancelling, which accesses.
        9:7 level;
        6:5 ack;
        4:2 replay;
        0:0 all_pdbs => bool;
    }
}

bitfield! {
    pub(crate) struct MemOpD(u32) {
        31:27 op;
        26:0 pdb_hi;
    }
}

/// Values of the fields of `MEM_OP_C` and `MEM_OP_D`.
pub(crate) mod mem_op {
    pub(crate) const OP_INVALIDATE: u32 = 9;
    pub(crate) const OP_INVALIDATE_TARGETED: u32 = 10;
    pub(crate) const APERTURE_SYS_COHERENT: u32 = 2;
    pub(crate) const ACK_GLOBALLY: u32 = 1;
    pub(crate) const REPLAY_START: u32 = 1;
    pub(crate) const REPLAY_START_ACK_ALL: u32 = 2;
    pub(crate) const REPLAY_CANCEL_VA_GLOBAL: u32 = 5;
    pub(crate) const LEVEL_PTE_ONLY: u32 = 1;
    pub(crate) const CANCEL_ATOMIC_ALL: u32 = 5;
    pub(crate) const CANCEL_WRITE_AND_ATOMIC: u32 = 6;
    pub(crate) const CANCEL_ALL: u32 = 7;
}

bitfield! {
    /// `SEM_EXECUTE`.
    pub(crate) struct SemExecute(u32) {
        24:24 payload_64bit => bool;
        2:0 op;
    }
}

/// `SEM_EXECUTE`: write the payload.
pub(crate) const SEM_RELEASE: u32 = 1;

/// The compute engine's class.
pub(crate) mod compute {
    pub(crate) const CLASS: u32 = 0xf0c0;
    /// First of address (low, high), payload (low, high), and RELEASE.
    pub(crate) const SEM_ADDR_LO: u32 = 0x1b00;

    kernel::bitfield! {
        /// RELEASE.
        pub(crate) struct Release(u32) {
            0:0 awaken => bool;
        }
    }
}
