// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The host interface's registers.

use super::{Host, Preempt, Submit, CHANNELS, RUNLISTS};
use crate::core::Core;
use crate::intr::VECTOR_PFIFO;
use crate::lock;
use crate::mem::{Aperture, PhysAddr};
use std::sync::atomic::Ordering;

const CHANNEL_BIND: u32 = 1 << 31;
const CHANNEL_SET: u32 = 1 << 10;
const CHANNEL_CLR: u32 = 1 << 11;
const CHANNEL_PBDMA_FAULTED: u32 = 1 << 22;
const CHANNEL_ENG_FAULTED: u32 = 1 << 23;
/// Status field: idle, or on the PBDMA, or on PBDMA and engine.
const CHANNEL_ON_PBDMA: u32 = 5 << 24;

const PREEMPT_PENDING: u32 = 1 << 20;
const PREEMPT_TSG: u32 = 1 << 24;
const RUNLIST_PENDING: u32 = 1 << 15;

impl Host {
    /// Reads a register of this unit, if it is one.
    pub fn read(&self, offset: u32) -> Option<u32> {
        let state = lock(&self.state);
        Some(match offset {
            0x2100 => state.intr,
            0x2140 => state.intr_enable,
            0x254c => state.sched_error,
            0x2a14 => state.clear_faulted_error,
            0x2630 => (0..RUNLISTS).fold(0, |m, r| m | u32::from(state.runlists[r].disabled) << r),
            0x2638 => (0..RUNLISTS).fold(0, |m, r| m | u32::from(state.runlists[r].preempt) << r),
            0x2634 => {
                let pending = if state.preempt.is_some() {
                    PREEMPT_PENDING
                } else {
                    0
                };
                state.last_preempt | pending
            }
            0xf0_1000..=0xf0_17fc => {
                let channel = &state.channels[(offset - 0xf0_1000) as usize / 16];
                channel.error.get(offset as usize % 16 / 4).copied()?
            }
            0x2b00..=0x2b1c => {
                let runlist = &state.runlists[(offset - 0x2b00) as usize / 16];
                match offset % 16 {
                    0 => runlist.base,
                    4 => runlist.base_hi,
                    8 => 0,
                    _ if runlist.pending => RUNLIST_PENDING,
                    _ => 0,
                }
            }
            0x80_0000..=0x80_03fc => {
                let channel = &state.channels[(offset - 0x80_0000) as usize / 8];
                if offset % 8 == 0 {
                    channel.inst.map_or(0, |inst| {
                        (inst.addr >> 12) as u32 & 0xfff_ffff
                            | inst.aperture.target() << 28
                            | CHANNEL_BIND
                    })
                } else {
                    let flag = |on: bool, bit| if on { bit } else { 0 };
                    flag(channel.enabled, 1)
                        | flag(channel.pbdma_faulted, CHANNEL_PBDMA_FAULTED)
                        | flag(channel.eng_faulted, CHANNEL_ENG_FAULTED)
                        | flag(channel.resident, CHANNEL_ON_PBDMA)
                }
            }
            0x10_4410 => state.copy_status,
            0xb6_5000 => u32::from(state.doorbells) << 31,
            0xbb_0090 => 0,
            _ => return None,
        })
    }

