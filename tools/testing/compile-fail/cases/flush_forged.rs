// error: E0432
// SPDX-License-Identifier: GPL-2.0

//! A driver has a proof of its own that the device has forgotten translations.

use kernel::mm::space::Flushed;

/// The case.
pub fn case() -> Flushed {
    Flushed(())
}
