// SPDX-License-Identifier: GPL-2.0 OR MIT
//! First-level TLBs, and the guard under which accesses are made.

use super::entries::{slot, Entries};
use super::format::Leaf;
use super::walk::{va_bits, Outcome};
use super::{Access, Client, Fault, FaultType, Invalidate, Shared, Space, CLIENT_GCC};
use crate::config::TlbMode;
use crate::lock;
use crate::mem::{GuestMap, HostPtr, PhysAddr};
use crate::rng::Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

struct State {
    /// Contains pointers into `map`.
    entries: Entries,
    /// Log entries up to this are applied.
    seen: u64,
    map: Arc<GuestMap>,
    generation: u64,
    rng: Rng,
    /// Some knob needs a look at every access.
    slow: bool,
    /// Stale hits by (PDB, VA >> 12): how many, at which shift and level.
    stale: BTreeMap<(PhysAddr, u64), (i64, u32, u8)>,
}

// SAFETY: The raw pointers in the entries point to shared mappings that belong
// to no thread; see the invariant of `Entry`.
unsafe impl Send for State {}

/// The first-level TLB of one client.
pub struct Utlb {
    client: Client,
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// `State::seen`, to be read without the lock.
    applied: AtomicU64,
}

/// A right to access memory through one uTLB. Translations are good while it
/// lives and until [`UtlbGuard::checkpoint`].
///
/// Invalidates, replays' acknowledgements and DMA unmaps wait for it: a holder
/// comes by `checkpoint` at least every few hundred instructions and never
/// waits for anything else meanwhile.
pub struct UtlbGuard<'u> {
    utlb: &'u Utlb,
    state: RefCell<MutexGuard<'u, State>>,
}

/// Where a virtual address is.
#[derive(Clone, Copy, Debug)]
pub struct Translation<'g> {
    /// The byte, good to the end of its 4 KiB page.
    pub ptr: HostPtr<'g>,
    /// It is system memory: atomics are only as atomic as the driver makes them.
    pub sys: bool,
}

impl Utlb {
    pub(super) fn new(client: Client, shared: Arc<Shared>, n: u64) -> Self {
        let slow =
            shared.mode != TlbMode::Never || shared.full_shadow || shared.access_delay.0 != 0;
        let generation = shared.mem.generation();
        let seen = shared.seq.load(Ordering::SeqCst);
        let state = State {
            entries: Entries::new(),
            seen,
            map: shared.mem.current(),
            generation,
            rng: Rng::stream(shared.seed, 0x7b0 + n),
            slow,
            stale: BTreeMap::new(),
        };
        Self {
            client,
            shared,
            state: Mutex::new(state),
            applied: AtomicU64::new(seen),
        }
    }

    pub fn client(&self) -> Client {
        self.client
    }

    /// Number of the last invalidate, or change of the memory map, applied here.
    /// It moves only in [`Utlb::enter`] and [`UtlbGuard::checkpoint`], or while
    /// nobody is inside.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    /// Begins a slice of accesses. Waits for another holder of this uTLB.
    pub fn enter(&self) -> UtlbGuard<'_> {
        let mut state = lock(&self.state);
        self.apply(&mut state);
        UtlbGuard {
            utlb: self,
            state: RefCell::new(state),
        }
    }

    /// Applies what is due if nobody is inside. True if all up to `seq` has
    /// been applied, by whomever.
    pub(super) fn catch_up(&self, seq: u64) -> bool {
        if self.applied() >= seq {
            return true;
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        self.apply(&mut state);
        true
    }

    /// True if something was applied.
    fn apply(&self, state: &mut State) -> bool {
        if self.shared.seq.load(Ordering::SeqCst) == state.seen {
            return false;
        }
        let log = lock(&self.shared.log);
        for (seq, op) in log.iter() {
            if *seq > state.seen {
                state.seen = *seq;
                if let Some(op) = op.filter(|op| self.client.hub || !op.hub_only) {
                    self.forget(state, &op);
                }
            }
        }
        drop(log);
        let generation = self.shared.mem.generation();
        if generation != state.generation {
            // Pointers into the old map go before the map does.
            state.entries.forget_pointers();
            state.generation = generation;
            state.map = self.shared.mem.current();
        }
        self.applied.store(state.seen, Ordering::SeqCst);
        true
    }

    fn forget(&self, state: &mut State, op: &Invalidate) {
        state.entries.forget(op);
        // What was stale and is invalidated now was in time.
        state.stale.retain(|&(pdb, vpn), &mut (n, shift, level)| {
            let gone = op.hits(pdb, vpn << 12, shift, level);
            if gone {
                self.shared.stale.fetch_sub(n, Ordering::SeqCst);
            }
            !gone
        });
    }
}

