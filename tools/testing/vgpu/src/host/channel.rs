// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a channel's instance block (RAMIN, RAMFC) says.

use super::{RUNLIST_KERNEL, RUNLIST_USER};
use crate::config::MmuVersion;
use crate::mem::{Aperture, MemGuard, NoMemory, PhysAddr};
use crate::mmu::Space;

/// A channel as its PBDMA has loaded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub chid: u32,
    pub inst: PhysAddr,
    pub userd: PhysAddr,
    /// GPU virtual address of the ring, 40 bits, and its entries.
    pub gp_base: u64,
    pub gp_entries: u32,
    /// MEM_OP is allowed.
    pub privileged: bool,
    /// Physical copies are allowed.
    pub physical_copy: bool,
    /// How long an acquire may take, if limited, in nanoseconds.
    pub acquire_ns: Option<u64>,
    pub veid: u8,
    /// Through which the PBDMA itself reads and writes.
    pub host: Space,
    /// Through which the runlist's engine does: the copy engine, or compute by
    /// subcontext.
    pub engine: Space,
}

/// Why an instance block is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadInstance {
    #[error(transparent)]
    Unreadable(#[from] NoMemory),
    #[error("RAMFC {offset:#05x} is {value:#x}: {what}")]
    Field {
        offset: u64,
        value: u32,
        what: &'static str,
    },
}

struct Block<'a> {
    mem: &'a MemGuard<'a>,
    inst: PhysAddr,
}

impl Block<'_> {
    fn read(&self, offset: u64) -> Result<u32, BadInstance> {
        Ok(self.mem.read_u32(self.inst.offset(offset))?)
    }

    /// Reads a field that `ok` must accept.
    fn check(
        &self,
        offset: u64,
        what: &'static str,
        ok: impl Fn(u32) -> bool,
    ) -> Result<u32, BadInstance> {
        let value = self.read(offset)?;
        if ok(value) {
            Ok(value)
        } else {
            Err(BadInstance::Field {
                offset,
                value,
                what,
            })
        }
    }

    /// The address space whose PDB is at `offset`.
    fn space(&self, offset: u64, engine: u16, privileged: bool) -> Result<Space, BadInstance> {
        let lo = self.read(offset)?;
        let hi = self.read(offset + 4)?;
        let pdb = match Aperture::from_target(lo) {
            None => None,
            Some(aperture) => {
                self.check(offset, "page tables must be VER2 (bit 10)", |v| {
                    v & 1 << 10 != 0
                })?;
                self.check(offset, "big pages must be 64 KiB (bit 11)", |v| {
                    v & 1 << 11 != 0
                })?;
                let addr = u64::from(hi) << 32 | u64::from(lo & !0xfff);
                Some(PhysAddr::new(aperture, addr).canonical())
            }
        };
        Ok(Space {
            inst: self.inst,
            pdb,
            engine,
            replay_data: lo & 1 << 4 != 0,
            replay_fetch: lo & 1 << 5 != 0,
            privileged,
        })
    }
}

/// Engine ids in fault packets.
pub fn engine_host(version: MmuVersion, runlist: usize) -> u16 {
    runlist as u16
        + match version {
            MmuVersion::V2 => 32,
            MmuVersion::V3 => 64,
        }
}

pub fn engine_copy(version: MmuVersion) -> u16 {
    match version {
        MmuVersion::V2 => 15,
        MmuVersion::V3 => 43,
    }
}

pub fn engine_compute(version: MmuVersion, veid: u8) -> u16 {
    u16::from(veid)
        + match version {
            MmuVersion::V2 => 64,
            MmuVersion::V3 => 384,
        }
}

/// Reads the instance block of channel `chid` at `inst`.
///
/// # Errors
///
/// What is wrong with it, by the byte offset of the field.
pub fn load(
    mem: &MemGuard<'_>,
    version: MmuVersion,
    runlist: usize,
    chid: u32,
    inst: PhysAddr,
) -> Result<Loaded, BadInstance> {
    let block = Block { mem, inst };
    let userd = block.check(0x008, "USERD target", |v| {
        Aperture::from_target(v).is_some()
    })?;
    let userd_hi = block.read(0x00c)? & 0xff;
    block.check(0x010, "signature must be 0xface", |v| v == 0xface)?;
    let acquire = block.read(0x030)?;
    let gp_base = block.check(0x048, "ring must be 8-byte aligned", |v| v & 7 == 0)?;
    let gp_hi = block.check(0x04c, "reserved bits 15:8, 31:21", |v| v & 0xffe0_ff00 == 0)?;
    block.check(0x0e8, "chid", |v| v & 0xfff == chid)?;
    let config = block.check(0x0fc, "chid (27:16)", |v| v >> 16 & 0xfff == chid)?;
    let veid = (config >> 8 & 0x3f) as u8;
    block.check(0x218, "VEID (5:0) other than in 0x0fc", |v| {
        v & 0x3f == u32::from(veid)
    })?;
    block.check(0x21c, "ATS (bit 31)", |v| v >> 31 == 0)?;
    let privileged = block.read(0x0f4)? & 1 << 8 != 0;
    let plain = |space: Space| Space {
        replay_data: false,
        replay_fetch: false,
        ..space
    };
    let host = plain(block.space(0x200, engine_host(version, runlist), privileged)?);
    let engine = if runlist == RUNLIST_USER {
        let word = 0x298 + u64::from(veid / 32) * 4;
        block.check(word, "subcontext not valid", |v| v >> (veid % 32) & 1 == 1)?;
        let pdb = 0x2a0 + 16 * u64::from(veid);
        block.space(pdb, engine_compute(version, veid), false)?
    } else {
        debug_assert_eq!(runlist, RUNLIST_KERNEL);
        Space {
            engine: engine_copy(version),
            ..host
        }
    };
    let aperture = Aperture::from_target(userd).unwrap_or(Aperture::Vid);
    Ok(Loaded {
        chid,
        inst,
        userd: PhysAddr::new(
            aperture,
            u64::from(userd_hi) << 32 | u64::from(userd & !0x1ff),
        ),
        gp_base: u64::from(gp_hi & 0xff) << 32 | u64::from(gp_base),
        gp_entries: 1 << (gp_hi >> 16 & 0x1f),
        privileged,
        physical_copy: block.read(0x0e4)? & 1 << 5 != 0,
        // Bit 31 turns the limit on: mantissa 30:15, exponent 14:11.
        acquire_ns: (acquire >> 31 == 1)
            .then(|| u64::from(acquire >> 15 & 0xffff) << (acquire >> 11 & 0xf) << 10),
        veid,
        host,
        engine,
    })
}
