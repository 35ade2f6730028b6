// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Where a PBDMA is in its channel, as RAMFC keeps it while the channel is off
//! the engine. What the engines themselves know of a channel stays inside.
//!
//! Source: NVIDIA open-gpu-doc, dev_ram and dev_pbdma.

use super::pbdma::{Context, Header, Method, Segment};
use super::schedule::Stop;
use super::StopReason;
use crate::core::Core;
use crate::mem::{MemGuard, NoMemory, PhysAddr};

const GP_PUT: u64 = 0x000;
const GP_GET: u64 = 0x014;
const PB_GET: u64 = 0x018;
const PB_PUT: u64 = 0x05c;
const PB_HEADER: u64 = 0x084;
const PB_COUNT: u64 = 0x088;

/// Addresses in GPU virtual bytes, 40 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub gp_get: u32,
    pub gp_put: u32,
    /// What of the pushbuffer segment is still to be executed.
    pub pb_get: u64,
    pub pb_put: u64,
    /// The method header whose data are next, if any.
    pub header: Option<Header>,
}

impl Position {
    pub fn store(&self, mem: &MemGuard<'_>, inst: PhysAddr) -> Result<(), NoMemory> {
        let write = |offset, value| mem.write_u32(inst.offset(offset), value);
        write(GP_PUT, self.gp_put)?;
        write(GP_GET, self.gp_get)?;
        for (offset, va) in [(PB_GET, self.pb_get), (PB_PUT, self.pb_put)] {
            write(offset, va as u32)?;
            write(offset + 4, (va >> 32) as u32)?;
        }
        let (header, count) = self.header.map_or((0, 0), |h| (encode(&h), h.left));
        write(PB_HEADER, header)?;
        write(PB_COUNT, count)
    }

    pub fn load(mem: &MemGuard<'_>, inst: PhysAddr) -> Result<Self, NoMemory> {
        let read = |offset| mem.read_u32(inst.offset(offset));
        let address =
            |offset| Ok(u64::from(read(offset + 4)? & 0xff) << 32 | u64::from(read(offset)? & !3));
        let (header, count) = (read(PB_HEADER)?, read(PB_COUNT)? & 0x1fff);
        Ok(Self {
            gp_get: read(GP_GET)?,
            gp_put: read(GP_PUT)?,
            pb_get: address(PB_GET)?,
            pb_put: address(PB_PUT)?,
            header: (count != 0).then(|| decode(header, count)),
        })
    }
}

/// TYPE 31:29, SUBCHANNEL 18:16, METHOD 13:2.
fn encode(header: &Header) -> u32 {
    let ty = match header.advance {
        0 => 3,
        1 => 5,
        _ => 1,
    };
    ty << 29 | (header.method.subchannel as u32) << 16 | header.method.address
}

fn decode(header: u32, left: u32) -> Header {
    Header {
        method: Method {
            subchannel: (header >> 16 & 7) as usize,
            address: header & 0x3ffc,
            data: 0,
        },
        left,
        advance: match header >> 29 {
            3 => 0,
            5 => 1,
            _ => u32::MAX,
        },
    }
}

impl Context {
    /// The channel leaves the engine: where it goes on is in RAMFC from now.
    pub fn save(&mut self, core: &Core) {
        if std::mem::replace(&mut self.saved, true) {
            return;
        }
        let fetched = self.fetched.len() as u64 + u64::from(self.retry.is_some());
        let left = fetched + self.segment.as_ref().map_or(0, |s| s.dwords.into());
        let position = Position {
            gp_get: self.get,
            gp_put: self.put,
            pb_get: self.segment_end - 4 * left,
            pb_put: self.segment_end,
            header: match self.retry {
                Some(_) => self.header_before,
                None => self.header,
            },
        };
        if let Err(err) = position.store(&core.mem.enter(), self.channel.inst) {
            core.errors.report(format_args!("RAMFC: {err}"));
        }
    }

    /// The channel goes on as RAMFC says.
    pub(super) fn load(&mut self, core: &Core) -> Result<(), Stop> {
        let bad = |what: u64| (StopReason::BadGpEntry, what);
        let at = Position::load(&core.mem.enter(), self.channel.inst).map_err(|_| bad(u64::MAX))?;
        let entries = self.channel.gp_entries;
        if at.gp_get >= entries || at.gp_put >= entries {
            return Err(bad(at.gp_get.max(at.gp_put).into()));
        }
        let dwords = at.pb_put.checked_sub(at.pb_get).ok_or(bad(at.pb_get))? / 4;
        (self.get, self.put) = (at.gp_get, at.gp_put);
        self.header = at.header;
        self.retry = None;
        self.fetched.clear();
        self.segment_end = at.pb_put;
        self.segment = (dwords != 0).then_some(Segment {
            va: at.pb_get,
            dwords: u32::try_from(dwords).map_err(|_| bad(at.pb_get))?,
        });
        Ok(())
    }
}
