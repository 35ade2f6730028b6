// SPDX-License-Identifier: GPL-2.0

//! The fault buffers.
//!
//! The device writes packets into a ring in memory and sets VALID in each when the rest of it is
//! there, not necessarily in order. The driver reads by VALID, clears it, and tells by the GET
//! register how far it came. Writing GET to a buffer that is not empty makes the device send its
//! interrupt again, so that nothing that comes meanwhile is missed.
//!
//! A full buffer drops packets. The accesses still wait and are reported again after a replay.

use super::{
    batch::{
        Batch,
        Fault, //
    },
    complete,
    FaultInfo,
    Reason, //
};
use crate::{
    dma::DmaBuffer,
    gpu::{
        Gpu,
        Regs, //
    },
    hal::{
        Cause,
        Packet, //
    },
    hw::{
        fault::{
            FaultStatus,
            PACKET_WORDS,
            VALID_WORD, //
        },
        pte::PTE_SYS_COHERENT, //
    },
    mmu::tlb::{
        fault_addr,
        Program, //
    },
    queue::{
        runlist,
        Queue, //
    },
    regs::{
        vector,
        NV_FAULT_BUFFER_GET,
        NV_FAULT_BUFFER_HI,
        NV_FAULT_BUFFER_LO,
        NV_FAULT_BUFFER_PUT,
        NV_FAULT_BUFFER_SIZE, //
    },
    reset::BOUND,
    svm::device::Cancel,
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
    new_mutex,
    prelude::*,
    sync::{
        barrier,
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

const NON_REPLAYABLE: usize = 0;
const REPLAYABLE: usize = 1;

/// How long a packet may stay invalid while a later one is valid already.
const STRAGGLER: Delta = Delta::from_millis(5);
/// How long an overflow is left alone.
const OVERFLOW_PAUSE: Delta = Delta::from_millis(1);

/// One buffer.
struct FaultBuffer {
    /// Index of its registers.
    index: usize,
    memory: DmaBuffer<u32>,
    entries: usize,
    /// Next entry to read.
    get: usize,
    /// How many were read so far.
    taken: u64,
    /// Whether the registers say where it is; otherwise GET means nothing.
    enabled: bool,
}

impl FaultBuffer {
    /// Allocates a buffer of the size that the device likes best. May sleep.
    fn new(dev: &Device<Bound>, regs: &Regs, index: usize) -> Result<Self> {
        let set = NV_FAULT_BUFFER_SIZE::zeroed().with_set_default(true);
        regs.with(|bar| {
            if let Some(at) = NV_FAULT_BUFFER_SIZE::try_at(index) {
                bar.write(at, set);
            }
        })?;
        let size = regs.with(|bar| NV_FAULT_BUFFER_SIZE::try_at(index).map(|at| bar.read(at)))?;
        // CAST: Widening.
        let entries = size.ok_or(EINVAL)?.entries().get() as usize;
        if !(2..=1 << 16).contains(&entries) {
            return Err(EIO);
        }
        Ok(Self {
            index,
            memory: DmaBuffer::new(dev, entries * PACKET_WORDS)?,
            entries,
            get: 0,
            taken: 0,
            enabled: false,
        })
    }

    fn enable(&mut self, regs: &Regs) -> Result {
        self.enabled = true;
        let addr = self.memory.addr();
        // CAST: The address is split into its words; buffers are aligned to a page.
        let lo = NV_FAULT_BUFFER_LO::from_raw(addr as u32 & NV_FAULT_BUFFER_LO::ADDR_MASK)
            .with_const_aperture::<{ PTE_SYS_COHERENT as u32 }>()
            .with_volatile(true)
            .with_physical(true);
        let hi = NV_FAULT_BUFFER_HI::from_raw((addr >> 32) as u32);
        let size = NV_FAULT_BUFFER_SIZE::zeroed()
            .try_with_entries(self.entries as u32)?
            .with_overflow_intr(true)
            .with_enable(true);
        let index = self.index;
        regs.with(|bar| {
            if let Some(at) = NV_FAULT_BUFFER_LO::try_at(index) {
                bar.write(at, lo);
            }
        })?;
        regs.with(|bar| {
            if let Some(at) = NV_FAULT_BUFFER_HI::try_at(index) {
                bar.write(at, hi);
            }
        })?;
        regs.with(|bar| {
            if let Some(at) = NV_FAULT_BUFFER_SIZE::try_at(index) {
                bar.write(at, size);
            }
        })
    }

    fn disable(&mut self, regs: &Regs) {
        self.enabled = false;
        let index = self.index;
        // An error means that there is no device.
        let _ = regs.with(|bar| {
            if let Some(at) = NV_FAULT_BUFFER_SIZE::try_at(index) {
                bar.write(at, NV_FAULT_BUFFER_SIZE::zeroed());
            }
        });
    }

    fn is_valid(&self, entry: usize) -> Result<bool> {
        let word = self.memory.read(entry * PACKET_WORDS + VALID_WORD)?;
        Ok(FaultStatus::from_raw(word).valid())
    }

    /// Takes the next packet, if there is one. May sleep a little for one that is late.
    fn take(&mut self) -> Result<Option<[u32; PACKET_WORDS]>> {
        let entry = self.get;
        let next = (entry + 1) % self.entries;
        if !self.is_valid(entry)? {
            if !self.is_valid(next)? {
                return Ok(None);
            }
            // TIMEOUT: The device is busy writing it. Should it take longer, then the write of GET
            // brings an interrupt, and this comes here again.
            let late = read_poll_timeout(
                || self.is_valid(entry),
                |&valid| valid,
                Delta::from_micros(10),
                STRAGGLER,
            );
            match late {
                Err(err) if err == ETIMEDOUT => return Ok(None),
                other => other?,
            };
        }
        barrier::dma_mb(barrier::Read);
        let mut packet = [0; PACKET_WORDS];
        self.memory.read_slice(entry * PACKET_WORDS, &mut packet)?;
        self.memory.write(entry * PACKET_WORDS + VALID_WORD, 0)?;
        self.get = next;
        self.taken += 1;
        Ok(Some(packet))
    }

    /// How many packets, valid or not yet, wait to be read.
    fn waiting(&self, regs: &Regs) -> Result<u64> {
        let index = self.index;
        let put = regs.with(|bar| NV_FAULT_BUFFER_PUT::try_at(index).map(|at| bar.read(at)))?;
        // CAST: Widening.
        let put = put.ok_or(EINVAL)?.entry().get() as usize;
        let lap = if put < self.get { self.entries } else { 0 };
        Ok((put + lap - self.get) as u64)
    }

    /// The number of the next packet that the device writes, counted from the first; `None` while
    /// it writes none.
    fn next(&self, regs: &Regs) -> Result<Option<u64>> {
        if !self.enabled {
            return Ok(None);
        }
        Ok(Some(self.taken + self.waiting(regs)?))
    }

    fn get_register(&self) -> NV_FAULT_BUFFER_GET {
        // CAST: Less than 2^20.
        NV_FAULT_BUFFER_GET::from_raw(self.get as u32)
    }

    fn write_get(&self, regs: &Regs, get: NV_FAULT_BUFFER_GET) -> Result {
        // The device may use the entries again; VALID was cleared in them.
        barrier::dma_mb(barrier::Write);
        let index = self.index;
        regs.with(|bar| {
            if let Some(at) = NV_FAULT_BUFFER_GET::try_at(index) {
                bar.write(at, get);
            }
        })
    }

    /// Lets the device write again after an overflow. GET has to be written before, on its own.
    fn clear_overflow(&self, regs: &Regs) -> Result {
        let get = self.get_register().with_overflow(true).with_corrupted(true);
        self.write_get(regs, get)
    }
}

struct Replayable {
    buffer: FaultBuffer,
    batch: Batch,
}

/// Both fault buffers.
#[pin_data]
pub(crate) struct FaultBuffers {
    #[pin]
    replayable: Mutex<Replayable>,
    #[pin]
    non_replayable: Mutex<FaultBuffer>,
}

impl FaultBuffers {
    /// Allocates the buffers; [`enable`](Self::enable) comes next. May sleep.
    pub(crate) fn new<'a>(
        dev: &'a Device<Bound>,
        regs: &'a Regs,
    ) -> impl PinInit<Self, Error> + 'a {
        pin_init::pin_init_scope(move || {
            let buffer = FaultBuffer::new(dev, regs, REPLAYABLE)?;
            let batch = Batch::new(buffer.entries)?;
            let replayable = Replayable { buffer, batch };
            let non_replayable = FaultBuffer::new(dev, regs, NON_REPLAYABLE)?;
            Ok(try_pin_init!(Self {
                replayable <- new_mutex!(replayable, "rsvm_replayable"),
                non_replayable <- new_mutex!(non_replayable, "rsvm_non_replayable"),
            }? Error))
        })
    }

    /// # Errors
    ///
    /// `ENODEV` when the device is gone.
    pub(crate) fn enable(&self, regs: &Regs) -> Result {
        self.replayable.lock().buffer.enable(regs)?;
        self.non_replayable.lock().enable(regs)
    }

    pub(crate) fn disable(&self, regs: &Regs) {
        self.replayable.lock().buffer.disable(regs);
        self.non_replayable.lock().disable(regs);
    }
}

