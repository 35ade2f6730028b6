// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Moving the data of a launch, slice by slice.

use super::launch::{Component, Plan, Remap, Semaphore, Side};
use super::lazy::TAIL;
use crate::core::Core;
use crate::host::timestamp;
use crate::mem::{HostPtr, MemGuard, PhysAddr};
use crate::mmu::{Access, Space, Utlb, UtlbGuard};

/// Bytes after which another channel has its turn.
pub const SLICE: u64 = 128 << 10;
/// Largest piece in bytes, which never crosses a multiple of its size.
const PIECE: u64 = 32 << 10;
const PAGE: u64 = 0x1000;

const SRC: usize = 0;
const DST: usize = 1;

/// Why a launch did not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Reported; goes on when it is cleared.
    Fault,
    /// LAUNCHERR: memory that is not there, or poisoned.
    Launch,
}

/// One launch's data, and who moves them.
pub struct Transfer<'a> {
    pub core: &'a Core,
    pub utlb: &'a Utlb,
    pub chid: u32,
    pub space: Space,
    pub plan: &'a Plan,
}

/// A right to use what [`Transfer::locate`] finds.
struct Guards<'a> {
    utlb: UtlbGuard<'a>,
    mem: MemGuard<'a>,
}

impl<'a> Transfer<'a> {
    /// Moves elements from number `done` on, for about a slice and at most up
    /// to `end`, and counts them in `done`.
    pub fn advance(&self, done: &mut u64, end: u64) -> Result<(), Failure> {
        let plan = self.plan;
        let stop = end.min(*done + (SLICE / plan.remap.dst as u64).max(1));
        while *done < stop {
            let (line, column) = (*done / plan.length, *done % plan.length);
            let n = (plan.length - column).min(stop - *done);
            let at = |side: usize, size: usize| {
                plan.at[side]
                    .wrapping_add(line * plan.pitch[side])
                    .wrapping_add(column * size as u64)
            };
            let at = [at(SRC, plan.remap.src), at(DST, plan.remap.dst)];
            *done += if plan.remap.is_plain() {
                self.plain(at, n, plan.elements() - *done)?
            } else {
                self.remapped(at, n, plan.elements() - *done)?
            };
        }
        Ok(())
    }

