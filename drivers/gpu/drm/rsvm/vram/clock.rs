// SPDX-License-Identifier: GPL-2.0

//! Which instant comes first.

use kernel::time::{
    Delta,
    Instant,
    Monotonic, //
};

pub(super) fn sooner(a: Instant<Monotonic>, b: Instant<Monotonic>) -> Instant<Monotonic> {
    if a - b < Delta::ZERO {
        a
    } else {
        b
    }
}

pub(super) fn has_come(when: Instant<Monotonic>) -> bool {
    Instant::now() - when >= Delta::ZERO
}
