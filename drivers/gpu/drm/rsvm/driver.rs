// SPDX-License-Identifier: GPL-2.0

//! Probe and unbind, and what the DRM core is told.

use crate::{
    bo,
    debugfs,
    file::File,
    gpu::{
        Gpu,
        Regs, //
    },
    irq,
    regs::{
        BAR0_SIZE,
        NV_RUNLIST_DOORBELL_EN, //
    },
    stats::Stats, //
};
use kernel::{
    debugfs::Scope,
    device::{
        Core,
        DeviceContext, //
    },
    dma::{
        Device as _,
        DmaMask, //
    },
    drm::{
        self,
        ioctl, //
    },
    io::Io,
    pci::{
        self,
        BusMaster,
        ThreadedHandlers, //
    },
    prelude::*,
    sync::Arc, //
};

/// Width of a bus address: what USERD and GP ring pointers have room for.
const DMA_BITS: u32 = 40;

pub(crate) struct RsvmDriver;

/// What a DRM device has, also after the driver was unbound.
pub(crate) struct DrmData {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) stats: Arc<Stats>,
}

/// What a bound device has. Dropped in the order of fields, after unbind.
pub(crate) struct Data<'bound> {
    _registration: drm::Registration<'bound, RsvmDriver>,
    _debugfs: Pin<KBox<Scope<debugfs::Data>>>,
    _interrupts: ThreadedHandlers<'bound, irq::Subtree>,
    gpu: Arc<Gpu>,
    stats: Arc<Stats>,
}

kernel::pci_device_table!(
    PCI_TABLE,
    <RsvmDriver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::REDHAT_QUMRANET, 0x10f0),
        ()
    )]
);

impl Gpu {
    /// Sets the device going. Interrupt handlers are registered.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if the device does not obey.
    fn start(&self) -> Result {
        self.faults.enable(&self.regs)?;
        self.enable_interrupts()?;
        let doorbells = NV_RUNLIST_DOORBELL_EN::zeroed().with_enable(true);
        self.regs.with(|bar| bar.write_reg(doorbells))?;
        self.tlb
            .start(&self.regs, &self.state, &mut self.kernel_runlist.lock())?;
        self.start_copies()
    }
}

impl pci::Driver for RsvmDriver {
    type IdInfo = ();
    type Data<'bound> = Data<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pdev.enable_device_mem()?;
        // SAFETY: Nobody else has the device during probe, and nothing is allocated yet.
        unsafe { pdev.dma_set_mask_and_coherent(DmaMask::new::<DMA_BITS>())? };
        let master = BusMaster::enable(pdev)?;
        let bar = pdev.iomap_region_sized::<BAR0_SIZE>(0, c"rsvm/bar0")?;
        let gpu = Gpu::new(pdev, Regs::new(bar)?, master)?;
        let interrupts = irq::register(pdev, &gpu)?;
        // Whatever fails from here on leaves nothing running.
        let running = Running(Some(gpu.clone()));
        gpu.start()?;
        gpu.open_memory()?;

        let stats = Arc::pin_init(Stats::new(), GFP_KERNEL)?;
        let debugfs = debugfs::new(pdev.as_ref(), &gpu, &stats)?;
        let data = DrmData {
            gpu: gpu.clone(),
            stats: stats.clone(),
        };
        let drm = drm::UnregisteredDevice::<Self>::new(pdev, Ok(data))?;
        // SAFETY: The registration becomes part of the driver's data, which the driver core drops.
        let registration = unsafe { drm::Registration::new(pdev.as_ref(), drm, (), 0)? };
        running.keep();
        Ok(Data {
            _registration: registration,
            _debugfs: debugfs,
            _interrupts: interrupts,
            gpu,
            stats,
        })
    }

    fn unbind<'bound>(_pdev: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        this.gpu.leave();
        this.stats.end_events();
        this.gpu.teardown();
    }
}

/// A device that was started, until somebody takes over.
struct Running(Option<Arc<Gpu>>);

impl Running {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(gpu) = &self.0 {
            gpu.teardown();
        }
    }
}

const INFO: drm::DriverInfo = drm::DriverInfo {
    major: 1,
    minor: 0,
    patchlevel: 0,
    name: c"rsvm",
    desc: c"Shared virtual memory GPU",
};

#[vtable]
impl drm::Driver for RsvmDriver {
    type Data = DrmData;
    type RegistrationData<'a> = ();
    type File = File;
    type Object = bo::Object;
    type ParentDevice<Ctx: DeviceContext> = pci::Device<Ctx>;

    const INFO: drm::DriverInfo = INFO;
    const FEAT_RENDER: bool = true;

    kernel::declare_drm_ioctls! {
        (RSVM_QUERY, drm_rsvm_query, ioctl::RENDER_ALLOW, unguarded File::query),
        (RSVM_VM_CREATE, drm_rsvm_vm_create, ioctl::RENDER_ALLOW, unguarded File::vm_create),
        (RSVM_VM_DESTROY, drm_rsvm_vm_destroy, ioctl::RENDER_ALLOW, unguarded File::vm_destroy),
        (
            RSVM_QUEUE_CREATE,
            drm_rsvm_queue_create,
            ioctl::RENDER_ALLOW,
            unguarded File::queue_create
        ),
        (
            RSVM_QUEUE_DESTROY,
            drm_rsvm_queue_destroy,
            ioctl::RENDER_ALLOW,
            unguarded File::queue_destroy
        ),
        (RSVM_EXEC, drm_rsvm_exec, ioctl::RENDER_ALLOW, unguarded File::exec),
        (
            RSVM_WAIT_USER_FENCE,
            drm_rsvm_wait_user_fence,
            ioctl::RENDER_ALLOW,
            unguarded File::wait_user_fence
        ),
        (RSVM_EVENT_OPEN, drm_rsvm_event_open, ioctl::RENDER_ALLOW, unguarded File::event_open),
        (RSVM_GEM_CREATE, drm_rsvm_gem_create, ioctl::RENDER_ALLOW, unguarded File::gem_create),
        (
            RSVM_GEM_MMAP_OFFSET,
            drm_rsvm_gem_mmap_offset,
            ioctl::RENDER_ALLOW,
            unguarded File::gem_mmap_offset
        ),
        (RSVM_VM_BIND, drm_rsvm_vm_bind, ioctl::RENDER_ALLOW, unguarded File::vm_bind),
        (
            RSVM_SVM_SET_ATTR,
            drm_rsvm_svm_set_attr,
            ioctl::RENDER_ALLOW,
            unguarded File::svm_set_attr
        ),
        (
            RSVM_SVM_GET_ATTR,
            drm_rsvm_svm_get_attr,
            ioctl::RENDER_ALLOW,
            unguarded File::svm_get_attr
        ),
        (
            RSVM_SVM_MIGRATE,
            drm_rsvm_svm_migrate,
            ioctl::RENDER_ALLOW,
            unguarded File::svm_migrate
        ),
    }
}
