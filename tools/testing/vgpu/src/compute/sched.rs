// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which VEID runs where: state that all threads share.
//!
//! VEIDs take turns slice by slice, each slice being some thousand instructions
//! in one group, so that a VEID with little to do is not behind one with much.

use super::class::Registers;
use super::group::Grid;
use super::group::Outcome;
use std::collections::VecDeque;
use std::sync::Arc;

/// VEIDs of the engine.
pub const VEIDS: usize = 64;

/// One VEID.
#[derive(Default)]
pub struct Veid {
    pub registers: Registers,
    pub grid: Option<Arc<Grid>>,
    /// Harts of the grid not yet ended.
    left: u64,
    /// The channel whose grid died. It gets nothing more done, even if it has
    /// not heard of it yet.
    pub dead: Option<u32>,
    /// Its harts are being thrown away.
    pub killing: bool,
    /// No slices are begun.
    pub suspended: bool,
    /// Groups that have something to run.
    ready: VecDeque<usize>,
    /// Slices that are being run.
    pub busy: u32,
    /// Parked harts, by group.
    pub parked: Vec<usize>,
    /// Somebody was told to ask again when the grid is done.
    pub awaited: bool,
    /// Somebody was told to ask again when the VEID is quiet.
    pub awaited_quiet: bool,
}

/// A slice to run.
pub struct Slice {
    pub group: usize,
    pub grid: Arc<Grid>,
}

/// What has to be done after an outcome was noted, without locks.
#[derive(Default)]
pub struct After {
    pub kick: bool,
    pub interrupt: bool,
}

pub struct Sched {
    pub veids: Vec<Veid>,
    /// VEIDs with ready groups that are not suspended, in order of their turns.
    queue: VecDeque<usize>,
    /// Groups in which a slice is being run.
    running: Vec<bool>,
    next_grid: u64,
    pub stopped: bool,
}

impl Veid {
    /// Methods that wait may go on.
    pub fn idle(&self) -> bool {
        self.grid.is_none() && self.dead.is_none() && !self.killing
    }

    /// No hart is parked and no slice is being run.
    pub fn quiet(&self) -> bool {
        self.busy == 0 && self.parked.iter().all(|&n| n == 0)
    }
}

impl Sched {
    pub fn new(groups: usize) -> Self {
        let veid = || Veid {
            parked: vec![0; groups],
            ..Veid::default()
        };
        Sched {
            veids: (0..VEIDS).map(|_| veid()).collect(),
            queue: VecDeque::new(),
            running: vec![false; groups],
            next_grid: 1,
            stopped: false,
        }
    }

    pub fn grid_id(&mut self) -> u64 {
        self.next_grid += 1;
        self.next_grid
    }

    /// Makes `grid` the VEID's; it has none.
    pub fn launch(&mut self, grid: Grid) {
        let groups = self.running.len();
        let n = usize::from(grid.channel.veid);
        let veid = &mut self.veids[n];
        veid.left = grid.invocations;
        let wanted = grid.workgroups().min(groups as u64) as usize;
        veid.ready = (0..wanted).collect();
        veid.grid = Some(Arc::new(grid));
        self.enqueue(n);
    }

    fn enqueue(&mut self, n: usize) {
        let veid = &self.veids[n];
        if !veid.suspended && !veid.ready.is_empty() && !self.queue.contains(&n) {
            self.queue.push_back(n);
        }
    }

    /// Takes the next slice, if any can be run now.
    pub fn next(&mut self) -> Option<Slice> {
        for _ in 0..self.queue.len() {
            let n = self.queue.pop_front()?;
            let veid = &mut self.veids[n];
            let found = veid.ready.iter().position(|&g| !self.running[g]);
            let slice = found
                .and_then(|i| veid.ready.remove(i))
                .zip(veid.grid.clone());
            if let Some((group, grid)) = slice {
                veid.busy += 1;
                self.running[group] = true;
                self.enqueue(n);
                return Some(Slice { group, grid });
            }
            self.enqueue(n);
        }
        None
    }

    /// Ends a slice. To be called with the group's lock held.
    pub fn finish(&mut self, slice: &Slice, out: &Outcome) -> After {
        self.running[slice.group] = false;
        self.veids[usize::from(slice.grid.channel.veid)].busy -= 1;
        self.note(slice.group, &slice.grid, out)
    }

    /// Notes what happened in a group. To be called with the group's lock held.
    pub fn note(&mut self, group: usize, grid: &Grid, out: &Outcome) -> After {
        let n = usize::from(grid.channel.veid);
        let veid = &mut self.veids[n];
        if veid.grid.as_ref().is_none_or(|g| g.id != grid.id) {
            // It is being killed.
            return After::default();
        }
        let mut after = After::default();
        veid.parked[group] = out.parked;
        veid.left -= out.ended;
        if veid.left == 0 {
            after.interrupt = grid.interrupt;
            veid.grid = None;
            veid.ready.clear();
        } else if out.more && out.death.is_none() && !veid.ready.contains(&group) {
            veid.ready.push_back(group);
        }
        if veid.grid.is_none() {
            after.kick |= std::mem::take(&mut veid.awaited);
        }
        if veid.quiet() {
            after.kick |= std::mem::take(&mut veid.awaited_quiet);
        }
        self.enqueue(n);
        after
    }

    pub fn suspend(&mut self, n: usize) {
        self.veids[n].suspended = true;
        self.queue.retain(|&q| q != n);
    }

    pub fn resume(&mut self, n: usize) {
        self.veids[n].suspended = false;
        self.enqueue(n);
    }

    /// Begins the end of the VEID's grid: no more slices are begun. If `id` is
    /// given, it is that grid that dies; false if it is no longer there.
    pub fn withdraw(&mut self, n: usize, id: Option<u64>) -> bool {
        let veid = &mut self.veids[n];
        if id.is_some() && veid.grid.as_ref().map(|g| g.id) != id {
            return false;
        }
        if id.is_some() {
            veid.dead = veid.grid.as_ref().map(|g| g.channel.chid);
        }
        veid.killing = true;
        veid.grid = None;
        veid.left = 0;
        veid.ready.clear();
        self.queue.retain(|&q| q != n);
        true
    }
}
