// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The compute engine on the real MMU, fault buffers and memory.

mod atomics;
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod launch;
mod rig;
mod sharing;
mod vram;

/// Where kernels and their data lie in these tests.
const CODE: u64 = 0x7f00_0000_0000;
const DATA: u64 = 0x5555_0000_0000;
