// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The copy engine (class 0xc5b5): linear copies, and memsets by remapping
//! components, between virtual or physical addresses.

use super::pbdma::{access, Context, Done};
use super::schedule::Units;
use super::semaphore::{timestamp, Reduction};
use super::StopReason;
use crate::core::Core;
use crate::intr::{VECTOR_COPY, VECTOR_COPY_STALL};
use crate::mem::{Aperture, PhysAddr};
use crate::mmu::{Access, Space};

/// Bits of the copy engine's status register.
const STATUS_LAUNCH_ERROR: u32 = 1 << 2;
const STATUS_INVALID_CONFIG: u32 = 1 << 3;

const LAUNCH_SEMAPHORE: u32 = 3;
const LAUNCH_SRC_PITCH: u32 = 1 << 7;
const LAUNCH_DST_PITCH: u32 = 1 << 8;
const LAUNCH_MULTI_LINE: u32 = 1 << 9;
const LAUNCH_REMAP: u32 = 1 << 10;
const LAUNCH_SRC_PHYSICAL: u32 = 1 << 12;
const LAUNCH_DST_PHYSICAL: u32 = 1 << 13;
const LAUNCH_REDUCTION_UNSIGNED: u32 = 1 << 18;
const LAUNCH_REDUCTION: u32 = 1 << 19;

/// Values of the copy engine's methods.
#[derive(Default)]
pub struct Copy {
    semaphore: [u32; 3],
    /// Physical targets of source and destination.
    targets: [u32; 2],
    /// 0x400..=0x41c: addresses in and out, pitches, line length and count.
    geometry: [u32; 8],
    /// 0x700..=0x708: the constants and the remap.
    remap: [u32; 3],
    /// Elements of the current launch that are done: a launch that faulted
    /// goes on there.
    done: u64,
    launches: u64,
}

/// One side of a copy.
#[derive(Clone, Copy)]
enum Side {
    Virtual,
    Physical(Aperture),
}

/// Where a destination component comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Component {
    Source(usize),
    Constant([u8; 4]),
    NoWrite,
}

/// How one element is made.
struct Remap {
    /// Bytes of a component, and of a source and a destination element.
    size: usize,
    src: usize,
    dst: usize,
    components: Vec<Component>,
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

    fn reads(&self) -> bool {
        self.components
            .iter()
            .any(|c| matches!(c, Component::Source(_)))
    }

    fn is_plain(&self) -> bool {
        self.size == 1 && self.components == [Component::Source(0)]
    }
}

/// Why a copy did not get to its end.
enum Failure {
    /// Reported; goes on when it is cleared.
    Fault,
    /// LAUNCHERR: memory that is not there, or poisoned.
    Launch,
}

struct Job<'a> {
    core: &'a Core,
    units: &'a Units,
    space: Space,
    sides: [Side; 2],
}

