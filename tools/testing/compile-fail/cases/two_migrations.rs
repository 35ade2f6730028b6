// error: E0499
// SPDX-License-Identifier: GPL-2.0

//! A second migration begins before the first has ended.

use kernel::mm::{
    addr::PageRange,
    memremap::Pagemap,
    migrate::MigrateBuf,
    mmu_interval::{
        Mirror,
        MmSession, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(
    session: &mut MmSession<'_, T>,
    mirror: &T,
    pagemap: &Pagemap<T::Memory>,
    range: PageRange,
    first: &mut MigrateBuf,
    second: &mut MigrateBuf,
) {
    let collected = session.migrate(mirror, pagemap, range, true, first);
    let _ = session.migrate(mirror, pagemap, range, true, second);
    drop(collected);
}
