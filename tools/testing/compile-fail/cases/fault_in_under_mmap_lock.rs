// error: E0502
// SPDX-License-Identifier: GPL-2.0

//! A page is faulted in while mmap_lock is held, which the fault would take again.

use kernel::{
    mm::{
        hmm::PfnBuf,
        space::{
            IntervalRef,
            Mirror,
            MmSession, //
        },
    },
    time::Jiffies, //
};

/// The case.
pub fn case<T: Mirror>(
    session: &mut MmSession<'_, T>,
    interval: &IntervalRef<T>,
    timeout: Jiffies,
    buf: &mut PfnBuf,
    other: &mut PfnBuf,
) -> bool {
    let range = interval.range();
    let Ok(held) = session.lock_mappings() else {
        return false;
    };
    let _ = session.fault_in(interval, range, true, timeout, other);
    let Ok(snapshot) = held.snapshot(interval, range, buf) else {
        return false;
    };
    snapshot.commit().is_ok()
}
