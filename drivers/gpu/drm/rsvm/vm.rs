// SPDX-License-Identifier: GPL-2.0

//! One mirrored address space as its users see it: the space, its events, and who may use it.

use crate::{
    bo::{
        self,
        Bindings,
        Change, //
    },
    driver::RsvmDriver,
    events::Events,
    fault::FaultInfo,
    gpu::Gpu,
    queue::Queue,
    svm::{
        counters::Counters,
        device::{
            Access,
            Source, //
        },
        policy::Location,
        space::{
            FaultSink,
            Space, //
        }, //
    },
    vram::{
        Client,
        Watcher, //
    }, //
};
use kernel::{
    drm,
    mm::{
        addr::PageRange,
        Mm,
        MmWithUser, //
    },
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    }, //
};

/// A mirror of an address space.
#[pin_data]
pub(crate) struct Vm {
    gpu: Arc<Gpu>,
    mm: ARef<Mm>,
    space: Arc<Space<Gpu>>,
    events: Arc<Events>,
    bindings: bo::Manager,
    /// Whether queues and bindings may be made. Held while one is made, so that destruction finds
    /// all.
    #[pin]
    open: Mutex<bool>,
}

impl Vm {
    /// Mirrors `mm`. May sleep on its mmap_lock.
    ///
    /// # Errors
    ///
    /// Those of [`Space::new`], `ENODEV`, `EIO`, `ENOMEM`.
    pub(crate) fn new(
        device: &drm::Device<RsvmDriver>,
        gpu: &Arc<Gpu>,
        mm: &MmWithUser,
    ) -> Result<Arc<Self>> {
        let events = Events::new()?;
        let sink = Arc::new(
            Sink {
                gpu: gpu.clone(),
                events: events.clone(),
            },
            GFP_KERNEL,
        )?;
        let payer: ARef<Mm> = (&**mm).into();
        let (bindings, manager) = Bindings::new(device, gpu.va_bits(), payer.clone())?;
        let client = Client::new(payer, Some(events.clone()))?;
        let space = Space::new(gpu.clone(), mm, sink, bindings, Some(client))?;
        // From here on an error has to give the space back.
        let result = Self::attach(gpu, mm, space.clone(), events, manager);
        if result.is_err() {
            gpu.remove_space(&space);
            space.detach();
        }
        result
    }

    fn attach(
        gpu: &Arc<Gpu>,
        mm: &MmWithUser,
        space: Arc<Space<Gpu>>,
        events: Arc<Events>,
        bindings: bo::Manager,
    ) -> Result<Arc<Self>> {
        gpu.add_space(space.clone())?;
        Arc::pin_init(
            pin_init!(Self {
                gpu: gpu.clone(),
                mm: (&**mm).into(),
                space,
                events,
                bindings,
                open <- new_mutex!(true, "Vm::open"),
            }),
            GFP_KERNEL,
        )
    }

    /// # Errors
    ///
    /// `EPERM` unless the caller's address space is the one that is mirrored.
    pub(crate) fn check_owner(&self) -> Result {
        if self.mm.is_current() {
            Ok(())
        } else {
            Err(EPERM)
        }
    }

    /// Makes a queue and hands it to `keep`.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::create`] and of `keep`, `ENOENT` once the mirror is destroyed.
    pub(crate) fn create_queue(&self, id: u32, keep: impl FnOnce(&Arc<Queue>) -> Result) -> Result {
        let open = self.open.lock();
        if !*open {
            return Err(ENOENT);
        }
        let queue = Queue::create(&self.gpu, self.space.clone(), id)?;
        keep(&queue).inspect_err(|_| queue.destroy())
    }

