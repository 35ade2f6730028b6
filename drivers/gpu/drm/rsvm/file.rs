// SPDX-License-Identifier: GPL-2.0

//! An open file of the render node, and its ioctls.
//!
//! All ioctls are declared `unguarded`: each may sleep on user memory or on an mmap_lock, and in a
//! guarded one that would hold up the unplug of every DRM device.
//!
//! Lock order: `Vm::open` > `File::ids`.

mod svm;

use crate::{
    bo::{
        self,
        Bo, //
    },
    driver::RsvmDriver,
    fence::{
        self,
        Condition,
        Outcome, //
    },
    gpu::Gpu,
    queue::Queue,
    stats::Stats,
    vm::Vm, //
};
use kernel::{
    drm::{
        self,
        gem::BaseObject,
        Ioctl, //
    },
    fs::file::{
        flags,
        FileDescriptorReservation, //
    },
    mm::addr::{
        PageRange,
        VirtAddr, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    rbtree::RBTree,
    sync::{
        Arc,
        Mutex,
        WaitMode, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    uapi, //
};

type Device = drm::Device<RsvmDriver, Ioctl>;
type DrmFile = drm::File<File>;

/// How long EXEC sleeps on a full ring before it looks again: room that comes without a fence
/// wakes nobody.
const RING_RECHECK: Delta = Delta::from_millis(2);

/// Things of a file by number. Numbers are not used again before all others have been.
struct Ids<T> {
    last: u32,
    things: RBTree<u32, T>,
}

impl<T: Clone> Ids<T> {
    fn new() -> Self {
        Self {
            last: 0,
            things: RBTree::new(),
        }
    }

    /// A free number, not zero.
    fn reserve(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && self.things.get(&self.last).is_none() {
                return self.last;
            }
        }
    }

    fn insert(&mut self, id: u32, thing: T) -> Result {
        self.things.try_create_and_insert(id, thing, GFP_KERNEL)?;
        Ok(())
    }

    fn get(&self, id: u32) -> Result<T> {
        self.things.get(&id).cloned().ok_or(ENOENT)
    }

    fn take(&mut self, id: u32) -> Result<T> {
        self.things.remove(&id).ok_or(ENOENT)
    }

    /// Takes out any one for which `wanted` holds.
    fn take_any(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        let id = *self.things.iter().find(|(_, thing)| wanted(thing))?.0;
        self.things.remove(&id)
    }
}

struct Tables {
    vms: Ids<Arc<Vm>>,
    queues: Ids<(Arc<Vm>, Arc<Queue>)>,
}

/// What belongs to one open file.
#[pin_data(PinnedDrop)]
pub(crate) struct File {
    gpu: Arc<Gpu>,
    /// Of the whole device.
    device_stats: Arc<Stats>,
    stats: Arc<Stats>,
    #[pin]
    ids: Mutex<Tables>,
}

impl drm::file::DriverFile for File {
    type Driver = RsvmDriver;

    fn open(device: &drm::Device<RsvmDriver>) -> Result<Pin<KBox<Self>>> {
        let stats = Arc::pin_init(Stats::new(), GFP_KERNEL)?;
        KBox::pin_init(
            pin_init!(Self {
                gpu: device.gpu.clone(),
                device_stats: device.stats.clone(),
                stats,
                ids <- new_mutex!(
                    Tables {
                        vms: Ids::new(),
                        queues: Ids::new(),
                    },
                    "File::ids"
                ),
            }),
            GFP_KERNEL,
        )
    }

    fn show_fdinfo(this: Pin<&Self>, printer: &drm::Printer) {
        this.stats.show(printer);
    }
}

/// Flags and padding have no meaning yet, and must not be used before they have one.
fn zero(fields: &[u32]) -> Result {
    if fields.iter().all(|field| *field == 0) {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// An address of a 64-bit value that a device or the CPU can write as one.
fn fence_address(addr: u64) -> Result<u64> {
    if addr % 8 == 0 {
        Ok(addr)
    } else {
        Err(EINVAL)
    }
}

/// Whole pages, not none.
fn page_range(addr: u64, len: u64) -> Result<PageRange> {
    let end = addr.checked_add(len).ok_or(EINVAL)?;
    PageRange::new(VirtAddr::try_from(addr)?, VirtAddr::try_from(end)?)
}

/// A wedged device still lets go of what it has.
fn check_bound(gpu: &Gpu) -> Result {
    match gpu.check() {
        Err(err) if err == ENODEV => Err(err),
        _ => Ok(()),
    }
}

impl File {
    pub(crate) fn query(
        device: &Device,
        args: &mut uapi::drm_rsvm_query,
        _file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.pad])?;
        let gpu = &device.gpu;
        let value = match args.param {
            uapi::DRM_RSVM_PARAM_VA_BITS => u64::from(gpu.va_bits()),
            uapi::DRM_RSVM_PARAM_MMU_VERSION => u64::from(gpu.mmu_version()),
            uapi::DRM_RSVM_PARAM_PAGE_SIZES => Gpu::page_sizes(),
            uapi::DRM_RSVM_PARAM_ATOMICS => {
                u64::from(uapi::DRM_RSVM_ATOMICS_SYSTEM | uapi::DRM_RSVM_ATOMICS_VRAM)
            }
            uapi::DRM_RSVM_PARAM_VRAM_TOTAL => gpu.vram_total(),
            uapi::DRM_RSVM_PARAM_VRAM_FREE => gpu.vram.bytes_free(),
            uapi::DRM_RSVM_PARAM_MAX_QUEUES => u64::from(Gpu::max_queues()),
            uapi::DRM_RSVM_PARAM_MAX_PUSH_DWORDS => Queue::MAX_PUSH_DWORDS as u64,
            uapi::DRM_RSVM_PARAM_COMPUTE_CLASS => u64::from(Gpu::compute_class()),
            _ => return Err(EINVAL),
        };
        gpu.check()?;
        args.value = value;
        Ok(0)
    }

    pub(crate) fn vm_create(
        device: &Device,
        args: &mut uapi::drm_rsvm_vm_create,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags])?;
        device.gpu.check()?;
        let this = file.inner();
        let task = current!();
        let vm = Vm::new(device, &device.gpu, task.mm().ok_or(EINVAL)?)?;
        let result = this.keep_vm(&vm);
        match result {
            Ok(id) => args.vm_id = id,
            Err(_) => this.detach_vm(&vm),
        }
        result.map(|_| 0)
    }

    pub(crate) fn vm_destroy(
        device: &Device,
        args: &mut uapi::drm_rsvm_vm_destroy,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.pad])?;
        let this = file.inner();
        this.ids.lock().vms.get(args.vm_id)?.check_owner()?;
        check_bound(&device.gpu)?;
        let vm = this.ids.lock().vms.take(args.vm_id)?;
        this.destroy_vm(&vm);
        Ok(0)
    }

    pub(crate) fn queue_create(
        device: &Device,
        args: &mut uapi::drm_rsvm_queue_create,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags, args.pad])?;
        let this = file.inner();
        let (vm, id) = {
            let mut ids = this.ids.lock();
            (ids.vms.get(args.vm_id)?, ids.queues.reserve())
        };
        vm.check_owner()?;
        device.gpu.check()?;
        vm.create_queue(id, |queue| {
            this.ids
                .lock()
                .queues
                .insert(id, (vm.clone(), queue.clone()))
        })?;
        args.queue_id = id;
        Ok(0)
    }

    pub(crate) fn queue_destroy(
        device: &Device,
        args: &mut uapi::drm_rsvm_queue_destroy,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.pad])?;
        let this = file.inner();
        let (vm, _) = this.ids.lock().queues.get(args.queue_id)?;
        vm.check_owner()?;
        check_bound(&device.gpu)?;
        let (_, queue) = this.ids.lock().queues.take(args.queue_id)?;
        queue.destroy();
        Ok(0)
    }

    pub(crate) fn exec(
        device: &Device,
        args: &mut uapi::drm_rsvm_exec,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags, args.pad])?;
        let dwords = args.num_dwords as usize;
        if dwords > Queue::MAX_PUSH_DWORDS {
            return Err(EINVAL);
        }
        let fence = match fence_address(args.fence_addr)? {
            0 => None,
            addr => Some((addr, args.fence_value)),
        };
        let (vm, queue) = file.inner().ids.lock().queues.get(args.queue_id)?;
        vm.check_owner()?;
        device.gpu.check()?;

        let mut methods = KVVec::from_elem(0u32, dwords, GFP_KERNEL_ACCOUNT)?;
        // CAST: Both have 64 bits.
        UserSlice::new(
            UserPtr::from_addr(args.push as usize),
            dwords * size_of::<u32>(),
        )
        .reader()
        .read_slice(methods.as_mut_bytes())?;

        let wakeup = device.gpu.wakeup();
        loop {
            let seen = wakeup.current();
            match queue.push(&methods, fence) {
                Err(err) if err == EAGAIN => {
                    wakeup.wait(seen, WaitMode::Killable, RING_RECHECK)?;
                    // A device that was pulled out makes no room.
                    device.gpu.check_presence();
                }
                result => return result.map(|()| 0),
            }
        }
    }

    pub(crate) fn wait_user_fence(
        device: &Device,
        args: &mut uapi::drm_rsvm_wait_user_fence,
        file: &DrmFile,
    ) -> Result<u32> {
        let addr = fence_address(args.addr)?;
        let condition = Condition::new(args.op, args.value, args.mask)?;
        let deadline = Instant::<Monotonic>::from_nanos(args.deadline_ns).ok_or(EINVAL)?;
        let (vm, queue) = file.inner().ids.lock().queues.get(args.queue_id)?;
        vm.check_owner()?;

        // CAST: Both have 64 bits.
        let addr = UserPtr::from_addr(addr as usize);
        match fence::wait(&device.gpu, &queue, addr, condition, deadline)? {
            Outcome::Reached => Ok(0),
            Outcome::Killed(info) => {
                args.fault_addr = info.addr;
                args.fault_reason = info.reason as u32;
                args.fault_access = crate::events::access_code(info.access, info.execute);
                Err(EIO)
            }
        }
    }

    pub(crate) fn event_open(
        device: &Device,
        args: &mut uapi::drm_rsvm_event_open,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags])?;
        let vm = file.inner().ids.lock().vms.get(args.vm_id)?;
        vm.check_owner()?;
        device.gpu.check()?;
        let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
        let events = vm.events().open(args.mask)?;
        // CAST: A descriptor fits in an `int`.
        args.fd = fd.reserved_fd() as i32;
        fd.fd_install(events);
        Ok(0)
    }

    pub(crate) fn gem_create(
        device: &Device,
        args: &mut uapi::drm_rsvm_gem_create,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags])?;
        device.gpu.check()?;
        let object = Bo::create(device, &device.gpu, file.inner().stats.clone(), args.size)?;
        args.handle = object.create_handle(file)?;
        Ok(0)
    }

    pub(crate) fn gem_mmap_offset(
        device: &Device,
        args: &mut uapi::drm_rsvm_gem_mmap_offset,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.pad])?;
        let object = bo::lookup(file, args.handle)?;
        check_bound(&device.gpu)?;
        args.offset = object.backing()?.mmap_offset().ok_or(ENOENT)?;
        Ok(0)
    }

    pub(crate) fn vm_bind(
        device: &Device,
        args: &mut uapi::drm_rsvm_vm_bind,
        file: &DrmFile,
    ) -> Result<u32> {
        let range = page_range(args.addr, args.range)?;
        if args.offset % PAGE_SIZE as u64 != 0 {
            return Err(EINVAL);
        }
        let is_map = match args.op {
            uapi::DRM_RSVM_BIND_OP_MAP => true,
            uapi::DRM_RSVM_BIND_OP_UNMAP => false,
            _ => return Err(EINVAL),
        };
        let unknown = args.flags & !uapi::DRM_RSVM_BIND_READ_ONLY;
        if unknown != 0 || !is_map && (args.handle, args.flags, args.offset) != (0, 0, 0) {
            return Err(EINVAL);
        }
        let vm = file.inner().ids.lock().vms.get(args.vm_id)?;
        vm.check_owner()?;
        if !is_map {
            check_bound(&device.gpu)?;
            return vm.unbind(range).map(|()| 0);
        }
        let object = bo::lookup(file, args.handle)?;
        device.gpu.check()?;
        let write = args.flags & uapi::DRM_RSVM_BIND_READ_ONLY == 0;
        vm.bind(range, &object, args.offset, write)?;
        Ok(0)
    }

    /// Gives `vm` a number, and counts it.
    fn keep_vm(&self, vm: &Arc<Vm>) -> Result<u32> {
        self.stats.add(vm)?;
        self.device_stats.add(vm)?;
        let vms = &mut self.ids.lock().vms;
        let id = vms.reserve();
        vms.insert(id, vm.clone())?;
        Ok(id)
    }

    /// Destroys the queues of `vm`, which is in no table any more, and then itself.
    fn destroy_vm(&self, vm: &Arc<Vm>) {
        vm.close();
        loop {
            let queue = self
                .ids
                .lock()
                .queues
                .take_any(|(owner, _)| Arc::ptr_eq(owner, vm));
            let Some((_, queue)) = queue else { break };
            queue.destroy();
        }
        self.detach_vm(vm);
    }

    fn detach_vm(&self, vm: &Arc<Vm>) {
        vm.detach();
        self.stats.retire(vm);
        self.device_stats.retire(vm);
    }
}

#[pinned_drop]
impl PinnedDrop for File {
    fn drop(self: Pin<&mut Self>) {
        loop {
            let vm = self.ids.lock().vms.take_any(|_| true);
            let Some(vm) = vm else { break };
            self.destroy_vm(&vm);
        }
    }
}
