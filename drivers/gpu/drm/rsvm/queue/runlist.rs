// SPDX-License-Identifier: GPL-2.0

//! Runlists: which channels the device may run.
//!
//! Lock order: a runlist's lock is outside of the invalidation lock; nothing that reclaim waits
//! for is taken under it.

use super::channel::Channel;
use crate::{
    dma::DmaBuffer,
    gpu::Regs,
    hw::{
        ramfc::TARGET_SYS_COHERENT,
        runlist::{
            self,
            ENTRY_WORDS, //
        },
    },
    regs::{
        NV_CHANNEL_INST,
        NV_CHANNEL_STATUS,
        NV_PFIFO_PREEMPT,
        NV_PFIFO_RUNLIST_BASE_HI,
        NV_PFIFO_RUNLIST_BASE_LO,
        NV_PFIFO_RUNLIST_INFO,
        NV_PFIFO_RUNLIST_SUBMIT,
        NV_USERMODE_DOORBELL, //
    },
    reset::BOUND,
};
use kernel::{
    device::{
        Bound,
        Device, //
    },
    io::{
        poll::read_poll_timeout,
        register::Array,
        Io, //
    },
    prelude::*,
    sync::barrier,
    time::Delta, //
};

/// The driver's own runlist.
pub(crate) const KERNEL: u32 = 0;
/// The runlist of users' queues.
pub(crate) const USER: u32 = 1;

/// Channels a runlist has room for.
const CAPACITY: usize = 64;

struct Entry {
    chid: u32,
    instance: u64,
    userd: u64,
}

pub(crate) struct Runlist {
    id: u32,
    entries: KVec<Entry>,
    /// The device reads one while the other is written.
    memory: [DmaBuffer<u32>; 2],
    next: usize,
}

