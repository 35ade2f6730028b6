// SPDX-License-Identifier: GPL-2.0

//! Device memory that is a buffer of the kernel.

use crate::{
    mm::{
        memremap::{
            CpuFault,
            DeviceMemory,
            FaultOutcome, //
        },
        migrate::{
            Copy,
            Filled,
            MigrateBuf, //
        }, //
    },
    new_mutex,
    page::PAGE_SIZE,
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
use core::ops::Range;

/// The memory and what happened to it.
#[pin_data]
pub struct State {
    #[pin]
    bytes: Mutex<KVVec<u8>>,
    pub freed: Atomic<i32>,
    pub splits: Atomic<i32>,
    pub faults: Atomic<i32>,
    /// Faults bring back a page, not all that they may.
    pub single: Atomic<bool>,
    /// The content is lost.
    pub gone: Atomic<bool>,
}

pub struct Ram(pub Arc<State>);

impl Ram {
    pub fn new(pages: u32) -> Result<Self> {
        let bytes = KVVec::from_elem(0xee, pages as usize * PAGE_SIZE, GFP_KERNEL)?;
        let state = Arc::pin_init(
            pin_init!(State {
                bytes <- new_mutex!(bytes, "kunit::ram"),
                freed: Atomic::new(0),
                splits: Atomic::new(0),
                faults: Atomic::new(0),
                single: Atomic::new(false),
                gone: Atomic::new(false),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self(state))
    }

    /// Copies to the device.
    pub fn copy_in(&self, filled: &Filled<'_, Ram>, copy: &Copy) -> Result {
        let mut bytes = self.0.bytes.lock();
        for page in 0..copy.pages {
            let at = (copy.device as usize + page) * PAGE_SIZE;
            let to: &mut [u8; PAGE_SIZE] = (&mut bytes[at..at + PAGE_SIZE])
                .try_into()
                .map_err(|_| EINVAL)?;
            if copy.hole {
                to.fill(0);
            } else {
                filled.read_system(copy.page + page, to)?;
            }
        }
        Ok(())
    }

    /// Copies everything back.
    pub fn copy_out(&self, filled: &mut Filled<'_, Ram>, copy: &Copy) -> Result {
        let bytes = self.0.bytes.lock();
        for page in 0..copy.pages {
            let at = (copy.device as usize + page) * PAGE_SIZE;
            let from: &[u8; PAGE_SIZE] =
                bytes[at..at + PAGE_SIZE].try_into().map_err(|_| EINVAL)?;
            filled.write_system(copy.page + page, from)?;
        }
        Ok(())
    }

    /// Copies back what there is, as long as `budget` pages are not used up. Returns how many moved.
    pub fn bring_back(&self, mut filled: Filled<'_, Ram>, mut budget: usize) -> Result<usize> {
        let mut copies = KVec::new();
        for copy in filled.copies() {
            copies.push(copy, GFP_KERNEL)?;
        }
        for copy in &copies {
            self.copy_out(&mut filled, copy)?;
        }
        let installed = filled.install(|copy| {
            let enough = copy.pages <= budget;
            budget = budget.saturating_sub(copy.pages);
            enough
        });
        Ok(installed.pages())
    }

    /// Changes a byte, as the device would.
    pub fn poke(&self, page: u32, byte: u8) {
        self.0.bytes.lock()[page as usize * PAGE_SIZE] = byte;
    }
}

impl DeviceMemory for Ram {
    fn folio_free(&self, pages: Range<u32>) {
        self.0.freed.fetch_add(pages.len() as i32, Relaxed);
    }

    fn folio_split(&self, _first: u32) {
        self.0.splits.fetch_add(1, Relaxed);
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultOutcome {
        self.0.faults.fetch_add(1, Relaxed);
        if self.0.gone.load(Relaxed) {
            return FaultOutcome::Lost;
        }
        let range = if self.0.single.load(Relaxed) {
            crate::mm::addr::PageRange::page(fault.addr())
        } else {
            Ok(fault.window())
        };
        let result = range.and_then(|range| {
            let mut buf = MigrateBuf::new()?;
            let filled = fault.migrate(range, &mut buf)?;
            filled.map_or(Ok(0), |filled| self.bring_back(filled, usize::MAX))
        });
        match result {
            Ok(_) => FaultOutcome::Done,
            Err(_) => FaultOutcome::OutOfMemory,
        }
    }
}
