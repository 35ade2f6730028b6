// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Trouble that can be armed while the device runs: registers 0xf02000 to
//! 0xf0202c, which resets leave alone, so that a test in the guest can arm them
//! across a probe of the driver.

use crate::config::Inject;
use crate::core::Core;
use crate::lock;
use crate::rng::Rng;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Duration;

const LAUNCH_ERROR_NEXT: u32 = 0xf0_2000;
const LAUNCH_ERROR_EVERY: u32 = 0xf0_2004;
const COPY_DELAY: u32 = 0xf0_2008;
const REMOVE_AT_READ: u32 = 0xf0_200c;
const REMOVE_AT_COPY: u32 = 0xf0_2010;
const POISON: u32 = 0xf0_2014;
const COPIES: u32 = 0xf0_2020;
const COPY_ERRORS: u32 = 0xf0_2024;
const COPY_BYTES: u32 = 0xf0_2028;
const COPY_BYTES_HI: u32 = 0xf0_202c;

const POISON_SET: u32 = 1 << 31;
/// Number of a 4 KiB page of device memory.
const POISON_PAGE: u32 = 0xfff_ffff;

/// Counts down to one event; 0 is off.
struct Countdown(AtomicU32);

impl Countdown {
    fn new(n: u64) -> Self {
        Self(AtomicU32::new(n.try_into().unwrap_or(u32::MAX)))
    }

    /// True for the event that was counted down to.
    fn hit(&self) -> bool {
        let step = |n: u32| n.checked_sub(1);
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, step)
            == Ok(1)
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, n: u32) {
        self.0.store(n, Ordering::SeqCst);
    }
}

/// What becomes of a copy that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFate {
    Done,
    /// It ends in LAUNCHERR.
    Fails,
    /// The device vanishes from the bus.
    Removal,
}

/// Armed trouble.
pub struct Injector {
    launch_error_next: Countdown,
    /// Period, and copies since it was set.
    launch_error_every: Mutex<(u32, u32)>,
    launch_error_at: Vec<u64>,
    launch_error_one_in: (u32, Mutex<Rng>),
    /// In microseconds.
    copy_delay: AtomicU32,
    remove_at_read: Countdown,
    remove_at_copy: Countdown,
    copies: AtomicU64,
}

impl Injector {
    pub fn new(inject: &Inject) -> Self {
        let delay = u32::try_from(inject.copy_delay.as_micros()).unwrap_or(u32::MAX);
        Self {
            launch_error_next: Countdown::new(0),
            launch_error_every: Mutex::new((inject.launch_error_every, 0)),
            launch_error_at: inject.launch_error_at.clone(),
            launch_error_one_in: (
                inject.launch_error_one_in,
                Mutex::new(Rng::stream(inject.seed, 0xce)),
            ),
            copy_delay: AtomicU32::new(delay),
            remove_at_read: Countdown::new(inject.remove_at_read),
            remove_at_copy: Countdown::new(inject.remove_at_copy),
            copies: AtomicU64::new(0),
        }
    }

    /// Counts a copy that begins.
    pub fn copy_begins(&self) -> CopyFate {
        let n = self.copies.fetch_add(1, Ordering::SeqCst) + 1;
        if self.remove_at_copy.hit() {
            return CopyFate::Removal;
        }
        let every = {
            let (period, since) = &mut *lock(&self.launch_error_every);
            *since += 1;
            *period != 0 && *since % *period == 0
        };
        let (one_in, rng) = &self.launch_error_one_in;
        // All of them count, whichever hits.
        let hits = [
            self.launch_error_next.hit(),
            every,
            self.launch_error_at.contains(&n),
            lock(rng).one_in(*one_in),
        ];
        if hits.contains(&true) {
            CopyFate::Fails
        } else {
            CopyFate::Done
        }
    }

    /// Copies that have begun.
    pub fn copies(&self) -> u64 {
        self.copies.load(Ordering::SeqCst)
    }

    /// How long a launch waits before it begins.
    pub fn copy_delay(&self) -> Duration {
        Duration::from_micros(self.copy_delay.load(Ordering::SeqCst).into())
    }

    /// Counts a register read; true if the device vanishes before it.
    pub fn register_read(&self) -> bool {
        self.remove_at_read.get() != 0 && self.remove_at_read.hit()
    }
}

/// Reads a register of this block, if `offset` is one.
pub fn read(core: &Core, offset: u32) -> Option<u32> {
    let inject = &core.inject;
    let copy = &core.copy.stats;
    Some(match offset {
        LAUNCH_ERROR_NEXT => inject.launch_error_next.get(),
        LAUNCH_ERROR_EVERY => lock(&inject.launch_error_every).0,
        COPY_DELAY => inject.copy_delay.load(Ordering::SeqCst),
        REMOVE_AT_READ => inject.remove_at_read.get(),
        REMOVE_AT_COPY => inject.remove_at_copy.get(),
        POISON => core.mmu.poisoned_pages() as u32,
        COPIES => inject.copies() as u32,
        COPY_ERRORS => copy.errors.load(Ordering::Relaxed) as u32,
        COPY_BYTES => copy.bytes.load(Ordering::Relaxed) as u32,
        COPY_BYTES_HI => (copy.bytes.load(Ordering::Relaxed) >> 32) as u32,
        _ => return None,
    })
}

/// Writes a register of this block. False if it is none, or read-only.
pub fn write(core: &Core, offset: u32, value: u32) -> bool {
    let inject = &core.inject;
    match offset {
        LAUNCH_ERROR_NEXT => inject.launch_error_next.set(value),
        LAUNCH_ERROR_EVERY => *lock(&inject.launch_error_every) = (value, 0),
        COPY_DELAY => {
            inject.copy_delay.store(value, Ordering::SeqCst);
            core.copy.kick();
        }
        REMOVE_AT_READ => inject.remove_at_read.set(value),
        REMOVE_AT_COPY => inject.remove_at_copy.set(value),
        POISON => core
            .mmu
            .poison(u64::from(value & POISON_PAGE), value & POISON_SET != 0),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(inject: &Injector, n: usize) -> Vec<bool> {
        (0..n)
            .map(|_| inject.copy_begins() == CopyFate::Fails)
            .collect()
    }

    #[test]
    fn every_way_to_fail_a_copy_counts_from_where_it_was_armed() {
        let inject = Injector::new(&Inject {
            launch_error_at: vec![2, 5],
            ..Inject::default()
        });
        assert_eq!(fates(&inject, 6), [false, true, false, false, true, false]);
        inject.launch_error_next.set(2);
        assert_eq!(fates(&inject, 3), [false, true, false]);
        *lock(&inject.launch_error_every) = (2, 0);
        assert_eq!(fates(&inject, 4), [false, true, false, true]);
        assert_eq!(inject.copies(), 13);
    }

    #[test]
    fn by_seed_is_repeatable() {
        let run = |seed| {
            let inject = Inject {
                launch_error_one_in: 4,
                seed,
                ..Inject::default()
            };
            fates(&Injector::new(&inject), 200)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let failed = run(1).iter().filter(|f| **f).count();
        assert!((20..100).contains(&failed), "{failed} of 200");
    }
}
