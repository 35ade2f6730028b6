// error: E0277
// SPDX-License-Identifier: GPL-2.0

//! What a mapping keeps is lent to threads that share the GPUVM, and may be for one of them only.

use kernel::drm::gpuvm::{
    DriverGpuVm,
    GpuVa, //
};

/// The case.
pub fn case<T: DriverGpuVm>(va: &GpuVa<T>) -> &T::VaData {
    va.data()
}
