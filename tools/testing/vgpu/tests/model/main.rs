// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The device as a driver sees it: registers, and tables and rings in memory.

mod channels;
mod control;
mod copy;
mod driver;
mod faults;
mod invalidate;
mod rig;
mod tables;
mod walk;
