// error: E0505
// SPDX-License-Identifier: GPL-2.0

//! The CPUs get the page back before it is entered.

use kernel::mm::{
    hmm::Exclusive,
    mmu_interval::{
        Mirror,
        PtGuard, //
    }, //
};

/// The case.
pub fn case<T: Mirror>(
    exclusive: Exclusive<'_, T>,
    guard: &mut PtGuard<'_, T>,
    enter: fn(&mut T::Pt, usize),
) {
    let Ok(mut commit) = exclusive.commit(guard) else {
        return;
    };
    drop(exclusive);
    let (pt, _, page) = commit.split();
    enter(pt, kernel::mm::hmm::DevicePage::pfn(&page).as_usize());
}
