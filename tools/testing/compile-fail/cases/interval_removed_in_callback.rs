// error: E0061
// SPDX-License-Identifier: GPL-2.0

//! An interval is removed without a session, as a callback would, which would wait for itself.

use kernel::mm::space::{
    Mirror,
    OwnInterval, //
};

/// The case.
pub fn case<T: Mirror>(interval: OwnInterval<T>) {
    interval.remove();
}
