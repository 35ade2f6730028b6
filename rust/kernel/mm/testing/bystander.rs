// SPDX-License-Identifier: GPL-2.0

//! Another watcher that core mm announces changes to.

use crate::{
    bindings,
    container_of,
    error::to_result,
    mm::{
        addr::PageRange,
        Mm, //
    },
    new_mutex,
    prelude::*,
    sync::Mutex,
    types::Opaque, //
};

#[pin_data]
struct Watch<F: FnMut() + Send + Unpin> {
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    #[pin]
    told: Mutex<F>,
}

/// Watches a range beside the intervals under test, and calls a function whenever a change of it is
/// announced. Core mm announces a change in the order in which the ranges watched start, so the
/// function runs after the intervals that start further down and before those that start further
/// up.
pub struct Bystander<F: FnMut() + Send + Unpin>(Pin<KBox<Watch<F>>>);

impl<F: FnMut() + Send + Unpin> Bystander<F> {
    pub fn new(mm: &Mm, range: PageRange, told: F) -> Result<Self> {
        let watch = KBox::pin_init(
            pin_init!(Watch {
                raw: Opaque::zeroed(),
                told <- new_mutex!(told, "kunit::bystander"),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: `raw` is pinned and zeroed, and `drop` removes it. The test keeps `mm` in use.
        to_result(unsafe {
            bindings::mmu_interval_notifier_insert(
                watch.raw.get(),
                mm.as_raw(),
                range.start().as_usize(),
                range.len(),
                &Self::OPS,
            )
        })?;
        Ok(Self(watch))
    }

    const OPS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: Some(Self::invalidate),
        invalidate_start: None,
        invalidate_finish: None,
    };

    /// # Safety
    ///
    /// Called by core mm as `invalidate` with a registered `raw`.
    unsafe extern "C" fn invalidate(
        raw: *mut bindings::mmu_interval_notifier,
        _range: *const bindings::mmu_notifier_range,
        seq: usize,
    ) -> bool {
        // SAFETY: `raw` is the field of a `Watch`, which lives while it is registered.
        let watch = unsafe { &*container_of!(Opaque::cast_from(raw).cast_mut(), Watch<F>, raw) };
        let mut told = watch.told.lock();
        // SAFETY: Registered; nobody reads the sequence.
        unsafe { bindings::mmu_interval_set_seq(raw, seq) };
        (*told)();
        true
    }
}

impl<F: FnMut() + Send + Unpin> Drop for Bystander<F> {
    fn drop(&mut self) {
        // SAFETY: Registered in `new`; not called from a callback.
        unsafe { bindings::mmu_interval_notifier_remove(self.0.raw.get()) };
    }
}
