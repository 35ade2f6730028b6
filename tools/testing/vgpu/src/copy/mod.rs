// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The copy engine (class 0xc5b5): linear copies, and memsets by remapping
//! components, between virtual or physical addresses.
//!
//! A PBDMA hands launches over and goes on. Those of one channel are executed
//! in order; channels take turns. All of it happens in a thread of its own,
//! beside the PBDMAs and the compute engine.
//!
//! Lock order: state is a leaf; no lock is held while data move or the host is
//! told.

mod launch;
mod lazy;
mod transfer;

pub use launch::{physical, Flush, Launch, Methods};

use crate::core::Core;
use crate::inject::CopyFate;
use crate::intr::{VECTOR_COPY, VECTOR_COPY_STALL};
use crate::lock;
use crate::mmu::{Client, Utlb, CLIENT_HUB_CE0};
use launch::Interrupt;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use transfer::{release, Failure, Transfer};

/// Launches a channel may hand over before its PBDMA has to wait.
pub const DEPTH: usize = 32;

/// Bits of the status register 0x104410.
const STATUS_LAUNCH_ERROR: u32 = 1 << 2;
const STATUS_INVALID_CONFIG: u32 = 1 << 3;

/// One channel's launches.
#[derive(Default)]
struct Queue {
    launches: VecDeque<Launch>,
    /// On the engine: what a preempt takes away.
    resident: bool,
    /// Waits for CLEAR_FAULTED.
    faulted: bool,
    /// A launch failed: nothing more is done for this channel.
    halted: bool,
    /// Its PBDMA waits for a launch to end.
    awaited: bool,
    /// Launches that have ended, or failed.
    ended: u32,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<u32, Queue>,
    /// The channel whose launch is out of its queue.
    running: Option<u32>,
    /// Who had the last turn.
    last: u32,
    stop: bool,
}

/// Counters for people.
#[derive(Default)]
pub struct Stats {
    /// Bytes written.
    pub bytes: AtomicU64,
    pub errors: AtomicU64,
}

#[derive(Default)]
pub struct CopyEngine {
    state: Mutex<State>,
    /// For the engine's thread.
    wake: Condvar,
    /// A turn has ended.
    turn_ended: Condvar,
    writes: lazy::Writes,
    pub stats: Stats,
}

/// What the engine's thread has to do.
enum Next {
    Run(u32, Box<Launch>),
    At(Instant),
    Nothing,
}

/// How a turn ended.
enum End {
    /// There is more to do.
    More,
    Done(Interrupt),
    Faulted,
    /// The bits of the status register.
    Failed(u32),
    Removed,
}

impl State {
    /// The launch whose turn it is; it leaves its queue.
    fn next(&mut self, now: Instant, delay: Duration) -> Next {
        let mut next: Option<Instant> = None;
        let later = self.last.saturating_add(1)..;
        let found = {
            let after = self.queues.range(later).map(|q| *q.0);
            let before = self.queues.range(..=self.last).map(|q| *q.0);
            after.chain(before).find(|chid| {
                let queue = &self.queues[chid];
                let Some(launch) = queue.launches.front() else {
                    return false;
                };
                if !queue.resident || queue.faulted || queue.halted {
                    return false;
                }
                let due = launch.since + delay;
                if launch.begun || due <= now {
                    return true;
                }
                next = Some(next.map_or(due, |n| n.min(due)));
                false
            })
        };
        let launch = found.and_then(|chid| {
            let queue = self.queues.get_mut(&chid)?;
            Some((chid, queue.launches.pop_front()?))
        });
        match (launch, next) {
            (Some((chid, launch)), _) => {
                (self.last, self.running) = (chid, Some(chid));
                Next::Run(chid, Box::new(launch))
            }
            (None, Some(due)) => Next::At(due),
            (None, None) => Next::Nothing,
        }
    }
}

/// Starts the engine's thread; it ends after [`CopyEngine::stop`].
///
/// # Errors
///
/// The host's.
pub fn start(core: &Arc<Core>) -> io::Result<JoinHandle<()>> {
    let core = core.clone();
    let utlb = core.mmu.add_utlb(Client::hub(CLIENT_HUB_CE0));
    std::thread::Builder::new()
        .name("copy".into())
        .spawn(move || core.copy.work(&core, &utlb))
}

impl CopyEngine {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn work(&self, core: &Core, utlb: &Utlb) {
        while let Some((chid, mut launch)) = self.take(core) {
            let end = turn(core, utlb, chid, &mut launch);
            self.finish(core, chid, *launch, end);
        }
    }

