// error: none
// SPDX-License-Identifier: GPL-2.0

//! The right way, so that the other cases fail for no reason but their own.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        hmm::{
            DmaMap,
            Snapshot, //
        },
        mmu_interval::{
            Interval,
            Mirror,
            PtLock, //
        }, //
    },
    prelude::*, //
};

/// A device's acknowledgement.
pub struct Flushed;

/// Enters a page, kills the interval, frees the page.
pub fn case<T: Mirror>(
    dev: &Device<Bound>,
    lock: &PtLock<T>,
    interval: Interval<T>,
    snapshot: Snapshot<'_, T>,
    map: &mut DmaMap<Flushed>,
    enter: fn(&mut T::Pt, u64, bool),
) -> Result {
    let mut guard = lock.lock();
    let mut commit = snapshot.commit(&mut guard).map_err(|_| EAGAIN)?;
    let (pt, _, pages) = commit.split();
    if let Some(page) = pages.get(0).and_then(|page| page.writable()) {
        let addr = map.map(dev, 0, page)?;
        enter(pt, addr, true);
    }

    let dead = interval.kill(&mut guard).map_err(|_| EINVAL)?;
    map.revoke(0..1);
    drop(guard);
    dead.remove();
    map.unmap(dev, 0..1, &Flushed)
}
