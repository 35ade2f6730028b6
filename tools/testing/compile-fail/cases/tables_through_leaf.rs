// error: E0616
// SPDX-License-Identifier: GPL-2.0

//! A leaf that a callback is shown is changed behind the space's back.

use kernel::mm::space::{
    Leaf,
    Mirror, //
};

/// The case.
pub fn case<T: Mirror>(leaf: &mut Leaf<'_, T>) {
    leaf.0.acknowledged(None);
}
