// SPDX-License-Identifier: GPL-2.0

//! One mirrored address space as its users see it: the space, its events, and who may use it.

use crate::{
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
        space::{
            FaultSink,
            Space, //
        }, //
    },
};
use kernel::{
    mm::{
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
    /// Whether queues may be made. Held while one is made, so that destruction finds all.
    #[pin]
    open: Mutex<bool>,
}

impl Vm {
    /// Mirrors `mm`. May sleep on its mmap_lock.
    ///
    /// # Errors
    ///
    /// Those of [`Space::new`], `ENODEV`, `EIO`, `ENOMEM`.
    pub(crate) fn new(gpu: &Arc<Gpu>, mm: &MmWithUser) -> Result<Arc<Self>> {
        let events = Events::new()?;
        let sink = Arc::new(
            Sink {
                gpu: gpu.clone(),
                events: events.clone(),
            },
            GFP_KERNEL,
        )?;
        let space = Space::new(gpu.clone(), mm, sink)?;
        // From here on an error has to give the space back.
        let result = Self::attach(gpu, mm, space.clone(), events);
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
    ) -> Result<Arc<Self>> {
        gpu.add_space(space.clone())?;
        Arc::pin_init(
            pin_init!(Self {
                gpu: gpu.clone(),
                mm: (&**mm).into(),
                space,
                events,
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

    /// No more queues can be made from here on.
    pub(crate) fn close(&self) {
        *self.open.lock() = false;
    }

    /// Takes the address space away from the device, after the last of its queues was destroyed.
    /// Bounded; does not wait for the space's worker.
    pub(crate) fn detach(&self) {
        // In this order: an unbind that comes meanwhile has to find the space and wait for it.
        self.space.detach();
        self.gpu.remove_space(&self.space);
        self.events.end();
    }

    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.events
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.space.counters()
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
}
