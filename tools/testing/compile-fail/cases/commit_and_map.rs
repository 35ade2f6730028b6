// error: none
// SPDX-License-Identifier: GPL-2.0

//! The right way, so that the other cases fail for no reason but their own.

use kernel::{
    mm::{
        addr::PageRange,
        hmm::{
            Exclusive,
            Snapshot, //
        },
        space::{
            Mirror,
            Space,
            Supplies, //
        }, //
    },
    prelude::*,
    sync::Arc, //
};

/// Maps pages of the process, a page for atomics, and one of an object; then revokes them all.
pub fn case<T: Mirror>(
    space: &Arc<Space<T>>,
    snapshot: Snapshot<'_, '_, T>,
    exclusive: Exclusive<'_, T>,
    range: PageRange,
    supplies: &mut Supplies<T>,
) -> Result {
    let mut commit = snapshot.commit().map_err(|_| EAGAIN)?;
    commit.map(supplies, |page| (page != 3).then_some(false))?;
    drop(commit);
    let mut commit = exclusive.commit().map_err(|_| EAGAIN)?;
    commit.map(supplies)?;
    drop(commit);
    drop(exclusive);
    space.lock().map_object(range, true, supplies, |_| Some(0))?;
    space.revoke(range, |_, _| Ok(()))
}
