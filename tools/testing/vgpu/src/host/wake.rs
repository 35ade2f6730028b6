// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Sleep and wake-up of the runlists' threads.
//!
//! A thread makes passes over its channels. A pass begins when the runlist was
//! kicked, or when a channel's next look at something is due. The CPU and harts
//! write semaphores, too, so an acquire that has to wait looks again after a
//! while. A release by the host or the copy engine kicks the runlists that have
//! such an acquire, and no others.
//!
//! This loses no wake-up. An acquire is counted before its load, a release reads
//! the count after its store, and both hold the state's lock for it:
//!
//! - If the release had the lock first, its store happens before the load, which
//!   returns the new value.
//! - Otherwise the release reads a count above 0 and kicks. The kick stays until
//!   the runlist's next pass begins, and loads of that pass come after the store.
//!
//! A pass begins with a count of 0, since it repeats every acquire that may
//! proceed. An acquire that may not, because its channel is disabled for example,
//! is repeated in the pass that the end of this state kicks.

use super::{Host, RUNLISTS};
use crate::lock;
use std::sync::PoisonError;
use std::time::Instant;

impl Host {
    /// Has the runlist's thread look around.
    pub fn kick(&self, runlist: usize) {
        lock(&self.state).runlists[runlist].kicked = true;
        self.wake[runlist].notify_all();
    }

    /// As [`Host::kick`], both of them.
    pub(super) fn kick_all(&self) {
        for r in 0..RUNLISTS {
            self.kick(r);
        }
    }

    /// Sleeps until the runlist is kicked, at the latest until `due`; then a pass
    /// begins. Returns false if the thread has to end.
    pub(super) fn next_pass(&self, r: usize, due: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return false;
            }
            let time = due.map(|due| due.saturating_duration_since(Instant::now()));
            let runlist = &mut state.runlists[r];
            if std::mem::take(&mut runlist.kicked) || time.is_some_and(|time| time.is_zero()) {
                runlist.acquiring = 0;
                return true;
            }
            let wake = &self.wake[r];
            state = match time {
                None => wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(time) => {
                    wake.wait_timeout(state, time)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Makes an acquire of runlist `r` by `look`, which says whether the
    /// semaphore's value satisfies it, or nothing after a fault. If the value
    /// does not, releases kick the runlist until its next pass.
    pub(super) fn acquire(&self, r: usize, look: impl FnOnce() -> Option<bool>) -> Option<bool> {
        lock(&self.state).runlists[r].acquiring += 1;
        let holds = look();
        if holds != Some(false) {
            lock(&self.state).runlists[r].acquiring -= 1;
        }
        holds
    }

    /// Kicks the runlists with acquires that wait. To be called after the store
    /// of a release.
    pub(crate) fn semaphore_released(&self) {
        let mut state = lock(&self.state);
        for (runlist, wake) in state.runlists.iter_mut().zip(&self.wake) {
            if runlist.acquiring != 0 {
                runlist.kicked = true;
                wake.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RUNLIST_KERNEL, RUNLIST_USER};
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::mpsc::{self, Sender};
    use std::time::Duration;

    fn kicked(host: &Host) -> [bool; RUNLISTS] {
        lock(&host.state).runlists.each_ref().map(|r| r.kicked)
    }

    #[test]
    fn a_release_kicks_where_an_acquire_waits_and_nowhere_else() {
        let host = Host::new();
        host.semaphore_released();
        assert_eq!(kicked(&host), [false, false], "no acquire");
        for done in [Some(true), None] {
            assert_eq!(host.acquire(RUNLIST_USER, || done), done);
            host.semaphore_released();
            assert_eq!(kicked(&host), [false, false], "an acquire that is done");
        }
        host.acquire(RUNLIST_USER, || Some(false));
        host.acquire(RUNLIST_USER, || Some(true));
        host.semaphore_released();
        assert_eq!(
            kicked(&host),
            [false, true],
            "one acquire of two has to wait"
        );
        assert!(host.next_pass(RUNLIST_USER, None));
        host.semaphore_released();
        assert_eq!(kicked(&host), [false, false], "a new pass");
    }

    #[test]
    fn a_release_between_look_and_sleep_is_not_lost() {
        let host = Host::new();
        let semaphore = AtomicU64::new(0);
        let look = || {
            let seen = semaphore.load(Ordering::Acquire);
            semaphore.store(1, Ordering::Release);
            host.semaphore_released();
            Some(seen == 1)
        };
        assert_eq!(host.acquire(RUNLIST_KERNEL, look), Some(false));
        assert_eq!(kicked(&host), [true, false]);
    }

    /// A round ends when both runlists have seen all of its values, so that no
    /// later release makes up for a lost wake-up. The runlists sleep without a
    /// time limit.
    #[test]
    fn sleeping_runlists_see_all_releases_of_many_threads() {
        const RELEASERS: usize = 6;
        const ROUNDS: u64 = 2000;
        const PATIENCE: Duration = Duration::from_secs(20);
        let host = &Host::new();
        let semaphores: &[AtomicU64; RELEASERS] = &Default::default();
        let seen: &[[AtomicU64; RELEASERS]; RUNLISTS] = &Default::default();
        let given_up = &AtomicBool::new(false);
        let runlist = |r: usize| {
            while host.next_pass(r, None) {
                for (semaphore, seen) in semaphores.iter().zip(&seen[r]) {
                    let mut next = seen.load(Ordering::Relaxed) + 1;
                    // Has releases come in the middle of a look, too.
                    let look = |next| {
                        let value = semaphore.load(Ordering::Acquire);
                        std::thread::yield_now();
                        Some(value >= next)
                    };
                    while host.acquire(r, || look(next)) == Some(true) {
                        seen.store(next, Ordering::Release);
                        next += 1;
                    }
                }
            }
        };
        let release = |i: usize, progress: Sender<()>| {
            let all_saw = |n| {
                seen.iter()
                    .flatten()
                    .all(|s| s.load(Ordering::Acquire) >= n)
            };
            for n in 1..=ROUNDS {
                semaphores[i].store(n, Ordering::Release);
                host.semaphore_released();
                while !all_saw(n) {
                    if given_up.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::yield_now();
                }
                progress.send(()).unwrap();
            }
        };
        let rounds = std::thread::scope(|scope| {
            for r in 0..RUNLISTS {
                scope.spawn(move || runlist(r));
                host.kick(r);
            }
            let (progress, rounds) = mpsc::channel();
            for i in 0..RELEASERS {
                let progress = progress.clone();
                scope.spawn(move || release(i, progress));
            }
            drop(progress);
            let rounds = std::iter::from_fn(|| rounds.recv_timeout(PATIENCE).ok()).count();
            given_up.store(true, Ordering::Relaxed);
            host.stop();
            rounds
        });
        assert_eq!(rounds, RELEASERS * ROUNDS as usize, "lost wake-up");
    }
}
