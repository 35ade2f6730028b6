// SPDX-License-Identifier: GPL-2.0 OR MIT
//! BAR0: which register belongs to which unit.

use crate::config::MmuVersion;
use crate::core::Core;
use crate::fault::{Maintenance, Replay, Source, NON_REPLAYABLE, REPLAYABLE};
use crate::inject;
use crate::intr::{
    LEAVES, VECTOR_INFO_FAULT, VECTOR_NON_REPLAYABLE, VECTOR_NON_REPLAYABLE_ERROR,
    VECTOR_REPLAYABLE, VECTOR_REPLAYABLE_ERROR,
};
use crate::mem::{Aperture, PhysAddr};
use crate::mmu::{Cancel, Client, Invalidate};
use std::sync::atomic::{AtomicU32, Ordering};

/// Write 1: as a function-level reset.
pub const SOFT_RESET: u32 = 0xf0_001c;
/// What a register that does not exist reads.
const NO_REGISTER: u32 = 0xbadf_0000;

const LEAF: u32 = 0xb8_1000;
const LEAF_EN_SET: u32 = 0xb8_1200;
const LEAF_EN_CLEAR: u32 = 0xb8_1400;
const LEAF_END: u32 = 4 * LEAVES as u32;

/// Registers that only hold what was written: the operands of the two
/// invalidate triggers.
const PLAIN: [u32; 7] = [
    0x10_0cb4, 0x10_0ce8, 0x10_0cb8, 0x10_0cec, 0x10_0e68, 0xb8_30a0, 0xb8_30a4,
];

/// Values of [`PLAIN`].
#[derive(Default)]
pub struct Plain([AtomicU32; PLAIN.len()]);

impl Plain {
    fn slot(&self, offset: u32) -> Option<&AtomicU32> {
        let i = PLAIN.iter().position(|&o| o == offset)?;
        Some(&self.0[i])
    }

    fn get(&self, offset: u32) -> u32 {
        self.slot(offset).map_or(0, |r| r.load(Ordering::SeqCst))
    }

    pub fn reset(&self) {
        for register in &self.0 {
            register.store(0, Ordering::SeqCst);
        }
    }
}

/// Reads the register at byte `offset`.
pub fn read(core: &Core, offset: u32) -> u32 {
    if let Some(value) = core
        .host
        .read(offset)
        .or_else(|| inject::read(core, offset))
        .or_else(|| core.mmu.counters().read(offset))
    {
        return value;
    }
    if let Some(register) = core.plain.slot(offset) {
        return register.load(Ordering::SeqCst);
    }
    let faults = &core.faults;
    let value = match offset {
        0 => match core.mmu.version() {
            MmuVersion::V2 => 0x1620_00a1,
            MmuVersion::V3 => 0x1800_00a1,
        },
        0x10_0ce0 => local_memory_range(core.mem.vram().len()),
        0x10_0cbc => trigger(faults.trigger_pending(Source::Pf)),
        0xb8_30b0 => trigger(faults.trigger_pending(Source::Virt)),
        0x10_0ee0 => VECTOR_INFO_FAULT,
        0x10_0ee4 => VECTOR_NON_REPLAYABLE << 16 | VECTOR_NON_REPLAYABLE_ERROR,
        0x10_0ee8 => VECTOR_REPLAYABLE << 16 | VECTOR_REPLAYABLE_ERROR,
        0xb8_3000..=0xb8_303c => {
            let (i, reg) = fault_buffer(offset);
            return faults
                .read_register(i, reg)
                .unwrap_or_else(|| missing(core, offset));
        }
        0xb8_3070 => faults.prefetch_filter(),
        0xb8_3080..=0xb8_3090 => faults.snapshot_word((offset - 0xb8_3080) as usize / 4),
        0xb8_3094 => faults.status(),
        0xb8_1600 => core.intr.top(),
        0xb8_1608 | 0xb8_1610 => core.intr.top_enabled(),
        0xb8_1640 => 0,
        0xf0_0000 => core.config.groups * core.config.harts_per_group,
        0xf0_0004 => core.config.harts_per_group,
        0xf0_0010 => core.mmu.stale_hits() as u32,
        0xf0_0014 => core.atomics.lost_updates() as u32,
        0xf0_0018 => core.errors.count(),
        SOFT_RESET => 0,
        _ => match leaf(offset) {
            Some((LEAF, i)) => core.intr.leaf(i),
            Some((_, i)) => core.intr.leaf_enabled(i),
            None => return missing(core, offset),
        },
    };
    value
}

/// Writes the register at byte `offset`.
pub fn write(core: &Core, offset: u32, value: u32) {
    if core.host.write(core, offset, value)
        || inject::write(core, offset, value)
        || core.mmu.write_counters(offset, value)
    {
        return;
    }
    if let Some(register) = core.plain.slot(offset) {
        return register.store(value, Ordering::SeqCst);
    }
    match offset {
        0x10_0cbc => start(core, Source::Pf, value),
        0xb8_30b0 => start(core, Source::Virt, value),
        0xb8_3000..=0xb8_303c => {
            let (i, reg) = fault_buffer(offset);
            if !core.faults.write_register(core, i, reg, value) {
                missing(core, offset);
            }
        }
        0xb8_3070 => core.faults.set_prefetch_filter(value),
        0xb8_3094 if value >> 31 == 1 => core.faults.clear_snapshot(),
        0xb8_3094 => {}
        0xb8_1608 => core.intr.enable_top(value),
        0xb8_1610 => core.intr.disable_top(value),
        0xb8_1640 => core.intr.raise(value),
        _ => match leaf(offset) {
            Some((LEAF, i)) => core.intr.clear_leaf(i, value),
            Some((LEAF_EN_SET, i)) => core.intr.enable_leaf(i, value),
            Some((_, i)) => core.intr.disable_leaf(i, value),
            None => {
                missing(core, offset);
            }
        },
    }
}

