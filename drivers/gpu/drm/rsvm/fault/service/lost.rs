// SPDX-License-Identifier: GPL-2.0

//! Pages that are taken away before the device could use them.
//!
//! An access that waits goes on at the next replay. If the process changes its mappings without a
//! pause, a page can be mapped and taken away again before that, each time. So of the pages that a
//! turn was asked for, those that are gone when it was acknowledged are remembered, and at their
//! next fault they are mapped with mmap_lock held until their own replay is acknowledged. See
//! [`Look::Locked`](super::leaf::Look).

use crate::{
    fault::batch::{
        pages,
        Fault, //
    },
    svm::{
        device::Mmu,
        space::Space, //
    }, //
};
use kernel::{
    mm::addr::VirtAddr,
    prelude::*, //
};

/// Pages remembered. If there are more, the oldest are forgotten, and lost once more.
const PAGES: usize = 16;

/// The pages, the oldest first.
pub(super) struct Lost(KVec<VirtAddr>);

impl Lost {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(KVec::with_capacity(PAGES, GFP_KERNEL)?))
    }

    pub(super) fn contains(&self, page: VirtAddr) -> bool {
        self.0.contains(&page)
    }

    /// The device could use `page`.
    pub(super) fn forget(&mut self, page: VirtAddr) {
        self.0.retain(|lost| *lost != page);
    }

    /// Remembers which pages of `faults`, all of one leaf, are not mapped now that the device was
    /// told of those that were.
    pub(super) fn note<M: Mmu>(&mut self, space: &Space<M>, faults: &[Fault]) {
        let guard = space.mirror.lock();
        for page in pages(faults) {
            if !guard.slot(page.addr()).is_live() {
                self.add(page.addr());
            }
        }
    }

    fn add(&mut self, page: VirtAddr) {
        if self.contains(page) {
            return;
        }
        if self.0.len() == PAGES {
            let _ = self.0.remove(0);
        }
        // There is room now.
        let _ = self.0.push_within_capacity(page);
    }
}
