// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory as a hart sees it: the private stack window, and everything else
//! through the group's uTLB.

use super::icache::InsnCache;
use super::reserve::Reservation;
use super::reserve::Reservations;
use super::rv64::decode::AmoOp;
use super::rv64::decode::CodePage;
use super::rv64::decode::PAGE_INSNS;
use super::rv64::Bus;
use crate::core::Core;
use crate::mem::HostPtr;
use crate::mmu::Access;
use crate::mmu::Fault;
use crate::mmu::Space;
use crate::mmu::Translation;
use crate::mmu::UtlbGuard;
use std::sync::Arc;
use std::time::Instant;

/// Where a hart that returns goes: one page of code that no memory holds.
pub const EXIT_PC: u64 = 0x1_0000_0000_0000;
/// In the same page: stores a1 to the address in a0, then ends the hart.
pub const RELEASE_PC: u64 = EXIT_PC + 8;
/// Private stack window, in bytes.
pub const STACK_BASE: u64 = 0x1_0000_0000_1000;
pub const STACK_BYTES: usize = 64 << 10;

const PAGE: u64 = 0x1000;

/// What all groups share.
pub struct Machine {
    pub reservations: Reservations,
    /// More than one thread runs harts, so that stores need the line's lock.
    pub threaded: bool,
    pub microcode: Arc<CodePage>,
    pub start: Instant,
}

impl Machine {
    pub fn new(threaded: bool) -> Self {
        const END: [u32; 2] = [0x05d0_0893, 0x0000_0073]; // li a7, 93; ecall
        const STORE: u32 = 0x00b5_3023; // sd a1, 0(a0)
        let mut words = [0; PAGE_INSNS];
        words[..5].copy_from_slice(&[END[0], END[1], STORE, END[0], END[1]]);
        Machine {
            reservations: Reservations::new(),
            threaded,
            microcode: Arc::new(CodePage::new(&words)),
            start: Instant::now(),
        }
    }
}

/// Why an access did not happen.
#[derive(Debug)]
pub enum Stop {
    Fault(Box<Fault>),
    /// A fetch from the stack window.
    NotCode,
}

/// One hart's way to memory while it has its turn.
pub struct Lsu<'a, 'u> {
    pub core: &'a Core,
    pub machine: &'a Machine,
    pub guard: &'a UtlbGuard<'u>,
    pub space: &'a Space,
    /// [`STACK_BYTES`] long.
    pub stack: &'a mut [u8],
    pub icache: &'a mut InsnCache,
    pub reservation: &'a mut Option<Reservation>,
    /// Number of the last invalidate applied.
    pub epoch: u64,
    /// The page of the first instruction, if only its access is tried again.
    pub refused: Option<Arc<CodePage>>,
    /// The page that was fetched last.
    pub fetched: Option<Arc<CodePage>>,
}

fn in_stack(va: u64) -> bool {
    va.wrapping_sub(STACK_BASE) < STACK_BYTES as u64
}

/// The part of an access that lies in one page.
enum Part<'g> {
    Stack(usize),
    Memory(HostPtr<'g>),
}

