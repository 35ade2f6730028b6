// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A launch as the methods describe it.

use crate::host::Reduction;
use crate::mem::Aperture;
use crate::mmu::Space;
use std::time::Instant;

const FLUSH: u32 = 1 << 2;
const SRC_PITCH: u32 = 1 << 7;
const DST_PITCH: u32 = 1 << 8;
const MULTI_LINE: u32 = 1 << 9;
const REMAP: u32 = 1 << 10;
const SRC_PHYSICAL: u32 = 1 << 12;
const DST_PHYSICAL: u32 = 1 << 13;
const REDUCTION_UNSIGNED: u32 = 1 << 18;
const REDUCTION: u32 = 1 << 19;
const FLUSH_GPU: u32 = 1 << 25;

/// Values of the copy engine's methods.
#[derive(Clone, Copy, Default)]
pub struct Methods {
    pub semaphore: [u32; 3],
    /// Physical targets of source and destination.
    pub targets: [u32; 2],
    /// 0x400..=0x41c: addresses in and out, pitches, line length and count.
    pub geometry: [u32; 8],
    /// 0x700..=0x708: the constants and the remap.
    pub remap: [u32; 3],
}

/// Whether a value of LAUNCH asks for physical addresses.
pub fn physical(launch: u32) -> bool {
    launch & (SRC_PHYSICAL | DST_PHYSICAL) != 0
}

/// One side of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Virtual,
    Physical(Aperture),
}

/// Where a destination component comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Source(usize),
    Constant([u8; 4]),
    NoWrite,
}

/// How one element is made.
#[derive(Clone, Debug)]
pub struct Remap {
    /// Bytes of a component, and of a source and a destination element.
    pub size: usize,
    pub src: usize,
    pub dst: usize,
    pub components: Vec<Component>,
}

impl Remap {
    /// Bytes as they are.
    fn bytes() -> Self {
        Self {
            size: 1,
            src: 1,
            dst: 1,
            components: vec![Component::Source(0)],
        }
    }

    fn decode([const_a, const_b, remap]: [u32; 3]) -> Option<Self> {
        let size = (remap >> 16 & 3) as usize + 1;
        let src = (remap >> 20 & 3) as usize + 1;
        let dst = (remap >> 24 & 3) as usize + 1;
        let components = [0, 4, 8, 12]
            .into_iter()
            .take(dst)
            .map(|shift| match remap >> shift & 7 {
                n @ 0..=3 if (n as usize) < src => Some(Component::Source(n as usize)),
                4 => Some(Component::Constant(const_a.to_le_bytes())),
                5 => Some(Component::Constant(const_b.to_le_bytes())),
                6 => Some(Component::NoWrite),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            size,
            src: src * size,
            dst: dst * size,
            components,
        })
    }

    pub fn reads(&self) -> bool {
        self.components
            .iter()
            .any(|c| matches!(c, Component::Source(_)))
    }

    pub fn is_plain(&self) -> bool {
        self.size == 1 && self.components == [Component::Source(0)]
    }
}

/// What data move where.
#[derive(Clone, Debug)]
pub struct Plan {
    pub remap: Remap,
    /// Source and destination.
    pub sides: [Side; 2],
    pub at: [u64; 2],
    /// Bytes from line to line.
    pub pitch: [u64; 2],
    /// Elements of a line, and lines.
    pub length: u64,
    pub lines: u64,
}

impl Plan {
    /// Elements in all.
    pub fn elements(&self) -> u64 {
        self.length * self.lines
    }
}

/// What memory sees of a copy before its semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    System,
    /// Only what lies in device memory.
    Gpu,
}

/// A release at the end of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Semaphore {
    pub va: u64,
    pub payload: u32,
    pub timestamp: bool,
    /// With the sign of its operands.
    pub reduction: Option<(Reduction, bool)>,
    pub flush: Option<Flush>,
}

/// Whom to tell when a launch is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    None,
    Stall,
    NonStall,
}

