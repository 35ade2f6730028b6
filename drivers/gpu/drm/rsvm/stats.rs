// SPDX-License-Identifier: GPL-2.0

//! What the mirrors of a file, or of a device, have done.

use crate::{
    svm::counters::Counters,
    vm::Vm,
    vram::Watcher, //
};
use kernel::{
    drm,
    drm_print,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    }, //
};

/// Mirrors that live, and the sum over those that do not any more.
#[pin_data]
pub(crate) struct Stats {
    /// Bytes of device memory that buffers are in.
    buffers: Atomic<i64>,
    #[pin]
    inner: Mutex<Inner>,
}

struct Inner {
    live: KVec<Arc<Vm>>,
    past: Counters,
}

impl Stats {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            buffers: Atomic::new(0),
            inner <- new_mutex!(
                Inner {
                    live: KVec::new(),
                    past: Counters::new(),
                },
                "Stats"
            ),
        })
    }

    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn add(&self, vm: &Arc<Vm>) -> Result {
        Ok(self.inner.lock().live.push(vm.clone(), GFP_KERNEL)?)
    }

    /// Keeps the numbers of `vm` and lets it go. To be called after it was detached.
    pub(crate) fn retire(&self, vm: &Arc<Vm>) {
        let Inner { live, past } = &mut *self.inner.lock();
        live.retain(|other| {
            let stays = !Arc::ptr_eq(other, vm);
            if !stays {
                past.add_all(vm.counters());
            }
            stays
        });
    }

    /// Tells the readers of all event files that the device is gone.
    pub(crate) fn end_events(&self) {
        for vm in &self.inner.lock().live {
            vm.events().end();
        }
    }

    /// The sum over all mirrors there ever were.
    pub(crate) fn total(&self) -> Counters {
        let total = Counters::new();
        let inner = self.inner.lock();
        total.add_all(&inner.past);
        for vm in &inner.live {
            total.add_all(vm.counters());
        }
        total
    }

    /// Writes the sum as `fdinfo` lines; see Documentation/gpu/drm-usage-stats.rst.
    pub(crate) fn show(&self, printer: &drm::Printer) {
        let total = self.total();
        for (key, value) in [
            ("faults", total.faults.get()),
            ("batches", total.batches.get()),
            ("pages", total.pages_served.get() + total.prefetched.get()),
            ("prefetched", total.prefetched.get()),
            ("duplicates", total.duplicates.get()),
            ("map-4k", total.ptes_4k.get()),
            ("map-64k", total.ptes_64k.get()),
            ("map-2m", total.ptes_2m.get()),
            ("replays", total.replays.get()),
            ("cancelled", total.cancelled.get()),
            ("invalidations", total.invalidations.get()),
            ("demotions", total.demotions.get()),
            ("dirtied", total.dirtied.get()),
            ("retries", total.collisions.get()),
            ("temp-intervals", total.temporary_intervals.get()),
            ("migrations", total.migrations.get()),
            ("to-vram", total.pages_to_vram.get()),
            ("zeroed", total.pages_zeroed.get()),
            ("recalled", total.pages_recalled.get()),
            ("thrashed", total.pages_thrashed.get()),
            ("grabs", total.exclusive_grabs.get()),
            ("revoked", total.exclusive_revoked.get()),
        ] {
            drm_print!(printer, "rsvm-{}:\t{}\n", key, value);
        }
        let pages: u64 = self.inner.lock().live.iter().map(|vm| vm.resident()).sum();
        let resident = pages.saturating_add_signed(self.buffers.load(Relaxed));
        for key in ["total", "resident", "memory"] {
            drm_print!(printer, "drm-{}-vram:\t{} KiB\n", key, resident >> 10);
        }
    }
}

impl Watcher for Stats {
    fn objects_changed(&self, bytes: i64) {
        self.buffers.fetch_add(bytes, Relaxed);
    }
}
