// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What tests of the device share: the machine it sits in, page tables by hand,
//! as much of a driver as they need, and an assembler. No test uses all of it.

pub mod asm;
pub mod driver;
pub mod machine;
pub mod tables;
