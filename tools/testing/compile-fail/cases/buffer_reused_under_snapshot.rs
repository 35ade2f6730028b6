// error: E0499
// SPDX-License-Identifier: GPL-2.0

//! The buffer is filled again while a snapshot in it can still be committed.

use kernel::{
    mm::{
        addr::PageRange,
        hmm::PfnBuf,
        space::{
            IntervalRef,
            Mirror,
            MmSession, //
        }, //
    },
    time::Jiffies, //
};

/// The case.
pub fn case<T: Mirror>(
    session: &MmSession<'_, T>,
    interval: &IntervalRef<T>,
    range: PageRange,
    timeout: Jiffies,
    buf: &mut PfnBuf,
) -> bool {
    let Ok(snapshot) = session.snapshot(interval, range, timeout, buf) else {
        return false;
    };
    let _ = session.fault_in(interval, range, true, timeout, buf);
    snapshot.commit().is_ok()
}
