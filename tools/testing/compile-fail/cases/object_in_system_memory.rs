// error: E0271
// SPDX-License-Identifier: GPL-2.0

//! A page of the process is mapped as a page of an object, which is never taken away.

use kernel::mm::{
    addr::PageRange,
    space::{
        Mirror,
        Space,
        Supplies,
        Target, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(space: &Space<T>, range: PageRange, supplies: &mut Supplies<T>, bus: u64) {
    let place = |_| Some(Target::System(bus));
    let _ = space.lock().map_object(range, true, supplies, place);
}
