// error: E0599
// SPDX-License-Identifier: GPL-2.0

//! An interval is removed while a commit through it is possible.

use kernel::mm::mmu_interval::{
    Interval,
    Mirror, //
};

/// The case.
pub fn case<T: Mirror>(interval: Interval<T>) {
    interval.remove();
}
