// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Host semaphores: methods 0x5c to 0x6c.

use super::pbdma::{access, Context, Done};
use super::schedule::Units;
use super::StopReason;
use crate::core::Core;
use crate::mmu::Access;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WFI: u32 = 1 << 20;
const PAYLOAD_64: u32 = 1 << 24;
const TIMESTAMP: u32 = 1 << 25;
const UNSIGNED: u32 = 1 << 31;

/// What SEM_EXECUTE asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Acquire(Compare),
    Release,
    Reduce(Reduction),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    /// Memory is not less.
    StrictGeq,
    /// Memory is not behind, modulo the width.
    CircularGeq,
    /// They have a bit in common.
    And,
    /// A bit is clear in both.
    Nor,
}

/// The reductions that host and copy engine share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    Min,
    Max,
    Xor,
    And,
    Or,
    Add,
    Inc,
    Dec,
}

impl Reduction {
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            0 => Self::Min,
            1 => Self::Max,
            2 => Self::Xor,
            3 => Self::And,
            4 => Self::Or,
            5 => Self::Add,
            6 => Self::Inc,
            7 => Self::Dec,
            _ => return None,
        })
    }

    /// The new value, of `size` bytes. INC wraps to 0 at the payload, DEC to
    /// the payload at 0 and above it.
    pub fn apply(self, old: u64, payload: u64, size: usize, signed: bool) -> u64 {
        let key = |v: u64| {
            if signed {
                sign_extend(v, size)
            } else {
                v as i128
            }
        };
        match self {
            Self::Min if key(old) <= key(payload) => old,
            Self::Max if key(old) >= key(payload) => old,
            Self::Min | Self::Max => payload,
            Self::Xor => old ^ payload,
            Self::And => old & payload,
            Self::Or => old | payload,
            Self::Add => old.wrapping_add(payload),
            Self::Inc if old >= payload => 0,
            Self::Inc => old + 1,
            Self::Dec if old == 0 || old > payload => payload,
            Self::Dec => old - 1,
        }
    }
}

fn sign_extend(v: u64, size: usize) -> i128 {
    if size == 4 {
        (v as u32 as i32).into()
    } else {
        (v as i64).into()
    }
}

impl Compare {
    fn holds(self, memory: u64, payload: u64, size: usize) -> bool {
        match self {
            Self::Equal => memory == payload,
            Self::StrictGeq => memory >= payload,
            Self::CircularGeq => sign_extend(memory.wrapping_sub(payload), size) >= 0,
            Self::And => memory & payload != 0,
            Self::Nor => !sign_extend(memory | payload, size) != 0,
        }
    }
}

fn operation(execute: u32) -> Option<Operation> {
    Some(match execute & 7 {
        0 => Operation::Acquire(Compare::Equal),
        1 => Operation::Release,
        2 => Operation::Acquire(Compare::StrictGeq),
        3 => Operation::Acquire(Compare::CircularGeq),
        4 => Operation::Acquire(Compare::And),
        5 => Operation::Acquire(Compare::Nor),
        6 => Operation::Reduce(Reduction::from_bits(execute >> 27 & 0xf)?),
        _ => return None,
    })
}

/// Nanoseconds, as semaphore releases write them.
pub fn timestamp() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |t| t.as_nanos() as u64)
}

impl Context {
    pub(super) fn semaphore_execute(&mut self, core: &Core, units: &Units, execute: u32) -> Done {
        let [lo, hi, payload_lo, payload_hi] = self.semaphore;
        let size = if execute & PAYLOAD_64 != 0 { 8 } else { 4 };
        let stamp = execute & TIMESTAMP != 0;
        let align: u32 = if stamp { 16 } else { size as u32 };
        let Some(op) = operation(execute) else {
            return Done::Stop(StopReason::BadMethod);
        };
        // The address has 40 bits.
        if hi & !0xff != 0 || lo & (align - 1) != 0 {
            return Done::Stop(StopReason::BadMethod);
        }
        let va = u64::from(hi) << 32 | u64::from(lo);
        let mut payload = u64::from(payload_lo);
        if size == 8 {
            payload |= u64::from(payload_hi) << 32;
        }
        let kind = match op {
            Operation::Acquire(_) => Access::Read,
            Operation::Release => Access::Write,
            Operation::Reduce(_) => Access::Atomic,
        };
        if execute & WFI != 0 && kind != Access::Read {
            if let Done::Retry = self.wait_idle(core, units) {
                return Done::Retry;
            }
        }
        let space = self.channel.host;
        let make = || {
            access(core, &units.host, &space, va, kind, |found| match op {
                Operation::Acquire(compare) => compare.holds(found.ptr.load(size), payload, size),
                Operation::Release => {
                    if stamp {
                        found.ptr.add(8).store(8, timestamp());
                    }
                    core.atomics.store(found.ptr, size, payload);
                    true
                }
                Operation::Reduce(reduction) => {
                    let signed = execute & UNSIGNED == 0;
                    core.atomics.rmw(found.ptr, size, found.sys, va, |old| {
                        reduction.apply(old, payload, size, signed)
                    });
                    true
                }
            })
        };
        let made = match op {
            Operation::Acquire(_) => core.host.acquire(units.runlist, make),
            Operation::Release | Operation::Reduce(_) => {
                let made = make();
                if made.is_some() {
                    core.host.semaphore_released();
                }
                made
            }
        };
        match made {
            None => Done::Faulted { engine: false },
            Some(true) => Done::Yes,
            Some(false) => self.keep_acquiring(),
        }
    }