/// What a launch does, if it makes sense.
#[derive(Clone, Debug)]
pub struct Work {
    pub plan: Option<Plan>,
    pub semaphore: Option<Semaphore>,
    pub interrupt: Interrupt,
}

/// A launch handed over to the engine.
pub struct Launch {
    pub space: Space,
    /// None: a configuration that does not exist.
    pub work: Option<Work>,
    /// When it was handed over.
    pub since: Instant,
    /// It has been counted.
    pub begun: bool,
    /// Elements that are done.
    pub done: u64,
    /// After how many elements it fails, if it is to.
    pub fails_at: Option<u64>,
}

impl Launch {
    /// What `methods` and the value of LAUNCH ask for, in `space`.
    pub fn new(space: Space, methods: &Methods, launch: u32) -> Self {
        Self {
            space,
            work: decode(methods, launch),
            since: Instant::now(),
            begun: false,
            done: 0,
            fails_at: None,
        }
    }
}

/// Upper halves of addresses have 17 bits.
fn address(hi: u32, lo: u32) -> u64 {
    u64::from(hi & 0x1_ffff) << 32 | u64::from(lo)
}

fn decode(methods: &Methods, launch: u32) -> Option<Work> {
    let plan = match launch & 3 {
        0 => None,
        1 | 2 => Some(plan(methods, launch)?),
        _ => return None,
    };
    let interrupt = match launch >> 5 & 3 {
        0 => Interrupt::None,
        1 => Interrupt::Stall,
        _ => Interrupt::NonStall,
    };
    Some(Work {
        plan,
        semaphore: semaphore(methods, launch)?,
        interrupt,
    })
}

fn plan(methods: &Methods, launch: u32) -> Option<Plan> {
    let remap = if launch & REMAP != 0 {
        Remap::decode(methods.remap)?
    } else {
        Remap::bytes()
    };
    // Block-linear layouts are left out.
    if launch & DST_PITCH == 0 || (launch & SRC_PITCH == 0 && remap.reads()) {
        return None;
    }
    let side = |bit: u32, target: u32| {
        if launch & bit == 0 {
            return Some(Side::Virtual);
        }
        Some(Side::Physical(match target & 3 {
            0 => Aperture::Vid,
            1 => Aperture::SysCoherent,
            2 => Aperture::SysNonCoherent,
            _ => return None,
        }))
    };
    let [in_hi, in_lo, out_hi, out_lo, pitch_in, pitch_out, length, lines] = methods.geometry;
    Some(Plan {
        remap,
        sides: [
            side(SRC_PHYSICAL, methods.targets[0])?,
            side(DST_PHYSICAL, methods.targets[1])?,
        ],
        at: [address(in_hi, in_lo), address(out_hi, out_lo)],
        pitch: [pitch_in.into(), pitch_out.into()],
        length: length.into(),
        lines: if launch & MULTI_LINE != 0 {
            lines.into()
        } else {
            1
        },
    })
}

/// The outer None is a release that does not exist.
fn semaphore(methods: &Methods, launch: u32) -> Option<Option<Semaphore>> {
    let [hi, lo, payload] = methods.semaphore;
    let va = address(hi, lo);
    let (timestamp, align) = match launch >> 3 & 3 {
        0 => return Some(None),
        1 => (false, 4),
        2 => (true, 16),
        _ => return None,
    };
    if va & (align - 1) != 0 {
        return None;
    }
    let reduction = if launch & REDUCTION != 0 {
        let signed = launch & REDUCTION_UNSIGNED == 0;
        Some((Reduction::from_bits(launch >> 14 & 0xf)?, signed))
    } else {
        None
    };
    let flush = (launch & FLUSH != 0).then_some(if launch & FLUSH_GPU != 0 {
        Flush::Gpu
    } else {
        Flush::System
    });
    Some(Some(Semaphore {
        va,
        payload,
        timestamp,
        reduction,
        flush,
    }))
}
