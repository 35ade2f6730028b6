// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Writes that are on their way: what a physical copy wrote last is seen by
//! nobody else until it is flushed.

use super::launch::Flush;
use crate::core::Core;
use crate::lock;
use crate::mem::PhysAddr;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// Bytes at the end of a launch that are held back.
pub const TAIL: u64 = 4096;
/// Held pieces of one channel; the oldest goes when there are more.
const PIECES: usize = 16;

struct Held {
    chid: u32,
    at: PhysAddr,
    data: Vec<u8>,
}

impl Held {
    fn overlaps(&self, at: PhysAddr, len: u64) -> bool {
        let (a, b) = (self.at.canonical(), at.canonical());
        a.aperture == b.aperture
            && a.addr < b.addr + len
            && b.addr < a.addr + self.data.len() as u64
    }
}

/// The writes of all channels, oldest first. Lock order: leaf.
#[derive(Default)]
pub struct Writes(Mutex<VecDeque<Held>>);

impl Writes {
    fn held(&self) -> MutexGuard<'_, VecDeque<Held>> {
        lock(&self.0)
    }

    /// Makes those visible that `which` picks. The lock is held meanwhile, so
    /// that who finds nothing to flush knows that it was.
    fn drain(core: &Core, held: &mut VecDeque<Held>, which: impl Fn(&Held) -> bool) {
        held.retain(|write| {
            let go = which(write);
            if go {
                if let Err(err) = core.mem.enter().write(write.at, &write.data) {
                    core.errors.report(format_args!(
                        "channel {}: a copy's destination went before its writes were flushed: {err}",
                        write.chid
                    ));
                }
            }
            !go
        });
    }

    pub fn hold(&self, core: &Core, chid: u32, at: PhysAddr, data: Vec<u8>) {
        let mut held = self.held();
        held.push_back(Held { chid, at, data });
        if held.iter().filter(|w| w.chid == chid).count() > PIECES {
            if let Some(oldest) = held.iter().position(|w| w.chid == chid) {
                let first = held.remove(oldest).into_iter().collect();
                Self::drain(core, &mut { first }, |_| true);
            }
        }
    }

    /// A channel sees its own writes: to be called before it touches `len`
    /// bytes at `at`, or memory it knows only by virtual address (None).
    pub fn settle(&self, core: &Core, chid: u32, touched: Option<(PhysAddr, u64)>) {
        let mut held = self.held();
        let mine = |w: &Held| w.chid == chid && touched.is_none_or(|(at, n)| w.overlaps(at, n));
        // In order, whichever of them is concerned.
        if held.iter().any(mine) {
            Self::drain(core, &mut held, |w| w.chid == chid);
        }
    }

    /// Makes a channel's writes visible, or everybody's.
    pub fn flush(&self, core: &Core, chid: Option<u32>, flush: Flush) {
        Self::drain(core, &mut self.held(), |w| {
            chid.is_none_or(|chid| w.chid == chid)
                && (flush == Flush::System || !w.at.aperture.is_sys())
        });
    }

    pub fn clear(&self) {
        self.held().clear();
    }
}
