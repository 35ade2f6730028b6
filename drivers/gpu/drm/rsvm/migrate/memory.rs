// SPDX-License-Identifier: GPL-2.0

//! Device memory in processes, as core sees it, and the way out of it.
//!
//! What lies there can be saved as long as the device is on the bus: the copy engine is tried some
//! times, and then the CPU copies through the BAR. A device that was pulled out took with it what
//! was there: a CPU that touches such a page gets SIGBUS.
//!
//! Locks: a CPU's fault comes with mmap_lock and the folio lock of the page. Only leaves are taken
//! here, and none is held while core is called.

use super::{
    copies_home,
    offset_of, //
};
use crate::{
    gpu::Gpu,
    svm::{
        device::{
            Mmu,
            UnderWay, //
        },
        space::WORKERS, //
    },
    vram::{
        Mover,
        PageSet,
        Vram, //
    },
};
use core::ops::Range;
use kernel::{
    impl_has_work,
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        memremap::{
            CpuFault,
            DeviceMemory,
            FaultOutcome,
            LivePagemap,
            Order,
            Pagemap, //
        },
        migrate::{
            Copy,
            Filled,
            Installed,
            MigrateBuf, //
        },
    },
    module::{
        this_module,
        ModuleRef, //
    },
    new_mutex,
    new_work,
    page::PAGE_SIZE,
    prelude::*,
    ptr::Alignment,
    sizes::{
        SZ_2M,
        SZ_64K, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
    time::{
        Delta,
        Instant, //
    },
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

/// How often the copy engine is tried before the CPU copies.
const TRIES: usize = 3;
/// How long unbind waits for pages that nobody can move any more.
const DRAIN: Delta = Delta::from_millis(200);
/// How often a worker looks whether the last page is gone.
const RECHECK: Delta = Delta::from_secs(1);

/// The data of the pagemap: outlives the device and the driver's hold on it.
pub(crate) struct Memory(Arc<Inner>);

#[pin_data]
struct Inner {
    vram: Arc<Vram>,
    /// `None` before the device works, and after it was unbound.
    #[pin]
    gpu: Mutex<Option<Arc<Gpu>>>,
    /// Where the last CPU fault ended, and how much it brought back: a number of a page, and the
    /// logarithm of a number of pages in the low bits. A hint.
    last: Atomic<u64>,
    counters: Counters,
}

/// What became of pages in device memory.
struct Counters {
    cpu_faults: Atomic<u64>,
    pages_to_ram: Atomic<u64>,
    pages_by_cpu: Atomic<u64>,
    pages_lost: Atomic<u64>,
}

impl Memory {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(vram: Arc<Vram>) -> Result<Self> {
        let inner = pin_init!(Inner {
            vram,
            gpu <- new_mutex!(None, "Memory::gpu"),
            last: Atomic::new(0),
            counters: Counters {
                cpu_faults: Atomic::new(0),
                pages_to_ram: Atomic::new(0),
                pages_by_cpu: Atomic::new(0),
                pages_lost: Atomic::new(0),
            },
        });
        Ok(Self(Arc::pin_init(inner, GFP_KERNEL)?))
    }

    /// From now on `gpu` brings pages back. It is kept until [`detach`](Self::detach).
    pub(crate) fn attach(&self, gpu: Arc<Gpu>) {
        *self.0.gpu.lock() = Some(gpu);
    }

    /// What is still in device memory is lost.
    pub(crate) fn detach(&self) {
        let gpu = self.0.gpu.lock().take();
        drop(gpu);
    }

    /// Calls `f` with the name and value of everything that is counted.
    pub(crate) fn for_each_stat(&self, mut f: impl FnMut(&str, u64)) {
        let counters = &self.0.counters;
        for (name, value) in [
            ("cpu_faults", &counters.cpu_faults),
            ("pages_to_ram", &counters.pages_to_ram),
            ("pages_to_ram_by_cpu", &counters.pages_by_cpu),
            ("pages_lost", &counters.pages_lost),
        ] {
            f(name, value.load(Relaxed));
        }
    }

    /// What a CPU's fault brings back: 64 KiB, and twice as much as the last time where the CPU
    /// goes on from where that ended.
    fn neighbourhood(&self, addr: VirtAddr, window: PageRange) -> Result<PageRange> {
        const SMALL: u32 = (SZ_64K / PAGE_SIZE).ilog2();
        const LARGE: u32 = (SZ_2M / PAGE_SIZE).ilog2();
        let page = (addr.as_usize() / PAGE_SIZE) as u64;
        let last = self.0.last.load(Relaxed);
        // CAST: Six bits.
        let (end, log) = (last >> 6, (last & 0x3f) as u32);
        let log = if page == end {
            (log + 1).min(LARGE)
        } else {
            SMALL
        };
        let size = Alignment::new_checked(PAGE_SIZE << log).ok_or(EINVAL)?;
        let range = PageRange::block(addr, size)?.intersect(window);
        let range = range.ok_or(EINVAL)?;
        let end = (range.end().as_usize() / PAGE_SIZE) as u64;
        self.0.last.store(end << 6 | u64::from(log), Relaxed);
        Ok(range)
    }

    fn bring_back(&self, fault: &CpuFault<'_, Self>) -> Result<FaultOutcome> {
        let counters = &self.0.counters;
        let Some(gpu) = self.0.gpu.lock().clone() else {
            return Err(ENODEV);
        };
        let window = fault.window();
        let range = match fault.order() {
            Order::Huge => window,
            Order::Page => self.neighbourhood(fault.addr(), window)?,
        };
        let mut buf = MigrateBuf::new()?;
        let Some(filled) = fault.migrate(range, &mut buf)? else {
            // Somebody else was faster, or is using the page.
            return Ok(FaultOutcome::Done);
        };
        counters.cpu_faults.fetch_add(1u64, Relaxed);
        let (installed, result) = self.copy_out(&gpu, filled);
        let moved = installed.pages();
        self.0.vram.tend(|| installed.finalize());
        counters.pages_to_ram.fetch_add(moved as u64, Relaxed);
        if moved == 0 {
            result?;
        }
        Ok(FaultOutcome::Done)
    }

    /// Copies and installs as much as can be. The error says why something was not copied.
    fn copy_out<'m>(
        &self,
        gpu: &Gpu,
        mut filled: Filled<'m, Self>,
    ) -> (Installed<'m, Self>, Result) {
        for _ in 0..TRIES {
            let Some(dev) = gpu.dev.enter() else { break };
            let mapped = filled.map(&dev);
            let under_way = gpu.transfer(None, &mut copies_home(&mapped));
            match under_way.and_then(UnderWay::finish) {
                Ok(()) => return (mapped.install(|_| true), Ok(())),
                Err(err) => {
                    filled = mapped.unmap();
                    if err == ENODEV {
                        break;
                    }
                }
            }
        }
        // The memory may still be there.
        let mut result = Ok(());
        let mut saved = PageSet::default();
        let mut from = 0;
        loop {
            let next = filled.copies().find(|copy| copy.page >= from);
            let Some(copy) = next else { break };
            match self.copy_by_cpu(gpu, &mut filled, &copy) {
                Ok(()) => saved.insert(copy.page),
                Err(err) => result = Err(err),
            }
            from = copy.page + 1;
        }
        (filled.install(|copy| saved.contains(copy.page)), result)
    }

    fn copy_by_cpu(&self, gpu: &Gpu, filled: &mut Filled<'_, Self>, copy: &Copy) -> Result {
        let mut bytes = KBox::<[u8; PAGE_SIZE]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        for i in 0..copy.pages {
            // CAST: Less than 512.
            gpu.vram_read(offset_of(copy.device + i as u32), &mut bytes[..])?;
            filled.write_system(copy.page + i, &bytes)?;
        }
        self.0
            .counters
            .pages_by_cpu
            .fetch_add(copy.pages as u64, Relaxed);
        Ok(())
    }
}

