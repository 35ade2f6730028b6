// error: E0502
// SPDX-License-Identifier: GPL-2.0

//! Memory is faulted in while the thread has folios locked.

use kernel::{
    mm::{
        addr::PageRange,
        hmm::PfnBuf,
        memremap::Pagemap,
        migrate::MigrateBuf,
        mmu_interval::{
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
    mirror: &T,
    pagemap: &Pagemap<T::Memory>,
    range: PageRange,
    timeout: Jiffies,
    buf: &mut MigrateBuf,
    pfns: &mut PfnBuf,
) {
    let Ok(Some(collected)) = session.migrate(mirror, pagemap, range, true, buf) else {
        return;
    };
    let _ = session.fault_in(interval, range, true, timeout, pfns);
    drop(collected);
}
