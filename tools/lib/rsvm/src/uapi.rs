// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `include/uapi/drm/rsvm_drm.h` in Rust. `tests/uapi.rs` compares the two by
//! the C compiler.

use std::ffi::{c_char, c_int, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const IOC_WRITE: u32 = 1;
const IOC_READ: u32 = 2;
const COMMAND_BASE: u32 = 0x40;

/// Number of a DRM ioctl with an argument of type `T`.
const fn ioc<T>(dir: u32, nr: u32) -> u32 {
    // CAST: the argument structures are below 16 KiB.
    (dir << 30) | ((size_of::<T>() as u32) << 16) | ((b'd' as u32) << 8) | nr
}

/// An argument structure and the ioctl that takes it.
///
/// # Safety
///
/// `NUMBER` names an ioctl that reads and writes exactly one `Self`.
pub unsafe trait Ioctl {
    /// The request number.
    const NUMBER: u32;
}

/// Issues the ioctl of `T`, again if a signal interrupts it.
///
/// # Errors
///
/// What the driver returned.
pub fn ioctl<T: Ioctl>(fd: BorrowedFd<'_>, arg: &mut T) -> io::Result<()> {
    loop {
        // SAFETY: `arg` is an exclusive borrow of the type that, by the trait's
        // contract, the ioctl takes.
        let ret = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                c_ulong::from(T::NUMBER) as _,
                std::ptr::from_mut(arg),
            )
        };
        if ret >= 0 {
            return Ok(());
        }
        let err = io::Error::last_os_error();
        if err.kind() != io::ErrorKind::Interrupted {
            return Err(err);
        }
    }
}

macro_rules! ioctls {
    ($($(#[$meta:meta])* $name:ident = $dir:expr, $nr:expr => { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $(#[allow(missing_docs)] pub $field: $ty,)* }
        // SAFETY: Number and layout are the header's; the test compares them.
        unsafe impl Ioctl for $name {
            const NUMBER: u32 = ioc::<Self>($dir, COMMAND_BASE + $nr);
        }
    )*};
}

ioctls! {
    /// struct drm_rsvm_query
    Query = IOC_READ | IOC_WRITE, 0 => {
        param: u32, pad: u32, value: u64,
    }
    /// struct drm_rsvm_vm_create
    VmCreate = IOC_READ | IOC_WRITE, 1 => {
        flags: u32, vm_id: u32,
    }
    /// struct drm_rsvm_vm_destroy
    VmDestroy = IOC_WRITE, 2 => {
        vm_id: u32, pad: u32,
    }
    /// struct drm_rsvm_queue_create
    QueueCreate = IOC_READ | IOC_WRITE, 3 => {
        vm_id: u32, flags: u32, queue_id: u32, pad: u32,
    }
    /// struct drm_rsvm_queue_destroy
    QueueDestroy = IOC_WRITE, 4 => {
        queue_id: u32, pad: u32,
    }
    /// struct drm_rsvm_exec
    Exec = IOC_WRITE, 5 => {
        queue_id: u32, flags: u32, push: u64, num_dwords: u32, pad: u32,
        fence_addr: u64, fence_value: u64,
    }
    /// struct drm_rsvm_wait_user_fence
    WaitUserFence = IOC_READ | IOC_WRITE, 6 => {
        queue_id: u32, op: u32, addr: u64, value: u64, mask: u64, deadline_ns: i64,
        fault_addr: u64, fault_reason: u32, fault_access: u32,
    }
    /// struct drm_rsvm_event_open
    EventOpen = IOC_READ | IOC_WRITE, 7 => {
        vm_id: u32, flags: u32, mask: u32, fd: i32,
    }
    /// struct drm_rsvm_svm_set_attr
    SvmSetAttr = IOC_WRITE, 0xb => {
        vm_id: u32, flags: u32, addr: u64, len: u64, attrs: u64, count: u32, stride: u32,
    }
    /// struct drm_rsvm_svm_get_attr
    SvmGetAttr = IOC_READ | IOC_WRITE, 0xc => {
        vm_id: u32, flags: u32, addr: u64, len: u64, attrs: u64, pages: u64, count: u32,
        stride: u32, same_len: u64, system: u64, vram: u64, mapped_read: u64, mapped_write: u64,
    }
    /// struct drm_rsvm_svm_migrate
    SvmMigrate = IOC_WRITE, 0xd => {
        vm_id: u32, flags: u32, location: u32, num_ranges: u32, ranges: u64, fence_addr: u64,
        fence_value: u64,
    }
}

/// struct drm_rsvm_svm_attr: an attribute of a range.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SvmAttr {
    pub r#type: u32,
    pub pad: u32,
    pub value: u64,
}

/// struct drm_rsvm_svm_range: addresses of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SvmRange {
    pub addr: u64,
    pub len: u64,
}

/// struct drm_rsvm_event: one record read from an event file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Event {
    pub r#type: u32,
    pub size: u32,
    pub time_ns: u64,
    pub addr: u64,
    pub len: u64,
    pub queue_id: u32,
    pub access: u32,
    pub reason: u32,
    pub dropped: u32,
}

/// DRM_RSVM_FENCE_GE
pub const FENCE_GE: u32 = 2;
/// DRM_RSVM_EVENT_FAULT
pub const EVENT_FAULT: u32 = 0;
/// DRM_RSVM_EVENT_FATAL_FAULT
pub const EVENT_FATAL_FAULT: u32 = 1;
/// DRM_RSVM_EVENT_MIGRATE
pub const EVENT_MIGRATE: u32 = 2;
/// DRM_RSVM_EVENT_EVICT
pub const EVENT_EVICT: u32 = 3;
/// DRM_RSVM_EVENT_THRASH
pub const EVENT_THRASH: u32 = 4;

/// struct drm_version of the DRM core.
#[repr(C)]
struct Version {
    major: c_int,
    minor: c_int,
    patchlevel: c_int,
    name_len: usize,
    name: *mut c_char,
    date_len: usize,
    date: *mut c_char,
    desc_len: usize,
    desc: *mut c_char,
}

// SAFETY: DRM_IOCTL_VERSION takes a struct drm_version.
unsafe impl Ioctl for Version {
    const NUMBER: u32 = ioc::<Self>(IOC_READ | IOC_WRITE, 0);
}

/// Name of the DRM driver behind `fd`.
///
/// # Errors
///
/// When `fd` is no DRM device.
pub fn driver_name(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut name = [0u8; 64];
    let mut version = Version {
        major: 0,
        minor: 0,
        patchlevel: 0,
        name_len: name.len(),
        name: name.as_mut_ptr().cast(),
        date_len: 0,
        date: std::ptr::null_mut(),
        desc_len: 0,
        desc: std::ptr::null_mut(),
    };
    ioctl(fd, &mut version)?;
    Ok(name[..version.name_len.min(name.len())].to_vec())
}
