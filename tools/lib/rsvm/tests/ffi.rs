// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The C interface, as far as it goes without a device.

use rsvm::ffi::*;
use std::ffi::{c_int, CStr};
use std::ptr::{null, null_mut};

fn error() -> String {
    // SAFETY: The text lives until this thread's next error.
    unsafe { CStr::from_ptr(rsvm_error()) }
        .to_string_lossy()
        .into_owned()
}

fn failed(status: c_int, errno: c_int, text: &str) {
    assert_eq!(status, -errno);
    assert!(error().contains(text), "{}", error());
}

#[test]
fn null_handles_are_einval() {
    let mut value = 0;
    // SAFETY: Null is allowed everywhere.
    unsafe {
        failed(rsvm_query(null(), 0, &mut value), libc::EINVAL, "null");
        failed(rsvm_query(null(), 0, null_mut()), libc::EINVAL, "result");
        failed(
            rsvm_queue_create(null(), &mut null()),
            libc::EINVAL,
            "null handle",
        );
        failed(rsvm_finish(null(), 0), libc::EINVAL, "null handle");
        failed(rsvm_wait(null(), 1, 0), libc::EINVAL, "null handle");
        let launch = rsvm_launch(null(), null(), 1, 0, null(), null_mut());
        failed(launch, libc::EINVAL, "null handle");
        failed(
            rsvm_module_load(null(), 0, &mut null()),
            libc::EINVAL,
            "null",
        );
        rsvm_close(null());
        rsvm_queue_destroy(null());
        rsvm_module_unload(null());
        rsvm_kernel_put(null());
        rsvm_events_close(null());
    }
}

#[test]
fn a_wrong_node_or_file_is_an_error_in_words() {
    let (mut context, mut module) = (null(), null());
    // SAFETY: Pointers to live variables and C strings.
    unsafe {
        failed(
            rsvm_open(c"/dev/null".as_ptr(), &mut context),
            libc::ENODEV,
            "no rsvm device",
        );
        let missing = rsvm_open(c"/nonexistent".as_ptr(), &mut context);
        failed(missing, libc::ENOENT, "open the render node");
        let garbage = b"garbage";
        let load = rsvm_module_load(garbage.as_ptr().cast(), garbage.len(), &mut module);
        failed(load, libc::ENOEXEC, "cannot load GPU program");
        let file = rsvm_module_load_file(c"/nonexistent".as_ptr(), &mut module);
        failed(file, libc::ENOENT, "read the GPU program");
    }
    assert!(context.is_null() && module.is_null());
}

#[test]
fn an_error_that_is_no_fault_has_no_fault() {
    let mut info = FaultInfo {
        addr: 0,
        queue_id: 0,
        access: 0,
        reason: 0,
        pad: 0,
    };
    // SAFETY: Pointers to live variables.
    unsafe {
        failed(rsvm_finish(null(), 0), libc::EINVAL, "null");
        assert_eq!(rsvm_last_fault(&mut info), -libc::ENOENT);
    }
}
