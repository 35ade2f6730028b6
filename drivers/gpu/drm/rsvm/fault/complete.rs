// SPDX-License-Identifier: GPL-2.0

//! Completion of faults.
//!
//! What was mapped is made known to the device, what cannot be served is cancelled, then everything
//! that still waits is replayed: in that order, in one push if it fits. A replay is for faults of
//! all spaces; those that are not served yet are reported again.

use crate::{
    gpu::Gpu,
    mmu::tlb::{
        Barrier,
        Program, //
    },
    svm::device::{
        Cancel,
        Pdb, //
    },
};
use kernel::mm::addr::PageRange;

/// More ranges than these are completed by one invalidate of everything.
const MAX_RANGES: usize = 4;

/// Runs `program` and empties it unless it has room for `ops` more operations. May sleep.
pub(super) fn make_room(gpu: &Gpu, program: &mut Program, ops: usize) {
    if program.room() < ops {
        gpu.run(program);
        *program = Program::new();
    }
}

/// See [`Mmu::complete`](crate::svm::device::Mmu::complete). May sleep.
pub(crate) fn complete(gpu: &Gpu, pdb: Pdb, mapped: &[PageRange], cancelled: &[Cancel]) {
    let mut program = Program::new();
    if mapped.len() > MAX_RANGES {
        program.invalidate(pdb, None, Barrier::Upgrade);
    } else {
        for &range in mapped {
            program.invalidate(pdb, Some(range), Barrier::Upgrade);
        }
    }
    for cancel in cancelled {
        make_room(gpu, &mut program, 1);
        program.cancel(gpu.hal, pdb, cancel);
    }
    make_room(gpu, &mut program, 1);
    program.replay();
    gpu.run(&program);
}

/// See [`Mmu::replay`](crate::svm::device::Mmu::replay). May sleep.
pub(crate) fn replay(gpu: &Gpu, pdb: Pdb, range: PageRange) {
    let mut program = Program::new();
    program.invalidate(pdb, Some(range), Barrier::Upgrade);
    program.replay_ack_all();
    gpu.run(&program);
}