    fn guards(&self) -> Guards<'a> {
        Guards {
            utlb: self.utlb.enter(),
            mem: self.core.mem.enter(),
        }
    }

    /// Memory at `at`, `len` bytes of it if they are together.
    fn locate<'g>(
        &self,
        guards: &'g Guards<'_>,
        side: usize,
        at: u64,
        len: u64,
    ) -> Result<HostPtr<'g>, Failure> {
        let aperture = match self.plan.sides[side] {
            Side::Virtual => {
                let access = [Access::Read, Access::Write][side];
                let found = guards.utlb.translate(&self.space, at, access);
                return found.map(|t| t.ptr).map_err(|fault| {
                    self.core.report_fault(&fault);
                    Failure::Fault
                });
            }
            Side::Physical(aperture) => aperture,
        };
        let phys = PhysAddr::new(aperture, at);
        let page = (PAGE - at % PAGE).min(len);
        let piece = if self.core.mmu.poisoned_pages() == 0 {
            (PIECE - at % PIECE).min(len)
        } else {
            page
        };
        if self.core.mmu.poisoned(phys) {
            return Err(Failure::Launch);
        }
        let found = guards.mem.resolve(phys, piece);
        found
            .or_else(|_| guards.mem.resolve(phys, page))
            .map_err(|err| {
                self.core.errors.report(format_args!("copy engine: {err}"));
                Failure::Launch
            })
    }

    /// Own writes that are held back must not be passed.
    fn settle(&self, side: usize, at: u64, len: u64) {
        let touched = match self.plan.sides[side] {
            Side::Virtual => None,
            Side::Physical(aperture) => Some((PhysAddr::new(aperture, at), len)),
        };
        self.core.copy.writes.settle(self.core, self.chid, touched);
    }

    /// Where writes of the last bytes go that are held back, if they are.
    fn lazy(&self, at: u64, left: u64) -> Option<PhysAddr> {
        match self.plan.sides[DST] {
            Side::Physical(aperture) if left <= TAIL && self.core.config.copy_lazy_writes => {
                Some(PhysAddr::new(aperture, at))
            }
            _ => None,
        }
    }

    /// Copies at most `n` bytes; `left` are left of the launch. Returns how many
    /// were copied.
    fn plain(&self, [src, dst]: [u64; 2], n: u64, left: u64) -> Result<u64, Failure> {
        self.settle(SRC, src, n);
        self.settle(DST, dst, n);
        // The tail is a piece of its own.
        let n = if left > TAIL { n.min(left - TAIL) } else { n };
        let guards = self.guards();
        let from = self.locate(&guards, SRC, src, n)?;
        let to = self.locate(&guards, DST, dst, n)?;
        let n = (n as usize).min(from.left()).min(to.left());
        match self.lazy(dst, left) {
            None => to.copy_from(from, n),
            Some(at) => {
                let mut data = vec![0; n];
                from.read_bytes(&mut data);
                self.core.copy.writes.hold(self.core, self.chid, at, data);
            }
        }
        Ok(n as u64)
    }

    /// Makes at most `n` elements; `left` are left of the launch. Returns how
    /// many were made.
    fn remapped(&self, [src, dst]: [u64; 2], n: u64, left: u64) -> Result<u64, Failure> {
        let remap = &self.plan.remap;
        let tail = (TAIL / remap.dst as u64).max(1);
        let chunk = (PIECE / remap.dst.max(remap.src) as u64).max(1);
        let n = n.min(chunk);
        let n = if left > tail { n.min(left - tail) } else { n };
        let mut input = vec![0; n as usize * remap.src];
        if remap.reads() {
            self.read(src, &mut input)?;
        }
        if remap.components.contains(&Component::NoWrite) {
            self.scatter(remap, dst, &input)?;
            return Ok(n);
        }
        let bytes = n as usize * remap.dst;
        let mut out = Vec::with_capacity(bytes);
        for element in input.chunks_exact(remap.src) {
            for component in &remap.components {
                out.extend_from_slice(value(component, element, remap.size));
            }
            if !remap.reads() {
                break;
            }
        }
        // Constants are all alike.
        while out.len() < bytes {
            out.extend_from_within(..out.len().min(bytes - out.len()));
        }
        // In order, so that a fault or failure leaves whole elements; those are
        // made again.
        self.write(dst, &out, left.saturating_mul(remap.dst as u64))?;
        Ok(n)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), Failure> {
        self.settle(SRC, at, out.len() as u64);
        let mut done = 0;
        while done < out.len() {
            let left = out.len() - done;
            let guards = self.guards();
            let ptr = self.locate(&guards, SRC, at.wrapping_add(done as u64), left as u64)?;
            let n = ptr.left().min(left);
            ptr.read_bytes(&mut out[done..done + n]);
            done += n;
        }
        Ok(())
    }

    /// Writes `data`, when `left` bytes of the launch are left.
    fn write(&self, at: u64, data: &[u8], left: u64) -> Result<(), Failure> {
        self.settle(DST, at, data.len() as u64);
        let mut done = 0;
        while done < data.len() {
            let to = at.wrapping_add(done as u64);
            let guards = self.guards();
            let ptr = self.locate(&guards, DST, to, (data.len() - done) as u64)?;
            let n = ptr.left().min(data.len() - done);
            let piece = &data[done..done + n];
            match self.lazy(to, left) {
                None => ptr.write_bytes(piece),
                Some(at) => {
                    let writes = &self.core.copy.writes;
                    writes.hold(self.core, self.chid, at, piece.to_vec());
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Writes only the components that are to be written, at once.
    fn scatter(&self, remap: &Remap, at: u64, input: &[u8]) -> Result<(), Failure> {
        for (i, element) in input.chunks_exact(remap.src).enumerate() {
            for (j, component) in remap.components.iter().enumerate() {
                if *component != Component::NoWrite {
                    let to = at.wrapping_add((i * remap.dst + j * remap.size) as u64);
                    self.write(to, value(component, element, remap.size), u64::MAX)?;
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

/// Releases a launch's semaphore.
pub fn release(
    core: &Core,
    utlb: &Utlb,
    space: &Space,
    semaphore: &Semaphore,
) -> Result<(), Failure> {
    let access = match semaphore.reduction {
        Some(_) => Access::Atomic,
        None => Access::Write,
    };
    let (va, payload) = (semaphore.va, semaphore.payload.into());
    let guard = utlb.enter();
    let found = guard.translate(space, va, access).map_err(|fault| {
        core.report_fault(&fault);
        Failure::Fault
    })?;
    if semaphore.timestamp {
        found.ptr.add(8).store(8, timestamp());
    }
    match semaphore.reduction {
        None => core.atomics.store(found.ptr, 4, payload),
        Some((reduction, signed)) => {
            core.atomics.rmw(found.ptr, 4, found.sys, va, |old| {
                reduction.apply(old, payload, 4, signed)
            });
        }
    }
    Ok(())
}
