// SPDX-License-Identifier: GPL-2.0

//! The ioctls about where pages are: attributes of ranges, and moving them.

use super::{
    check_bound,
    fence_address,
    page_range,
    zero,
    Device,
    DrmFile,
    File, //
};
use crate::{
    svm::{
        policy::{
            AtomicMode,
            Attributes,
            Location, //
        },
        request::{
            Request,
            Task, //
        },
    },
    vm::Vm, //
};
use kernel::{
    mm::addr::VirtAddr,
    page::PAGE_SIZE,
    prelude::*,
    sizes::SZ_2M,
    sync::Arc,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    },
    uapi, //
};

/// Most bytes from one attribute to the next.
const MAX_STRIDE: usize = 4096;

/// `struct drm_rsvm_svm_attr`.
const ATTR_SIZE: usize = size_of::<uapi::drm_rsvm_svm_attr>();
const _: () = assert!(ATTR_SIZE == 16);

/// One attribute and its value.
enum Attribute {
    Preferred(Location),
    Atomic(AtomicMode),
    /// In pages.
    Granule(usize),
    NoMigrate(bool),
}

impl Attribute {
    /// # Errors
    ///
    /// `EINVAL` for an unknown type or a value that it cannot have.
    fn new(kind: u32, value: u64) -> Result<Self> {
        // CAST: Constants.
        const ANY: u64 = uapi::DRM_RSVM_SVM_LOCATION_ANY as u64;
        const SYSTEM: u64 = uapi::DRM_RSVM_SVM_LOCATION_SYSTEM as u64;
        const VRAM: u64 = uapi::DRM_RSVM_SVM_LOCATION_VRAM as u64;
        const AUTO: u64 = uapi::DRM_RSVM_SVM_ATOMIC_AUTO as u64;
        const EXCLUSIVE: u64 = uapi::DRM_RSVM_SVM_ATOMIC_SYSTEM as u64;
        const IN_VRAM: u64 = uapi::DRM_RSVM_SVM_ATOMIC_VRAM as u64;
        const DEVICE: u64 = uapi::DRM_RSVM_SVM_ATOMIC_DEVICE as u64;
        Ok(match (kind, value) {
            (uapi::DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION, ANY) => Self::Preferred(Location::Any),
            (uapi::DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION, SYSTEM) => {
                Self::Preferred(Location::System)
            }
            (uapi::DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION, VRAM) => Self::Preferred(Location::Vram),
            (uapi::DRM_RSVM_SVM_ATTR_ATOMIC_MODE, mode) => Self::Atomic(match mode {
                AUTO => AtomicMode::Auto,
                EXCLUSIVE => AtomicMode::System,
                IN_VRAM => AtomicMode::Vram,
                DEVICE => AtomicMode::Device,
                _ => return Err(EINVAL),
            }),
            (uapi::DRM_RSVM_SVM_ATTR_GRANULARITY, bytes)
                if bytes.is_power_of_two()
                    && (PAGE_SIZE as u64..=SZ_2M as u64).contains(&bytes) =>
            {
                // CAST: At most 512.
                Self::Granule(bytes as usize / PAGE_SIZE)
            }
            (uapi::DRM_RSVM_SVM_ATTR_NO_MIGRATE, 0) => Self::NoMigrate(false),
            (uapi::DRM_RSVM_SVM_ATTR_NO_MIGRATE, 1) => Self::NoMigrate(true),
            _ => return Err(EINVAL),
        })
    }

    fn apply(&self, attributes: &mut Attributes) {
        match *self {
            Self::Preferred(location) => attributes.preferred = location,
            Self::Atomic(mode) => attributes.atomic = mode,
            Self::Granule(pages) => attributes.granule = pages,
            Self::NoMigrate(no) => attributes.no_migrate = no,
        }
    }

