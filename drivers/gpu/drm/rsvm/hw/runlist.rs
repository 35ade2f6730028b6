// SPDX-License-Identifier: GPL-2.0

//! Entries of a runlist: a group (TSG) and the channels in it.

use super::ramfc::TARGET_SYS_COHERENT;
use kernel::{
    bitfield,
    prelude::*, //
};

/// 32-bit words of an entry.
pub(crate) const ENTRY_WORDS: usize = 4;

/// Scale and timeout of a time slice, as nouveau sets them.
const TIMESLICE_SCALE: u32 = 3;
const TIMESLICE_TIMEOUT: u32 = 128;

bitfield! {
    /// Word 0 of a group.
    struct Group0(u32) {
        31:24 timeout;
        19:16 scale;
        0:0 group => bool;
    }
}

bitfield! {
    /// Word 0 of a channel.
    struct Channel0(u32) {
        31:8 userd;
        7:6 userd_target;
        5:4 inst_target;
        1:1 runqueue => bool;
        0:0 group => bool;
    }
}

bitfield! {
    /// Word 2 of a channel.
    struct Channel2(u32) {
        31:12 inst;
        11:0 chid;
    }
}

/// The group `id` with one channel.
pub(crate) fn group(id: u32) -> [u32; ENTRY_WORDS] {
    let word0 = Group0::zeroed()
        .with_const_timeout::<TIMESLICE_TIMEOUT>()
        .with_const_scale::<TIMESLICE_SCALE>()
        .with_group(true);
    [word0.into_raw(), 1, id & 0xfff, 0]
}

/// The channel `chid`, whose instance block and USERD have these bus addresses.
pub(crate) fn channel(chid: u32, inst: u64, userd: u64) -> [u32; ENTRY_WORDS] {
    // CAST: Addresses are split into their words. USERD is aligned to 512 bytes, an instance
    // block to a page, so the low bits of neither are lost.
    let word0 = Channel0::from_raw(userd as u32 & Channel0::USERD_MASK)
        .with_const_userd_target::<TARGET_SYS_COHERENT>()
        .with_const_inst_target::<TARGET_SYS_COHERENT>();
    let word2 = Channel2::from_raw(inst as u32 & Channel2::INST_MASK | chid & 0xfff);
    [
        word0.into_raw(),
        (userd >> 32) as u32,
        word2.into_raw(),
        (inst >> 32) as u32,
    ]
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_hw_runlist)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        // Timeout 128 in 31:24, scale 3 in 19:16, bit 0; one channel.
        assert_eq!(group(5), [0x8003_0001, 1, 5, 0]);
        // USERD 0x1_2345_6800: target 2 in 7:6, instance target 2 in 5:4.
        assert_eq!(
            channel(7, 0x2_89ab_c000, 0x1_2345_6800),
            [0x2345_68a0, 1, 0x89ab_c007, 2]
        );
    }
}
