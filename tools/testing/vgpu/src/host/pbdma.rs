// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The PBDMA: fetches GP entries and pushbuffers, decodes methods.

use super::channel::Loaded;
use super::schedule::{Stop, Units};
use super::{StopReason, RUNLIST_KERNEL, RUNLIST_USER};
use crate::copy::Methods;
use crate::core::Core;
use crate::engine::{ChannelCtx, Progress};
use crate::intr::{VECTOR_COMPUTE, VECTOR_COPY};
use crate::mmu::{Access, Fault, Space, Translation, Utlb};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const USERD_GP_GET: u64 = 0x88;
const USERD_GP_PUT: u64 = 0x8c;

/// Class ids of SET_OBJECT.
pub const CLASS_COPY: u32 = 0xc5b5;
pub const CLASS_COMPUTE: u32 = 0xf0c0;

/// Dwords fetched at once, and per turn of a channel.
const FETCH_DWORDS: usize = 64;
const TURN_DWORDS: usize = 1024;

/// How a turn ended.
pub enum Ran {
    /// Nothing to do until somebody kicks.
    Idle,
    /// The turn is over, the work is not.
    More,
    /// Waiting for something that only looking tells.
    Until(Instant),
}

/// What became of a method.
pub enum Done {
    Yes,
    /// Again, when kicked.
    Retry,
    /// Again, after a while at the latest.
    Poll(Duration),
    /// It is done, but its acknowledgement takes this long.
    Pause(Duration),
    /// It is done, but its acknowledgement never comes.
    Hang,
    /// It faulted; again when the fault is cleared.
    Faulted {
        engine: bool,
    },
    /// The channel stops.
    Stop(StopReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    pub subchannel: usize,
    pub address: u32,
    pub data: u32,
}

/// A method header whose data are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub method: Method,
    pub left: u32,
    /// How often the address still advances.
    pub advance: u32,
}

/// A pushbuffer segment.
pub struct Segment {
    pub va: u64,
    pub dwords: u32,
}

/// One channel's execution state.
pub struct Context {
    pub channel: Loaded,
    /// Next GP entry to fetch, and the last GP_GET told: an entry is told only
    /// when all of its methods are done, so that its memory may be reused.
    pub(super) get: u32,
    told: u32,
    pub(super) put: u32,
    pub(super) segment: Option<Segment>,
    pub(super) fetched: VecDeque<u32>,
    /// End of the segment fetched last.
    pub(super) segment_end: u64,
    pub(super) header: Option<Header>,
    /// The header before the last method took its data.
    pub(super) header_before: Option<Header>,
    /// The method that did not finish.
    pub(super) retry: Option<Method>,
    /// Where it goes on is in RAMFC.
    pub(super) saved: bool,
    /// Since when, and how long the last look is to wait.
    pub(super) waiting: Option<Instant>,
    classes: [u32; 8],
    pub(super) semaphore: [u32; 4],
    pub(super) mem_op: [u32; 3],
    pub(super) copy: Methods,
    pause: Option<Instant>,
    hung: bool,
}

impl Context {
    pub fn new(channel: Loaded) -> Self {
        Self {
            channel,
            get: 0,
            told: 0,
            put: 0,
            segment: None,
            fetched: VecDeque::new(),
            segment_end: 0,
            header: None,
            header_before: None,
            retry: None,
            saved: true,
            waiting: None,
            classes: [0; 8],
            semaphore: [0; 4],
            mem_op: [0; 3],
            copy: Methods::default(),
            pause: None,
            hung: false,
        }
    }

    /// Works until there is nothing to do, something to wait for, or enough
    /// done. `doorbell`: GP_PUT may have moved.
    ///
    /// # Errors
    ///
    /// Why the channel has to stop.
    pub fn run(&mut self, core: &Core, units: &Units, doorbell: bool) -> Result<Ran, Stop> {
        if std::mem::take(&mut self.saved) {
            self.load(core)?;
        }
        if doorbell {
            self.read_put(core)?;
        }
        if self.hung {
            return Ok(Ran::Idle);
        }
        if let Some(due) = self.pause {
            if Instant::now() < due {
                return Ok(Ran::Until(due));
            }
            self.pause = None;
        }
        for _ in 0..TURN_DWORDS {
            let method = match self.retry.take() {
                Some(method) => method,
                None => match self.next_method(core, units)? {
                    Next::Method(method) => method,
                    Next::Again => continue,
                    Next::Nothing => return Ok(Ran::Idle),
                    Next::Faulted => return Ok(self.faulted(core, false)),
                },
            };
            match self.execute(core, units, method) {
                Done::Yes => {
                    self.waiting = None;
                    if !core.host.may_run(self.channel.chid) {
                        return Ok(Ran::Idle);
                    }
                }
                Done::Retry => {
                    self.retry = Some(method);
                    return Ok(Ran::Idle);
                }
                Done::Poll(pause) => {
                    self.retry = Some(method);
                    self.waiting.get_or_insert_with(Instant::now);
                    return Ok(Ran::Until(Instant::now() + pause));
                }
                Done::Pause(time) => {
                    self.waiting = None;
                    let due = Instant::now() + time;
                    self.pause = Some(due);
                    return Ok(Ran::Until(due));
                }
                Done::Hang => {
                    self.hung = true;
                    return Ok(Ran::Idle);
                }
                Done::Faulted { engine } => {
                    self.retry = Some(method);
                    return Ok(self.faulted(core, engine));
                }
                Done::Stop(reason) => return Err((reason, method.address.into())),
            }
        }
        Ok(Ran::More)
    }