/// Has `drain` called until as many packets as `until` were taken in all, which it returns.
fn flush(until: u64, drain: impl FnMut() -> Result<u64>) -> Result {
    // TIMEOUT: See `BOUND`.
    read_poll_timeout(drain, |&taken| taken >= until, Delta::from_millis(1), BOUND)?;
    Ok(())
}

/// What a fault that cannot be served says.
fn fatal(packet: &Packet) -> FaultInfo {
    let reason = match packet.cause {
        Cause::VaLimit => Reason::BadAddress,
        Cause::Privilege => Reason::Protection,
        Cause::Poison => Reason::Io,
        Cause::Translation | Cause::Other(_) => Reason::NoMapping,
    };
    FaultInfo {
        addr: packet.addr,
        access: packet.access,
        execute: packet.fetch,
        reason,
    }
}

impl Gpu {
    /// Hands what the replayable buffer has to the spaces. With `interrupt`, called for an
    /// interrupt, which it clears. May sleep; waits for no service.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn drain_replayable(&self, interrupt: bool) -> Result {
        let mut guard = self.faults.replayable.lock();
        if interrupt {
            let (leaf, bit) = vector::leaf(vector::REPLAYABLE);
            self.clear_leaf(leaf, bit)?;
        }
        let Replayable { buffer, batch } = &mut *guard;
        if !buffer.enabled {
            return Ok(());
        }
        let mut cancels = Program::new();
        // No more than the buffer holds in one go.
        for _ in 0..buffer.entries {
            let serial = buffer.taken;
            let Some(words) = buffer.take()? else { break };
            self.sort_out(&self.hal.decode(&words), serial, batch, &mut cancels);
        }
        buffer.write_get(&self.regs, buffer.get_register())?;

