// error: E0499
// SPDX-License-Identifier: GPL-2.0

//! A second migration begins before the first has ended.

use kernel::mm::{
    addr::PageRange,
    migrate::MigrateBuf,
    space::{
        Mirror,
        MmSession, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(
    session: &mut MmSession<'_, T>,
    range: PageRange,
    first: &mut MigrateBuf,
    second: &mut MigrateBuf,
) {
    let collected = session.migrate(range, true, first);
    let _ = session.migrate(range, true, second);
    drop(collected);
}
