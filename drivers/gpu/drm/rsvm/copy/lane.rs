// SPDX-License-Identifier: GPL-2.0

//! A channel to the copy engine, with one batch at a time.

use super::{
    methods::Methods,
    POLL, //
};
use crate::{
    dma::DmaBuffer,
    gpu::Gpu,
    hal::Hal,
    mmu::pool::TablePool,
    queue::{
        channel::{
            Channel,
            Role, //
        },
        runlist, //
    },
    regs::{
        NV_CHANNEL_STATUS,
        NV_LCE_STATUS, //
    },
    reset::BOUND, //
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
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc,
    time::Delta, //
};

/// Whether `done` is `number` or a later one. Numbers wrap; the last few are in use.
fn has_reached(done: u32, number: u32) -> bool {
    done.wrapping_sub(number) <= u32::MAX / 2
}

/// A channel to the copy engine.
pub(super) struct Lane {
    pub(super) channel: Channel,
    pub(super) methods: Methods,
    /// Number of the last part of a batch that is done.
    semaphore: DmaBuffer<u32>,
    /// Number of the last part that was ended.
    pub(super) number: u32,
}

impl Lane {
    pub(super) fn new(
        dev: &Device<Bound>,
        hal: &'static dyn Hal,
        pool: &Arc<TablePool>,
        chid: u32,
    ) -> Result<Self> {
        let semaphore = DmaBuffer::new(dev, PAGE_SIZE / size_of::<u32>())?;
        let role = Role::Copy {
            semaphore: semaphore.addr(),
        };
        Ok(Self {
            channel: Channel::new(dev, hal, pool, chid, role)?,
            methods: Methods::new()?,
            semaphore,
            number: 0,
        })
    }

    /// Whether part `number` is done.
    pub(super) fn is_done(&self, number: u32) -> Result<bool> {
        Ok(has_reached(self.semaphore.read(0)?, number))
    }

    /// Looks for `bound` whether part `number` is done, which [`is_done`](Self::is_done) tells.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`, and `ENODEV` after the driver was unbound.
    pub(super) fn poll(&self, number: u32, bound: Delta) -> Result {
        let is_done = |&done: &u32| has_reached(done, number);
        self.semaphore.poll(0, is_done, bound)
    }

    /// Ends a part of the batch, which gets the next number.
    pub(super) fn end_part(&mut self) {
        let number = self.next_number();
        self.methods.end_part(number);
    }

    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// Ends the last part, and sends the methods.
    pub(super) fn send(&mut self, gpu: &Gpu) -> Result {
        let number = self.next_number();
        let words = self.methods.end(number);
        // All batches before are done; the device has yet to write that it is through with their
        // words.
        self.channel.rings.push_when_free(&[words])?;
        runlist::ring_doorbell(&gpu.regs, runlist::KERNEL, self.channel.chid)
    }

    /// Has an interrupt come after the batch. Tells whether there was room to say so.
    pub(super) fn ask_for_interrupt(&mut self, gpu: &Gpu) -> Result<bool> {
        match self.channel.rings.push(&[&Methods::interrupt()]) {
            Err(err) if err == EAGAIN => return Ok(false),
            other => other?,
        }
        runlist::ring_doorbell(&gpu.regs, runlist::KERNEL, self.channel.chid)?;
        Ok(true)
    }

    /// Whether the device stopped the channel, which it does where the engine refuses a launch.
    pub(super) fn has_stopped(&self, gpu: &Gpu) -> Result<bool> {
        // CAST: Widening.
        let index = self.channel.chid as usize;
        let status = gpu
            .regs
            .with(|bar| NV_CHANNEL_STATUS::try_at(index).map(|at| bar.read(at)))?
            .ok_or(EINVAL)?;
        Ok(status.engine_faulted() || status.pbdma_faulted())
    }

    /// Makes a channel that was stopped ready for the next batch.
    pub(super) fn restart(&mut self, gpu: &Gpu) -> Result {
        let regs = &gpu.regs;
        let chid = self.channel.chid;
        let mut runlist = gpu.kernel_runlist.lock();
        runlist::disable(regs, chid)?;
        {
            let _turn = gpu.preemption.lock();
            runlist.preempt(regs, chid)?;
            // TIMEOUT: Nothing of a channel that was stopped is under way; see `BOUND`.
            read_poll_timeout(
                || runlist.preempting(regs),
                |&preempting| !preempting,
                POLL,
                BOUND,
            )?;
        }
        runlist.remove(regs, chid)?;
        let errors = NV_LCE_STATUS::zeroed()
            .with_launch_error(true)
            .with_invalid_config(true);
        regs.with(|bar| bar.write_reg(errors))?;
        self.channel.reset()?;
        runlist.add(regs, &self.channel)
    }
}
