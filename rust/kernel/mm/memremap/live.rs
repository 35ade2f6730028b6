// SPDX-License-Identifier: GPL-2.0

//! How a pagemap begins and ends.

use super::{
    Claims,
    DeviceMemory,
    Pagemap,
    CLOSED,
    HUGE_PAGES, //
};
use crate::{
    bindings,
    device::Device,
    error::from_err_ptr,
    new_event_count,
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic, //
        },
        Arc,
        WaitMode,
        Wake, //
    },
    time::{
        Instant,
        Monotonic, //
    },
    types::Opaque, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref, //
};

/// The right to end a [`Pagemap`], of which there is one.
///
/// If it is dropped, that waits until no page is in use, however long this takes.
///
/// # Examples
///
/// ```
/// use core::ops::Range;
/// use kernel::{
///     device::{Bound, Device},
///     faux,
///     mm::memremap::{CpuFault, DeviceMemory, FaultOutcome, LivePagemap, Order, HUGE_PAGES},
///     sync::atomic::{Atomic, Relaxed},
///     time::{Instant, Monotonic},
/// };
///
/// /// Counts what is free.
/// struct Memory(Atomic<i32>);
///
/// impl DeviceMemory for Memory {
///     fn folio_free(&self, pages: Range<u32>) {
///         self.0.fetch_add(pages.len() as i32, Relaxed);
///     }
///     fn folio_split(&self, _first: u32) {}
///     fn migrate_to_ram(&self, _fault: CpuFault<'_, Self>) -> FaultOutcome {
///         FaultOutcome::Lost
///     }
/// }
///
/// let registration = faux::Registration::new(c"pagemap_doctest", None)?;
/// let faux: &faux::Device<Bound> = registration.as_ref();
/// let device: &Device<Bound> = faux.as_ref();
/// let memory = Memory(Atomic::new(0));
/// let live = LivePagemap::new(device, 2 * HUGE_PAGES as u32, c"doctest", memory)?;
///
/// // Pages are claimed once.
/// let page = live.folio(7, Order::Page)?;
/// assert!(live.folio(7, Order::Page).is_err_and(|error| error == EBUSY));
/// assert!(live.folio(0, Order::Huge).is_err_and(|error| error == EBUSY));
/// let huge = live.folio(HUGE_PAGES as u32, Order::Huge)?;
/// assert_eq!(live.in_use(), 1 + HUGE_PAGES);
///
/// // There is nothing beyond the end, and large folios are aligned.
/// assert!(live.folio(2 * HUGE_PAGES as u32, Order::Page).is_err_and(|error| error == EINVAL));
/// assert!(live.folio(1, Order::Huge).is_err_and(|error| error == EINVAL));
///
/// drop((page, huge));
/// assert_eq!(live.data().0.load(Relaxed), 1 + HUGE_PAGES as i32);
///
/// // Once drained, it has no pages.
/// let pagemap = live.clone();
/// let drained = live.drain(Instant::<Monotonic>::now()).map_err(|_| EBUSY)?;
/// assert!(pagemap.folio(7, Order::Page).is_err_and(|error| error == ENODEV));
/// drop(drained);
/// # Ok::<(), Error>(())
/// ```
pub struct LivePagemap<D: DeviceMemory>(ManuallyDrop<Mapped<D>>);

