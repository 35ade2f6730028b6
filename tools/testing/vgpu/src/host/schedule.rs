// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A runlist's thread: submits, preempts, and turns of its channels. Asleep
//! when no channel has work.

use super::channel::load;
use super::pbdma::{Context, Ran};
use super::runlist::parse;
use super::{
    Host, Preempt, Runlist, StopReason, Tsg, CHANNELS, INTR_BIND, INTR_SCHED, RUNLISTS,
    RUNLIST_KERNEL, RUNLIST_USER,
};
use crate::core::Core;
use crate::lock;
use crate::mmu::{Client, Utlb, CLIENT_HUB_HOST};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Execution state of a runlist's channels, by channel id.
#[derive(Default)]
pub struct Lane {
    contexts: BTreeMap<u32, (u64, Context)>,
}

impl Lane {
    pub fn clear(&mut self) {
        self.contexts.clear();
    }
}

/// A runlist's PBDMA: its TLB.
pub struct Units {
    pub runlist: usize,
    pub host: Arc<Utlb>,
}

/// Starts a thread for each runlist; they end after [`Host::stop`].
///
/// # Errors
///
/// The host's.
pub fn start(core: &Arc<Core>) -> io::Result<Vec<JoinHandle<()>>> {
    (0..RUNLISTS)
        .map(|runlist| {
            let core = core.clone();
            let units = Units {
                runlist,
                host: core.mmu.add_utlb(Client::hub(CLIENT_HUB_HOST)),
            };
            std::thread::Builder::new()
                .name(format!("runlist{runlist}"))
                .spawn(move || run(&core, &units))
        })
        .collect()
}

fn run(core: &Core, units: &Units) {
    let host = &core.host;
    let r = units.runlist;
    let mut next: Option<Instant> = None;
    while host.next_pass(r, next) {
        next = None;
        if core.removed() {
            continue;
        }
        let mut lane = lock(&host.lanes[r]);
        host.submit(core, r);
        host.preempt(core, r, &mut lane);
        for chid in host.scheduled(core, r) {
            match host.turn(core, units, &mut lane, chid) {
                Ran::Idle => {}
                Ran::More => host.kick(r),
                Ran::Until(due) => next = Some(next.map_or(due, |n: Instant| n.min(due))),
            }
        }
    }
}

/// All channels, each with its TSG.
fn members(tsgs: &[Tsg]) -> impl Iterator<Item = (u32, u32)> + '_ {
    tsgs.iter()
        .flat_map(|t| t.channels.iter().map(move |&chid| (t.id, chid)))
}

impl Preempt {
    /// Whether a channel is to go, which is in a TSG.
    fn names(&self, tsg: u32, chid: u32) -> bool {
        self.id == if self.tsg { tsg } else { chid }
    }
}

impl Host {
    /// Takes over a runlist that was submitted.
    fn submit(&self, core: &Core, r: usize) {
        let Some(submit) = lock(&self.state).runlists[r].submit.take() else {
            return;
        };
        let parsed = parse(&core.mem.enter(), submit);
        for what in &parsed.guest_errors {
            core.errors.report(format_args!("{what}"));
        }
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        for (chid, inst) in &parsed.instances {
            let bound = state.channels[*chid as usize].inst;
            if bound.map(|b| b.canonical()) != Some(inst.canonical()) {
                core.errors.report(format_args!(
                    "runlist {r} has channel {chid} with instance block {inst}, bound is {bound:?}"
                ));
            }
        }
        let runlist = &mut state.runlists[r];
        let old = std::mem::replace(&mut runlist.tsgs, parsed.tsgs);
        let listed = |tsgs: &[Tsg], chid| tsgs.iter().any(|t| t.channels.contains(&chid));
        runlist.leaving.retain(|&(_, c)| !listed(&runlist.tsgs, c));
        for (tsg, chid) in members(&old).filter(|&(_, c)| !listed(&runlist.tsgs, c)) {
            let channel = &state.channels[chid as usize];
            if channel.resident {
                runlist.leaving.push((tsg, chid));
                if channel.enabled && !channel.dead {
                    core.errors.report(format_args!(
                        "runlist {r} lost channel {chid}, which is neither disabled nor preempted"
                    ));
                }
            }
        }
        runlist.pending = runlist.submit.is_some();
        if let Some(code) = parsed.sched_error {
            state.sched_error = code;
        }
        drop(guard);
        if parsed.sched_error.is_some() {
            core.errors
                .report(format_args!("runlist {r} has a channel outside a TSG"));
            self.interrupt(core, INTR_SCHED);
        }
    }

