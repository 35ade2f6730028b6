// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A group of harts and its uTLB.
//!
//! Each VEID has harts of its own in every group. A VEID's harts run in slices;
//! within a slice they take turns.

use super::icache::InsnCache;
use super::lsu::Lsu;
use super::lsu::Machine;
use super::lsu::Stop;
use super::lsu::EXIT_PC;
use super::lsu::STACK_BASE;
use super::lsu::STACK_BYTES;
use super::reserve::Reservation;
use super::rv64::decode::CodePage;
use super::rv64::Exit;
use super::rv64::Hart;
use super::stacks::Stacks;
use crate::core::Core;
use crate::engine::ChannelCtx;
use crate::mmu::Access;
use crate::mmu::Cancel;
use crate::mmu::Fault;
use crate::mmu::Utlb;
use crate::mmu::UtlbGuard;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;
use std::ops::RangeBounds;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Instructions of one turn of a hart. Invalidates wait for it.
const TURN: u64 = 256;
/// Instructions of one slice of a VEID in a group.
pub const SLICE: u64 = 8192;
/// Turns go on this long for a hart between LR and SC, which covers the
/// constrained loops that must make progress.
const RESERVED_GRACE: usize = 16;
const ECALL_EXIT: u64 = 93;

/// One launch, or one release.
pub struct Grid {
    /// Never used twice.
    pub id: u64,
    pub channel: ChannelCtx,
    pub pc: u64,
    pub args: [u64; 2],
    pub invocations: u64,
    /// Invocations of a workgroup.
    pub workgroup: u64,
    /// When it is done, fire the non-stall interrupt.
    pub interrupt: bool,
    /// a1 is the index in the grid and a2 the number of invocations.
    pub indexed: bool,
    /// The next workgroup to start.
    next: AtomicU64,
    /// Groups the remaining workgroups are spread over.
    spread: u64,
}

impl Grid {
    pub fn workgroups(&self) -> u64 {
        self.invocations.div_ceil(self.workgroup)
    }

    /// Takes at most `free` workgroups to start: a fair share of what is left.
    fn take(&self, free: usize) -> std::ops::Range<u64> {
        let total = self.workgroups();
        let share = |next: u64| (total - next).div_ceil(self.spread).min(free as u64);
        match self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (next < total && free > 0).then(|| next + share(next))
            }) {
            Ok(next) => next..next + share(next),
            Err(_) => 0..0,
        }
    }

    fn exhausted(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.workgroups()
    }
}

pub struct GridParams {
    pub pc: u64,
    pub args: [u64; 2],
    pub invocations: u64,
    pub workgroup: u64,
    pub interrupt: bool,
    pub indexed: bool,
}

impl Grid {
    pub fn new(id: u64, channel: ChannelCtx, groups: usize, p: GridParams) -> Self {
        Grid {
            id,
            channel,
            pc: p.pc,
            args: p.args,
            invocations: p.invocations,
            workgroup: p.workgroup,
            interrupt: p.interrupt,
            indexed: p.indexed,
            next: AtomicU64::new(0),
            spread: groups as u64,
        }
    }
}

struct Slot {
    hart: Hart,
    reservation: Option<Reservation>,
    /// What the hart is parked on.
    fault: Option<Box<Fault>>,
    /// The page of the instruction whose access is refused: it was fetched once
    /// and for all, only the access is tried again.
    fetched: Option<Arc<CodePage>>,
}

/// A VEID's harts in one group.
struct Resident {
    grid: Arc<Grid>,
    slots: Vec<Slot>,
    ready: VecDeque<usize>,
    parked: Vec<usize>,
    /// Harts not yet ended, by place for a workgroup.
    live: Vec<u64>,
    free: Vec<usize>,
    /// One for each slot. What an earlier grid of the same channel left stays.
    stacks: Stacks,
}

/// Why a VEID cannot go on.
#[derive(Debug)]
pub enum Death {
    /// The pc of an instruction that must not be executed.
    Exception(u64),
    /// A fault that cannot be replayed, or that was cancelled.
    Fault(Box<Fault>),
}

/// What a slice, a replay or a cancel left behind.
#[derive(Default)]
pub struct Outcome {
    /// Instructions executed.
    pub executed: u64,
    /// Harts that ended.
    pub ended: u64,
    /// There is more to run in this group.
    pub more: bool,
    /// Harts parked on faults.
    pub parked: usize,
    /// The first hart whose fault found no room in its buffer.
    pub unheard: Option<usize>,
    pub death: Option<Death>,
}

pub struct Group {
    harts: usize,
    utlb: Arc<Utlb>,
    icache: InsnCache,
    residents: BTreeMap<u8, Resident>,
}

