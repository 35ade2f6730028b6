// SPDX-License-Identifier: GPL-2.0

//! Knobs that widen races, so that tests hit them.

use kernel::{
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

/// Set through debugfs, for all spaces; zero does nothing.
pub(crate) struct Inject {
    /// So many snapshots to come are treated as if mm had changed something under them.
    pub(crate) collision: Atomic<u32>,
    /// Microseconds to sleep between a snapshot and its commit.
    pub(crate) commit_delay_us: Atomic<u32>,
    /// Microseconds to sleep between the commits of a turn and the replay that ends it.
    pub(crate) replay_delay_us: Atomic<u32>,
    /// Milliseconds by which the next invalidation of mm that takes something away lasts longer;
    /// zero again when it began to.
    pub(crate) invalidation_delay_ms: Atomic<u32>,
}

pub(crate) static INJECT: Inject = Inject {
    collision: Atomic::new(0),
    commit_delay_us: Atomic::new(0),
    replay_delay_us: Atomic::new(0),
    invalidation_delay_ms: Atomic::new(0),
};

impl Inject {
    /// To be called between a snapshot and its commit, without a lock of the driver. True if the
    /// snapshot is to be given up.
    pub(crate) fn before_commit(&self) -> bool {
        sleep_us(&self.commit_delay_us);
        let mut left = self.collision.load(Relaxed);
        while left != 0 {
            match self.collision.cmpxchg(left, left - 1, Relaxed) {
                Ok(_) => return true,
                Err(now) => left = now,
            }
        }
        false
    }

    /// To be called before a replay, without a lock.
    pub(crate) fn before_replay(&self) {
        sleep_us(&self.replay_delay_us);
    }

    /// To be called in the middle of an invalidation, without a lock of the driver.
    pub(crate) fn during_invalidation(&self) {
        let delay = self.invalidation_delay_ms.xchg(0, Relaxed);
        if delay != 0 {
            fsleep(Delta::from_millis(delay.into()));
        }
    }
}

fn sleep_us(delay: &Atomic<u32>) {
    let delay = delay.load(Relaxed);
    if delay != 0 {
        fsleep(Delta::from_micros(delay.into()));
    }
}