    fn faulted(&self, core: &Core, engine: bool) -> Ran {
        core.host.set_faulted(self.channel.chid, engine);
        // A CLEAR_FAULTED may be waiting for it.
        core.host.kick(RUNLIST_KERNEL);
        Ran::Idle
    }

    fn read_put(&mut self, core: &Core) -> Result<(), Stop> {
        let at = self.channel.userd.offset(USERD_GP_PUT);
        let put = core.mem.enter().read_u32(at);
        match put {
            Ok(put) if put < self.channel.gp_entries => {
                self.put = put;
                Ok(())
            }
            _ => Err((StopReason::BadGpEntry, put.map_or(u64::MAX, u64::from))),
        }
    }

    /// The next method, or what to do instead.
    fn next_method(&mut self, core: &Core, units: &Units) -> Result<Next, Stop> {
        let Some(dword) = self.fetched.pop_front() else {
            return self.fetch(core, units);
        };
        let Some(mut header) = self.header.take() else {
            self.header = self.decode(dword)?;
            // Immediate data came with the header.
            if let Some(Header {
                method, left: 0, ..
            }) = self.header
            {
                (self.header, self.header_before) = (None, None);
                return Ok(Next::Method(method));
            }
            return Ok(Next::Again);
        };
        let method = Method {
            data: dword,
            ..header.method
        };
        self.header_before = Some(header);
        header.left -= 1;
        if header.advance > 0 {
            header.advance -= 1;
            header.method.address += 4;
        }
        if header.left > 0 {
            self.header = Some(header);
        }
        Ok(Next::Method(method))
    }

    fn decode(&self, dword: u32) -> Result<Option<Header>, Stop> {
        if dword == 0 {
            return Ok(None);
        }
        let count = dword >> 16 & 0x1fff;
        let method = Method {
            subchannel: (dword >> 13 & 7) as usize,
            address: (dword & 0xfff) << 2,
            data: count,
        };
        let (left, advance) = match dword >> 29 {
            1 => (count, u32::MAX),
            3 => (count, 0),
            // 13 bits of data in the header itself.
            4 => (0, 0),
            5 => (count, 1),
            _ => return Err((StopReason::BadMethod, method.address.into())),
        };
        if left == 0 && dword >> 29 != 4 {
            return Ok(None);
        }
        Ok(Some(Header {
            method,
            left,
            advance,
        }))
    }

    /// Fetches more of the segment, or the next GP entry.
    fn fetch(&mut self, core: &Core, units: &Units) -> Result<Next, Stop> {
        if let Some(segment) = &mut self.segment {
            let guard = units.host.enter();
            let found = match guard.translate(&self.channel.host, segment.va, Access::Read) {
                Ok(found) => found,
                Err(fault) => {
                    report(core, &fault);
                    return Ok(Next::Faulted);
                }
            };
            let n = (segment.dwords as usize)
                .min(found.ptr.left() / 4)
                .min(FETCH_DWORDS);
            self.fetched
                .extend((0..n).map(|i| found.ptr.add(i * 4).load(4) as u32));
            segment.va += n as u64 * 4;
            segment.dwords -= n as u32;
            if segment.dwords == 0 {
                self.segment = None;
            }
            return Ok(Next::Again);
        }
        self.tell_get(core);
        if self.get == self.put {
            return Ok(Next::Nothing);
        }
        let va = self.channel.gp_base + u64::from(self.get) * 8;
        let entry = {
            let guard = units.host.enter();
            let found = guard.translate(&self.channel.host, va, Access::Read);
            match found {
                Ok(found) => found.ptr.load(8),
                Err(fault) => {
                    report(core, &fault);
                    return Ok(Next::Faulted);
                }
            }
        };
        self.get = (self.get + 1) % self.channel.gp_entries;
        let (lo, hi) = (entry as u32, (entry >> 32) as u32);
        let dwords = hi >> 10 & 0x1f_ffff;
        // Bit 0 and 1 of the address, and bit 8 above it, mean nothing here; an
        // entry without length is a control entry, of which only NOP exists.
        if lo & 3 != 0 || hi & 1 << 8 != 0 || (dwords == 0 && hi & 0xff != 0) {
            return Err((StopReason::BadGpEntry, entry));
        }
        if dwords > 0 {
            let va = u64::from(hi & 0xff) << 32 | u64::from(lo);
            self.segment = Some(Segment { va, dwords });
            self.segment_end = va + u64::from(dwords) * 4;
        }
        Ok(Next::Again)
    }