/// What a turn happens in.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub core: &'a Core,
    pub machine: &'a Machine,
}

impl Group {
    pub fn new(harts: usize, utlb: Arc<Utlb>) -> Self {
        Group {
            harts,
            utlb,
            icache: InsnCache::new(),
            residents: BTreeMap::new(),
        }
    }

    /// Runs the VEID's harts for about [`SLICE`] instructions. `interrupted` ends
    /// the slice early.
    pub fn run(
        &mut self,
        cx: Context<'_>,
        grid: &Arc<Grid>,
        interrupted: impl Fn() -> bool,
    ) -> Outcome {
        let mut out = Outcome::default();
        let harts = self.harts;
        let resident = self
            .residents
            .entry(grid.channel.veid)
            .or_insert_with(|| Resident::new(grid.clone(), harts));
        resident.adopt(grid, harts);
        let utlb = self.utlb.clone();
        let mut guard = utlb.enter();
        self.icache.new_epoch();
        while out.executed < SLICE && out.death.is_none() && !interrupted() {
            if guard.checkpoint() {
                self.icache.new_epoch();
            }
            let Some(n) = resident.next() else { break };
            let budget = TURN.min(SLICE - out.executed);
            let mut turn = Turn {
                cx,
                guard: &guard,
                icache: &mut self.icache,
                epoch: utlb.applied(),
                resident,
            };
            turn.take(n, budget, &mut out);
        }
        resident.sum_up(&mut out);
        out
    }

    /// Every parked hart in `range`, which goes by VEID and hart, executes the
    /// refused instruction again. With `cancel`, a VEID with a matching fault dies
    /// instead. Returns an outcome for each VEID that had parked harts.
    pub fn replay(
        &mut self,
        cx: Context<'_>,
        cancel: Option<&Cancel>,
        range: impl RangeBounds<(u8, usize)>,
    ) -> Vec<(Arc<Grid>, Outcome)> {
        let utlb = self.utlb.clone();
        let mut guard = utlb.enter();
        let mut outcomes = Vec::new();
        let residents = self.residents.iter_mut();
        for (veid, resident) in residents.filter(|r| !r.1.parked.is_empty()) {
            let mut out = Outcome::default();
            let mut parked = std::mem::take(&mut resident.parked);
            parked.sort_unstable();
            let hit = cancel.and_then(|cancel| {
                let faults = parked
                    .iter()
                    .filter_map(|&n| resident.slots[n].fault.as_deref());
                faults.copied().find(|fault| cancel.matches(fault))
            });
            if let Some(fault) = hit {
                out.death = Some(Death::Fault(Box::new(fault)));
                resident.parked = parked;
            } else {
                self.icache.new_epoch();
                // Harts whose turn comes later have not asked for their pages yet.
                let later = matches!(range.end_bound(), Bound::Unbounded);
                let mut waiting = Vec::new();
                for n in parked {
                    let mine = range.contains(&(*veid, n));
                    if out.death.is_some() || !mine && !later {
                        resident.parked.push(n);
                        continue;
                    }
                    if !mine {
                        waiting.push(n);
                        continue;
                    }
                    if guard.checkpoint() {
                        self.icache.new_epoch();
                    }
                    let mut turn = Turn {
                        cx,
                        guard: &guard,
                        icache: &mut self.icache,
                        epoch: utlb.applied(),
                        resident,
                    };
                    turn.take(n, 1, &mut out);
                }
                resident.parked.extend(waiting);
            }
            resident.sum_up(&mut out);
            outcomes.push((resident.grid.clone(), out));
        }
        outcomes
    }

    /// Throws the VEID's harts away, with their stacks.
    pub fn evict(&mut self, veid: u8) {
        self.residents.remove(&veid);
    }
}

impl Resident {
    fn new(grid: Arc<Grid>, harts: usize) -> Self {
        let slot = || Slot {
            hart: Hart::new(0),
            reservation: None,
            fault: None,
            fetched: None,
        };
        let mut resident = Resident {
            slots: (0..harts).map(|_| slot()).collect(),
            ready: VecDeque::new(),
            parked: Vec::new(),
            live: Vec::new(),
            free: Vec::new(),
            stacks: Stacks::new(harts),
            grid,
        };
        resident.set_places();
        resident
    }

    /// Makes room for a new grid; all harts of the one before have ended.
    fn adopt(&mut self, grid: &Arc<Grid>, harts: usize) {
        if self.grid.id == grid.id {
            return;
        }
        if self.grid.channel != grid.channel {
            *self = Resident::new(grid.clone(), harts);
            return;
        }
        self.grid = grid.clone();
        self.set_places();
    }