        if !cancels.is_empty() {
            self.run(&cancels);
        }
        batch.merge();
        for slice in batch.slices() {
            if let Some(queue) = slice.first().and_then(|fault| self.queue(fault.source)) {
                queue.space().submit(slice);
            }
        }
        batch.clear();
        Ok(())
    }

    /// Puts a replayable fault into the batch, or sees to it that it ends.
    fn sort_out(&self, packet: &Packet, serial: u64, batch: &mut Batch, cancels: &mut Program) {
        let queue = packet.veid.and_then(|veid| self.queues.by_veid(veid));
        // Without a queue, or with another one of the same VEID, it is a leftover: its hardware
        // threads are gone.
        let Some(queue) = queue.filter(|queue| queue.instance() == packet.instance) else {
            return;
        };
        if packet.cause == Cause::Translation && !queue.is_over() {
            let fault = Fault {
                space: queue.pdb(),
                addr: fault_addr(packet.addr),
                access: packet.access,
                execute: packet.fetch,
                source: queue.source(),
                serial,
            };
            // A batch holds as much as the buffer.
            let _ = batch.push(fault);
            return;
        }
        if !queue.is_over() {
            queue.space().queue_failed(queue.source(), fatal(packet));
        }
        let cancel = Cancel {
            addr: fault_addr(packet.addr),
            access: packet.access,
            source: queue.source(),
        };
        complete::make_room(self, cancels, 1);
        cancels.cancel(self.hal, queue.pdb(), &cancel);
    }

    /// The serial number of the next replayable fault that the device reports; `None` while it
    /// reports none.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn next_report(&self) -> Result<Option<u64>> {
        self.faults.replayable.lock().buffer.next(&self.regs)
    }

    /// The serial number of the next fault that is read.
    pub(crate) fn next_read(&self) -> u64 {
        self.faults.replayable.lock().buffer.taken
    }

    /// Reads everything that is in the replayable buffer now, so that nothing is left of hardware
    /// threads that are gone. May sleep.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if the device does not finish its packets, `ENODEV` after the driver was unbound.
    pub(crate) fn flush_replayable(&self) -> Result {
        let Some(until) = self.next_report()? else {
            return Ok(());
        };
        if self.next_read() >= until {
            return Ok(());
        }
        flush(until, || {
            self.drain_replayable(false)?;
            Ok(self.next_read())
        })
    }

    /// Reads everything that is in both buffers now, so that nothing is left of a queue's threads
    /// that are gone, neither their faults nor what is reported of cancelled ones. May sleep.
    ///
    /// # Errors
    ///
    /// As for [`flush_replayable`](Self::flush_replayable).
    pub(crate) fn flush_faults(&self) -> Result {
        self.flush_replayable()?;
        let until = self.faults.non_replayable.lock().next(&self.regs)?;
        let Some(until) = until else {
            return Ok(());
        };
        flush(until, || {
            self.drain_non_replayable(false)?;
            Ok(self.faults.non_replayable.lock().taken)
        })
    }

    /// After the replayable buffer has overflowed: makes room, and has the device report again
    /// what it dropped.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn recover_replayable(&self) -> Result {
        self.drain_replayable(false)?;
        // Time for some of that to be served: what is reported again at once fills it again.
        fsleep(OVERFLOW_PAUSE);
        {
            let faults = self.faults.replayable.lock();
            if !faults.buffer.enabled {
                return Ok(());
            }
            faults.buffer.clear_overflow(&self.regs)?;
        }
        let mut program = Program::new();
        program.replay();
        self.run(&program);
        Ok(())
    }

    /// Kills the channels that the non-replayable buffer names. Nothing that users' channels may
    /// do leads there but mistakes, and what was cancelled before.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn drain_non_replayable(&self, overflow: bool) -> Result {
        let mut buffer = self.faults.non_replayable.lock();
        if !buffer.enabled {
            return Ok(());
        }
        for _ in 0..buffer.entries {
            let Some(words) = buffer.take()? else { break };
            let packet = self.hal.decode(&words);
            if packet.instance == self.tlb.instance_addr() {
                self.wedge("the driver's own channel faulted", EFAULT);
            }
            if let Some(queue) = self.queues.by_instance(packet.instance) {
                self.kill(&queue, &packet);
            }
        }
        buffer.write_get(&self.regs, buffer.get_register())?;
        if overflow {
            buffer.clear_overflow(&self.regs)?;
        }
        Ok(())
    }

    fn kill(&self, queue: &Arc<Queue>, packet: &Packet) {
        if queue.is_over() {
            // A cancelled fault is reported once more, here.
            return;
        }
        queue.space().queue_failed(queue.source(), fatal(packet));
        // An error means that there is no device.
        let _ = runlist::disable(&self.regs, queue.chid());
    }
}
