// SPDX-License-Identifier: GPL-2.0 OR MIT
//! MEM_OP: membars, invalidates, replays and cancels by method.

use super::pbdma::{Context, Done};
use super::StopReason;
use crate::copy::Flush;
use crate::core::Core;
use crate::fault::{Maintenance, Replay};
use crate::mem::{Aperture, PhysAddr};
use crate::mmu::{Cancel, CancelAccess, Clear, Client, Invalidate};
use std::sync::atomic::{fence, Ordering};
use std::time::Duration;

const OP_MEMBAR: u32 = 0x05;
const OP_INVALIDATE: u32 = 0x09;
const OP_INVALIDATE_TARGETED: u32 = 0x0a;
const OP_ACCESS_COUNTER_CLEAR: u32 = 0x16;

const A_SYS_MEMBAR: u32 = 1 << 11;
const C_PDB_ALL: u32 = 1 << 0;
const C_GPC_DISABLE: u32 = 1 << 1;

/// Access field of a cancel by address.
pub fn cancel_access(bits: u32) -> Option<CancelAccess> {
    Some(match bits {
        0 => CancelAccess::Read,
        1 => CancelAccess::Write,
        2 => CancelAccess::AtomicStrong,
        4 => CancelAccess::AtomicWeak,
        5 => CancelAccess::AtomicAll,
        6 => CancelAccess::WriteAndAtomic,
        7 => CancelAccess::All,
        _ => return None,
    })
}

/// Decodes an invalidate from the methods' four values.
fn decode(targeted: bool, [a, b, c, d]: [u32; 4]) -> Option<Maintenance> {
    let pdb = if c & C_PDB_ALL != 0 {
        None
    } else {
        let addr = u64::from(d & 0x7ff_ffff) << 32 | u64::from(c & !0xfff);
        Some(PhysAddr::new(Aperture::from_target(c >> 10)?, addr).canonical())
    };
    let va = u64::from(b) << 32 | u64::from(a & !0xfff);
    let replay = match c >> 2 & 7 {
        0 => Replay::None,
        1 => Replay::Start,
        2 => Replay::StartAckAll,
        3 => Replay::Cancel(Cancel::Targeted(Client {
            id: (a & 0x3f) as u8,
            hub: false,
            gpc: (a >> 6 & 0x1f) as u8,
        })),
        4 => Replay::Cancel(Cancel::Global),
        5 => Replay::Cancel(Cancel::Va {
            pdb,
            va,
            engine: (a & 0x1ff) as u16,
            access: cancel_access(c >> 7 & 7)?,
        }),
        _ => return None,
    };
    let cancel = matches!(replay, Replay::Cancel(_));
    let range = match (targeted, &replay) {
        // A cancel by address throws that page away, too.
        (_, Replay::Cancel(Cancel::Va { .. })) => Some((va, va + 0xfff)),
        (true, Replay::Cancel(_)) | (false, _) => None,
        (true, _) => {
            pdb?;
            let shift = 12 + (a & 0x3f);
            if shift > 63 {
                return None;
            }
            let first = va >> shift << shift;
            Some((first, first + ((1 << shift) - 1)))
        }
    };
    let ack = c >> 5 & 3 != 0;
    Some(Maintenance {
        invalidate: Invalidate {
            pdb,
            range,
            level: if cancel { 0 } else { (c >> 7 & 7) as u8 },
            hub_only: c & C_GPC_DISABLE != 0,
        },
        replay,
        ack,
        sys_membar: a & A_SYS_MEMBAR != 0,
    })
}

impl Context {
    /// MEM_OP_D of a privileged channel, which executes the operation.
    pub(super) fn mem_op(&mut self, core: &Core, d: u32) -> Done {
        let [a, b, c] = self.mem_op;
        match d >> 27 {
            OP_MEMBAR => {
                // Other stores are visible once made; the order is what counts.
                core.copy.membar(
                    core,
                    match c & 7 {
                        0 => Flush::System,
                        1 => Flush::Gpu,
                        _ => return Done::Stop(StopReason::BadMethod),
                    },
                );
                fence(Ordering::SeqCst);
                return Done::Yes;
            }
            OP_ACCESS_COUNTER_CLEAR => {
                core.mmu.counters().clear(Clear::decode(c, d));
                return Done::Yes;
            }
            OP_INVALIDATE | OP_INVALIDATE_TARGETED => {}
            _ => return Done::Stop(StopReason::BadMethod),
        }
        let targeted = d >> 27 == OP_INVALIDATE_TARGETED;
        let Some(op) = decode(targeted, [a, b, c, d]) else {
            core.errors.report(format_args!(
                "MEM_OP {a:#x} {b:#x} {c:#x} {d:#x} is not defined"
            ));
            return Done::Stop(StopReason::BadMethod);
        };
        op.execute(core);
        match core.faults.ack_delay(&op) {
            None => Done::Hang,
            Some(Duration::ZERO) => Done::Yes,
            Some(delay) => Done::Pause(delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targeted_invalidate() {
        let pdb = 0x12_3456_7000_u64;
        let op = decode(
            true,
            [
                0x7654_0000 | A_SYS_MEMBAR | 4,
                0x7f,
                (pdb as u32) | 2 << 10 | 2 << 7 | 1 << 5,
                (pdb >> 32) as u32 | OP_INVALIDATE_TARGETED << 27,
            ],
        )
        .expect("defined");
        assert_eq!(
            op.invalidate,
            Invalidate {
                pdb: Some(PhysAddr::new(Aperture::SysCoherent, pdb)),
                range: Some((0x7f_7654_0000, 0x7f_7654_ffff)),
                level: 2,
                hub_only: false,
            }
        );
        assert!(op.ack && op.sys_membar);
        assert_eq!(op.replay, Replay::None);
    }

    #[test]
    fn targeted_needs_one_page_directory() {
        assert!(decode(true, [0, 0, C_PDB_ALL, 0]).is_none());
        assert!(decode(false, [0, 0, C_PDB_ALL, 0]).is_some());
    }
}