    /// Takes off the engine what is to leave it, as far as that can be, and
    /// completes preempts.
    fn preempt(&self, core: &Core, r: usize, lane: &mut Lane) {
        let (wanted, all, chids) = {
            let state = lock(&self.state);
            let all = state.runlists[r].preempt;
            let mine = |r: usize| {
                let runlist = &state.runlists[r];
                let leaving = runlist.leaving.iter().copied();
                members(&runlist.tsgs)
                    .chain(leaving)
                    .filter(|&(tsg, chid)| state.preempt.is_some_and(|w| w.names(tsg, chid)))
                    .map(|(_, chid)| chid)
                    .collect::<Vec<u32>>()
            };
            let mut chids = mine(r);
            // The other runlist's thread completes what is there.
            let elsewhere = chids.is_empty() && !mine(1 - r).is_empty();
            let wanted = state.preempt.filter(|_| !elsewhere);
            let runlist = &state.runlists[r];
            if all {
                chids.extend(members(&runlist.tsgs).map(|(_, chid)| chid));
            }
            chids.extend(runlist.leaving.iter().map(|&(_, chid)| chid));
            (wanted, all, chids)
        };
        let mut stuck = Vec::new();
        for &chid in &chids {
            let (veid, resident) = {
                let state = lock(&self.state);
                let channel = &state.channels[chid as usize];
                (channel.veid.filter(|_| channel.resident), channel.resident)
            };
            if r == RUNLIST_KERNEL && resident {
                core.copy.suspend(core, chid);
            }
            if let (Some(veid), Some(compute)) = (veid, core.compute()) {
                // All are asked to stop, whether or not the first one has.
                if !compute.preempt(veid) {
                    stuck.push(chid);
                }
            }
        }
        for chid in chids.iter().filter(|c| !stuck.contains(c)) {
            let bound = lock(&self.state).channels[*chid as usize].bound;
            if let Some((_, context)) = lane.contexts.get_mut(chid).filter(|c| c.0 == bound) {
                context.save(core);
            }
        }
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        for &chid in chids.iter().filter(|c| !stuck.contains(c)) {
            state.channels[chid as usize].resident = false;
        }
        let runlist = &mut state.runlists[r];
        let blocks = |wanted: Preempt, runlist: &Runlist| {
            members(&runlist.tsgs)
                .chain(runlist.leaving.iter().copied())
                .any(|(tsg, chid)| wanted.names(tsg, chid) && stuck.contains(&chid))
        };
        if wanted.is_some_and(|w| !blocks(w, runlist)) && state.preempt == wanted {
            state.preempt = None;
        }
        if all && stuck.is_empty() {
            runlist.preempt = false;
        }
        runlist.leaving.retain(|(_, chid)| stuck.contains(chid));
    }