impl Job<'_> {
    /// Calls `make` with memory at `at`, up to the end of its 4 KiB page.
    fn touch<R>(
        &self,
        side: usize,
        at: u64,
        make: impl FnOnce(crate::mem::HostPtr<'_>) -> R,
    ) -> Result<R, Failure> {
        match self.sides[side] {
            Side::Virtual => {
                let kind = [Access::Read, Access::Write][side];
                access(self.core, &self.units.copy, &self.space, at, kind, |t| {
                    make(t.ptr)
                })
                .ok_or(Failure::Fault)
            }
            Side::Physical(aperture) => {
                let phys = PhysAddr::new(aperture, at);
                let left = 0x1000 - (at & 0xfff);
                if self.core.mmu.poisoned(phys) {
                    return Err(Failure::Launch);
                }
                let mem = self.core.mem.enter();
                match mem.resolve(phys, left) {
                    Ok(ptr) => Ok(make(ptr)),
                    Err(err) => {
                        self.core.errors.report(format_args!("copy engine: {err}"));
                        Err(Failure::Launch)
                    }
                }
            }
        }
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), Failure> {
        let mut done = 0;
        while done < out.len() {
            done += self.touch(0, at + done as u64, |ptr| {
                let n = ptr.left().min(out.len() - done);
                ptr.read_bytes(&mut out[done..done + n]);
                n
            })?;
        }
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Failure> {
        let mut done = 0;
        while done < data.len() {
            done += self.touch(1, at + done as u64, |ptr| {
                let n = ptr.left().min(data.len() - done);
                ptr.write_bytes(&data[done..done + n]);
                n
            })?;
        }
        Ok(())
    }

    /// Copies elements `done..count` of a line, and counts them in `done`.
    fn line(
        &self,
        remap: &Remap,
        [src, dst]: [u64; 2],
        count: u64,
        done: &mut u64,
    ) -> Result<(), Failure> {
        const CHUNK: usize = 4096;
        let mut source = vec![0; CHUNK / remap.dst.max(remap.src) * remap.src];
        let mut out = Vec::with_capacity(CHUNK);
        let chunk = (source.len() / remap.src) as u64;
        while *done < count {
            let n = chunk.min(count - *done);
            let at = dst + *done * remap.dst as u64;
            let input = &mut source[..n as usize * remap.src];
            if remap.reads() {
                self.read(src + *done * remap.src as u64, input)?;
            }
            if remap.is_plain() {
                self.write(at, input)?;
            } else if remap.components.contains(&Component::NoWrite) {
                self.scatter(remap, at, input)?;
            } else {
                out.clear();
                for element in input.chunks_exact(remap.src) {
                    for component in &remap.components {
                        out.extend_from_slice(value(component, element, remap.size));
                    }
                }
                // Whole pages, in order: a fault leaves whole elements.
                self.write(at, &out)?;
            }
            *done += n;
        }
        Ok(())
    }

    /// Writes only the components that are to be written.
    fn scatter(&self, remap: &Remap, at: u64, input: &[u8]) -> Result<(), Failure> {
        for (i, element) in input.chunks_exact(remap.src).enumerate() {
            for (j, component) in remap.components.iter().enumerate() {
                if *component != Component::NoWrite {
                    let to = at + (i * remap.dst + j * remap.size) as u64;
                    self.write(to, value(component, element, remap.size))?;
                }
            }
        }
        Ok(())
    }
}

/// The bytes of one component.
fn value<'a>(component: &'a Component, element: &'a [u8], size: usize) -> &'a [u8] {
    match component {
        Component::Source(n) => &element[n * size..(n + 1) * size],
        Component::Constant(bytes) => &bytes[..size],
        Component::NoWrite => &[],
    }
}

impl Context {
    pub(super) fn copy_method(
        &mut self,
        core: &Core,
        units: &Units,
        address: u32,
        data: u32,
    ) -> Done {
        let copy = &mut self.copy;
        match address {
            0x100 => {}
            0x240..=0x248 => copy.semaphore[(address as usize - 0x240) / 4] = data,
            0x260 | 0x264 => copy.targets[(address as usize - 0x260) / 4] = data,
            0x300 => return self.launch(core, units, data),
            0x400..=0x41c => copy.geometry[(address as usize - 0x400) / 4] = data,
            0x700..=0x708 => copy.remap[(address as usize - 0x700) / 4] = data,
            _ => return Done::Stop(StopReason::BadMethod),
        }
        Done::Yes
    }

    fn launch(&mut self, core: &Core, units: &Units, launch: u32) -> Done {
        let physical = launch & (LAUNCH_SRC_PHYSICAL | LAUNCH_DST_PHYSICAL) != 0;
        if physical && !self.channel.physical_copy {
            return Done::Stop(StopReason::Privilege);
        }
        if self.copy.done == 0 {
            self.copy.launches += 1;
            let every = u64::from(core.config.inject.launch_error_every);
            if every != 0 && self.copy.launches % every == 0 {
                return self.launch_error(core, STATUS_LAUNCH_ERROR);
            }
        }
        let transfer = match launch & 3 {
            0 => Ok(()),
            1 | 2 => self.transfer(core, units, launch),
            _ => return self.launch_error(core, STATUS_INVALID_CONFIG),
        };
        match transfer {
            Ok(()) => {}
            Err(None) => return self.launch_error(core, STATUS_INVALID_CONFIG),
            Err(Some(Failure::Launch)) => return self.launch_error(core, STATUS_LAUNCH_ERROR),
            Err(Some(Failure::Fault)) => return Done::Faulted { engine: true },
        }
        match self.copy_semaphore(core, units, launch) {
            Some(true) => {}
            Some(false) => return self.launch_error(core, STATUS_INVALID_CONFIG),
            None => return Done::Faulted { engine: true },
        }
        self.copy.done = 0;
        match launch >> 5 & 3 {
            0 => {}
            1 => core.intr.raise(VECTOR_COPY_STALL),
            _ => core.intr.raise(VECTOR_COPY),
        }
        Done::Yes
    }

    /// The launch is dropped, its semaphore never released.
    fn launch_error(&mut self, core: &Core, status: u32) -> Done {
        tracing::info!(
            "copy engine error {status:#x} on channel {}",
            self.channel.chid
        );
        self.copy.done = 0;
        core.host.copy_error(status);
        core.intr.raise(VECTOR_COPY_STALL);
        Done::Yes
    }

    /// Moves the data. An error without failure is a configuration that does
    /// not exist.
    fn transfer(&mut self, core: &Core, units: &Units, launch: u32) -> Result<(), Option<Failure>> {
        let remap = if launch & LAUNCH_REMAP != 0 {
            Remap::decode(self.copy.remap).ok_or(None)?
        } else {
            Remap::bytes()
        };
        let pitch_only =
            launch & LAUNCH_DST_PITCH != 0 && (launch & LAUNCH_SRC_PITCH != 0 || !remap.reads());
        if !pitch_only {
            return Err(None);
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
        let [src_target, dst_target] = self.copy.targets;
        let job = Job {
            core,
            units,
            space: self.channel.engine,
            sides: [
                side(LAUNCH_SRC_PHYSICAL, src_target).ok_or(None)?,
                side(LAUNCH_DST_PHYSICAL, dst_target).ok_or(None)?,
            ],
        };
        let [in_hi, in_lo, out_hi, out_lo, pitch_in, pitch_out, length, lines] = self.copy.geometry;
        // Upper halves have 17 bits.
        let address = |hi: u32, lo: u32| u64::from(hi & 0x1_ffff) << 32 | u64::from(lo);
        let (src, dst) = (address(in_hi, in_lo), address(out_hi, out_lo));
        let lines = if launch & LAUNCH_MULTI_LINE != 0 {
            u64::from(lines)
        } else {
            1
        };
        let length = u64::from(length);
        while length != 0 && self.copy.done < length * lines {
            let line = self.copy.done / length;
            let start = [
                src + line * u64::from(pitch_in),
                dst + line * u64::from(pitch_out),
            ];
            let mut done = self.copy.done % length;
            let end = job.line(&remap, start, length, &mut done);
            self.copy.done = line * length + done;
            end.map_err(Some)?;
        }
        Ok(())
    }

    /// Releases the launch's semaphore, if any. None: it faulted; false: there
    /// is no such release.
    fn copy_semaphore(&mut self, core: &Core, units: &Units, launch: u32) -> Option<bool> {
        let [hi, lo, payload] = self.copy.semaphore;
        let va = u64::from(hi & 0x1_ffff) << 32 | u64::from(lo);
        let kind = launch >> 3 & LAUNCH_SEMAPHORE;
        let align = match kind {
            0 => return Some(true),
            1 => 4,
            2 => 16,
            _ => return Some(false),
        };
        if va & (align - 1) != 0 {
            return Some(false);
        }
        let reduction = if launch & LAUNCH_REDUCTION != 0 {
            match Reduction::from_bits(launch >> 14 & 0xf) {
                Some(reduction) => Some(reduction),
                None => return Some(false),
            }
        } else {
            None
        };
        let wanted = match reduction {
            Some(_) => Access::Atomic,
            None => Access::Write,
        };
        let space = self.channel.engine;
        access(core, &units.copy, &space, va, wanted, |found| {
            if kind == 2 {
                found.ptr.add(8).store(8, timestamp());
            }
            match reduction {
                None => core.atomics.store(found.ptr, 4, payload.into()),
                Some(reduction) => {
                    let signed = launch & LAUNCH_REDUCTION_UNSIGNED == 0;
                    core.atomics.rmw(found.ptr, 4, found.sys, va, |old| {
                        reduction.apply(old, payload.into(), 4, signed)
                    });
                }
            }
            true
        })
    }
}
