// error: E0502
// SPDX-License-Identifier: GPL-2.0

//! Memory is faulted in while the thread has a page exclusively, and its folio locked.

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
    session: &mut MmSession<'_, T>,
    interval: &IntervalRef<T>,
    range: PageRange,
    timeout: Jiffies,
    buf: &mut PfnBuf,
) {
    let Ok(exclusive) = session.make_exclusive(interval, range, timeout, buf) else {
        return;
    };
    let _ = session.fault_in(interval, range, true, timeout, buf);
    drop(exclusive);
}
