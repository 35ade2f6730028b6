// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The 32-byte fault packet (clc369).

use crate::mmu::Fault;

/// Size of a packet in bytes.
pub const PACKET_BYTES: u64 = 32;
/// VALID in the last dword.
pub const VALID: u32 = 1 << 31;

/// A packet's dwords, VALID set. `timestamp` is in nanoseconds.
pub fn encode(fault: &Fault, timestamp: u64) -> [u32; 8] {
    let inst = fault.space.inst;
    [
        (inst.addr as u32 & !0xfff) | inst.aperture.target() << 8,
        (inst.addr >> 32) as u32,
        fault.va as u32 & !0xfff,
        (fault.va >> 32) as u32,
        timestamp as u32,
        (timestamp >> 32) as u32,
        u32::from(fault.space.engine) & 0x1ff,
        fault.ty as u32
            | u32::from(fault.replayable) << 7
            | u32::from(fault.client.id & 0x7f) << 8
            | fault.access.code() << 16
            | u32::from(fault.client.hub) << 20
            | u32::from(fault.client.gpc & 0x1f) << 24
            | u32::from(fault.space.replay_data) << 30
            | VALID,
    ]
}