    /// Writes a register of this unit. False if it is none.
    pub fn write(&self, core: &Core, offset: u32, value: u32) -> bool {
        match offset {
            0x80_0000..=0x80_03fc => {
                let chid = (offset - 0x80_0000) / 8;
                if offset % 8 == 0 {
                    self.bind(core, chid, value);
                } else {
                    self.control(core, chid, value);
                }
                return true;
            }
            0xbb_0090 => {
                self.doorbell(core, value);
                return true;
            }
            _ => {}
        }
        let mut state = lock(&self.state);
        let mut kick = [false; RUNLISTS];
        let mut guest_error = None;
        match offset {
            0x2100 => state.intr &= !value,
            0x2140 => {
                let new = value & !state.intr_enable;
                state.intr_enable = value;
                if state.intr & new != 0 {
                    core.intr.raise(VECTOR_PFIFO);
                }
            }
            0x254c => state.sched_error = 0,
            0x2a14 => state.clear_faulted_error = 0,
            0x2630 => {
                for (r, kick) in kick.iter_mut().enumerate() {
                    state.runlists[r].disabled = value & 1 << r != 0;
                    *kick = true;
                }
            }
            0x2638 => {
                for (r, kick) in kick.iter_mut().enumerate() {
                    if value & 1 << r != 0 {
                        state.runlists[r].preempt = true;
                        *kick = true;
                    }
                }
            }
            0x2634 => {
                if state.preempt.is_some() {
                    guest_error = Some("preempt written while one is pending");
                }
                state.last_preempt = value & (0xfff | PREEMPT_TSG);
                state.preempt = Some(Preempt {
                    id: value & 0xfff,
                    tsg: value & PREEMPT_TSG != 0,
                });
                kick = [true; RUNLISTS];
            }
            0x2b00..=0x2b1c => {
                let r = (offset - 0x2b00) as usize / 16;
                let runlist = &mut state.runlists[r];
                match offset % 16 {
                    0 => runlist.base = value,
                    4 => runlist.base_hi = value,
                    8 => {
                        if runlist.pending {
                            guest_error = Some("runlist submitted while one is pending");
                        }
                        match Aperture::from_target(runlist.base) {
                            Some(aperture) => {
                                let base = u64::from(runlist.base_hi) << 32
                                    | u64::from(runlist.base & !0xfff);
                                let at = PhysAddr::new(aperture, base)
                                    .offset(u64::from(value >> 16) * 16);
                                let entries = value & 0xffff;
                                runlist.submit = Some(Submit { at, entries });
                                runlist.pending = true;
                                kick[r] = true;
                            }
                            None => guest_error = Some("runlist target 1 (bits 1:0)"),
                        }
                    }
                    _ => {}
                }
            }
            // Why a channel stopped is read-only.
            0xf0_1000..=0xf0_17fc => {}
            0x10_4410 => state.copy_status &= !value,
            0xb6_5000 => state.doorbells = value >> 31 == 1,
            _ => return false,
        }
        drop(state);
        if let Some(what) = guest_error {
            core.errors.report(format_args!("{what}"));
        }
        for (r, _) in kick.iter().enumerate().filter(|k| *k.1) {
            self.kick(r);
        }
        true
    }

    /// Binds the channel to an instance block, or unbinds it: then its state
    /// and its harts are gone when this returns.
    fn bind(&self, core: &Core, chid: u32, value: u32) {
        let mut state = lock(&self.state);
        let channel = &mut state.channels[chid as usize];
        let before = std::mem::take(channel);
        channel.bound = before.bound + 1;
        if value & CHANNEL_BIND != 0 {
            let target = Aperture::from_target(value >> 28);
            channel.inst =
                target.map(|aperture| PhysAddr::new(aperture, u64::from(value & 0xfff_ffff) << 12));
            channel.enabled = before.enabled;
        }
        let bad = value & CHANNEL_BIND != 0 && channel.inst.is_none();
        drop(state);
        if bad {
            core.errors
                .report(format_args!("channel {chid} bound with target 1"));
        }
        if before.resident && !before.dead {
            core.errors
                .report(format_args!("channel {chid} unbound but not preempted"));
        }
        if let (Some(veid), Some(compute)) = (before.veid, core.compute()) {
            compute.kill(veid);
        }
        if before.loaded {
            core.copy.kill(core, chid);
        }
        self.kick_all();
    }

    fn control(&self, core: &Core, chid: u32, value: u32) {
        let mut state = lock(&self.state);
        let channel = &mut state.channels[chid as usize];
        if value & CHANNEL_SET != 0 {
            channel.enabled = true;
        }
        if value & CHANNEL_CLR != 0 {
            channel.enabled = false;
        }
        if !channel.dead {
            channel.pbdma_faulted &= value & CHANNEL_PBDMA_FAULTED == 0;
            channel.eng_faulted &= value & CHANNEL_ENG_FAULTED == 0;
        }
        let unbound = channel.enabled && channel.inst.is_none();
        let cleared = !channel.dead && value & CHANNEL_ENG_FAULTED != 0;
        drop(state);
        if cleared {
            core.copy.clear_faulted(chid);
        }
        if unbound && value & CHANNEL_SET != 0 {
            core.errors
                .report(format_args!("channel {chid} enabled but not bound"));
        }
        self.kick_all();
    }

    fn doorbell(&self, core: &Core, value: u32) {
        let (r, chid) = ((value >> 16) as usize, (value & 0xffff) as usize);
        let mut state = lock(&self.state);
        if !state.doorbells || r >= RUNLISTS || chid >= CHANNELS {
            drop(state);
            core.errors.report(format_args!(
                "doorbell {value:#x} is for no channel, or doorbells are disabled"
            ));
            return;
        }
        state.channels[chid].doorbell = true;
        drop(state);
        let n = self.doorbells.fetch_add(1, Ordering::Relaxed) + 1;
        if n == core.config.inject.remove_at_doorbell {
            core.remove();
        }
        self.kick(r);
    }
}
