// SPDX-License-Identifier: GPL-2.0

//! Users of device memory, and what they pay for it.

use kernel::{
    mm::Mm,
    prelude::*,
    sync::{
        aref::ARef,
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

/// Whose pages device memory is for.
pub(crate) struct Client {
    /// Who pays.
    pub(super) mm: ARef<Mm>,
    watcher: Option<Arc<dyn Watcher>>,
    /// Index of the chunk that had room when it was looked at last.
    pub(super) open: Atomic<u32>,
}

impl Client {
    /// What is allocated is charged to the cgroup that the process with the memory `mm` is in then,
    /// whichever thread allocates.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(mm: ARef<Mm>, watcher: Option<Arc<dyn Watcher>>) -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self {
                mm,
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
}
