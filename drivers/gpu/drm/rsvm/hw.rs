// SPDX-License-Identifier: GPL-2.0

//! Formats of what the device reads and writes in memory, bit by bit.
//!
//! Source: NVIDIA's open-gpu-doc (dev_mmu, dev_ram, clc369, clc36f) and, where that is silent, the
//! virtual GPU's documentation.

pub(crate) mod fault;
pub(crate) mod method;
pub(crate) mod pte;
pub(crate) mod ramfc;
pub(crate) mod runlist;
