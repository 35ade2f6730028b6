// SPDX-License-Identifier: GPL-2.0

//! Users of device memory, and what they pay for it.

use super::Vram;
use kernel::{
    cgroup_dmem::Pool,
    prelude::*,
    sync::{
        atomic::Atomic,
        Arc, //
    }, //
};

/// Who wants to know what becomes of its memory. Called without a lock; may sleep, but waits for
/// nobody.
pub(crate) trait Watcher: Send + Sync {
    /// So many bytes had to make room.
    fn evicted(&self, _bytes: u64) {}

    /// Buffer objects have so many bytes more, or fewer, in device memory.
    fn objects_changed(&self, _bytes: i64) {}
}

/// Who device memory is charged to.
pub(crate) struct Client {
    pub(super) pool: Pool,
    watcher: Option<Arc<dyn Watcher>>,
    /// Index of the chunk that had room when it was looked at last.
    pub(super) open: Atomic<u32>,
}

impl Client {
    /// For the calling task's cgroup, also when memory is allocated by another thread later, or
    /// the task goes to another cgroup. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the driver is being unbound, `ENOMEM`.
    pub(crate) fn new(vram: &Vram, watcher: Option<Arc<dyn Watcher>>) -> Result<Arc<Self>> {
        let region = vram.region.lock();
        let pool = region.as_ref().ok_or(ENODEV)?.current_pool()?;
        drop(region);
        Ok(Arc::new(
            Self {
                pool,
                watcher,
                open: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    pub(super) fn evicted(&self, bytes: u64) {
        if let Some(watcher) = self.watcher.as_ref().filter(|_| bytes != 0) {
            watcher.evicted(bytes);
        }
    }

    pub(super) fn objects_changed(&self, bytes: i64) {
        if let Some(watcher) = &self.watcher {
            watcher.objects_changed(bytes);
        }
    }
}
