// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The C interface; `include/rsvm.h` documents it.
//!
//! Every function has the contract of a C library: handles come from here and
//! have not been released, other pointers point to what the header says. A null
//! handle is answered with -EINVAL.
#![allow(clippy::missing_safety_doc, missing_docs)]

use crate::error::{Error, Fault, Result};
use crate::{uapi, Context, Events, Kernel, Location, Module, Queue, Residency, Stats};
use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void, CStr, CString, OsStr};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct LastError {
    text: CString,
    fault: Option<Fault>,
}

thread_local! {
    static LAST: RefCell<LastError> = RefCell::default();
}

/// struct rsvm_fault
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FaultInfo {
    pub addr: u64,
    pub queue_id: u32,
    pub access: u32,
    pub reason: u32,
    pub pad: u32,
}

/// Turns a result into 0 or -errno and remembers the error.
fn status(result: Result<()>) -> c_int {
    let Err(err) = result else { return 0 };
    let fault = match err {
        Error::Fault(fault) => Some(fault),
        _ => None,
    };
    let text = CString::new(err.to_string().replace('\0', "?")).unwrap_or_default();
    LAST.with_borrow_mut(|last| *last = LastError { text, fault });
    -err.errno()
}

/// Borrows what a handle or pointer points to.
///
/// # Safety
///
/// `ptr` is null, or points to a `T` that lives and is not written meanwhile.
unsafe fn get<'a, T>(ptr: *const T) -> Result<&'a T> {
    // SAFETY: By this function's contract.
    unsafe { ptr.as_ref() }.ok_or(Error::Invalid("null pointer"))
}

/// Borrows the `Arc` behind a handle without taking its count.
///
/// # Safety
///
/// `ptr` is null, or a handle made by `Arc::into_raw` and not released.
unsafe fn arc<T>(ptr: *const T) -> Result<ManuallyDrop<Arc<T>>> {
    if ptr.is_null() {
        return Err(Error::Invalid("null handle"));
    }
    // SAFETY: By this function's contract; ManuallyDrop leaves the count alone.
    Ok(ManuallyDrop::new(unsafe { Arc::from_raw(ptr) }))
}

/// Stores the outcome at `out`.
///
/// # Safety
///
/// `out` is null or writable.
unsafe fn put<T>(out: *mut T, make: impl FnOnce() -> Result<T>) -> c_int {
    if out.is_null() {
        return status(Err(Error::Invalid("null pointer for the result")));
    }
    // SAFETY: By this function's contract.
    status(make().map(|value| unsafe { out.write(value) }))
}

/// # Safety
///
/// `text` is null or a C string that lives.
unsafe fn string<'a>(text: *const c_char) -> Result<&'a CStr> {
    if text.is_null() {
        return Err(Error::Invalid("null string"));
    }
    // SAFETY: By this function's contract.
    Ok(unsafe { CStr::from_ptr(text) })
}

fn path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// Negative is for ever.
fn timeout(ns: i64) -> Option<Duration> {
    u64::try_from(ns).ok().map(Duration::from_nanos)
}

/// # Safety
///
/// `ptr` is null, or a handle made by `Arc::into_raw` and not released.
unsafe fn release<T>(ptr: *const T) {
    if !ptr.is_null() {
        // SAFETY: By this function's contract.
        drop(unsafe { Arc::from_raw(ptr) });
    }
}