    /// Waits for a turn. None: the engine is to stop.
    fn take(&self, core: &Core) -> Option<(u32, Box<Launch>)> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            let now = Instant::now();
            let next = if core.removed() {
                Next::Nothing
            } else {
                state.next(now, core.inject.copy_delay())
            };
            state = match next {
                Next::Run(chid, launch) => return Some((chid, launch)),
                Next::At(due) => {
                    self.wake
                        .wait_timeout(state, due.saturating_duration_since(now))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                Next::Nothing => self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Puts a launch back, or its end on record. The channel counts as running
    /// until the host knows.
    fn finish(&self, core: &Core, chid: u32, launch: Launch, end: End) {
        let mut state = self.lock();
        let mut ended = 0;
        if let Some(queue) = state.queues.get_mut(&chid) {
            match end {
                End::More | End::Faulted | End::Removed => queue.launches.push_front(launch),
                End::Done(_) => queue.ended += 1,
                End::Failed(_) => {
                    queue.ended += 1;
                    queue.halted = true;
                    queue.launches.clear();
                }
            }
            queue.faulted |= matches!(end, End::Faulted);
            ended = queue.ended;
        }
        drop(state);
        match end {
            End::More => {}
            End::Done(Interrupt::None) => {}
            End::Done(Interrupt::Stall) => core.intr.raise(VECTOR_COPY_STALL),
            End::Done(Interrupt::NonStall) => core.intr.raise(VECTOR_COPY),
            End::Faulted => core.host.copy_faulted(chid),
            End::Failed(status) => {
                self.stats.errors.fetch_add(1, Ordering::Relaxed);
                core.host.copy_failed(core, chid, status, ended);
                core.intr.raise(VECTOR_COPY_STALL);
            }
            End::Removed => core.remove(),
        }
        let mut state = self.lock();
        state.running = None;
        let awaited = state
            .queues
            .get_mut(&chid)
            .is_some_and(|queue| !matches!(end, End::More) && std::mem::take(&mut queue.awaited));
        drop(state);
        self.turn_ended.notify_all();
        if awaited {
            core.host.kick(crate::host::RUNLIST_KERNEL);
        }
    }

    /// Takes a launch over, or says that there is no room: then the runlist is
    /// kicked when there may be.
    pub fn launch(&self, chid: u32, launch: Launch) -> bool {
        let mut state = self.lock();
        let busy = usize::from(state.running == Some(chid));
        let queue = state.queues.entry(chid).or_default();
        if queue.halted {
            // Its PBDMA has not heard of it yet.
            return true;
        }
        if queue.launches.len() + busy >= DEPTH {
            queue.awaited = true;
            return false;
        }
        queue.launches.push_back(launch);
        drop(state);
        self.wake.notify_all();
        true
    }

    /// Whether all launches of the channel have ended; if so its writes are
    /// visible to all. Otherwise the runlist is kicked when that may be so.
    pub fn wait_idle(&self, core: &Core, chid: u32) -> bool {
        let mut state = self.lock();
        let busy = state.running == Some(chid);
        if let Some(queue) = state.queues.get_mut(&chid) {
            if busy || !queue.launches.is_empty() {
                queue.awaited = true;
                return false;
            }
        }
        drop(state);
        self.writes.flush(core, Some(chid), Flush::System);
        true
    }

    /// A membar: what launches that ended have written is visible now.
    pub fn membar(&self, core: &Core, flush: Flush) {
        self.writes.flush(core, None, flush);
    }

    /// The channel's launches go on.
    pub fn resume(&self, chid: u32) {
        self.lock().queues.entry(chid).or_default().resident = true;
        self.wake.notify_all();
    }

    fn wait_turn<'a>(&'a self, mut state: MutexGuard<'a, State>, chid: u32) {
        while state.running == Some(chid) {
            state = self
                .turn_ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the channel off the engine between two slices of a launch. What it
    /// wrote is visible when this returns.
    pub fn suspend(&self, core: &Core, chid: u32) {
        let mut state = self.lock();
        if let Some(queue) = state.queues.get_mut(&chid) {
            queue.resident = false;
        }
        self.wait_turn(state, chid);
        self.writes.flush(core, Some(chid), Flush::System);
    }

    /// The channel's fault was cleared.
    pub fn clear_faulted(&self, chid: u32) {
        if let Some(queue) = self.lock().queues.get_mut(&chid) {
            queue.faulted = false;
        }
        self.wake.notify_all();
    }

    /// The channel's launches are gone when this returns.
    pub fn kill(&self, core: &Core, chid: u32) {
        let mut state = self.lock();
        state.queues.remove(&chid);
        self.wait_turn(state, chid);
        self.writes.flush(core, Some(chid), Flush::System);
    }

    /// All launches, and writes on their way, are gone when this returns.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.queues.clear();
        if let Some(chid) = state.running {
            self.wait_turn(state, chid);
        }
        self.writes.clear();
    }

    /// Has the engine's thread look around.
    pub fn kick(&self) {
        // Not between its look and its sleep.
        drop(self.lock());
        self.wake.notify_all();
    }

    pub fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }
}

/// One turn of a launch.
fn turn(core: &Core, utlb: &Utlb, chid: u32, launch: &mut Launch) -> End {
    let Some(work) = &launch.work else {
        return End::Failed(STATUS_INVALID_CONFIG);
    };
    if let Some(plan) = &work.plan {
        let elements = plan.elements();
        if !launch.begun {
            match core.inject.copy_begins() {
                CopyFate::Done => {}
                CopyFate::Removal => return End::Removed,
                // In the middle, between two pages if it has several.
                CopyFate::Fails => {
                    let page = (4096 / plan.remap.dst as u64).max(1);
                    launch.fails_at = Some(elements / 2 / page * page);
                }
            }
        }
        launch.begun = true;
        let transfer = Transfer {
            core,
            utlb,
            chid,
            space: launch.space,
            plan,
        };
        let before = launch.done;
        let end = launch.fails_at.unwrap_or(elements);
        let moved = transfer.advance(&mut launch.done, end);
        let bytes = (launch.done - before) * plan.remap.dst as u64;
        core.copy.stats.bytes.fetch_add(bytes, Ordering::Relaxed);
        match moved {
            Err(Failure::Fault) => return End::Faulted,
            Err(Failure::Launch) => return End::Failed(STATUS_LAUNCH_ERROR),
            Ok(()) if launch.done < end => return End::More,
            Ok(()) if launch.fails_at.is_some() => return End::Failed(STATUS_LAUNCH_ERROR),
            Ok(()) => {}
        }
    }
    launch.begun = true;
    if let Some(semaphore) = &work.semaphore {
        if let Some(flush) = semaphore.flush {
            core.copy.writes.flush(core, Some(chid), flush);
        }
        match release(core, utlb, &launch.space, semaphore) {
            Ok(()) => core.host.semaphore_released(),
            Err(_) => return End::Faulted,
        }
    }
    End::Done(work.interrupt)
}
