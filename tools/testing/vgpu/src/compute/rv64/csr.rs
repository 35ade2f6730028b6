// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Control and status registers.

use super::decode::Insn;
use super::decode::Op;
use super::Bus;
use super::Hart;

impl Hart {
    /// Executes a CSR instruction; `None` is an illegal instruction.
    pub(super) fn csr<B: Bus>(&mut self, insn: Insn, bus: &mut B, instret: u64) -> Option<()> {
        let number = insn.imm as u32;
        let (arg, names_zero) = match insn.op {
            Op::Csrrw | Op::Csrrs | Op::Csrrc => (self.x[insn.rs1 as usize & 63], insn.rs1 == 0),
            _ => (insn.rs1.into(), insn.rs1 == 0),
        };
        let old = match number {
            0x001 => self.fflags.into(),
            0x002 => self.frm.into(),
            0x003 => self.fcsr().into(),
            0xc00 | 0xc01 => bus.time(),
            0xc02 => instret,
            0xcc0..=0xcc3 => self.ids[number as usize - 0xcc0],
            _ => return None,
        };
        let new = match insn.op {
            Op::Csrrw | Op::Csrrwi => Some(arg),
            _ if names_zero => None,
            Op::Csrrs | Op::Csrrsi => Some(old | arg),
            _ => Some(old & !arg),
        };
        if let Some(new) = new {
            match number {
                0x001 => self.fflags = new as u8 & 0x1f,
                0x002 => self.frm = new as u8 & 7,
                0x003 => {
                    self.fflags = new as u8 & 0x1f;
                    self.frm = new as u8 >> 5;
                }
                _ => return None,
            }
        }
        self.x[insn.rd as usize & 63] = old;
        Some(())
    }
}
