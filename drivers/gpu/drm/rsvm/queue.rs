// SPDX-License-Identifier: GPL-2.0

//! Users' queues: one channel, one group and one VEID each, so that killing one is precise.

pub(crate) mod channel;
pub(crate) mod pushbuf;
pub(crate) mod runlist;

use crate::{
    fault::{
        FaultInfo,
        Reason, //
    },
    gpu::Gpu,
    hal::{
        self,
        VEIDS, //
    },
    hw::method::{
        self,
        compute,
        host, //
    },
    mmu::tlb::{
        Barrier,
        Program, //
    },
    queue::{
        channel::{
            Channel,
            Role, //
        },
        runlist::Runlist, //
    },
    regs::{
        error,
        CHANNEL_ERROR,
        CHANNEL_ERROR_HI,
        CHANNEL_ERROR_LO, //
    },
    reset::BOUND,
    svm::{
        device::{
            Access,
            Pdb,
            Source, //
        },
        space::Space, //
    },
};
use kernel::{
    io::{
        register::Array,
        Io, //
    },
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicFlag,
            Relaxed,
            Release, //
        },
        Arc,
        Mutex,
        SetOnce, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// The subchannel on which the driver releases fences. Users who bind something else to it find
/// the compute engine there again.
const FENCE_SUBCHANNEL: u32 = 7;
/// Words of the release of a fence.
const FENCE_WORDS: usize = 8;

/// A queue to the compute engine.
#[pin_data]
pub(crate) struct Queue {
    gpu: Arc<Gpu>,
    space: Arc<Space<Gpu>>,
    id: u32,
    source: Source,
    pdb: Pdb,
    /// Bus address of the instance block: tells this queue from others of the same VEID.
    instance: u64,
    /// None once destroyed.
    #[pin]
    channel: Mutex<Option<Channel>>,
    /// Set before the channel is taken off the device: its faults end.
    dying: AtomicFlag,
    failure: SetOnce<FaultInfo>,
}

impl Queue {
    /// Most words of one push of a user.
    pub(crate) const MAX_PUSH_DWORDS: usize = pushbuf::MAX_PUSH_WORDS - FENCE_WORDS;

