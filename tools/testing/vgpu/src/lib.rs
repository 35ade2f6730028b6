// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A virtual GPU: NVIDIA-class page tables, fault buffers, channels, copy
//! engine and an RV64 compute engine, as a pure device model.
//!
//! [`Device`] is the device without a bus; [`transport`] puts it on vfio-user.
//! `Documentation/gpu/rsvm/virtual-gpu.rst` says what is invented.

pub mod compute;
pub mod config;
pub mod copy;
pub mod core;
pub mod device;
pub mod engine;
pub mod errors;
pub mod fault;
pub mod host;
pub mod inject;
pub mod intr;
pub mod mem;
pub mod mmu;
pub mod pci;
pub mod regs;
pub mod rng;
pub mod transport;

pub use device::Device;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the device's interrupts leave.
pub trait InterruptSink: Send + Sync {
    /// Sends MSI-X message `vector`. Called from engine threads and register
    /// handlers; must not block.
    fn raise(&self, vector: u32);
}

/// A poisoned lock is still a lock: a panicking thread has been reported, and
/// the others go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
