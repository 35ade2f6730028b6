// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The MMU: page-table walks, TLBs and their invalidation.
//!
//! Each client has a [`Utlb`]; behind them lie one shared TLB for the compute
//! engine and one for the hub (host and copy engine). An invalidate is applied
//! to the shared ones at once, and then to each uTLB when its user is between
//! two accesses; it is complete when that has happened everywhere.
//!
//! Lock order: uTLB state › compute's TLB › the hub's › log. An invalidate takes them one
//! after another, never nested.

mod cache;
mod counters;
mod entries;
pub mod format;
mod types;
mod utlb;
pub mod walk;

pub use cache::Invalidate;
pub use counters::{AccessCounters, Clear};
pub use types::*;
pub use utlb::{Translation, Utlb, UtlbGuard};

use crate::config::{Config, MmuVersion, TlbMode};
use crate::errors::GuestErrors;
use crate::intr::Intr;
use crate::lock;
use crate::mem::{Aperture, HostPtr, MemGuard, Memory, PhysAddr};
use cache::{Caches, View};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use walk::{Uncached, Walked, Walker};

/// What all uTLBs share.
pub(crate) struct Shared {
    version: MmuVersion,
    mode: TlbMode,
    full_shadow: bool,
    access_delay: (u32, Duration),
    seed: u64,
    pub(crate) mem: Arc<Memory>,
    errors: Arc<GuestErrors>,
    /// Of the compute engine, of the hub.
    tlbs: [Mutex<Caches>; 2],
    /// Number of the last entry of `log`.
    seq: AtomicU64,
    /// What uTLBs have yet to apply.
    log: Mutex<VecDeque<(u64, Option<Invalidate>)>>,
    /// Hits that differed from memory and were not invalidated since.
    stale: AtomicI64,
    /// What sparse pages read, and where writes to them go.
    sparse: Sparse,
    /// 4 KiB pages of VRAM, and how many.
    poison: RwLock<BTreeSet<u64>>,
    poisoned: AtomicUsize,
    counters: AccessCounters,
}

#[repr(align(4096))]
struct Page([AtomicU64; 512]);

struct Sparse {
    zero: Box<Page>,
    scratch: Box<Page>,
}

impl Sparse {
    fn new() -> Self {
        let page = || Box::new(Page(std::array::from_fn(|_| AtomicU64::new(0))));
        Self {
            zero: page(),
            scratch: page(),
        }
    }

    fn at(&self, write: bool) -> HostPtr<'_> {
        let page = if write { &self.scratch } else { &self.zero };
        let ptr = std::ptr::NonNull::from(&page.0).cast();
        // SAFETY: All 4096 bytes of the page are atomics, which may be written
        // through a shared reference, and live as long as `self`.
        unsafe { HostPtr::new(ptr, 4096) }
    }
}

impl Shared {
    fn tlb(&self, hub: bool) -> MutexGuard<'_, Caches> {
        lock(&self.tlbs[usize::from(hub)])
    }

    fn complain(&self, walker_says: Option<walk::Complaint>) {
        if let Some(complaint) = walker_says {
            self.errors.report(format_args!("{}", complaint.0));
        }
    }

    /// Through the shared caches, and into them. `forget` drops a cached PTE.
    fn lookup(&self, hub: bool, pdb: PhysAddr, va: u64, forget: bool) -> Walked {
        let mem = self.mem.enter();
        if self.mode == TlbMode::None {
            return self.walk_memory(&mem, pdb, va);
        }
        let mut caches = self.tlb(hub);
        if forget {
            caches.forget_pte(pdb, va);
        } else if let Some(hit) = caches.pte(pdb, va) {
            return hit;
        }
        let mut walker = Walker {
            version: self.version,
            mem: &mem,
            cache: View {
                caches: &mut caches,
                pdb,
            },
            complaint: None,
        };
        let walked = walker.walk(pdb, va);
        self.complain(walker.complaint);
        walked
    }

    /// As memory is now, caches aside.
    fn walk_memory(&self, mem: &MemGuard<'_>, pdb: PhysAddr, va: u64) -> Walked {
        let mut walker = Walker {
            version: self.version,
            mem,
            cache: Uncached,
            complaint: None,
        };
        let walked = walker.walk(pdb, va);
        self.complain(walker.complaint);
        walked
    }

    fn poisoned(&self, at: PhysAddr) -> bool {
        at.aperture == Aperture::Vid
            && self.poisoned.load(Ordering::SeqCst) != 0
            && self
                .poison
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&(at.addr >> 12))
    }
}

/// The MMU. Shared by all engines.
pub struct Mmu {
    shared: Arc<Shared>,
    utlbs: RwLock<Vec<Arc<Utlb>>>,
    /// How many were executed.
    pub invalidates: AtomicU64,
}

