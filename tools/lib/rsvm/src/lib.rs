// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Runs GPU kernels on ordinary pointers, through the rsvm driver.
//!
//! A [`Context`] mirrors the process's address space, a [`Module`] is a GPU
//! program in it, and a [`Queue`] launches kernels of the program over a grid:
//!
//! ```no_run
//! # fn main() -> rsvm::Result<()> {
//! let context = rsvm::Context::open()?;
//! let queue = context.create_queue()?;
//! let kernel = rsvm::Module::load_file("kernels.elf".as_ref())?.kernel("add_one")?;
//! let mut data = vec![0u32; 1 << 20];
//! // SAFETY: `data` outlives the wait, and the kernel writes nothing else.
//! let fence = unsafe { queue.launch(&kernel, 1024, 0, data.as_mut_ptr().cast())? };
//! fence.wait(None)?;
//! # Ok(())
//! # }
//! ```
//!
//! `include/rsvm.h` is the same for C. All of it may be used from any thread.
#![warn(missing_docs)]

mod context;
mod elf;
mod error;
mod events;

pub mod ffi;
mod mapping;
pub mod method;
mod module;
mod queue;
mod stats;
mod svm;
pub mod uapi;

pub use context::{Context, Param};
pub use elf::Image;
pub use error::{Access, Error, Fault, Reason, Result};
pub use events::Events;
pub use module::{Kernel, Module};
pub use queue::{Fence, Queue};
pub use stats::Stats;
pub use svm::{AtomicMode, Attribute, Location, Residency};
