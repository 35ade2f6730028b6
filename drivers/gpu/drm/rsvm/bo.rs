// SPDX-License-Identifier: GPL-2.0

//! Buffer objects: memory of the device that a process asks for.
//!
//! A buffer lies in device memory when the device uses it, and in system memory when that had to
//! make room; the process maps it to the CPU, and binds it to addresses of a mirror, either way.
//! No dma-fence and no reservation lock takes part: what the device reaches is taken away and
//! acknowledged before a buffer moves.

mod backing;
mod bound;

use crate::{
    driver::RsvmDriver,
    gpu::Gpu,
    vram::Watcher, //
};
use kernel::{
    drm::{
        self,
        gem::{
            self,
            mmap::{
                Fault,
                Mappable,
                Operations,
                Outcome,
                UserRange, //
            },
            BaseObject, //
        },
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

pub(crate) use self::{
    backing::Backing,
    bound::{
        Bindings,
        Change,
        Manager, //
    },
};

pub(crate) type Object = gem::Object<Bo>;

/// What a GEM object of this driver has.
#[pin_data(PinnedDrop)]
pub(crate) struct Bo {
    backing: Option<Arc<Backing>>,
    /// The DRM core takes the object apart with it.
    _device: ARef<drm::Device<RsvmDriver>>,
}

impl Bo {
    /// Makes a buffer of `size` bytes, all zero. Its device memory is charged to the process that
    /// uses it when it comes there; `watcher` is told that, and when it leaves.
    ///
    /// # Errors
    ///
    /// `EINVAL` unless `size` is a number of whole pages; `ENOMEM` if the device has less memory,
    /// or there is none for the book-keeping; `ENODEV`, `EIO`.
    pub(crate) fn create(
        device: &drm::Device<RsvmDriver>,
        gpu: &Arc<Gpu>,
        watcher: Arc<dyn Watcher>,
        size: u64,
    ) -> Result<ARef<Object>> {
        if size == 0 || size % PAGE_SIZE as u64 != 0 {
            return Err(EINVAL);
        }
        if size > gpu.vram_total() {
            return Err(ENOMEM);
        }
        let backing = Backing::new(gpu.clone(), watcher, size)?;
        let object = gem::Object::new(device, usize::try_from(size)?, Some(backing.clone()))?;
        backing.set_user_range(UserRange::new(&object)?);
        Ok(object)
    }

    /// An object without memory, which stands for an address space.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn dummy(device: &drm::Device<RsvmDriver>) -> Result<ARef<Object>> {
        gem::Object::new(device, PAGE_SIZE, None)
    }

    /// # Errors
    ///
    /// `ENOENT` if it is the dummy of an address space, which no handle names.
    pub(crate) fn backing(&self) -> Result<&Arc<Backing>> {
        self.backing.as_ref().ok_or(ENOENT)
    }
}

/// Finds the buffer that `file` calls `handle`.
///
/// # Errors
///
/// `ENOENT`.
pub(crate) fn lookup(file: &drm::File<crate::file::File>, handle: u32) -> Result<ARef<Object>> {
    Object::lookup_handle(file, handle)
}

impl gem::DriverObject for Bo {
    type Driver = RsvmDriver;
    type Args = Option<Arc<Backing>>;

    const MMAP: Option<Operations<Self>> = Some(Operations::NEW);

    fn new(
        device: &drm::Device<RsvmDriver>,
        _size: usize,
        backing: Self::Args,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            backing,
            _device: device.into(),
        })
    }
}

impl Mappable for Bo {
    fn fault(object: &Object, fault: Fault<'_>) -> Outcome {
        match object.backing() {
            Ok(backing) => backing.cpu_fault(fault),
            Err(_) => Outcome::SIGBUS,
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Bo {
    fn drop(self: Pin<&mut Self>) {
        if let Some(backing) = &self.backing {
            backing.close();
        }
    }
}