impl Mmu {
    pub fn new(
        config: &Config,
        mem: Arc<Memory>,
        errors: Arc<GuestErrors>,
        intr: Arc<Intr>,
    ) -> Self {
        let inject = &config.inject;
        let counters = AccessCounters::new(mem.clone(), errors.clone(), intr);
        let poison: BTreeSet<u64> = inject.poison.iter().map(|at| at >> 12).collect();
        Self {
            shared: Arc::new(Shared {
                version: config.mmu,
                mode: config.tlb,
                full_shadow: config.full_shadow_walk,
                access_delay: (inject.access_delay_every, inject.access_delay),
                seed: inject.seed,
                mem,
                errors,
                tlbs: Default::default(),
                seq: AtomicU64::new(0),
                log: Mutex::default(),
                stale: AtomicI64::new(0),
                sparse: Sparse::new(),
                poisoned: AtomicUsize::new(poison.len()),
                poison: RwLock::new(poison),
                counters,
            }),
            utlbs: RwLock::default(),
            invalidates: AtomicU64::new(0),
        }
    }

    /// Makes a uTLB. It takes part in invalidates as long as the MMU lives.
    pub fn add_utlb(&self, client: Client) -> Arc<Utlb> {
        let mut utlbs = self.utlbs.write().unwrap_or_else(PoisonError::into_inner);
        let utlb = Arc::new(Utlb::new(client, self.shared.clone(), utlbs.len() as u64));
        utlbs.push(utlb.clone());
        utlb
    }

    /// Throws cached translations away. With `wait`, returns when no access uses
    /// them any more: each was made, with all its stores visible.
    ///
    /// Not to be called with a [`UtlbGuard`] held.
    pub fn invalidate(&self, op: &Invalidate, wait: bool) {
        self.invalidates.fetch_add(1, Ordering::Relaxed);
        // Under the locks, so that a walk is either before, and its entry goes
        // now, or after, and read what is in memory now.
        let mut compute = (!op.hub_only).then(|| self.shared.tlb(false));
        let mut hub = self.shared.tlb(true);
        if let Some(compute) = &mut compute {
            compute.invalidate(op);
        }
        hub.invalidate(op);
        let seq = self.log(Some(*op));
        drop((compute, hub));
        if wait {
            self.wait_applied(seq);
        } else {
            self.catch_up(seq);
        }
    }

    /// Applies what is due to the uTLBs that are not in use. True if all up to
    /// `seq` is applied everywhere.
    fn catch_up(&self, seq: u64) -> bool {
        let utlbs = self.utlbs.read().unwrap_or_else(PoisonError::into_inner);
        let done = utlbs.iter().fold(true, |done, u| u.catch_up(seq) && done);
        let oldest = utlbs.iter().map(|u| u.applied()).min().unwrap_or(seq);
        lock(&self.shared.log).retain(|(n, _)| *n > oldest);
        done
    }

    fn log(&self, op: Option<Invalidate>) -> u64 {
        let mut log = lock(&self.shared.log);
        let seq = self.shared.seq.load(Ordering::SeqCst) + 1;
        log.push_back((seq, op));
        self.shared.seq.store(seq, Ordering::SeqCst);
        seq
    }

    fn wait_applied(&self, seq: u64) {
        let mut pause = Duration::from_micros(20);
        while !self.catch_up(seq) {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    /// Waits until no access is inside the memory map `old`, which
    /// [`Memory::unmap`] and the like returned. Not to be called with a
    /// [`UtlbGuard`] or [`MemGuard`] held.
    pub fn retire_map(&self, old: Arc<crate::mem::GuestMap>) {
        let seq = self.log(None);
        self.wait_applied(seq);
        Memory::wait_unused(old, || {
            self.catch_up(seq);
        });
    }

    /// Empties all TLBs, as a reset does, and forgets stale hits.
    pub fn reset(&self) {
        self.shared.counters.reset();
        self.invalidate(&Invalidate::ALL, true);
        self.shared.stale.store(0, Ordering::SeqCst);
    }

    /// TLB hits that differed from memory and that no invalidate has covered
    /// since. Hits between a change and its invalidate are legal, so only at
    /// rest this must be 0.
    pub fn stale_hits(&self) -> u64 {
        self.shared.stale.load(Ordering::SeqCst).max(0) as u64
    }

    pub fn version(&self) -> MmuVersion {
        self.shared.version
    }

    pub fn poisoned(&self, at: PhysAddr) -> bool {
        self.shared.poisoned(at)
    }

    /// How many pages are poisoned.
    pub fn poisoned_pages(&self) -> usize {
        self.shared.poisoned.load(Ordering::SeqCst)
    }

    /// Poisons 4 KiB page number `page` of device memory, or repairs it. When
    /// this returns no access uses what was known before. Not to be called with
    /// a [`UtlbGuard`] held.
    pub fn poison(&self, page: u64, on: bool) {
        {
            let shared = &self.shared;
            let mut poison = shared
                .poison
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if on {
                poison.insert(page);
            } else {
                poison.remove(&page);
            }
            shared.poisoned.store(poison.len(), Ordering::SeqCst);
        }
        self.forget_pages();
    }

    /// What uTLBs know of pages goes as if the memory map had changed.
    fn forget_pages(&self) {
        self.shared.mem.new_generation();
        self.wait_applied(self.log(None));
    }

    pub fn counters(&self) -> &AccessCounters {
        &self.shared.counters
    }

    /// Writes a register of the access counters. False if it is none. Not to be
    /// called with a [`UtlbGuard`] held.
    pub fn write_counters(&self, offset: u32, value: u32) -> bool {
        match self.shared.counters.write(offset, value) {
            None => return false,
            Some(true) => self.forget_pages(),
            Some(false) => {}
        }
        true
    }
}