    fn set_places(&mut self) {
        let places = self.slots.len() / self.grid.workgroup as usize;
        self.live = vec![0; places];
        self.free = (0..places).rev().collect();
        self.ready.clear();
        self.parked.clear();
    }

    /// The hart whose turn it is; starts workgroups if none is ready.
    fn next(&mut self) -> Option<usize> {
        if self.ready.is_empty() {
            for workgroup in self.grid.take(self.free.len()) {
                self.start(workgroup);
            }
        }
        self.ready.pop_front()
    }

    fn start(&mut self, workgroup: u64) {
        let grid = &self.grid;
        let Some(place) = self.free.pop() else { return };
        let first = workgroup * grid.workgroup;
        let count = grid.workgroup.min(grid.invocations - first);
        self.live[place] = count;
        for i in 0..count {
            let n = place * grid.workgroup as usize + i as usize;
            let slot = &mut self.slots[n];
            let hart = &mut slot.hart;
            hart.reset(grid.pc);
            let (index, total) = (first + i, grid.invocations);
            let args = if grid.indexed {
                [grid.args[0], index]
            } else {
                grid.args
            };
            for (register, value) in [
                (1, EXIT_PC),
                (2, STACK_BASE + STACK_BYTES as u64),
                (10, args[0]),
                (11, args[1]),
                (12, total),
            ] {
                hart.set_x(register, value);
            }
            hart.ids = [index, total, workgroup, i];
            (slot.reservation, slot.fault, slot.fetched) = (None, None, None);
            self.ready.push_back(n);
        }
    }

    fn end(&mut self, n: usize) {
        let place = n / self.grid.workgroup as usize;
        self.live[place] -= 1;
        if self.live[place] == 0 {
            self.free.push(place);
        }
    }

    fn sum_up(&self, out: &mut Outcome) {
        out.parked = self.parked.len();
        out.more = !self.ready.is_empty() || !self.free.is_empty() && !self.grid.exhausted();
    }
}

/// One hart's turn.
struct Turn<'a, 'u> {
    cx: Context<'a>,
    guard: &'a UtlbGuard<'u>,
    icache: &'a mut InsnCache,
    epoch: u64,
    resident: &'a mut Resident,
}

impl Turn<'_, '_> {
    /// Lets hart `n` execute at most `budget` instructions (and a few more
    /// between LR and SC), and puts it where it belongs then.
    fn take(&mut self, n: usize, budget: u64, out: &mut Outcome) {
        let resident = &mut *self.resident;
        let slot = &mut resident.slots[n];
        let hart = &mut slot.hart;
        let before = hart.instret();
        let space = resident.grid.channel.space;
        let mut lsu = Lsu {
            core: self.cx.core,
            machine: self.cx.machine,
            guard: self.guard,
            space: &space,
            stack: resident.stacks.of(n),
            icache: self.icache,
            reservation: &mut slot.reservation,
            epoch: self.epoch,
            refused: slot.fetched.take(),
            fetched: None,
        };
        slot.fault = None;
        let mut exit = hart.run(&mut lsu, budget);
        for _ in 0..RESERVED_GRACE {
            if !matches!(exit, Exit::Budget) || !lsu.reserved() {
                break;
            }
            exit = hart.run(&mut lsu, 1);
        }
        let fetched = lsu.fetched;
        out.executed += hart.instret() - before;
        match exit {
            Exit::Budget => resident.ready.push_back(n),
            Exit::Stop(Stop::Fault(fault)) => {
                slot.reservation = None;
                slot.fetched = fetched.filter(|_| fault.access != Access::Fetch);
                self.park(n, fault, out);
            }
            Exit::Ecall if hart.x(17) == ECALL_EXIT => {
                out.ended += 1;
                resident.end(n);
            }
            Exit::Ecall | Exit::Stop(Stop::NotCode) | Exit::Exception(_) => {
                tracing::info!(
                    "VEID {}: {exit:?} at pc {:#x}",
                    resident.grid.channel.veid,
                    hart.pc
                );
                out.death = Some(Death::Exception(hart.pc));
            }
        }
    }

    fn park(&mut self, n: usize, fault: Box<Fault>, out: &mut Outcome) {
        if !fault.replayable {
            out.death = Some(Death::Fault(fault));
            return;
        }
        let resident = &mut *self.resident;
        // The uTLB asks once for what several of its harts miss.
        let asked = resident.parked.iter().any(|&other| {
            resident.slots[other].fault.as_ref().is_some_and(|f| {
                f.va >> 12 == fault.va >> 12 && f.access == fault.access && f.ty == fault.ty
            })
        });
        if !asked && !self.cx.core.report_fault(&fault) {
            out.unheard.get_or_insert(n);
        }
        resident.slots[n].fault = Some(fault);
        resident.parked.push(n);
    }
}
