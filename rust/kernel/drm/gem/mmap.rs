// SPDX-License-Identifier: GPL-2.0

//! GEM objects in user space, page by page as they are touched.
//!
//! An object lies in system memory or in memory of the device, and may move: the driver takes all
//! entries away with [`UserRange::unmap`], and the next access asks again. What keeps a fault
//! from entering an old place is a lock of the driver that both hold.
//!
//! C header: [`include/drm/drm_gem.h`](srctree/include/drm/drm_gem.h)

use super::{
    BaseObject,
    DriverAllocImpl,
    DriverObject,
    IntoGEMObject,
    Object, //
};
use crate::{
    bindings,
    drm::{
        self,
        device::DeviceContext, //
    },
    mm::{
        virt::{
            flags,
            VmaMixedMap,
            VmaNew, //
        },
        Mm, //
    },
    page::{
        Page,
        PAGE_SHIFT, //
    },
    pci,
    prelude::*,
    sync::aref::ARef, //
};
use core::marker::PhantomData;

/// Objects that can be mapped into user space.
pub trait Mappable: DriverObject {
    /// A page was touched for which there is no entry.
    ///
    /// May sleep. The lock of the address space, or that of the mapping, is held for reading.
    fn fault(obj: &DriverAllocImpl<Self>, fault: Fault<'_>) -> Outcome;
}

/// How objects of a driver are mapped, for [`DriverObject::MMAP`].
pub struct Operations<T>(
    pub(super) &'static bindings::vm_operations_struct,
    PhantomData<fn(T)>,
);

impl<T: Mappable> Operations<T> {
    const VM_OPS: bindings::vm_operations_struct = {
        let mut ops: bindings::vm_operations_struct = pin_init::zeroed();
        ops.open = Some(bindings::drm_gem_vm_open);
        ops.close = Some(bindings::drm_gem_vm_close);
        ops.fault = Some(fault_callback::<T>);
        ops
    };

    /// By calling [`Mappable::fault`].
    pub const NEW: Self = Self(&Self::VM_OPS, PhantomData);
}

/// What became of a fault.
pub struct Outcome(bindings::vm_fault_t);

impl Outcome {
    /// The thread gets `SIGBUS`.
    pub const SIGBUS: Self = Self(bindings::vm_fault_reason_VM_FAULT_SIGBUS);
    /// There is no memory: the access is repeated after the OOM killer had its say.
    pub const OOM: Self = Self(bindings::vm_fault_reason_VM_FAULT_OOM);
    /// The access is repeated, and faults again if there is no entry. That of a thread that was
    /// killed is not.
    pub const AGAIN: Self = Self(bindings::vm_fault_reason_VM_FAULT_NOPAGE);
}

/// An access to a page of an object for which there is no entry.
///
/// # Invariants
///
/// `vmf` is what core passed to a fault handler that has yet to return, in a mapping that
/// `mmap_callback` set up.
pub struct Fault<'a> {
    vmf: &'a mut bindings::vm_fault,
}