impl Runlist {
    /// An empty runlist, not submitted. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(dev: &Device<Bound>, id: u32) -> Result<Self> {
        const WORDS: usize = CAPACITY * 2 * ENTRY_WORDS;
        Ok(Self {
            id,
            entries: KVec::with_capacity(CAPACITY, GFP_KERNEL)?,
            memory: [DmaBuffer::new(dev, WORDS)?, DmaBuffer::new(dev, WORDS)?],
            next: 0,
        })
    }

    /// Lets the device run `channel`. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the runlist is full; `ETIMEDOUT` if the device does not obey; `ENODEV` when it
    /// is gone.
    pub(crate) fn add(&mut self, regs: &Regs, channel: &Channel) -> Result {
        let instance = channel.instance_addr();
        let entry = Entry {
            chid: channel.chid,
            instance,
            userd: channel.rings.userd_addr(),
        };
        self.entries
            .push_within_capacity(entry)
            .map_err(|_| EBUSY)?;

        let index = channel.chid as usize;
        let inst = NV_CHANNEL_INST::from_raw((instance >> 12) as u32 & NV_CHANNEL_INST::PAGE_MASK)
            .with_const_target::<TARGET_SYS_COHERENT>()
            .with_bind(true);
        regs.with(|bar| {
            if let Some(at) = NV_CHANNEL_INST::try_at(index) {
                bar.write(at, inst);
            }
        })?;
        write_status(regs, channel.chid, |status| status.with_enable(true))?;
        self.submit(regs)
    }

    /// Takes a channel, which is disabled and preempted, off the device. May sleep.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    pub(crate) fn remove(&mut self, regs: &Regs, chid: u32) -> Result {
        self.entries.retain(|entry| entry.chid != chid);
        self.submit(regs)?;
        write_status(regs, chid, |status| {
            status.with_engine_faulted(true).with_pbdma_faulted(true)
        })?;
        let index = chid as usize;
        regs.with(|bar| {
            if let Some(at) = NV_CHANNEL_INST::try_at(index) {
                bar.write(at, NV_CHANNEL_INST::zeroed());
            }
        })
    }

    fn submit(&mut self, regs: &Regs) -> Result {
        let memory = &self.memory[self.next];
        self.next ^= 1;
        for (i, entry) in self.entries.iter().enumerate() {
            let at = i * 2 * ENTRY_WORDS;
            memory.write_slice(at, &runlist::group(entry.chid))?;
            memory.write_slice(
                at + ENTRY_WORDS,
                &runlist::channel(entry.chid, entry.instance, entry.userd),
            )?;
        }
        barrier::dma_mb(barrier::Write);

        let id = self.id as usize;
        // CAST: The address is split into its words; at most `CAPACITY` times 2 entries.
        let lo = NV_PFIFO_RUNLIST_BASE_LO::from_raw(
            memory.addr() as u32 & NV_PFIFO_RUNLIST_BASE_LO::ADDR_MASK,
        )
        .with_const_target::<TARGET_SYS_COHERENT>();
        let hi = NV_PFIFO_RUNLIST_BASE_HI::from_raw((memory.addr() >> 32) as u32);
        let length = NV_PFIFO_RUNLIST_SUBMIT::from_raw(self.entries.len() as u32 * 2);
        regs.with(|bar| {
            if let Some(at) = NV_PFIFO_RUNLIST_BASE_LO::try_at(id) {
                bar.write(at, lo);
            }
        })?;
        regs.with(|bar| {
            if let Some(at) = NV_PFIFO_RUNLIST_BASE_HI::try_at(id) {
                bar.write(at, hi);
            }
        })?;
        regs.with(|bar| {
            if let Some(at) = NV_PFIFO_RUNLIST_SUBMIT::try_at(id) {
                bar.write(at, length);
            }
        })?;
        // TIMEOUT: The device only reads a page; see `BOUND`.
        read_poll_timeout(
            || {
                let info =
                    regs.with(|bar| NV_PFIFO_RUNLIST_INFO::try_at(id).map(|at| bar.read(at)))?;
                info.ok_or(EINVAL)
            },
            |info| !info.pending(),
            Delta::from_millis(1),
            BOUND,
        )?;
        Ok(())
    }

    /// Starts to take a group, whose channels are disabled, off the engine.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device is gone.
    pub(crate) fn preempt(&self, regs: &Regs, id: u32) -> Result {
        let preempt = NV_PFIFO_PREEMPT::zeroed().try_with_id(id)?.with_tsg(true);
        regs.with(|bar| bar.write_reg(preempt))
    }

    /// Whether the device is still busy with [`preempt`](Self::preempt).
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device is gone.
    pub(crate) fn preempting(&self, regs: &Regs) -> Result<bool> {
        regs.with(|bar| bar.read(NV_PFIFO_PREEMPT).pending())
    }
}

fn write_status(
    regs: &Regs,
    chid: u32,
    set: impl FnOnce(NV_CHANNEL_STATUS) -> NV_CHANNEL_STATUS,
) -> Result {
    let status = set(NV_CHANNEL_STATUS::zeroed());
    regs.with(|bar| {
        if let Some(at) = NV_CHANNEL_STATUS::try_at(chid as usize) {
            bar.write(at, status);
        }
    })
}

/// Stops a channel from being scheduled; what runs goes on.
///
/// # Errors
///
/// `ENODEV` when the device is gone.
pub(crate) fn disable(regs: &Regs, chid: u32) -> Result {
    write_status(regs, chid, |status| status.with_disable(true))
}

/// Tells the device that a channel has something to do.
///
/// # Errors
///
/// `ENODEV` when the device is gone.
pub(crate) fn ring_doorbell(regs: &Regs, runlist: u32, chid: u32) -> Result {
    let doorbell = NV_USERMODE_DOORBELL::zeroed()
        .try_with_runlist(runlist)?
        .try_with_channel(chid)?;
    regs.with(|bar| bar.write_reg(doorbell))
}