    fn tell_get(&mut self, core: &Core) {
        if self.told == self.get {
            return;
        }
        self.told = self.get;
        let at = self.channel.userd.offset(USERD_GP_GET);
        if let Err(err) = core.mem.enter().write_u32(at, self.get) {
            core.errors.report(format_args!("GP_GET: {err}"));
        }
    }

    fn execute(&mut self, core: &Core, units: &Units, m: Method) -> Done {
        match m.address {
            0x000 => self.set_object(units, m),
            0x008 => Done::Yes,
            0x020 => {
                core.intr.raise(if units.runlist == RUNLIST_USER {
                    VECTOR_COMPUTE
                } else {
                    VECTOR_COPY
                });
                Done::Yes
            }
            0x028..=0x030 => {
                self.mem_op[(m.address as usize - 0x28) / 4] = m.data;
                self.privileged(Done::Yes)
            }
            0x034 if self.channel.privileged => self.mem_op(core, m.data),
            0x034 => Done::Stop(StopReason::Privilege),
            0x05c..=0x068 => {
                self.semaphore[(m.address as usize - 0x5c) / 4] = m.data;
                Done::Yes
            }
            0x06c => self.semaphore_execute(core, units, m.data),
            0x078 => self.wait_idle(core, units),
            0x084 if self.channel.privileged => self.clear_faulted(core, m.data),
            0x084 => Done::Stop(StopReason::Privilege),
            0x100.. => self.engine_method(core, m),
            _ => Done::Stop(StopReason::BadMethod),
        }
    }

    fn privileged(&self, done: Done) -> Done {
        if self.channel.privileged {
            done
        } else {
            Done::Stop(StopReason::Privilege)
        }
    }

    fn set_object(&mut self, units: &Units, m: Method) -> Done {
        let class = if units.runlist == RUNLIST_USER {
            CLASS_COMPUTE
        } else {
            CLASS_COPY
        };
        if m.data != class {
            return Done::Stop(StopReason::BadMethod);
        }
        self.classes[m.subchannel] = class;
        Done::Yes
    }

    /// The channel as the compute engine knows it.
    fn compute_channel(&self) -> ChannelCtx {
        ChannelCtx {
            chid: self.channel.chid,
            veid: self.channel.veid,
            space: self.channel.engine,
        }
    }

    fn engine_method(&mut self, core: &Core, m: Method) -> Done {
        match self.classes[m.subchannel] {
            CLASS_COPY => self.copy_method(core, m.address, m.data),
            CLASS_COMPUTE => {
                let Some(compute) = core.compute() else {
                    return Done::Stop(StopReason::BadMethod);
                };
                match compute.method(&self.compute_channel(), m.address, m.data) {
                    Progress::Done => Done::Yes,
                    Progress::Busy => Done::Retry,
                    Progress::Bad => Done::Stop(StopReason::BadMethod),
                }
            }
            _ => Done::Stop(StopReason::BadMethod),
        }
    }

    /// WFI: the channel's work on its engine is done and visible.
    pub(super) fn wait_idle(&self, core: &Core, units: &Units) -> Done {
        let idle = if units.runlist == RUNLIST_USER {
            core.compute().is_none_or(|c| c.idle(self.channel.veid))
        } else {
            core.copy.wait_idle(core, self.channel.chid)
        };
        if idle {
            Done::Yes
        } else {
            Done::Retry
        }
    }

    /// CLEAR_FAULTED: bits 15:0 the channel, bit 31 the engine's bit. Waits a
    /// second for the bit to be set.
    fn clear_faulted(&mut self, core: &Core, data: u32) -> Done {
        let chid = data & 0xffff;
        if core.host.clear_faulted(core, chid, data >> 31 == 1) {
            return Done::Yes;
        }
        match self.waiting {
            Some(since) if since.elapsed() > Duration::from_secs(1) => {
                core.host.clear_faulted_timeout(core, chid);
                Done::Yes
            }
            _ => Done::Poll(Duration::from_millis(100)),
        }
    }
}

enum Next {
    Method(Method),
    Again,
    Nothing,
    Faulted,
}

fn report(core: &Core, fault: &Fault) {
    core.report_fault(fault);
}

/// Makes one access of a hub client; the fault has been reported if it fails.
pub fn access<R>(
    core: &Core,
    utlb: &Utlb,
    space: &Space,
    va: u64,
    access: Access,
    make: impl FnOnce(Translation<'_>) -> R,
) -> Option<R> {
    let guard = utlb.enter();
    let found = guard.translate(space, va, access);
    match found {
        Ok(found) => Some(make(found)),
        Err(fault) => {
            report(core, &fault);
            None
        }
    }
}