    /// Makes a queue whose kernels run in `space`. `id` is for the user. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` when there are [`Gpu::max_queues`], `ENODEV` when the driver is being unbound or the
    /// space was detached, `EIO` when the device is wedged, `ENOMEM`.
    pub(crate) fn create(gpu: &Arc<Gpu>, space: Arc<Space<Gpu>>, id: u32) -> Result<Arc<Self>> {
        // Also keeps others from taking the same VEID.
        let mut runlist = gpu.user_runlist.lock();
        gpu.check()?;
        let veid = gpu.queues.unused().ok_or(EBUSY)?;
        let source = gpu.queues.name(veid);
        let pdb = space.pdb().ok_or(ENODEV)?;
        let role = Role::User { veid, pdb };
        let channel = {
            let dev = gpu.dev.enter().ok_or(ENODEV)?;
            Channel::new(&dev, gpu.hal, &gpu.pool, veid, role)?
        };
        let queue = Arc::pin_init(
            pin_init!(Self {
                gpu: gpu.clone(),
                space,
                id,
                source,
                pdb,
                instance: channel.instance_addr(),
                channel <- new_mutex!(Some(channel), "rsvm_queue"),
                dying: AtomicFlag::new(false),
                failure: SetOnce::new(),
            }),
            GFP_KERNEL,
        )?;
        // A fault can come as soon as the channel is enabled.
        gpu.queues.set(veid, Some(queue.clone()));
        if let Some(channel) = &*queue.channel.lock() {
            if let Err(err) = runlist.add(&gpu.regs, channel) {
                gpu.queues.set(veid, None);
                gpu.wedge("a runlist was not taken over", err);
                return Err(EIO);
            }
        }
        Ok(queue)
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Number of the channel, and of its group: the VEID.
    pub(crate) fn chid(&self) -> u32 {
        hal::veid_of(self.source)
    }

    pub(crate) fn space(&self) -> &Arc<Space<Gpu>> {
        &self.space
    }

    pub(crate) fn pdb(&self) -> Pdb {
        self.pdb
    }

    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    /// Appends `methods`, and then the release of a fence: address and value. The fence comes when
    /// everything before has finished.
    ///
    /// # Errors
    ///
    /// `EAGAIN` while the ring is full; `EINVAL` if there are more than
    /// [`MAX_PUSH_DWORDS`](Self::MAX_PUSH_DWORDS), or nothing to push; `EIO` when the queue failed
    /// or the device is wedged; `ENODEV` when the queue is destroyed or the driver is being unbound.
    pub(crate) fn push(&self, methods: &[u32], fence: Option<(u64, u64)>) -> Result {
        self.gpu.check()?;
        if self.failure.as_ref().is_some() {
            return Err(EIO);
        }
        if methods.len() > Self::MAX_PUSH_DWORDS {
            return Err(EINVAL);
        }
        let fence = fence.map(|(addr, value)| release(addr, value));
        let fence: &[u32] = fence.as_ref().map_or(&[], |words| words);
        if methods.is_empty() && fence.is_empty() {
            return Ok(());
        }
        let mut guard = self.channel.lock();
        let channel = (*guard).as_mut().ok_or(ENODEV)?;
        channel.rings.push(&[methods, fence])?;
        runlist::ring_doorbell(&self.gpu.regs, runlist::USER, channel.chid)
    }

    /// What killed the queue, if anything has.
    pub(crate) fn failure(&self) -> Option<FaultInfo> {
        self.failure.as_ref().copied()
    }

    /// Records what killed the queue and wakes who waits for it. True if it was the first to do so.
    pub(crate) fn fail(&self, info: FaultInfo) -> bool {
        let first = self.failure.populate(info);
        self.gpu.wakeup().notify_all();
        first
    }

    /// Whether faults of the queue are not served any more.
    pub(crate) fn is_over(&self) -> bool {
        self.dying.load(Acquire) || self.failure.as_ref().is_some()
    }

    /// Kills what runs and gives everything back. Bounded: waits for the device alone, and wedges
    /// it if it does not obey. Does nothing the second time.
    pub(crate) fn destroy(&self) {
        self.dying.store(true, Release);
        self.fail(FaultInfo {
            addr: 0,
            access: Access::Read,
            execute: false,
            reason: Reason::Killed,
        });
        let mut runlist = self.gpu.user_runlist.lock();
        let Some(channel) = self.channel.lock().take() else {
            return;
        };
        self.gpu.check_presence();
        if !self.gpu.state.is_stopped() {
            if let Err(err) = self.take_off(&channel, &mut runlist) {
                self.gpu.wedge("a channel could not be stopped", err);
            }
        }
        self.space.forget(self.source);
        self.gpu.queues.set(self.chid(), None);
        // Nothing knows the channel's memory any more: it goes with `channel`.
    }

    /// Takes the channel off the device. The order matters: a group with a fault that waits is
    /// not preempted, and a channel that is enabled raises new ones.
    fn take_off(&self, channel: &Channel, runlist: &mut Runlist) -> Result {
        let gpu = &self.gpu;
        let regs = &gpu.regs;
        runlist::disable(regs, channel.chid)?;
        let turn = gpu.preemption.lock();
        runlist.preempt(regs, channel.chid)?;
        let start = Instant::<Monotonic>::now();
        let mut pause = Delta::from_micros(50);
        // TIMEOUT: See `BOUND`. Nobody's service is waited for: each turn has all faults that wait
        // reported again, whether they were dropped, are being served or are new, and the ones of
        // this queue are cancelled.
        loop {
            let mut program = Program::new();
            program.replay_ack_all();
            gpu.run(&program);
            if gpu.state.is_stopped() {
                return Ok(());
            }
            gpu.drain_replayable(false)?;
            if !runlist.preempting(regs)? {
                break;
            }
            if start.elapsed() > BOUND {
                return Err(ETIMEDOUT);
            }
            fsleep(pause);
            pause = Delta::from_micros((pause.as_micros_ceil() * 2).min(10_000));
        }
        drop(turn);
        // What is left there would be taken for that of the next queue in the same memory.
        gpu.flush_faults()?;
        runlist.remove(regs, channel.chid)?;
        // Nothing of the tables stays in a cache, of the channel's own nor of the space's.
        let mut program = Program::new();
        program.invalidate(channel.host_pdb(), None, Barrier::Downgrade);
        program.invalidate(self.pdb, None, Barrier::Downgrade);
        gpu.run(&program);
        Ok(())
    }
}

/// Methods that write `value` to `addr` when everything before them has finished.
fn release(addr: u64, value: u64) -> [u32; FENCE_WORDS] {
    // CAST: Numbers are split into their words.
    [
        method::increasing(FENCE_SUBCHANNEL, host::SET_OBJECT, 1),
        compute::CLASS,
        method::increasing(FENCE_SUBCHANNEL, compute::SEM_ADDR_LO, 5),
        addr as u32,
        (addr >> 32) as u32,
        value as u32,
        (value >> 32) as u32,
        compute::Release::zeroed().with_awaken(true).into_raw(),
    ]
}

/// The queues that are on the device, by VEID.
#[pin_data]
pub(crate) struct Queues {
    #[pin]
    table: Mutex<[Option<Arc<Queue>>; VEIDS as usize]>,
    created: Atomic<u32>,
}

impl Queues {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            table <- new_mutex!([const { None }; VEIDS as usize], "rsvm_queues"),
            created: Atomic::new(0),
        })
    }

    /// The queue `source`, not a later one of the same VEID.
    pub(crate) fn get(&self, source: Source) -> Option<Arc<Queue>> {
        self.by_veid(hal::veid_of(source))
            .filter(|queue| queue.source == source)
    }

    pub(crate) fn by_veid(&self, veid: u32) -> Option<Arc<Queue>> {
        // CAST: Widening.
        self.table.lock().get(veid as usize)?.clone()
    }

    /// The queue whose instance block has this bus address.
    pub(crate) fn by_instance(&self, instance: u64) -> Option<Arc<Queue>> {
        let table = self.table.lock();
        let mut queues = table.iter().flatten();
        queues.find(|queue| queue.instance == instance).cloned()
    }

    /// A VEID that no queue has. Good as long as the runlist is locked.
    fn unused(&self) -> Option<u32> {
        let free = self.table.lock().iter().position(Option::is_none)?;
        // CAST: Less than `VEIDS`.
        Some(free as u32)
    }

    /// A name that no queue of this VEID had, for longer than anything remembers one.
    fn name(&self, veid: u32) -> Source {
        let n = self.created.fetch_add(1u32, Relaxed);
        Source(n.wrapping_mul(VEIDS) | veid)
    }

    fn set(&self, veid: u32, queue: Option<Arc<Queue>>) {
        let mut table = self.table.lock();
        let Some(entry) = table.get_mut(veid as usize) else {
            return;
        };
        let old = core::mem::replace(entry, queue);
        drop(table);
        drop(old);
    }

    /// Destroys all queues. The device is unbound, so that none comes after.
    pub(crate) fn destroy_all(&self, gpu: &Gpu) {
        // Whoever found the device bound is through with the creation of his queue.
        drop(gpu.user_runlist.lock());
        for veid in 0..VEIDS {
            if let Some(queue) = self.by_veid(veid) {
                queue.destroy();
            }
        }
    }
}

