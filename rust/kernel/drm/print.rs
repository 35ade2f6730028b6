// SPDX-License-Identifier: GPL-2.0 OR MIT

//! DRM printers.
//!
//! C header: [`include/drm/drm_print.h`](srctree/include/drm/drm_print.h)

use crate::{
    bindings,
    fmt,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// A sink for text, such as a `fdinfo` file. Written to with [`drm_print!`](crate::drm_print).
///
/// # Invariants
///
/// Wraps a valid `struct drm_printer` that no other thread uses.
#[repr(transparent)]
pub struct Printer(Opaque<bindings::drm_printer>, NotThreadSafe);

impl Printer {
    /// Wraps a printer of the C side.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid and used by no other thread during `'a`.
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::drm_printer) -> &'a Self {
        // INVARIANT, SAFETY: As the caller promises. The layout is the same.
        unsafe { &*ptr.cast() }
    }

    /// Used by [`drm_print!`](crate::drm_print).
    #[doc(hidden)]
    pub fn call_printf(&self, args: fmt::Arguments<'_>) {
        // SAFETY: By the type invariant the printer is valid. `%pA` takes an `Arguments`.
        unsafe {
            bindings::drm_printf(
                self.0.get(),
                c"%pA".as_char_ptr(),
                core::ptr::from_ref(&args).cast::<ffi::c_void>(),
            )
        };
    }
}

/// Writes to a [`Printer`] with the formatting syntax of Rust.
#[macro_export]
macro_rules! drm_print {
    ($printer:expr, $($arg:tt)+) => {
        $printer.call_printf($crate::prelude::fmt!($($arg)+))
    };
}

#[kunit_tests(rust_drm_printer)]
mod tests {
    use super::*;

    #[test]
    fn text_arrives() {
        let mut buf = [0u8; 32];
        let mut iterator = bindings::drm_print_iterator {
            data: buf.as_mut_ptr().cast(),
            start: 0,
            remain: buf.len() as isize,
            offset: 0,
        };
        let mut raw = bindings::drm_printer {
            printfn: Some(bindings::__drm_printfn_coredump),
            puts: Some(bindings::__drm_puts_coredump),
            arg: (&raw mut iterator).cast(),
            ..pin_init::zeroed()
        };
        // SAFETY: `raw` lives to the end of this function, on this stack only.
        let printer = unsafe { Printer::from_raw(&mut raw) };
        drm_print!(printer, "answer:\t{}\n", 42);
        drm_print!(printer, "{:#x}", 0xbeef);
        assert!(buf.starts_with(b"answer:\t42\n0xbeef"));
    }
}