impl DeviceMemory for Memory {
    fn folio_free(&self, pages: Range<u32>) {
        self.0.vram.free(pages.start, pages.end - pages.start);
    }

    fn folio_split(&self, first: u32) {
        self.0.vram.folio_was_split(first);
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Self>) -> FaultOutcome {
        match self.bring_back(&fault) {
            Ok(outcome) => outcome,
            Err(ENOMEM) => FaultOutcome::OutOfMemory,
            Err(_) => {
                self.0.counters.pages_lost.fetch_add(1u64, Relaxed);
                FaultOutcome::Lost
            }
        }
    }
}

/// Moves pages to system memory to make room.
pub(crate) struct Evictor {
    gpu: Arc<Gpu>,
    pagemap: Arc<Pagemap<Memory>>,
}

impl Evictor {
    pub(crate) fn new(gpu: Arc<Gpu>, pagemap: Arc<Pagemap<Memory>>) -> Self {
        Self { gpu, pagemap }
    }
}

impl Mover for Evictor {
    fn move_out(&self, first: u32, pages: &PageSet) -> Result {
        let memory = self.pagemap.data();
        let mut buf = MigrateBuf::new()?;
        let Some(filled) = self.pagemap.evict(first, &pages.0, &mut buf)? else {
            return Ok(());
        };
        let (installed, result) = memory.copy_out(&self.gpu, filled);
        let moved = installed.pages() as u64;
        memory.0.vram.tend(|| installed.finalize());
        memory.0.counters.pages_to_ram.fetch_add(moved, Relaxed);
        result
    }

    fn split(&self, first: u32) -> Result {
        match self.pagemap.split_partly_mapped(first) {
            Err(EBUSY) => Err(EAGAIN),
            result => result,
        }
    }
}

/// Ends a pagemap whose device is gone. What nobody could move keeps it, and the module, until
/// the last process lets go.
pub(crate) fn release(live: LivePagemap<Memory>) {
    let Err(live) = live.drain(Instant::now() + DRAIN) else {
        return;
    };
    let remains = this_module::<crate::LocalModule>()
        .try_get()
        .ok_or(ENODEV)
        .and_then(|module| {
            let remains = pin_init!(Remains {
                module: module,
                live <- new_mutex!(None, "Remains"),
                work <- new_work!("Remains::work"),
            });
            Arc::pin_init(remains, GFP_KERNEL)
        });
    match remains {
        Ok(remains) => {
            *remains.live.lock() = Some(live);
            // The module, of which there is a reference, runs its queue.
            let _ = WORKERS.enqueue(remains);
        }
        // The module is being unloaded, which has to wait.
        Err(_) => drop(live),
    }
}

/// What is left of a device.
#[pin_data]
struct Remains {
    #[pin]
    live: Mutex<Option<LivePagemap<Memory>>>,
    #[pin]
    work: Work<Remains>,
    /// Dropped last.
    module: ModuleRef,
}

impl_has_work! {
    impl HasWork<Self> for Remains { self.work }
}

impl WorkItem for Remains {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let mut left = this.live.lock().take();
        while let Some(live) = left {
            left = live.drain(Instant::now() + RECHECK).err();
        }
    }
}
