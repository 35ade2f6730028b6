// error: E0502
// SPDX-License-Identifier: GPL-2.0

//! Memory is faulted in while the thread has folios locked.

use kernel::{
    mm::{
        addr::PageRange,
        hmm::PfnBuf,
        migrate::MigrateBuf,
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
    buf: &mut MigrateBuf,
    pfns: &mut PfnBuf,
) {
    let Ok(Some(collected)) = session.migrate(range, true, buf) else {
        return;
    };
    let _ = session.fault_in(interval, range, true, timeout, pfns);
    drop(collected);
}
