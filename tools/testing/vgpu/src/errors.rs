// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Guest errors: what a driver must never do.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counts and logs what the driver did wrong. Register 0xf00018 shows the count.
#[derive(Default)]
pub struct GuestErrors(AtomicU32);

impl GuestErrors {
    pub fn report(&self, what: std::fmt::Arguments<'_>) {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        // A driver that loops over a mistake must not fill the disk.
        if n < 1000 {
            tracing::error!("guest error: {what}");
        }
    }

    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}
