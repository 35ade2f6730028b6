// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The device's atomic unit.

use super::HostPtr;
use crate::rng::Rng;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const STRIPES: usize = 64;

/// Executes atomics under a lock striped by physical address.
///
/// The lock orders this device's atomics among each other. Towards the CPU an
/// atomic on system memory is a load and, later, a store: only what the driver
/// does about the CPU's mapping makes it atomic, and a CPU's write that falls
/// between is lost, counted and logged.
pub struct AtomicUnit {
    stripes: [Mutex<Rng>; STRIPES],
    lost: AtomicU64,
    window: Duration,
}

impl AtomicUnit {
    pub fn new(seed: u64, window: Duration) -> Self {
        Self {
            stripes: std::array::from_fn(|i| Mutex::new(Rng::stream(seed, 0xa70 + i as u64))),
            lost: AtomicU64::new(0),
            window,
        }
    }

    /// Excludes all other atomics, and [`AtomicUnit::store`]s, on the line of
    /// `p`. A leaf lock: take nothing below it.
    pub fn lock(&self, p: HostPtr<'_>) -> MutexGuard<'_, Rng> {
        let line = p.as_ptr() as usize >> 6;
        crate::lock(&self.stripes[(line ^ line >> 6) % STRIPES])
    }

    /// Replaces the value at `p` (`size` 1, 2, 4 or 8 bytes, aligned) by
    /// `f(value)` and returns the old value. `sys`: it is system memory, whose
    /// virtual address `addr` goes to the log when a CPU's write is lost.
    pub fn rmw(
        &self,
        p: HostPtr<'_>,
        size: usize,
        sys: bool,
        addr: u64,
        f: impl FnOnce(u64) -> u64,
    ) -> u64 {
        let mut rng = self.lock(p);
        let old = p.load(size);
        let new = f(old);
        if !sys {
            p.store(size, new);
            return old;
        }
        self.widen(&mut rng);
        self.swap(p, size, addr, old, new);
        old
    }

    /// Now and then, makes the time longer in which a CPU's write is lost.
    fn widen(&self, rng: &mut Rng) {
        if !self.window.is_zero() && rng.one_in(64) {
            let end = Instant::now() + self.window;
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
    }

    /// The store of a store-conditional that succeeds, under the line's lock
    /// (`line`): `loaded` is what its load-reserved read. Otherwise as [`AtomicUnit::rmw`].
    pub fn conditional(
        &self,
        line: &mut Rng,
        p: HostPtr<'_>,
        size: usize,
        sys: bool,
        addr: u64,
        [loaded, new]: [u64; 2],
    ) {
        if sys {
            self.widen(line);
            self.swap(p, size, addr, loaded, new);
        } else {
            p.store(size, new);
        }
    }

    /// Stores to system memory; whatever else than `old` was there is lost.
    fn swap(&self, p: HostPtr<'_>, size: usize, addr: u64, old: u64, new: u64) {
        let seen = p.swap(size, new);
        if seen != old {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                "lost update at {addr:#x}: atomic read {old:#x}, CPU wrote {seen:#x}, now {new:#x}"
            );
        }
    }

    /// A plain store that no atomic of this device overlaps.
    #[inline]
    pub fn store(&self, p: HostPtr<'_>, size: usize, value: u64) {
        let _line = self.lock(p);
        p.store(size, value);
    }

    /// CPU writes lost so far.
    pub fn lost_updates(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