/// Finds out which channels the device stopped, and why.
///
/// # Errors
///
/// `ENODEV` after the driver was unbound.
pub(crate) fn report_stopped_channels(gpu: &Gpu) -> Result {
    for veid in 0..VEIDS {
        let queue = gpu.queues.by_veid(veid);
        let Some(queue) = queue.filter(|queue| !queue.is_over()) else {
            continue;
        };
        // CAST: Widening.
        let chid = veid as usize;
        let code = gpu
            .regs
            .with(|bar| CHANNEL_ERROR::try_at(chid).map_or(0, |at| bar.read(at).into_raw()))?;
        let reason = match code {
            0 => continue,
            error::EXCEPTION => Reason::Exception,
            // Whoever cancels a fault records why.
            error::CANCELLED => continue,
            error::BAD_METHOD | error::PRIVILEGE | error::BAD_GP_ENTRY => Reason::Method,
            _ => Reason::Method,
        };
        let lo = gpu
            .regs
            .with(|bar| CHANNEL_ERROR_LO::try_at(chid).map_or(0, |at| bar.read(at).into_raw()))?;
        let hi = gpu
            .regs
            .with(|bar| CHANNEL_ERROR_HI::try_at(chid).map_or(0, |at| bar.read(at).into_raw()))?;
        let exception = reason == Reason::Exception;
        queue.space().queue_failed(
            queue.source(),
            FaultInfo {
                addr: u64::from(hi) << 32 | u64::from(lo),
                access: Access::Read,
                execute: exception,
                reason,
            },
        );
    }
    Ok(())
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_queue)]
mod tests {
    use super::*;

    #[test]
    fn fences() {
        assert_eq!(
            release(0x7fff_1234_5678, 0x1_0000_0002),
            // Subchannel 7 in 15:13; SET_OBJECT; five words from 0x1b00 on; awaken.
            [
                0x2001_e000,
                0xf0c0,
                0x2005_e6c0,
                0x1234_5678,
                0x7fff,
                2,
                1,
                1
            ]
        );
    }
}