    /// The value that `attributes` have for the type `kind`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an unknown type.
    fn value(kind: u32, attributes: &Attributes) -> Result<u64> {
        Ok(match kind {
            uapi::DRM_RSVM_SVM_ATTR_PREFERRED_LOCATION => u64::from(match attributes.preferred {
                Location::Any => uapi::DRM_RSVM_SVM_LOCATION_ANY,
                Location::System => uapi::DRM_RSVM_SVM_LOCATION_SYSTEM,
                Location::Vram => uapi::DRM_RSVM_SVM_LOCATION_VRAM,
            }),
            uapi::DRM_RSVM_SVM_ATTR_ATOMIC_MODE => u64::from(match attributes.atomic {
                AtomicMode::Auto => uapi::DRM_RSVM_SVM_ATOMIC_AUTO,
                AtomicMode::System => uapi::DRM_RSVM_SVM_ATOMIC_SYSTEM,
                AtomicMode::Vram => uapi::DRM_RSVM_SVM_ATOMIC_VRAM,
                AtomicMode::Device => uapi::DRM_RSVM_SVM_ATOMIC_DEVICE,
            }),
            uapi::DRM_RSVM_SVM_ATTR_GRANULARITY => (attributes.granule * PAGE_SIZE) as u64,
            uapi::DRM_RSVM_SVM_ATTR_NO_MIGRATE => u64::from(attributes.no_migrate),
            _ => return Err(EINVAL),
        })
    }
}

/// An array of attributes in user memory.
struct Array {
    base: UserPtr,
    count: usize,
    stride: usize,
}

impl Array {
    /// # Errors
    ///
    /// `EINVAL` if the numbers make no sense.
    fn new(base: u64, count: u32, stride: u32) -> Result<Self> {
        // CAST: Widening.
        let (count, stride) = (count as usize, stride as usize);
        let fits = (ATTR_SIZE..=MAX_STRIDE).contains(&stride) && stride % 8 == 0;
        if count > uapi::DRM_RSVM_SVM_MAX_ATTRS as usize || (count != 0 && !fits) {
            return Err(EINVAL);
        }
        Ok(Self {
            // CAST: Both have 64 bits.
            base: UserPtr::from_addr(base as usize),
            count,
            stride,
        })
    }

    fn reader(&self) -> UserSliceReader {
        UserSlice::new(self.base, self.count * self.stride).reader()
    }

    /// Calls `f` with number, type and value of each.
    ///
    /// # Errors
    ///
    /// `EINVAL` for padding that is not zero, `EFAULT`, those of `f`.
    fn for_each(&self, mut f: impl FnMut(usize, u32, u64) -> Result) -> Result {
        let mut reader = self.reader();
        for i in 0..self.count {
            let kind = reader.read::<u32>()?;
            zero(&[reader.read::<u32>()?])?;
            let value = reader.read::<u64>()?;
            for _ in 0..(self.stride - ATTR_SIZE) / size_of::<u64>() {
                if reader.read::<u64>()? != 0 {
                    return Err(EINVAL);
                }
            }
            f(i, kind, value)?;
        }
        Ok(())
    }

    /// Writes the value of attribute `i`.
    fn set(&self, i: usize, value: u64) -> Result {
        let at = self.base.wrapping_byte_add(i * self.stride + 8);
        UserSlice::new(at, size_of::<u64>()).writer().write(&value)
    }
}

impl File {
    /// The mirror `id`, if it is the caller's.
    fn own_vm(&self, id: u32) -> Result<Arc<Vm>> {
        let vm = self.ids.lock().vms.get(id)?;
        vm.check_owner()?;
        Ok(vm)
    }