    /// Channels that may run now, in the runlist's order. Those that were not
    /// on the engine are put there.
    fn scheduled(&self, core: &Core, r: usize) -> Vec<u32> {
        let mut new = Vec::new();
        let chids = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let runlist = &state.runlists[r];
            // A TSG that is being preempted is not put back meanwhile.
            let preempted = |tsg: u32, chid: u32| {
                runlist.preempt || state.preempt.is_some_and(|w| w.names(tsg, chid))
            };
            if runlist.disabled {
                return Vec::new();
            }
            let chids: Vec<u32> = members(&runlist.tsgs)
                .filter(|&(tsg, chid)| {
                    !preempted(tsg, chid) && state.channels[chid as usize].runnable()
                })
                .map(|(_, chid)| chid)
                .collect();
            for &chid in &chids {
                let channel = &mut state.channels[chid as usize];
                if channel.loaded && !channel.resident {
                    channel.resident = true;
                    new.push((chid, channel.veid));
                }
            }
            chids
        };
        for (chid, veid) in new {
            self.put_on_engine(core, chid, veid);
        }
        chids
    }

    /// The harts or copies of a channel that became resident go on.
    fn put_on_engine(&self, core: &Core, chid: u32, veid: Option<u8>) {
        let Some(veid) = veid else {
            return core.copy.resume(chid);
        };
        let other = lock(&self.state)
            .channels
            .iter()
            .enumerate()
            .find(|(i, c)| *i != chid as usize && c.resident && c.enabled && c.veid == Some(veid))
            .map(|(i, _)| i);
        if let Some(other) = other {
            core.errors.report(format_args!(
                "VEID {veid} is used by channels {other} and {chid} at once"
            ));
        }
        if let Some(compute) = core.compute() {
            compute.resume(veid);
        }
    }

    /// Loads the channel if it is new, and lets its PBDMA work for a while.
    fn turn(&self, core: &Core, units: &Units, lane: &mut Lane, chid: u32) -> Ran {
        let r = units.runlist;
        let (inst, bound, doorbell) = {
            let mut state = lock(&self.state);
            let channel = &mut state.channels[chid as usize];
            let Some(inst) = channel.inst else {
                return Ran::Idle;
            };
            (inst, channel.bound, std::mem::take(&mut channel.doorbell))
        };
        if lane.contexts.get(&chid).is_none_or(|c| c.0 != bound) {
            let loaded = load(&core.mem.enter(), core.mmu.version(), r, chid, inst);
            match loaded {
                Ok(loaded) => {
                    let mut state = lock(&self.state);
                    let channel = &mut state.channels[chid as usize];
                    if channel.bound != bound {
                        return Ran::More;
                    }
                    channel.veid = (r == RUNLIST_USER).then_some(loaded.veid);
                    (channel.loaded, channel.resident) = (true, true);
                    let veid = channel.veid;
                    drop(state);
                    self.put_on_engine(core, chid, veid);
                    lane.contexts.insert(chid, (bound, Context::new(loaded)));
                }
                Err(err) => {
                    core.errors
                        .report(format_args!("instance block of channel {chid}: {err}"));
                    lock(&self.state).channels[chid as usize].dead = true;
                    self.interrupt(core, INTR_BIND);
                    return Ran::Idle;
                }
            }
        }
        debug_assert!(lane.contexts.len() <= CHANNELS);
        let Some((_, context)) = lane.contexts.get_mut(&chid) else {
            return Ran::Idle;
        };
        match context.run(core, units, doorbell) {
            Ok(ran) => ran,
            Err((reason, info)) => {
                if let (RUNLIST_USER, Some(compute)) = (r, core.compute()) {
                    compute.kill(context.channel.veid);
                }
                self.stop_channel(core, chid, reason, info);
                Ran::Idle
            }
        }
    }

    /// Whether the channel can go on: an unbind, a disable or a fault ends its
    /// turn.
    pub(super) fn may_run(&self, chid: u32) -> bool {
        lock(&self.state).channels[chid as usize].runnable()
    }

    /// Waits for CLEAR_FAULTED, or for the register's bit.
    pub(super) fn set_faulted(&self, chid: u32, engine: bool) {
        let mut state = lock(&self.state);
        let channel = &mut state.channels[chid as usize];
        if engine {
            channel.eng_faulted = true;
        } else {
            channel.pbdma_faulted = true;
        }
    }

    /// CLEAR_FAULTED. False if the bit is not set (yet).
    pub(super) fn clear_faulted(&self, core: &Core, chid: u32, engine: bool) -> bool {
        let mut state = lock(&self.state);
        let Some(channel) = state.channels.get_mut(chid as usize) else {
            return false;
        };
        let bit = if engine {
            &mut channel.eng_faulted
        } else {
            &mut channel.pbdma_faulted
        };
        if !*bit {
            return false;
        }
        if !channel.dead {
            *bit = false;
        }
        drop(state);
        if engine {
            core.copy.clear_faulted(chid);
        }
        self.kick_all();
        true
    }

    /// CLEAR_FAULTED gave up.
    pub(super) fn clear_faulted_timeout(&self, core: &Core, chid: u32) {
        lock(&self.state).clear_faulted_error = 1 << 31 | chid;
        self.interrupt(core, INTR_SCHED);
    }
}

/// What a stop needs: why, and what goes to the error registers.
pub type Stop = (StopReason, u64);
