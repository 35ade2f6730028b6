// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The compute engine: light harts in groups, run by a few threads.
//!
//! A group is a uTLB and, for each VEID, as many harts as the group is wide. A
//! hart whose access is refused parks; a replay makes it execute the same
//! instruction again.
//!
//! Lock order: group › scheduler › what the core locks to report a fault. No
//! lock is held when the engine tells the core of a stopped channel or kicks it.

mod class;
mod group;
mod icache;
mod lsu;
mod reserve;
pub mod rv64;
mod sched;
mod stacks;

use crate::core::Core;
use crate::engine::ChannelCtx;
use crate::engine::ComputeEngine;
use crate::engine::Progress;
use crate::intr::VECTOR_COMPUTE;
use crate::lock;
use crate::mmu::Cancel;
use crate::mmu::Client;
use crate::mmu::Fault;
use class::Command;
use group::Context;
use group::Death;
use group::Grid;
use group::Group;
use lsu::Machine;
use sched::After;
use sched::Sched;
use sched::VEIDS;
use std::io;
use std::iter;
use std::ops::Bound;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::thread::JoinHandle;

/// A group, and a way to it past threads that would take it again and again.
struct Seat {
    group: Mutex<Group>,
    /// Others than the threads that run harts want it.
    wanted: AtomicU32,
}

impl Seat {
    /// For threads that run harts.
    fn run(&self) -> MutexGuard<'_, Group> {
        while self.is_wanted() {
            std::thread::yield_now();
        }
        lock(&self.group)
    }

    /// For everybody else.
    fn control(&self) -> MutexGuard<'_, Group> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let group = lock(&self.group);
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        group
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }
}

struct Shared {
    core: Weak<Core>,
    machine: Machine,
    harts: u32,
    seats: Vec<Seat>,
    sched: Mutex<Sched>,
    /// There may be a slice to run, or the end has come.
    work: Condvar,
    /// A slice has ended, or a kill.
    slice_ended: Condvar,
    /// Group, VEID and hart whose fault found no room in the buffer at the last
    /// replay: it goes first at the next, so that nobody is starved.
    unheard: Mutex<(usize, u8, usize)>,
}

/// The engine behind [`ComputeEngine`].
pub struct Compute {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Builds the engine of `core` and starts its threads.
///
/// # Errors
///
/// The host's, if threads cannot be had.
pub fn start(core: Arc<Core>) -> io::Result<Arc<dyn ComputeEngine>> {
    let config = &core.config;
    let harts = config.harts_per_group;
    let threads = config.compute_threads.max(1);
    let seats: Vec<Seat> = (0..config.groups)
        .map(|n| Seat {
            group: Mutex::new(Group::new(
                harts as usize,
                core.mmu.add_utlb(Client::group(n)),
            )),
            wanted: AtomicU32::new(0),
        })
        .collect();
    let shared = Arc::new(Shared {
        core: Arc::downgrade(&core),
        machine: Machine::new(threads > 1),
        harts,
        sched: Mutex::new(Sched::new(seats.len())),
        seats,
        work: Condvar::new(),
        slice_ended: Condvar::new(),
        unheard: Mutex::new((0, 0, 0)),
    });
    let compute = Compute {
        shared,
        threads: Mutex::default(),
    };
    for n in 0..threads {
        let shared = compute.shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("compute{n}"))
            .spawn(move || shared.work())?;
        lock(&compute.threads).push(thread);
    }
    Ok(Arc::new(compute))
}