    /// Looks again after a while that grows, until the channel's limit.
    fn keep_acquiring(&self) -> Done {
        let waited = self.waiting.map_or(Duration::ZERO, |since| since.elapsed());
        match self.channel.acquire_ns {
            Some(limit) if waited.as_nanos() > limit.into() => {
                Done::Stop(StopReason::AcquireTimeout)
            }
            _ => {
                Done::Poll((waited / 4).clamp(Duration::from_micros(50), Duration::from_millis(2)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::Loaded;
    use super::super::{RUNLIST_KERNEL, RUNLIST_USER};
    use super::*;
    use crate::config::Config;
    use crate::mem::{Aperture, PhysAddr};
    use crate::mmu::{Client, Space, CLIENT_HUB_HOST};
    use crate::{lock, InterruptSink};
    use std::sync::Arc;

    #[test]
    fn compares() {
        let holds = |c: Compare, m, p| c.holds(m, p, 4);
        assert!(holds(Compare::CircularGeq, 2, 0xffff_fffe));
        assert!(!holds(Compare::CircularGeq, 0xffff_fffe, 2));
        assert!(!holds(Compare::StrictGeq, 2, 0xffff_fffe));
        assert!(holds(Compare::Nor, 0xffff_fffe, 0));
        assert!(!holds(Compare::Nor, 0xffff_0000, 0x0000_ffff));
        assert!(!holds(Compare::And, 4, 3));
    }

    #[test]
    fn reductions() {
        let r = |op: Reduction, old, payload, signed| op.apply(old, payload, 4, signed);
        assert_eq!(r(Reduction::Min, 1, 0xffff_ffff, true), 0xffff_ffff);
        assert_eq!(r(Reduction::Min, 1, 0xffff_ffff, false), 1);
        assert_eq!(r(Reduction::Max, 1, 0xffff_ffff, true), 1);
        assert_eq!(r(Reduction::Inc, 5, 5, false), 0);
        assert_eq!(r(Reduction::Dec, 0, 5, false), 5);
        assert_eq!(r(Reduction::Dec, 9, 5, false), 5);
    }
    struct NoInterrupts;

    impl InterruptSink for NoInterrupts {
        fn raise(&self, _: u32) {}
    }

    /// Makes a channel whose address space is sparse: its semaphores read 0.
    fn channel(core: &Core, runlist: usize) -> (Context, Units) {
        const SPARSE: u64 = 1 << 3;
        let at = PhysAddr::new(Aperture::Vid, 0);
        core.mem.enter().write_u64(at, SPARSE).unwrap();
        let space = Space {
            inst: at,
            pdb: Some(at),
            engine: 0,
            replay_data: false,
            replay_fetch: false,
            privileged: false,
        };
        let context = Context::new(Loaded {
            chid: 0,
            inst: at,
            userd: at,
            gp_base: 0,
            gp_entries: 1,
            privileged: false,
            physical_copy: false,
            acquire_ns: None,
            veid: 0,
            host: space,
            engine: space,
        });
        let host = core.mmu.add_utlb(Client::hub(CLIENT_HUB_HOST));
        (context, Units { runlist, host })
    }

    #[test]
    fn releases_and_reductions_kick_the_acquiring_runlist() {
        const ACQUIRE: u32 = 0;
        let core = Core::new(Config::default(), Arc::new(NoInterrupts)).unwrap();
        let (mut user, user_units) = channel(&core, RUNLIST_USER);
        let (mut kernel, kernel_units) = channel(&core, RUNLIST_KERNEL);
        user.semaphore = [0, 0, 1, 0];
        for release in [1, 6] {
            let mut kicked_by = |execute| {
                let done = kernel.semaphore_execute(&core, &kernel_units, execute);
                assert!(matches!(done, Done::Yes));
                lock(&core.host.state).runlists.each_ref().map(|r| r.kicked)
            };
            assert_eq!(kicked_by(release), [false, false]);
            let done = user.semaphore_execute(&core, &user_units, ACQUIRE);
            assert!(matches!(done, Done::Poll(_)));
            assert_eq!(kicked_by(ACQUIRE), [false, false]);
            assert_eq!(kicked_by(release), [false, true]);
            assert!(core.host.next_pass(RUNLIST_USER, None));
        }
    }
}
