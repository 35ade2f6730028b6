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

/// The copy engine's class.
pub(crate) mod copy {
    pub(crate) const CLASS: u32 = 0xc5b5;
    /// Semaphore: address (high, low) and payload of 32 bits.
    pub(crate) const SEMAPHORE: u32 = 0x240;
    /// Where physical addresses lie: source, then destination.
    pub(crate) const SRC_PHYS_MODE: u32 = 0x260;
    pub(crate) const DST_PHYS_MODE: u32 = 0x264;
    pub(crate) const LAUNCH_DMA: u32 = 0x300;
    /// Addresses of source and destination, each high, low.
    pub(crate) const OFFSET_IN: u32 = 0x400;
    pub(crate) const OFFSET_OUT: u32 = 0x408;
    /// Elements to copy: bytes, unless remapped.
    pub(crate) const LINE_LENGTH_IN: u32 = 0x418;
    /// Constants A and B, then [`Remap`].
    pub(crate) const REMAP: u32 = 0x700;

    /// Values of the physical modes.
    pub(crate) const MODE_LOCAL_FB: u32 = 0;
    pub(crate) const MODE_COHERENT_SYSMEM: u32 = 1;

    /// Values of fields of [`Launch`].
    pub(crate) const TRANSFER_NONE: u32 = 0;
    pub(crate) const TRANSFER_PIPELINED: u32 = 1;
    pub(crate) const RELEASE_ONE_WORD: u32 = 1;
    pub(crate) const INTERRUPT_NON_BLOCKING: u32 = 2;

    kernel::bitfield! {
        /// `LAUNCH_DMA`.
        pub(crate) struct Launch(u32) {
            13:13 dst_physical => bool;
            12:12 src_physical => bool;
            10:10 remap => bool;
            /// Linear, not block-linear.
            8:8 dst_pitch => bool;
            7:7 src_pitch => bool;
            6:5 interrupt;
            4:3 semaphore;
            /// Makes what was written visible to all before the semaphore.
            2:2 flush => bool;
            1:0 transfer;
        }
    }

    /// Source of a component: constant A.
    pub(crate) const CONST_A: u32 = 4;

    kernel::bitfield! {
        /// What the elements of a remapped copy are made of.
        pub(crate) struct Remap(u32) {
            25:24 dst_components_minus_one;
            17:16 component_bytes_minus_one;
            14:12 w;
            10:8 z;
            6:4 y;
            2:0 x;
        }
    }
}
