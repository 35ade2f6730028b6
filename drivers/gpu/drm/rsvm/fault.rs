// SPDX-License-Identifier: GPL-2.0

//! Faults of the device, from its buffers to their completion.

pub(crate) mod batch;
pub(crate) mod buffer;
pub(crate) mod complete;
pub(crate) mod service;

use crate::svm::device::Access;
use kernel::uapi;

/// Why a queue was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reason {
    NoMapping = uapi::DRM_RSVM_FAULT_NO_MAPPING,
    Protection = uapi::DRM_RSVM_FAULT_PROTECTION,
    Atomic = uapi::DRM_RSVM_FAULT_ATOMIC,
    NoMemory = uapi::DRM_RSVM_FAULT_NO_MEMORY,
    Io = uapi::DRM_RSVM_FAULT_IO,
    BadAddress = uapi::DRM_RSVM_FAULT_BAD_ADDRESS,
    Exception = uapi::DRM_RSVM_FAULT_EXCEPTION,
    Method = uapi::DRM_RSVM_FAULT_METHOD,
    Exited = uapi::DRM_RSVM_FAULT_EXITED,
    Killed = uapi::DRM_RSVM_FAULT_KILLED,
}

/// What killed a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FaultInfo {
    /// Byte address that was accessed; the pc for [`Reason::Exception`].
    pub(crate) addr: u64,
    pub(crate) access: Access,
    /// The access was an instruction fetch.
    pub(crate) execute: bool,
    pub(crate) reason: Reason,
}