#[no_mangle]
pub extern "C" fn rsvm_error() -> *const c_char {
    LAST.with_borrow(|last| last.text.as_ptr())
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_last_fault(out: *mut FaultInfo) -> c_int {
    let Some(fault) = LAST.with_borrow(|last| last.fault) else {
        return -libc::ENOENT;
    };
    if out.is_null() {
        return -libc::EINVAL;
    }
    let info = FaultInfo {
        addr: fault.addr,
        queue_id: fault.queue_id,
        access: fault.access.into(),
        reason: fault.reason.into(),
        pad: 0,
    };
    // SAFETY: Not null, so writable by the header's contract.
    unsafe { out.write(info) };
    0
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_open(node: *const c_char, out: *mut *const Context) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe {
        put(out, || {
            let context = match node.is_null() {
                true => Context::open()?,
                false => Context::open_path(path(string(node)?))?,
            };
            Ok(Arc::into_raw(context))
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_close(context: *const Context) {
    // SAFETY: A handle as the header says.
    unsafe { release(context) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_query(context: *const Context, param: u32, out: *mut u64) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe { put(out, || get(context)?.query_raw(param)) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_get_stats(context: *const Context, out: *mut Stats) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe { put(out, || get(context)?.stats()) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_migrate(
    context: *const Context,
    addr: *const c_void,
    len: usize,
    location: u32,
    fence: *mut u64,
    value: u64,
) -> c_int {
    // SAFETY: Pointers as the header says.
    status(unsafe {
        (|| {
            let to = Location::from_raw(location)?;
            get(context)?.migrate(addr.cast(), len, to, fence, value)
        })()
    })
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_set_attribute(
    context: *const Context,
    addr: *const c_void,
    len: usize,
    attribute: u32,
    value: u64,
) -> c_int {
    // SAFETY: A handle as the header says; the driver checks the rest.
    let context = unsafe { get(context) };
    status(context.and_then(|c| c.set_attribute_raw(addr.cast(), len, attribute, value)))
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_get_attribute(
    context: *const Context,
    addr: *const c_void,
    attribute: u32,
    out: *mut u64,
) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe { put(out, || get(context)?.attribute_raw(addr.cast(), attribute)) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_where(
    context: *const Context,
    addr: *const c_void,
    len: usize,
    out: *mut Residency,
) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe { put(out, || get(context)?.residency(addr.cast(), len)) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_module_load(
    elf: *const c_void,
    size: usize,
    out: *mut *const Module,
) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe {
        put(out, || {
            get(elf.cast::<u8>())?;
            let elf = std::slice::from_raw_parts(elf.cast(), size);
            Ok(Arc::into_raw(Module::load(elf)?))
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_module_load_file(
    file: *const c_char,
    out: *mut *const Module,
) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe {
        put(out, || {
            Ok(Arc::into_raw(Module::load_file(path(string(file)?))?))
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_module_unload(module: *const Module) {
    // SAFETY: A handle as the header says.
    unsafe { release(module) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_kernel_get(
    module: *const Module,
    name: *const c_char,
    out: *mut *const Kernel,
) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe {
        put(out, || {
            let kernel = arc(module)?.kernel(&string(name)?.to_string_lossy())?;
            Ok(Arc::into_raw(Arc::new(kernel)))
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_kernel_put(kernel: *const Kernel) {
    // SAFETY: A handle as the header says.
    unsafe { release(kernel) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_queue_create(
    context: *const Context,
    out: *mut *const Queue,
) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe { put(out, || Ok(Arc::into_raw(arc(context)?.create_queue()?))) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_queue_destroy(queue: *const Queue) {
    // SAFETY: A handle as the header says.
    unsafe { release(queue) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_queue_id(queue: *const Queue) -> u32 {
    // SAFETY: A handle as the header says.
    unsafe { get(queue) }.map_or(0, Queue::id)
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_launch(
    queue: *const Queue,
    kernel: *const Kernel,
    invocations: u64,
    group_size: u32,
    arg: *const c_void,
    fence: *mut u64,
) -> c_int {
    // SAFETY: Pointers as the header says; what the kernel may reach is the
    // caller's to know, as the header says too.
    status(unsafe {
        (|| {
            let made = arc(queue)?.launch(get(kernel)?, invocations, group_size, arg.cast())?;
            if let Some(fence) = fence.as_mut() {
                *fence = made.value();
            }
            Ok(())
        })()
    })
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_signal(queue: *const Queue, addr: *mut u64, value: u64) -> c_int {
    // SAFETY: Pointers as the header says.
    status(unsafe { get(queue).and_then(|queue| queue.signal(addr, value)) })
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_wait(queue: *const Queue, fence: u64, ns: i64) -> c_int {
    // SAFETY: A handle as the header says.
    let queue = unsafe { arc(queue) };
    status(queue.and_then(|queue| queue.fence(fence)?.wait(timeout(ns))))
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_finish(queue: *const Queue, ns: i64) -> c_int {
    // SAFETY: A handle as the header says.
    let queue = unsafe { arc(queue) };
    status(queue.and_then(|queue| queue.last_fence().wait(timeout(ns))))
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_wait_value(
    queue: *const Queue,
    addr: *const u64,
    value: u64,
    ns: i64,
) -> c_int {
    // SAFETY: A handle as the header says; the driver checks `addr`.
    let queue = unsafe { get(queue) };
    status(queue.and_then(|queue| queue.wait_value(addr, value, timeout(ns))))
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_events_open(
    context: *const Context,
    mask: u32,
    out: *mut *const Events,
) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe {
        put(out, || {
            Ok(Arc::into_raw(Arc::new(get(context)?.open_events(mask)?)))
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_events_close(events: *const Events) {
    // SAFETY: A handle as the header says.
    unsafe { release(events) }
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_events_fd(events: *const Events) -> c_int {
    // SAFETY: A handle as the header says.
    unsafe { get(events) }.map_or(-libc::EINVAL, |events| events.as_fd().as_raw_fd())
}

#[no_mangle]
pub unsafe extern "C" fn rsvm_events_read(
    events: *const Events,
    out: *mut uapi::Event,
    ns: i64,
) -> c_int {
    // SAFETY: Pointers as the header says.
    unsafe {
        put(out, || {
            let events = get(events)?;
            events.next(timeout(ns))?.ok_or(Error::NoEvent)
        })
    }
}