fn missing(core: &Core, offset: u32) -> u32 {
    core.errors
        .report(format_args!("no register at {offset:#x}, or not writable"));
    NO_REGISTER
}

fn trigger(pending: bool) -> u32 {
    u32::from(pending) << 31
}

/// Bank and index of an interrupt leaf register.
fn leaf(offset: u32) -> Option<(u32, usize)> {
    [LEAF, LEAF_EN_SET, LEAF_EN_CLEAR]
        .into_iter()
        .find(|&base| (base..base + LEAF_END).contains(&offset))
        .map(|base| (base, (offset - base) as usize / 4))
}

/// Index of the fault buffer, and of its register.
fn fault_buffer(offset: u32) -> (usize, u32) {
    let i = if offset < 0xb8_3020 {
        NON_REPLAYABLE
    } else {
        REPLAYABLE
    };
    (i, offset % 0x20 / 4)
}

/// `mag(9:4) << (scale(3:0) + 20)` bytes.
fn local_memory_range(bytes: u64) -> u32 {
    let mib = (bytes >> 20).max(1);
    let scale = mib.trailing_zeros().min(15);
    ((mib >> scale) as u32 & 0x3f) << 4 | scale
}

/// A write of an invalidate trigger register.
fn start(core: &Core, source: Source, value: u32) {
    if value >> 31 == 0 {
        return;
    }
    if core.faults.trigger_pending(source) {
        core.errors
            .report(format_args!("invalidate triggered while one is pending"));
    }
    match decode(core, source, value) {
        Ok(op) => core.faults.trigger(source, op),
        Err(what) => core
            .errors
            .report(format_args!("invalidate trigger {value:#x}: {what}")),
    }
}

/// The operation a trigger value asks for. A cancel by address takes its engine
/// id from bits 17:9, where other cancels have client and GPC.
fn decode(core: &Core, source: Source, value: u32) -> Result<Maintenance, &'static str> {
    let bit = |n: u32| value >> n & 1 == 1;
    let plain = &core.plain;
    let (pdb, va) = match source {
        Source::Virt => ((plain.get(0xb8_30a0), plain.get(0xb8_30a4)), 0),
        Source::Pf => (
            (plain.get(0x10_0cb8), plain.get(0x10_0cec)),
            u64::from(plain.get(0x10_0cb4) >> 4) << 12
                | u64::from(plain.get(0x10_0ce8) & 0xf_ffff) << 40,
        ),
    };
    let aperture = if pdb.0 & 2 != 0 {
        Aperture::SysCoherent
    } else {
        Aperture::Vid
    };
    let addr = u64::from(pdb.0 >> 4) << 12 | u64::from(pdb.1) << 40;
    let pdb = (!bit(1)).then_some(PhysAddr::new(aperture, addr));
    if bit(21) {
        return Err("no PASIDs here (bit 21)");
    }
    let all_va = bit(0);
    if !all_va && source == Source::Virt {
        return Err("no address registers here, ALL_VA (bit 0) must be set");
    }
    let client = Client {
        id: (value >> 9 & 0x3f) as u8,
        hub: bit(20),
        gpc: (value >> 15 & 0x1f) as u8,
    };
    let level = value >> 24 & 7;
    let replay = match value >> 3 & 7 {
        0 => Replay::None,
        1 => Replay::Start,
        2 => Replay::StartAckAll,
        3 => Replay::Cancel(Cancel::Targeted(client)),
        4 => Replay::Cancel(Cancel::Global),
        5 if !all_va => Replay::Cancel(Cancel::Va {
            pdb,
            va,
            engine: (value >> 9 & 0x1ff) as u16,
            access: crate::host::cancel_access(level).ok_or("access (bits 26:24)")?,
        }),
        5 => return Err("cancel by address with ALL_VA (bit 0)"),
        _ => return Err("replay (bits 5:3)"),
    };
    let range = if all_va {
        None
    } else {
        let pages = if bit(22) {
            plain.get(0x10_0e68) & 0x3f
        } else {
            0
        };
        let shift = 12 + pages;
        if shift > 63 {
            return Err("size");
        }
        let first = va >> shift << shift;
        Some((first, first + ((1 << shift) - 1)))
    };
    let cancel = matches!(replay, Replay::Cancel(_));
    Ok(Maintenance {
        invalidate: Invalidate {
            pdb,
            range,
            level: if cancel { 0 } else { level as u8 },
            hub_only: bit(2),
        },
        replay,
        ack: value >> 7 & 3 != 0,
        sys_membar: bit(6),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_range_says_the_size() {
        for bytes in [1 << 20, 256 << 20, 3 << 30, 64 << 30_u64] {
            let reg = local_memory_range(bytes);
            let (mag, scale) = (u64::from(reg >> 4 & 0x3f), reg & 0xf);
            assert_eq!(mag << (scale + 20), bytes);
        }
    }
}
