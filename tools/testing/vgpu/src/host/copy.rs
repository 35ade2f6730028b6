// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Methods of the copy engine, and what it tells the host.

use super::pbdma::{Context, Done};
use super::{Host, StopReason};
use crate::copy::{physical, Launch};
use crate::core::Core;
use crate::lock;

impl Context {
    pub(super) fn copy_method(&mut self, core: &Core, address: u32, data: u32) -> Done {
        let copy = &mut self.copy;
        let word = |first: u32| ((address - first) / 4) as usize;
        match address {
            0x100 => {}
            0x240..=0x248 => copy.semaphore[word(0x240)] = data,
            0x260 | 0x264 => copy.targets[word(0x260)] = data,
            0x300 if physical(data) && !self.channel.physical_copy => {
                return Done::Stop(StopReason::Privilege);
            }
            0x300 => {
                let launch = Launch::new(self.channel.engine, copy, data);
                if !core.copy.launch(self.channel.chid, launch) {
                    return Done::Retry;
                }
            }
            0x400..=0x41c => copy.geometry[word(0x400)] = data,
            0x700..=0x708 => copy.remap[word(0x700)] = data,
            _ => return Done::Stop(StopReason::BadMethod),
        }
        Done::Yes
    }
}

impl Host {
    /// A copy of the channel waits for CLEAR_FAULTED.
    pub(crate) fn copy_faulted(&self, chid: u32) {
        self.set_faulted(chid, true);
        // A CLEAR_FAULTED may be waiting for it.
        self.kick(super::RUNLIST_KERNEL);
    }

    /// A copy of the channel, its `n`-th, failed: `status` has bits of 0x104410.
    pub(crate) fn copy_failed(&self, core: &Core, chid: u32, status: u32, n: u32) {
        lock(&self.state).copy_status |= status;
        let info = u64::from(n) << 32 | u64::from(status);
        self.stop_channel(core, chid, StopReason::CopyError, info);
    }
}