impl<'a> Lsu<'a, '_> {
    /// Whether an SC might still succeed.
    pub fn reserved(&self) -> bool {
        self.reservation.is_some_and(|r| r.epoch == self.epoch)
    }

    #[inline]
    fn translate(&self, va: u64, access: Access) -> Result<Translation<'a>, Stop> {
        let found = self.guard.translate(self.space, va, access);
        found.map_err(Stop::Fault)
    }

    fn part(&self, va: u64, access: Access) -> Result<Part<'a>, Stop> {
        if in_stack(va) {
            return Ok(Part::Stack((va - STACK_BASE) as usize));
        }
        Ok(Part::Memory(self.translate(va, access)?.ptr))
    }

    /// The parts of an access of any alignment, with how many bytes are in the
    /// first.
    fn parts(
        &self,
        va: u64,
        size: usize,
        access: Access,
    ) -> Result<(Part<'a>, usize, Option<Part<'a>>), Stop> {
        let first = ((PAGE - va % PAGE) as usize).min(size);
        let low = self.part(va, access)?;
        let high = if first < size {
            Some(self.part(va.wrapping_add(first as u64), access)?)
        } else {
            None
        };
        Ok((low, first, high))
    }

    #[cold]
    fn load_parts(&mut self, va: u64, size: usize) -> Result<u64, Stop> {
        let (low, first, high) = self.parts(va, size, Access::Read)?;
        let mut bytes = [0; 8];
        let read = |part, out: &mut [u8]| match part {
            Part::Stack(at) => out.copy_from_slice(&self.stack[at..at + out.len()]),
            Part::Memory(p) => p.read_bytes(out),
        };
        read(low, &mut bytes[..first]);
        if let Some(high) = high {
            read(high, &mut bytes[first..size]);
        }
        Ok(u64::from_le_bytes(bytes))
    }

    #[cold]
    fn store_parts(&mut self, va: u64, size: usize, value: u64) -> Result<(), Stop> {
        let (low, first, high) = self.parts(va, size, Access::Write)?;
        let bytes = value.to_le_bytes();
        self.store_part(low, &bytes[..first]);
        if let Some(high) = high {
            self.store_part(high, &bytes[first..size]);
        }
        Ok(())
    }

    fn store_part(&mut self, part: Part<'_>, bytes: &[u8]) {
        match part {
            Part::Stack(at) => self.stack[at..at + bytes.len()].copy_from_slice(bytes),
            Part::Memory(p) => {
                for (i, &byte) in bytes.iter().enumerate() {
                    self.put(p.add(i), 1, byte.into());
                }
            }
        }
    }

    /// A plain store that ends others' reservations of the line.
    #[inline]
    fn put(&self, p: HostPtr<'_>, size: usize, value: u64) {
        let _line = self.machine.threaded.then(|| self.core.atomics.lock(p));
        p.store(size, value);
        self.machine.reservations.kill(p);
    }

    #[inline]
    fn stack_load(&self, va: u64, size: usize) -> u64 {
        let at = (va - STACK_BASE) as usize;
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.stack[at..at + size]);
        u64::from_le_bytes(bytes)
    }

    #[inline]
    fn stack_store(&mut self, va: u64, size: usize, value: u64) {
        let at = (va - STACK_BASE) as usize;
        self.stack[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

impl Bus for Lsu<'_, '_> {
    type Stop = Stop;

    fn fetch(&mut self, va: u64) -> Result<Arc<CodePage>, Stop> {
        let page = va & !(PAGE - 1);
        if page == EXIT_PC {
            return Ok(self.machine.microcode.clone());
        }
        if in_stack(va) {
            return Err(Stop::NotCode);
        }
        let code = match self.refused.take() {
            Some(code) => code,
            None => match self.guard.translate(self.space, page, Access::Fetch) {
                Ok(t) => self.icache.get(t.ptr),
                Err(mut fault) => {
                    fault.va = va;
                    return Err(Stop::Fault(fault));
                }
            },
        };
        self.fetched = Some(code.clone());
        Ok(code)
    }

    #[inline]
    fn load(&mut self, va: u64, size: usize) -> Result<u64, Stop> {
        if va & (size as u64 - 1) != 0 {
            return self.load_parts(va, size);
        }
        if in_stack(va) {
            return Ok(self.stack_load(va, size));
        }
        Ok(self.translate(va, Access::Read)?.ptr.load(size))
    }

    #[inline]
    fn store(&mut self, va: u64, size: usize, value: u64) -> Result<(), Stop> {
        if va & (size as u64 - 1) != 0 {
            return self.store_parts(va, size, value);
        }
        if in_stack(va) {
            self.stack_store(va, size, value);
            return Ok(());
        }
        let t = self.translate(va, Access::Write)?;
        self.put(t.ptr, size, value);
        Ok(())
    }

    fn amo(&mut self, va: u64, size: usize, op: AmoOp, arg: u64) -> Result<u64, Stop> {
        let new = |old: u64| op.apply(if size == 4 { old as i32 as u64 } else { old }, arg);
        if in_stack(va) {
            let old = self.stack_load(va, size);
            self.stack_store(va, size, new(old));
            return Ok(old);
        }
        let t = self.translate(va, Access::Atomic)?;
        Ok(self.core.atomics.rmw(t.ptr, size, t.sys, va, |old| {
            self.machine.reservations.kill(t.ptr);
            new(old)
        }))
    }

    fn load_reserved(&mut self, va: u64, size: usize) -> Result<u64, Stop> {
        let (loaded, word) = if in_stack(va) {
            (self.stack_load(va, size), None)
        } else {
            let p = self.translate(va, Access::Atomic)?.ptr;
            let _line = self.core.atomics.lock(p);
            let word = self.machine.reservations.reserve(p);
            (p.load(size), Some(word))
        };
        *self.reservation = Some(Reservation {
            va,
            size,
            loaded,
            epoch: self.epoch,
            word,
        });
        Ok(loaded)
    }

    fn store_conditional(&mut self, va: u64, size: usize, value: u64) -> Result<bool, Stop> {
        let Some(r) = self.reservation.take() else {
            return Ok(false);
        };
        if r.epoch != self.epoch || (r.va, r.size) != (va, size) {
            return Ok(false);
        }
        let Some(word) = r.word else {
            self.stack_store(va, size, value);
            return Ok(true);
        };
        let t = self.translate(va, Access::Atomic)?;
        let mut line = self.core.atomics.lock(t.ptr);
        if !self.machine.reservations.holds(t.ptr, word) {
            return Ok(false);
        }
        self.machine.reservations.kill(t.ptr);
        self.core
            .atomics
            .conditional(&mut line, t.ptr, size, t.sys, va, [r.loaded, value]);
        Ok(true)
    }

    fn fence(&mut self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    fn fence_i(&mut self) {
        self.icache.new_epoch();
    }

    fn time(&mut self) -> u64 {
        self.machine.start.elapsed().as_nanos() as u64
    }
}
