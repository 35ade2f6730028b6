// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Reading a runlist from memory.

use super::{Submit, Tsg, CHANNELS};
use crate::mem::{MemGuard, PhysAddr};

/// A channel outside a TSG: what the scheduler reports at 0x254c.
pub const SCHED_ERROR_NO_TSG: u32 = 0x20;

/// What a runlist holds.
#[derive(Default)]
pub struct Parsed {
    pub tsgs: Vec<Tsg>,
    /// By channel, the instance block its entry names.
    pub instances: Vec<(u32, PhysAddr)>,
    pub sched_error: Option<u32>,
    pub guest_errors: Vec<String>,
}

/// Reads what was submitted. A bad entry is left out.
pub fn parse(mem: &MemGuard<'_>, submit: Submit) -> Parsed {
    let mut parsed = Parsed::default();
    let mut left_in_tsg = 0;
    for i in 0..submit.entries {
        let at = submit.at.offset(u64::from(i) * 16);
        let word = |n: u64| mem.read_u32(at.offset(n * 4));
        let (Ok(w0), Ok(w1), Ok(w2), Ok(w3)) = (word(0), word(1), word(2), word(3)) else {
            parsed
                .guest_errors
                .push(format!("runlist entry {i} at {at} is in no memory"));
            break;
        };
        if w0 & 1 == 1 {
            if left_in_tsg != 0 {
                parsed.guest_errors.push(format!(
                    "runlist entry {i}: TSG is {left_in_tsg} channels short"
                ));
            }
            left_in_tsg = w1 & 0xff;
            parsed.tsgs.push(Tsg {
                id: w2 & 0xfff,
                channels: Vec::new(),
            });
            continue;
        }
        let chid = w2 & 0xfff;
        if left_in_tsg == 0 {
            parsed.sched_error = Some(SCHED_ERROR_NO_TSG);
            continue;
        }
        left_in_tsg -= 1;
        let aperture = crate::mem::Aperture::from_target(w0 >> 4);
        match (aperture, parsed.tsgs.last_mut()) {
            (Some(aperture), Some(tsg)) if (chid as usize) < CHANNELS => {
                tsg.channels.push(chid);
                let inst = u64::from(w3) << 32 | u64::from(w2 & !0xfff);
                parsed.instances.push((chid, PhysAddr::new(aperture, inst)));
            }
            _ => parsed.guest_errors.push(format!(
                "runlist entry {i}: channel {chid}, target {:#x}",
                w0 >> 4 & 3
            )),
        }
    }
    if left_in_tsg != 0 {
        parsed.guest_errors.push(format!(
            "the runlist's last TSG is {left_in_tsg} channels short"
        ));
    }
    parsed
}