    pub(crate) fn svm_set_attr(
        device: &Device,
        args: &mut uapi::drm_rsvm_svm_set_attr,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags])?;
        let range = page_range(args.addr, args.len)?;
        let array = Array::new(args.attrs, args.count, args.stride)?;
        if array.count == 0 {
            return Err(EINVAL);
        }
        let vm = file.inner().own_vm(args.vm_id)?;
        check_bound(&device.gpu)?;
        vm.check_range(range)?;
        let mut attributes = KVec::with_capacity(array.count, GFP_KERNEL)?;
        array.for_each(|_, kind, value| {
            Ok(attributes.push(Attribute::new(kind, value)?, GFP_KERNEL)?)
        })?;
        let first = range.start().as_usize() / PAGE_SIZE;
        let change = |region: &mut Attributes| {
            for attribute in &attributes {
                attribute.apply(region);
            }
        };
        let policy = &vm.space().policy;
        policy.lock().set(first..first + range.pages(), change)?;
        if attributes
            .iter()
            .any(|it| matches!(it, Attribute::Atomic(_)))
        {
            vm.space().atomic_mode_changed(range);
        }
        Ok(0)
    }

    pub(crate) fn svm_get_attr(
        device: &Device,
        args: &mut uapi::drm_rsvm_svm_get_attr,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags])?;
        let range = page_range(args.addr, args.len)?;
        let array = Array::new(args.attrs, args.count, args.stride)?;
        if args.len > uapi::DRM_RSVM_SVM_MAX_GET_LEN || (array.count == 0 && args.stride != 0) {
            return Err(EINVAL);
        }
        let vm = file.inner().own_vm(args.vm_id)?;
        device.gpu.check()?;
        vm.check_mapped(range)?;

        let first = range.start().as_usize() / PAGE_SIZE;
        let (attributes, same) = {
            let policy = vm.space().policy.lock();
            (policy.get(first).0, policy.same(first, range.pages()))
        };
        let mut values = KVec::with_capacity(array.count, GFP_KERNEL)?;
        array.for_each(|_, kind, _| {
            Ok(values.push(Attribute::value(kind, &attributes)?, GFP_KERNEL)?)
        })?;
        let report = vm.space().look(range)?;
        for (i, value) in values.iter().enumerate() {
            array.set(i, *value)?;
        }
        if args.pages != 0 {
            // CAST: Both have 64 bits.
            let at = UserPtr::from_addr(args.pages as usize);
            UserSlice::new(at, report.pages.len())
                .writer()
                .write_slice(&report.pages)?;
        }
        args.same_len = (same * PAGE_SIZE) as u64;
        args.system = report.system;
        args.vram = report.vram;
        args.mapped_read = report.mapped_read;
        args.mapped_write = report.mapped_write;
        Ok(0)
    }

    pub(crate) fn svm_migrate(
        device: &Device,
        args: &mut uapi::drm_rsvm_svm_migrate,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags])?;
        let location = match args.location {
            uapi::DRM_RSVM_SVM_LOCATION_SYSTEM => Location::System,
            uapi::DRM_RSVM_SVM_LOCATION_VRAM => Location::Vram,
            _ => return Err(EINVAL),
        };
        // CAST: Widening.
        let count = args.num_ranges as usize;
        if count == 0 || count > uapi::DRM_RSVM_SVM_MAX_RANGES as usize {
            return Err(EINVAL);
        }
        let fence = match fence_address(args.fence_addr)? {
            0 => None,
            addr => Some((VirtAddr::try_from(addr)?, args.fence_value)),
        };
        let vm = file.inner().own_vm(args.vm_id)?;
        device.gpu.check()?;
        // CAST: Both have 64 bits.
        let base = UserPtr::from_addr(args.ranges as usize);
        let size = size_of::<uapi::drm_rsvm_svm_range>();
        let mut reader = UserSlice::new(base, count * size).reader();
        let mut ranges = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            let addr = reader.read::<u64>()?;
            let range = page_range(addr, reader.read::<u64>()?)?;
            vm.check_mapped(range)?;
            ranges.push(range, GFP_KERNEL_ACCOUNT)?;
        }
        let request = Request::new(Task::Move(location), ranges, fence);
        vm.space().request(request)?;
        Ok(0)
    }
}