    /// Binds `range` to a buffer from byte `offset` on. Sleeps, bounded.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is not one a process can have, or is longer than the rest of the
    /// buffer; `ENOENT` once the mirror is destroyed; `ENOMEM`.
    pub(crate) fn bind(
        &self,
        range: PageRange,
        buffer: &bo::Object,
        offset: u64,
        write: bool,
    ) -> Result {
        let backing = buffer.backing()?;
        let end = offset.checked_add(range.len() as u64).ok_or(EINVAL)?;
        if end > backing.size() {
            return Err(EINVAL);
        }
        self.check_range(range)?;
        let open = self.open.lock();
        if !*open {
            return Err(ENOENT);
        }
        let mut change = Change::new(write)?;
        let bound = self.bindings.obtain(buffer, ())?;
        backing.add_space(&self.space)?;
        let result = self
            .space
            .rebind(range, |b| b.map(range, &bound, offset, &mut change));
        drop(bound);
        self.bindings.deferred_cleanup();
        result
    }

    /// Unbinds whatever is bound in `range`. Sleeps, bounded.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is not one a process can have; `ENOENT` once the mirror is destroyed;
    /// `ENOMEM`.
    pub(crate) fn unbind(&self, range: PageRange) -> Result {
        self.check_range(range)?;
        let open = self.open.lock();
        if !*open {
            return Err(ENOENT);
        }
        // What is left of a binding keeps its rights.
        let mut change = Change::new(false)?;
        let result = self.space.rebind(range, |b| b.unmap(range, &mut change));
        self.bindings.deferred_cleanup();
        result
    }

    /// # Errors
    ///
    /// `EINVAL` if the range is not one a process can have; `ENOENT` if nothing is mapped there.
    pub(crate) fn check_mapped(&self, range: PageRange) -> Result {
        let session = self.space.mirror.enter().ok_or(ENOENT)?;
        if range.end() > session.limit() {
            return Err(EINVAL);
        }
        session.first_mapped(range).ok_or(ENOENT)?;
        Ok(())
    }

    pub(crate) fn check_range(&self, range: PageRange) -> Result {
        let session = self.space.mirror.enter().ok_or(ENOENT)?;
        if range.end() <= session.limit() {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// No more queues and bindings can be made from here on.
    pub(crate) fn close(&self) {
        *self.open.lock() = false;
    }

    /// Takes the address space away from the device, after the last of its queues was destroyed.
    /// Bounded; does not wait for the space's worker.
    pub(crate) fn detach(&self) {
        // In this order: an unbind that comes meanwhile has to find the space and wait for it.
        self.space.detach();
        self.gpu.remove_space(&self.space);
        self.space.with_bindings(Bindings::clear);
        self.bindings.deferred_cleanup();
        self.events.end();
    }

    pub(crate) fn space(&self) -> &Arc<Space<Gpu>> {
        &self.space
    }

    /// Bytes of device memory that its pages and buffers are in.
    pub(crate) fn resident(&self) -> u64 {
        let client = self.space.client.as_ref();
        client.map_or(0, |client| self.gpu.vram.resident(client))
    }

    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.events
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.space.counters()
    }
}

impl Watcher for Events {
    fn evicted(&self, bytes: u64) {
        Self::evicted(self, bytes);
    }
}

/// Where a space tells what became of its faults.
struct Sink {
    gpu: Arc<Gpu>,
    events: Arc<Events>,
}

impl FaultSink for Sink {
    fn served(&self, addr: u64, len: usize, access: Access) {
        self.events.served(addr, len, access);
    }

    fn failed(&self, source: Source, info: FaultInfo) {
        // A queue that is gone already has nobody to tell.
        if let Some(queue) = self.gpu.queue(source) {
            if queue.fail(info) {
                self.events.killed(queue.id(), &info);
            }
        }
    }

    fn migrated(&self, addr: u64, len: usize, to: Location) {
        self.events.migrated(addr, len, to);
    }

    fn thrashing(&self, addr: u64, len: usize) {
        self.events.thrashing(addr, len);
    }

    fn fence_written(&self) {
        self.gpu.wakeup().notify_all();
    }
}