/// A [`Pagemap`] whose pages nobody uses nor ever will. Dropping it unmaps the pages, which sleeps
/// but waits for nobody.
#[must_use]
pub struct DrainedPagemap<D: DeviceMemory>(#[expect(dead_code)] Mapped<D>);

/// Unmaps the pages when dropped, for which none may be in use.
///
/// # Invariants
///
/// The only one of its pagemap, which is mapped.
struct Mapped<D: DeviceMemory>(Arc<Pagemap<D>>);

impl<D: DeviceMemory> LivePagemap<D> {
    /// Makes `pages` pages, a multiple of [`HUGE_PAGES`], all of them free and on the node of `dev`,
    /// to which they do not belong otherwise. `name` is what `/proc/iomem` shows. Sleeps, for long
    /// if there are many.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for a wrong number; [`ENOMEM`]; [`ERANGE`] and others if the physical address
    /// space has no room left.
    pub fn new(dev: &Device, pages: u32, name: &'static CStr, data: D) -> Result<Self> {
        if pages == 0 || pages as usize % HUGE_PAGES != 0 {
            return Err(EINVAL);
        }
        let size = (pages as usize) << PAGE_SHIFT;
        let claims = Claims::new(pages as usize)?;
        // SAFETY: The root of memory resources, and a name that stays.
        let region = from_err_ptr(unsafe {
            bindings::request_free_mem_region(
                &raw mut bindings::iomem_resource,
                size,
                name.as_char_ptr(),
            )
        })?;
        // The region may be larger, as it is cut for sections of memory.
        // SAFETY: Valid till it is released.
        let (start, region_len) = unsafe { ((*region).start, bindings::resource_size(region)) };
        // CAST: `usize` has at most 64 bits.
        let end = start + size as u64 - 1;
        let pagemap = Arc::pin_init(
            pin_init!(Pagemap {
                raw <- Opaque::ffi_init(|raw: *mut bindings::dev_pagemap| {
                    // SAFETY: `raw` is valid for writes, and may be all zeroes.
                    unsafe { raw.write_bytes(0, 1) };
                    // SAFETY: As above.
                    let raw = unsafe { &mut *raw };
                    raw.type_ = bindings::memory_type_MEMORY_DEVICE_PRIVATE;
                    raw.ops = Pagemap::<D>::OPS;
                    raw.nr_range = 1;
                    // SAFETY: The field of the union that `nr_range == 1` selects.
                    unsafe { *raw.__bindgen_anon_1.range.as_mut() = bindings::range { start, end } };
                }),
                base: (start as usize) >> PAGE_SHIFT,
                pages,
                region_len,
                claims,
                users: Atomic::new(0),
                idle <- new_event_count!("Pagemap::idle"),
                data,
            }),
            GFP_KERNEL,
        );
        let release = |error| {
            // SAFETY: Just requested.
            unsafe { release_region(start, region_len) };
            error
        };
        let pagemap = pagemap.map_err(release)?;
        // SAFETY: Nobody else has `raw` yet.
        unsafe { (*pagemap.raw()).owner = pagemap.owner() };
        // SAFETY: `raw` is set up for a region of our own, and stays where it is until it is
        // unmapped: only then `Mapped` drops its reference. The device is valid.
        from_err_ptr(unsafe {
            bindings::memremap_pages(pagemap.raw(), bindings::dev_to_node(dev.as_raw()))
        })
        .map_err(release)?;
        // INVARIANT: Just mapped.
        Ok(Self(ManuallyDrop::new(Mapped(pagemap))))
    }

    /// Makes every new claim fail and waits until no page is in use, but not beyond `deadline`.
    ///
    /// # Errors
    ///
    /// Gives the pagemap back if pages are still in use. Claims go on to fail.
    pub fn drain(self, deadline: Instant<Monotonic>) -> Result<DrainedPagemap<D>, Self> {
        if !self.wait_idle(Some(deadline)) {
            return Err(self);
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used any more, and not dropped either.
        Ok(DrainedPagemap(unsafe { ManuallyDrop::take(&mut this.0) }))
    }

    fn wait_idle(&self, deadline: Option<Instant<Monotonic>>) -> bool {
        // Only here it is set, and there is one of `self`.
        self.count(CLOSED, |users| users & CLOSED == 0);
        loop {
            let seen = self.idle.current();
            if self.users.load(Acquire) == CLOSED {
                return true;
            }
            if self.idle.wait(seen, WaitMode::Uninterruptible, deadline) == Wake::Timeout {
                return self.users.load(Acquire) == CLOSED;
            }
        }
    }
}

impl<D: DeviceMemory> Deref for LivePagemap<D> {
    type Target = Arc<Pagemap<D>>;

    fn deref(&self) -> &Self::Target {
        &self.0 .0
    }
}

impl<D: DeviceMemory> Drop for LivePagemap<D> {
    fn drop(&mut self) {
        self.wait_idle(None);
        // SAFETY: Dropped here only.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

impl<D: DeviceMemory> Drop for Mapped<D> {
    fn drop(&mut self) {
        // SAFETY: Mapped, by the type invariants, and never again used: whoever drops this has seen
        // that there are no users, of which there will be none since the pagemap is closed.
        unsafe {
            let start = (self.0.base << PAGE_SHIFT) as bindings::resource_size_t;
            bindings::memunmap_pages(self.0.raw());
            release_region(start, self.0.region_len);
        }
    }
}

/// # Safety
///
/// The region was requested and is used no more.
unsafe fn release_region(start: bindings::resource_size_t, len: bindings::resource_size_t) {
    // SAFETY: By the caller's promise.
    unsafe { bindings::__release_region(&raw mut bindings::iomem_resource, start, len) };
}

#[cfg(all(CONFIG_NUMA, CONFIG_RUST_MM_KUNIT_TEST))]
#[kunit_tests(rust_mm_live_pagemap)]
mod tests {
    use super::*;
    use crate::mm::testing::{
        DmaDevice,
        Ram, //
    };

    #[test]
    fn pages_are_on_the_node_of_the_device() -> Result {
        let pages = HUGE_PAGES as u32;
        let device = DmaDevice::new()?;
        let dev = device.bound();
        // SAFETY: Only written at boot.
        let nodes = unsafe { bindings::nr_online_nodes };
        // CAST: There are few nodes.
        for node in 0..nodes as c_int {
            // SAFETY: Nobody else looks at the device.
            unsafe { (*dev.as_raw()).numa_node = node };
            let live = LivePagemap::new(dev, pages, c"kunit", Ram::new(pages)?)?;
            for page in [live.base, live.base + HUGE_PAGES - 1] {
                // SAFETY: The pages are there as long as the pagemap.
                let its = unsafe { bindings::page_to_nid(bindings::pfn_to_page(page)) };
                assert_eq!(its, node);
            }
        }
        Ok(())
    }
}