impl UtlbGuard<'_> {
    /// Ends the use of all translations so far and applies the invalidates that
    /// came meanwhile. True if there were any.
    #[inline]
    pub fn checkpoint(&mut self) -> bool {
        let state = self.state.get_mut();
        if self.utlb.shared.seq.load(Ordering::SeqCst) == state.seen {
            return false;
        }
        self.utlb.apply(state)
    }

    /// Translates one address for an access inside its 4 KiB page.
    ///
    /// # Errors
    ///
    /// The fault, to be handed to [`crate::core::Core::report_fault`].
    // Always inline, and with the fault in a box, so that the result of a hit
    // stays in registers. Everything else is out of line.
    #[inline(always)]
    pub fn translate(
        &self,
        space: &Space,
        va: u64,
        access: Access,
    ) -> Result<Translation<'_>, Box<Fault>> {
        let mut state = self.state.borrow_mut();
        let vpn = va >> 12;
        if let (Some(pdb), false) = (space.pdb, state.slow) {
            let entry = state.entries.at(slot(pdb, vpn));
            if entry.is_of(pdb, vpn) && entry.allowed & 1 << access as u8 != 0 {
                if let (Some(page), Some(pte)) = (entry.page, entry.pte) {
                    // SAFETY: By the invariant of `Entry`.
                    if unsafe { HostPtr::new(pte, 8) }.load(8) == entry.raw {
                        return Ok(self.found(page, va, entry.sys));
                    }
                }
            }
        }
        self.translate_slow(&mut state, space, va, access)
    }

    #[inline]
    fn found(&self, page: NonNull<u8>, va: u64, sys: bool) -> Translation<'_> {
        // SAFETY: By the invariant of `Entry` the page is mapped; the memory
        // map that holds it is given up by `checkpoint` only, which the result
        // excludes by its borrow.
        let ptr = unsafe { HostPtr::new(page, 4096) };
        Translation {
            ptr: ptr.add((va & 0xfff) as usize),
            sys,
        }
    }

    #[cold]
    fn fault(&self, space: &Space, va: u64, access: Access, ty: FaultType) -> Box<Fault> {
        let fetch = access == Access::Fetch;
        Box::new(Fault {
            space: *space,
            va,
            ty,
            access,
            client: Client {
                id: if fetch {
                    CLIENT_GCC
                } else {
                    self.utlb.client.id
                },
                ..self.utlb.client
            },
            replayable: if fetch {
                space.replay_fetch
            } else {
                space.replay_data
            },
        })
    }

    #[cold]
    #[inline(never)]
    fn translate_slow(
        &self,
        state: &mut State,
        space: &Space,
        va: u64,
        access: Access,
    ) -> Result<Translation<'_>, Box<Fault>> {
        let shared = &*self.utlb.shared;
        let refuse = |ty| Err(self.fault(space, va, access, ty));
        let Some(pdb) = space.pdb else {
            return refuse(FaultType::UnboundInst);
        };
        if va >> va_bits(shared.version) != 0 {
            return refuse(FaultType::VaLimit);
        }
        let vpn = va >> 12;
        let at = slot(pdb, vpn);
        let forget = shared.mode == TlbMode::Random && state.rng.one_in(64);
        let known = state.entries.at(at).is_of(pdb, vpn);
        if !known || forget || shared.mode == TlbMode::None {
            let walked = shared.lookup(self.utlb.client.hub, pdb, va, forget);
            state.entries.fill(pdb, vpn, &walked);
        }
        self.resolve(state, at);
        self.count_stale(state, at);
        let entry = state.entries.at(at);
        let found = match entry.outcome {
            Outcome::Fault(ty) => return refuse(ty),
            Outcome::Leaf(leaf) => {
                if leaf.privileged && !space.privileged {
                    return refuse(FaultType::Privilege);
                }
                let write = matches!(access, Access::Write | Access::Atomic | Access::AtomicWeak);
                if write && leaf.read_only {
                    return refuse(FaultType::ReadOnly);
                }
                if access == Access::Atomic && leaf.atomic_disable {
                    return refuse(FaultType::Atomic);
                }
                if shared.poisoned(leaf.at.offset(leaf_offset(va, entry.shift()))) {
                    return refuse(FaultType::Poison);
                }
                if entry.page.is_some() && self.counts(&leaf) {
                    shared.counters.count(space, va, access);
                }
                match entry.page {
                    Some(page) => self.found(page, va, entry.sys),
                    // Bus mastering is off, or there is no such memory.
                    None => return refuse(FaultType::Region),
                }
            }
            Outcome::Sparse => {
                let write = !matches!(access, Access::Read | Access::Fetch | Access::Prefetch);
                let ptr = shared.sparse.at(write);
                Translation {
                    ptr: ptr.add((va & 0xfff) as usize),
                    sys: false,
                }
            }
        };
        let (every, delay) = shared.access_delay;
        if state.rng.one_in(every) {
            // Inside the guard: acknowledgements wait for this access.
            std::thread::sleep(delay);
        }
        Ok(found)
    }

    /// Accesses to the page are counted, each on its way through here.
    fn counts(&self, leaf: &Leaf) -> bool {
        leaf.at.aperture.is_sys()
            && !leaf.uncounted
            && !self.utlb.client.hub
            && self.utlb.shared.counters.enabled()
    }

    /// Finds the host addresses of an entry, and what it allows at once.
    fn resolve(&self, state: &mut State, at: usize) {
        let shared = &*self.utlb.shared;
        let entry = state.entries.at_mut(at);
        let pointer = |at: PhysAddr, len| {
            let ptr = if at.aperture.is_sys() {
                state.map.resolve(at.addr, len)
            } else {
                shared.mem.vram().resolve(at.addr, len)
            };
            ptr.and_then(|p| NonNull::new(p.as_ptr()))
        };
        // INVARIANT: Both point into VRAM or `state.map`, for 8 and 4096 bytes.
        entry.pte = entry.pte_at.and_then(|at| pointer(at, 8));
        if let Outcome::Leaf(leaf) = entry.outcome {
            let at = leaf
                .at
                .offset(leaf_offset(entry.vpn() << 12, entry.shift()));
            entry.page = pointer(at, 4096);
            let poisoned = shared.poisoned(at);
            entry.sys = leaf.at.aperture.is_sys();
            entry.allowed = if leaf.privileged || poisoned || self.counts(&leaf) {
                0
            } else {
                let mut allowed = bit(Access::Read) | bit(Access::Fetch) | bit(Access::Prefetch);
                if !leaf.read_only {
                    allowed |= bit(Access::Write) | bit(Access::AtomicWeak);
                    if !leaf.atomic_disable {
                        allowed |= bit(Access::Atomic);
                    }
                }
                allowed
            };
        }
    }

    /// Compares an entry with memory.
    fn count_stale(&self, state: &mut State, at: usize) {
        let shared = &*self.utlb.shared;
        let entry = state.entries.at(at);
        let mut differs = entry.pte.is_some_and(|pte| {
            // SAFETY: By the invariant of `Entry`.
            unsafe { HostPtr::new(pte, 8) }.load(8) != entry.raw
        });
        if shared.full_shadow && !differs {
            let mem = shared.mem.enter();
            let now = shared.walk_memory(&mem, entry.pdb(), entry.vpn() << 12);
            differs = now.outcome != entry.outcome;
        }
        if differs {
            let (shift, level) = (entry.shift(), entry.level());
            tracing::debug!("stale hit at {:#x}, PDB {}", entry.vpn() << 12, entry.pdb());
            shared.stale.fetch_add(1, Ordering::SeqCst);
            let key = (entry.pdb(), entry.vpn());
            state.stale.entry(key).or_insert((0, shift, level)).0 += 1;
        }
    }
}

fn bit(access: Access) -> u8 {
    1 << access as u8
}

fn leaf_offset(va: u64, shift: u32) -> u64 {
    va & ((1 << shift) - 1) & !0xfff
}