impl Fault<'_> {
    fn vma(&self) -> *mut bindings::vm_area_struct {
        self.vmf.__bindgen_anon_1.vma
    }

    /// The memory of the process that has the mapping.
    pub fn mm(&self) -> &Mm {
        // SAFETY: By the type invariants the mapping is valid, and so is what it belongs to.
        unsafe { Mm::from_raw((*self.vma()).vm_mm) }
    }

    /// Which page of `obj`, whose fault this is, was touched.
    pub fn page_of<T: DriverObject, Ctx: DeviceContext>(&self, obj: &Object<T, Ctx>) -> usize {
        // SAFETY: The object is valid, and its mmap offset does not change while it is mapped.
        let start = unsafe { bindings::drm_vma_node_start(&raw mut (*obj.as_raw()).vma_node) };
        self.vmf.__bindgen_anon_1.pgoff - start
    }

    /// Enters a page of system memory, which stays at least as long as the entry.
    pub fn insert_page(self, page: &Page) -> Outcome {
        // SAFETY: By the type invariants the mapping is valid, locked for reading, and has
        // VM_MIXEDMAP.
        let vma = unsafe { VmaMixedMap::from_raw(self.vma()) };
        match vma.vm_insert_page(self.vmf.__bindgen_anon_1.address, page) {
            // Another thread was faster.
            Ok(()) | Err(EBUSY) => Outcome::AGAIN,
            Err(ENOMEM) => Outcome::OOM,
            Err(_) => Outcome::SIGBUS,
        }
    }

    /// Enters the page of a BAR that has its byte `offset`, write-combined.
    ///
    /// The driver takes it away again before the BAR is somebody else's.
    pub fn insert_bar_page(self, bar: &pci::BarPages, offset: u64) -> Outcome {
        let Some(phys) = bar.phys(offset) else {
            return Outcome::SIGBUS;
        };
        let vma = self.vma();
        // SAFETY: By the type invariants the mapping is valid and locked for reading, and has
        // VM_MIXEDMAP, which may have entries without a `struct page`. A BAR has none.
        Outcome(unsafe {
            bindings::vmf_insert_pfn_prot(
                vma,
                self.vmf.__bindgen_anon_1.address,
                // CAST: Page frame numbers fit.
                (phys >> PAGE_SHIFT) as usize,
                bindings::pgprot_writecombine((*vma).vm_page_prot),
            )
        })
    }
}

/// # Safety
///
/// Called by core as `fault` of a mapping that `mmap_callback` set up.
unsafe extern "C" fn fault_callback<T: Mappable>(
    vmf: *mut bindings::vm_fault,
) -> bindings::vm_fault_t {
    // SAFETY: Core passes a valid `vm_fault` that nobody else has.
    let vmf = unsafe { &mut *vmf };
    // SAFETY: The mapping is valid, and `drm_gem_mmap_obj()` stored its object there, with a
    // reference that `drm_gem_vm_close()` drops.
    let obj = unsafe { (*vmf.__bindgen_anon_1.vma).vm_private_data };
    // SAFETY: It is an object of the driver with this `vm_ops`, and all have this type.
    let obj: &DriverAllocImpl<T> = unsafe { IntoGEMObject::from_raw(obj.cast()) };
    // INVARIANT: As above.
    T::fault(obj, Fault { vmf }).0
}

/// Sets a new mapping up; only called for objects with [`Operations`].
///
/// # Safety
///
/// Called by the DRM core as `drm_gem_object_funcs.mmap`.
pub(super) unsafe extern "C" fn mmap_callback(
    _obj: *mut bindings::drm_gem_object,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    // SAFETY: `vma` is being set up.
    let vma = unsafe { VmaNew::from_raw(vma) };
    // A private mapping would show a copy of what was there once.
    if vma.flags() & (flags::SHARED | flags::MAYWRITE) == flags::MAYWRITE {
        return EINVAL.to_errno();
    }
    vma.set_io();
    vma.set_dontexpand();
    vma.set_dontdump();
    vma.set_mixedmap();
    0
}

/// Where user space can have an object mapped.
///
/// It may outlive the object; then it is where others can have theirs.
pub struct UserRange<D: drm::Driver> {
    dev: ARef<drm::Device<D>>,
    start: u64,
    len: usize,
}

impl<D: drm::Driver> UserRange<D> {
    /// The place of `obj`.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there is none left, `ENOMEM`.
    pub fn new<T: DriverObject<Driver = D>>(obj: &Object<T>) -> Result<Self>
    where
        D: drm::Driver<Object = Object<T>>,
    {
        Ok(Self {
            dev: obj.dev().into(),
            start: obj.create_mmap_offset()?,
            len: obj.size(),
        })
    }

    /// The offset in the device's file at which user space maps the object.
    pub fn offset(&self) -> u64 {
        self.start
    }

    /// Takes all entries of user space away. Sleeps; takes locks that faults do not hold.
    pub fn unmap(&self) {
        // SAFETY: The device is valid, and the inode of its files lives as long.
        unsafe {
            bindings::unmap_mapping_range(
                (*(*self.dev.as_raw()).anon_inode).i_mapping,
                // CAST: Offsets of files are positive numbers of 63 bits.
                self.start as bindings::loff_t,
                self.len as bindings::loff_t,
                1,
            )
        };
    }
}
