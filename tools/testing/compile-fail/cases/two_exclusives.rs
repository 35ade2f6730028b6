// error: E0499
// SPDX-License-Identifier: GPL-2.0

//! Two folios are locked at once, which may be the same, or another thread's second one.

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
    let Ok(first) = session.make_exclusive(interval, range, timeout, buf) else {
        return;
    };
    let _ = session.make_exclusive(interval, range, timeout, buf);
    drop(first);
}
