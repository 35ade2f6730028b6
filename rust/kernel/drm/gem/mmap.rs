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
    device::{
        self,
        Bound, //
    },
    drm,
    mm::{
        virt::{
            flags,
            VmaMixedMap,
            VmaNew, //
        },
        Mm, //
    },
    page::Page,
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
/// `mmap_callback` set up, of an object whose device is or was registered.
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

    /// Which page of its object was touched.
    pub fn page(&self) -> usize {
        // SAFETY: By the type invariants the mapping is valid, and so is its object, whose place does
        // not change while it is mapped. Mappings begin there or behind it.
        let start = unsafe {
            let obj = (*self.vma())
                .vm_private_data
                .cast::<bindings::drm_gem_object>();
            bindings::drm_vma_node_start(&raw mut (*obj).vma_node)
        };
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

    /// Enters the page that has byte `offset` of BAR `index`, write-combined. It is a BAR of the PCI
    /// device that the object's DRM device belongs to, and has memory.
    ///
    /// Once the DRM device is registered no more, which is before the driver of the PCI device is
    /// unbound, nothing is entered, and what was is taken away.
    pub fn insert_bar_page(self, index: u32, offset: u64) -> Outcome {
        let vma = self.vma();
        let mut registered = 0;
        // SAFETY: By the type invariants the mapping is valid, and so are its object and the DRM
        // device of that.
        let parent = unsafe {
            let obj = (*vma).vm_private_data.cast::<bindings::drm_gem_object>();
            let dev = (*obj).dev;
            if !bindings::drm_dev_enter(dev, &mut registered) {
                return Outcome::SIGBUS;
            }
            device::Device::<Bound>::from_raw((*dev).dev)
        };
        let pdev: Result<&pci::Device<Bound>> = parent.try_into();
        let outcome = match pdev.and_then(|pdev| pdev.bar_frame(index, offset)) {
            // SAFETY: By the type invariants the mapping is valid and locked for reading, and has
            // VM_MIXEDMAP, which may have entries without a `struct page`. A BAR has none, and is
            // the device's: who unregisters that waits for us first and takes entries away then.
            Ok(frame) => Outcome(unsafe {
                bindings::vmf_insert_pfn_prot(
                    vma,
                    self.vmf.__bindgen_anon_1.address,
                    frame,
                    bindings::pgprot_writecombine((*vma).vm_page_prot),
                )
            }),
            Err(_) => Outcome::SIGBUS,
        };
        // SAFETY: Entered above.
        unsafe { bindings::drm_dev_exit(registered) };
        outcome
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

#[kunit_tests(rust_drm_gem_mmap)]
mod tests {
    use super::*;
    use crate::{
        device::{
            Core,
            DeviceContext, //
        },
        error::{
            from_err_ptr,
            to_result, //
        },
        page::PAGE_SIZE,
        pci::testing::{
            self,
            check, //
        },
        sync::atomic::{
            Atomic,
            Relaxed, //
        },
        uaccess::{
            UserPtr,
            UserSlice, //
        },
    };

    struct TestDriver;
    struct TestFile;

    #[vtable]
    impl drm::Driver for TestDriver {
        type Data = ();
        type RegistrationData<'a> = ();
        type Object = Object<TestObject>;
        type File = TestFile;
        type ParentDevice<Ctx: DeviceContext> = pci::Device<Ctx>;

        const INFO: drm::DriverInfo = drm::DriverInfo {
            major: 0,
            minor: 0,
            patchlevel: 0,
            name: c"rust_drm_gem_mmap",
            desc: c"KUnit tests",
        };
        const IOCTLS: &'static [drm::ioctl::DrmIoctlDescriptor] = &[];
    }

    impl drm::file::DriverFile for TestFile {
        type Driver = TestDriver;

        fn open(_device: &drm::Device<TestDriver>) -> Result<Pin<KBox<Self>>> {
            Ok(KBox::pin(Self, GFP_KERNEL)?)
        }
    }

    /// What an object consists of.
    enum Store {
        /// One page; there is nothing behind it.
        Page(Page),
        /// A BAR of the parent.
        Bar(u32),
    }

    #[pin_data]
    struct TestObject {
        store: Store,
        faults: Atomic<i32>,
    }

    impl DriverObject for TestObject {
        type Driver = TestDriver;
        type Args = Store;

        const MMAP: Option<Operations<Self>> = Some(Operations::NEW);

        fn new(
            _device: &drm::Device<TestDriver>,
            _size: usize,
            store: Store,
        ) -> impl PinInit<Self, Error> {
            try_pin_init!(Self {
                store,
                faults: Atomic::new(0),
            })
        }
    }

    impl Mappable for TestObject {
        fn fault(obj: &Object<Self>, fault: Fault<'_>) -> Outcome {
            if !fault.mm().is_current() {
                return Outcome::SIGBUS;
            }
            obj.faults.fetch_add(1, Relaxed);
            match (&obj.store, fault.page()) {
                (Store::Page(page), 0) => fault.insert_page(page),
                (Store::Page(_), _) => Outcome::SIGBUS,
                (Store::Bar(index), page) => {
                    fault.insert_bar_page(*index, (page * PAGE_SIZE) as u64)
                }
            }
        }
    }

    /// A mapping of an object of two pages.
    struct Mapped {
        obj: ARef<Object<TestObject>>,
        range: UserRange<TestDriver>,
        addr: usize,
    }

    impl Mapped {
        fn new(registration: &drm::Registration<'_, TestDriver>, store: Store) -> Result<Self> {
            Self::with_flags(registration, store, bindings::MAP_SHARED)
        }

        fn with_flags(
            registration: &drm::Registration<'_, TestDriver>,
            store: Store,
            flags: u32,
        ) -> Result<Self> {
            // SAFETY: Called in a test, of whose thread this becomes the memory.
            to_result(unsafe { bindings::kunit_attach_mm() })?;
            let device = registration.device();
            let obj = Object::<TestObject>::new(device, 2 * PAGE_SIZE, store)?;
            let range = UserRange::new(&obj)?;
            // SAFETY: The device is registered, and has a primary node. The file is put once the
            // mapping has its own reference.
            let addr = unsafe {
                let primary = (*device.as_raw()).primary;
                let file = from_err_ptr(bindings::mock_drm_getfile(primary, bindings::O_RDWR))?;
                let result =
                    obj.create_handle(drm::File::<TestFile>::from_raw((*file).private_data.cast()));
                let addr = bindings::vm_mmap(
                    file,
                    0,
                    2 * PAGE_SIZE,
                    (bindings::PROT_READ | bindings::PROT_WRITE) as usize,
                    flags as usize,
                    range.offset() as usize,
                );
                bindings::fput(file);
                result?;
                addr
            };
            // CAST: Errors are numbers of 32 bits.
            if (addr as isize) < 0 {
                return Err(Error::from_errno(addr as i32));
            }
            Ok(Self { obj, range, addr })
        }

        fn faults(&self) -> i32 {
            self.obj.faults.load(Relaxed)
        }

        /// What user space reads at the start of page `page`.
        fn read(&self, page: usize) -> Result<u32> {
            let addr = UserPtr::from_addr(self.addr + page * PAGE_SIZE);
            UserSlice::new(addr, size_of::<u32>()).reader().read()
        }

        fn write(&self, value: u32) -> Result {
            let addr = UserPtr::from_addr(self.addr);
            UserSlice::new(addr, size_of::<u32>())
                .writer()
                .write(&value)
        }
    }

    /// Registers a DRM device for `pdev`.
    fn register<'a>(pdev: &'a pci::Device<Core<'_>>) -> Result<drm::Registration<'a, TestDriver>> {
        let pdev: &pci::Device<Bound> = pdev;
        let drm = drm::UnregisteredDevice::<TestDriver>::new(pdev, Ok(()))?;
        // SAFETY: It is not forgotten by the callers.
        unsafe { drm::Registration::new(pdev.as_ref(), drm, (), 0) }
    }

    fn page() -> Result<Store> {
        Ok(Store::Page(Page::alloc_page(GFP_KERNEL | __GFP_ZERO)?))
    }

    struct Pages;

    impl testing::Test for Pages {
        type Kept = ();

        fn probe(pdev: &pci::Device<Core<'_>>) -> Result {
            let registration = register(pdev)?;
            let mapped = Mapped::new(&registration, page()?)?;
            mapped.write(42)?;
            check!(mapped.read(0) == Ok(42));
            check!(mapped.faults() == 1);
            // It is asked again when the entry was taken away, and once for what it refuses.
            mapped.range.unmap();
            check!(mapped.read(0) == Ok(42));
            check!(mapped.faults() == 2);
            check!(mapped.read(1) == Err(EFAULT));
            check!(mapped.faults() == 3);
            // A mapping of the second page alone knows which one it is.
            // SAFETY: Unmaps memory of the test's own process.
            to_result(unsafe { bindings::vm_munmap(mapped.addr, PAGE_SIZE) })?;
            check!(mapped.read(1) == Err(EFAULT));
            check!(mapped.faults() == 4);

            let private = Mapped::with_flags(&registration, page()?, bindings::MAP_PRIVATE);
            check!(private.err() == Some(EINVAL));
            Ok(())
        }
    }

    #[test]
    fn pages_of_system_memory() -> Result {
        testing::bind::<Pages>()
    }

    struct Bars;

    impl testing::Test for Bars {
        type Kept = ();

        fn probe(pdev: &pci::Device<Core<'_>>) -> Result {
            pdev.enable_device_mem()?;
            let registration = register(pdev)?;
            let memory = Mapped::new(&registration, Store::Bar(testing::MEMORY_BAR))?;
            let ports = Mapped::new(&registration, Store::Bar(testing::PORTS_BAR))?;
            let unused = Mapped::new(&registration, Store::Bar(0))?;
            // The first register tells what the controller can do.
            check!(memory.read(0)? != 0);
            check!(memory.faults() == 1);
            // The BAR has but one page.
            check!(memory.read(1) == Err(EFAULT));
            check!(ports.read(0) == Err(EFAULT));
            check!(unused.read(0) == Err(EFAULT));

            // What was entered goes with the registration, and is not entered any more.
            drop(registration);
            check!(memory.read(0) == Err(EFAULT));
            check!(memory.faults() == 3);
            Ok(())
        }
    }

    #[test]
    fn pages_of_bars() -> Result {
        testing::bind::<Bars>()
    }
}
