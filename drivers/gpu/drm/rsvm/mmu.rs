// SPDX-License-Identifier: GPL-2.0

//! The device's memory management unit: page tables and their caches.

pub(crate) mod pgtable;
pub(crate) mod pool;
pub(crate) mod tlb;
