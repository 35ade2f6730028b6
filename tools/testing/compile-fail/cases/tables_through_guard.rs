// error: E0616
// SPDX-License-Identifier: GPL-2.0

//! A holder of the lock writes to the tables without a snapshot.

use kernel::mm::space::{
    Guard,
    Mirror, //
};

/// The case.
pub fn case<T: Mirror>(guard: &mut Guard<'_, T>, write: fn(&mut T::Tables)) {
    write(&mut guard.inner.tables);
}