impl Shared {
    /// A thread that runs harts.
    fn work(&self) {
        loop {
            let mut sched = lock(&self.sched);
            let slice = loop {
                if sched.stopped {
                    return;
                }
                if let Some(slice) = sched.next() {
                    break slice;
                }
                sched = self
                    .work
                    .wait(sched)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            drop(sched);
            let Some(core) = self.core.upgrade() else {
                return;
            };
            let seat = &self.seats[slice.group];
            let mut group = seat.run();
            let out = group.run(self.context(&core), &slice.grid, || seat.is_wanted());
            let after = lock(&self.sched).finish(&slice, &out);
            drop(group);
            self.slice_ended.notify_all();
            self.work.notify_one();
            self.follow_up(&core, &after);
            if let Some(death) = out.death {
                self.die(&core, &slice.grid, death);
            }
        }
    }

    fn context<'a>(&'a self, core: &'a Core) -> Context<'a> {
        Context {
            core,
            machine: &self.machine,
        }
    }

    fn follow_up(&self, core: &Core, after: &After) {
        if after.interrupt {
            core.intr.raise(VECTOR_COMPUTE);
        }
        if after.kick {
            core.kick_compute();
        }
    }

    /// The grid must end: its VEID is emptied and its channel stopped.
    fn die(&self, core: &Core, grid: &Grid, death: Death) {
        let chid = grid.channel.chid;
        self.kill(grid.channel.veid.into(), Some(grid.id), || match death {
            Death::Exception(pc) => core.engine_exception(chid, pc),
            Death::Fault(fault) => {
                core.report_fault(&Fault {
                    replayable: false,
                    ..*fault
                });
                core.fault_cancelled(chid, fault.va);
            }
        });
        core.kick_compute();
    }

    /// Removes all harts of a VEID, and calls `then` before anybody else can do
    /// anything with it. If `id` is given and that grid is gone already, does
    /// nothing.
    fn kill(&self, veid: usize, id: Option<u64>, then: impl FnOnce()) {
        let wait = |sched| {
            self.slice_ended
                .wait(sched)
                .unwrap_or_else(PoisonError::into_inner)
        };
        let mut sched = lock(&self.sched);
        while id.is_none() && sched.veids[veid].killing {
            sched = wait(sched);
        }
        if !sched.withdraw(veid, id) {
            return;
        }
        while sched.veids[veid].busy != 0 {
            sched = wait(sched);
        }
        drop(sched);
        for (n, seat) in self.seats.iter().enumerate() {
            let mut group = seat.control();
            group.evict(veid as u8);
            lock(&self.sched).veids[veid].parked[n] = 0;
        }
        then();
        lock(&self.sched).veids[veid].killing = false;
        self.slice_ended.notify_all();
    }

    /// Replays parked harts; with `cancel`, VEIDs it matches die.
    fn replay(&self, cancel: Option<&Cancel>) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let mut deaths = Vec::new();
        let mut unheard = None;
        let (first, veid, hart) = *lock(&self.unheard);
        // Round to where it began.
        let (start, all) = ((veid, hart), (Bound::Unbounded, Bound::Unbounded));
        let rest = (first + 1..self.seats.len()).chain(0..first);
        let round = iter::once((first, (Bound::Included(start), Bound::Unbounded)))
            .chain(rest.map(|n| (n, all)))
            .chain([(first, (Bound::Unbounded, Bound::Excluded(start)))]);
        for (n, range) in round {
            let mut group = self.seats[n].control();
            let outcomes = group.replay(self.context(&core), cancel, range);
            for (grid, out) in &outcomes {
                let hart = out.unheard.map(|hart| (n, grid.channel.veid, hart));
                unheard = unheard.or(hart);
            }
            let afters: Vec<After> = outcomes
                .iter()
                .map(|(grid, out)| lock(&self.sched).note(n, grid, out))
                .collect();
            drop(group);
            for after in &afters {
                self.follow_up(&core, after);
            }
            let dead = |(grid, out): (_, group::Outcome)| out.death.map(|death| (grid, death));
            deaths.extend(outcomes.into_iter().filter_map(dead));
        }
        if let Some(unheard) = unheard {
            *lock(&self.unheard) = unheard;
        }
        self.work.notify_all();
        for (grid, death) in deaths {
            self.die(&core, &grid, death);
        }
    }
}

impl ComputeEngine for Compute {
    fn method(&self, channel: &ChannelCtx, method: u32, data: u32) -> Progress {
        let shared = &*self.shared;
        let mut sched = lock(&shared.sched);
        let Some(veid) = sched.veids.get_mut(usize::from(channel.veid)) else {
            return Progress::Bad;
        };
        veid.dead = veid.dead.filter(|&chid| chid == channel.chid);
        let idle = veid.idle();
        let command = veid.registers.method(method, data, shared.harts);
        let params = match command {
            None => return Progress::Bad,
            Some(Command::Nothing) => return Progress::Done,
            Some(Command::WaitForIdle | Command::Start(_)) if !idle => {
                veid.awaited = true;
                return Progress::Busy;
            }
            Some(Command::WaitForIdle) => return Progress::Done,
            Some(Command::Start(params)) => params,
        };
        if params.invocations != 0 {
            let id = sched.grid_id();
            sched.launch(Grid::new(id, *channel, shared.seats.len(), params));
            drop(sched);
            shared.work.notify_all();
        }
        Progress::Done
    }

    fn idle(&self, veid: u8) -> bool {
        let mut sched = lock(&self.shared.sched);
        let veid = &mut sched.veids[usize::from(veid)];
        veid.awaited |= !veid.idle();
        veid.idle()
    }

    fn replay(&self, _ack_all: bool) {
        // Executing the access is more than an acknowledgement promises, and
        // never waits.
        self.shared.replay(None);
    }

    fn cancel(&self, cancel: &Cancel) {
        self.shared.replay(Some(cancel));
    }

    fn preempt(&self, veid: u8) -> bool {
        let mut sched = lock(&self.shared.sched);
        sched.suspend(veid.into());
        let veid = &mut sched.veids[usize::from(veid)];
        let quiet = veid.quiet();
        veid.awaited_quiet |= !quiet;
        quiet
    }

    fn resume(&self, veid: u8) {
        lock(&self.shared.sched).resume(veid.into());
        self.shared.work.notify_all();
    }

    fn kill(&self, veid: u8) {
        let n = usize::from(veid);
        self.shared.kill(n, None, || {
            let veid = &mut lock(&self.shared.sched).veids[n];
            veid.registers = Default::default();
            veid.suspended = false;
            veid.dead = None;
        });
    }

    fn reset(&self) {
        for veid in 0..VEIDS {
            self.kill(veid as u8);
        }
    }

    fn stop(&self) {
        self.reset();
        lock(&self.shared.sched).stopped = true;
        self.shared.work.notify_all();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a compute thread panicked");
            }
        }
    }
}
