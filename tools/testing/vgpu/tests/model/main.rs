// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The device as a driver sees it: registers, and tables and rings in memory.

mod channels;
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;
mod control;
mod copy;
mod copy_engine;
mod counters;
mod faults;
mod invalidate;
mod ramfc;
mod rig;
mod walk;
