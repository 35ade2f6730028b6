// error: E0624
// SPDX-License-Identifier: GPL-2.0

//! A driver says that a flush was acknowledged, without waiting for it.

use kernel::{
    mm::space::{
        Mirror,
        Space, //
    },
    sync::Arc, //
};

/// The case.
pub fn case<T: Mirror>(space: &Arc<Space<T>>) {
    Space::complete(space, unreachable!());
}
