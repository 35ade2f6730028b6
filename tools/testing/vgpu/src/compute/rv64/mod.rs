// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RV64IMAFD_Zicsr_Zifencei at user level, as an interpreter over a [`Bus`].
//!
//! An access that the bus refuses leaves the hart as it was before the
//! instruction, so that the same instruction can be executed again.

mod csr;
pub mod decode;
mod exec;
mod fp;
pub mod softfloat;

use decode::AmoOp;
use decode::CodePage;
use std::sync::Arc;

/// What a hart sees of the machine. Addresses are virtual; sizes are 1, 2, 4 or
/// 8 bytes; values are zero-extended.
///
/// An access either happens entirely or is refused with [`Bus::Stop`] and has no
/// effect.
pub trait Bus {
    /// Why an access did not happen.
    type Stop;

    /// The decoded page that holds `va`, which is 4-byte aligned.
    fn fetch(&mut self, va: u64) -> Result<Arc<CodePage>, Self::Stop>;
    /// Any alignment.
    fn load(&mut self, va: u64, size: usize) -> Result<u64, Self::Stop>;
    /// Any alignment.
    fn store(&mut self, va: u64, size: usize, value: u64) -> Result<(), Self::Stop>;
    /// Returns the old value; naturally aligned, 4 or 8 bytes. `arg` is
    /// sign-extended from the size.
    fn amo(&mut self, va: u64, size: usize, op: AmoOp, arg: u64) -> Result<u64, Self::Stop>;
    /// Naturally aligned, 4 or 8 bytes.
    fn load_reserved(&mut self, va: u64, size: usize) -> Result<u64, Self::Stop>;
    /// Whether it stored; naturally aligned, 4 or 8 bytes.
    fn store_conditional(&mut self, va: u64, size: usize, value: u64) -> Result<bool, Self::Stop>;
    /// FENCE with all bits.
    fn fence(&mut self);
    /// FENCE.I: forget decoded pages.
    fn fence_i(&mut self);
    /// Nanoseconds since some moment, for the time and cycle CSRs.
    fn time(&mut self) -> u64;
}

/// A synchronous exception; the pc is that of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    IllegalInstruction,
    /// A jump to an address that is not a multiple of 4.
    MisalignedFetch,
    Breakpoint,
    /// An AMO, LR or SC that is not naturally aligned.
    MisalignedAtomic,
}

/// Why [`Hart::run`] returned. The pc is that of the next instruction to execute:
/// for all but `Budget` the one that caused it.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<S> {
    /// All instructions allowed were executed.
    Budget,
    /// The bus refused an access.
    Stop(S),
    Ecall,
    Exception(Exception),
}

/// The state of one hart.
#[derive(Clone)]
pub struct Hart {
    /// x1..=x31; x\[0\] stays zero, x\[32\] takes writes to x0, the rest pads to a
    /// power of two.
    x: [u64; 64],
    f: [u64; 32],
    pub pc: u64,
    fflags: u8,
    frm: u8,
    /// Instructions retired, before the current run.
    instret: u64,
    /// CSRs 0xcc0..=0xcc3.
    pub ids: [u64; 4],
}

impl Hart {
    /// All registers zero.
    pub fn new(pc: u64) -> Self {
        Hart {
            x: [0; 64],
            f: [0; 32],
            pc,
            fflags: 0,
            frm: 0,
            instret: 0,
            ids: [0; 4],
        }
    }

    /// Back to [`Hart::new`], in place.
    pub fn reset(&mut self, pc: u64) {
        self.x.fill(0);
        self.f.fill(0);
        (self.pc, self.fflags, self.frm, self.instret) = (pc, 0, 0, 0);
        self.ids = [0; 4];
    }

    /// Integer register `n`, 0..=31.
    pub fn x(&self, n: usize) -> u64 {
        self.x[n & 31]
    }

    /// Sets integer register `n`; x0 stays zero.
    pub fn set_x(&mut self, n: usize, value: u64) {
        if n & 31 != 0 {
            self.x[n & 31] = value;
        }
    }

    /// Floating-point register `n`, as its 64 bits.
    pub fn f(&self, n: usize) -> u64 {
        self.f[n & 31]
    }

    /// frm and fflags as in fcsr.
    pub fn fcsr(&self) -> u8 {
        (self.frm << 5) | self.fflags
    }

    /// Instructions retired so far.
    pub fn instret(&self) -> u64 {
        self.instret
    }
}
