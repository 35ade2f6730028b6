// SPDX-License-Identifier: GPL-2.0

//! The device as the driver sees it.
//!
//! Locks, outermost first: a channel of the copy engine, a runlist, preemption, a queue's channel, a fault
//! buffer, the table of queues, the invalidation lock (`mmu::tlb`). The list of spaces is a leaf.
//! Page-table locks are outside of the invalidation lock and of none of the others.

use crate::{
    aperture::Aperture,
    bo::Bindings,
    copy::{
        CopyEngine,
        Place,
        Ticket as CopyTicket, //
    },
    fault::buffer::FaultBuffers,
    fault::complete,
    fence::Wakeup,
    hal::{
        self,
        Hal, //
    },
    hw::method::compute,
    migrate::memory::{
        self,
        Evictor,
        Memory, //
    },
    mmu::{
        pgtable::{
            PageTables,
            Reserve, //
        },
        pool::TablePool,
        tlb::{
            Barrier,
            Program,
            Ticket,
            Tlb, //
        }, //
    },
    queue::{
        runlist::{
            self,
            Runlist, //
        },
        Queue,
        Queues, //
    },
    regs::{
        self,
        BAR0_SIZE, //
    },
    reset::State,
    svm::{
        device::{
            Cancel,
            Mmu,
            PageSize,
            Pdb,
            Source,
            Target,
            Transfer,
            UnderWay,
            Wedged, //
        },
        space::Space, //
    },
    vram::{
        self,
        Vram, //
    },
};
use kernel::{
    device::{
        BoundHandle,
        Core,
        Device, //
    },
    io::Io,
    mm::{
        addr::PageRange,
        memremap::{
            LivePagemap,
            Pagemap, //
        },
    },
    new_mutex,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sizes::SZ_256K,
    str::CString,
    sync::{
        Arc,
        Mutex, //
    }, //
};

pub(crate) type Bar0<'a> = pci::Bar<'a, BAR0_SIZE>;

/// The registers, until the driver is unbound.
pub(crate) struct Regs(pci::DevresBar<BAR0_SIZE>);

impl Regs {
    pub(crate) fn new(bar: Bar0<'_>) -> Result<Self> {
        Ok(Self(bar.into_devres()?))
    }

    /// Calls `f` with the registers in an RCU section: one access, no sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn with<R>(&self, f: impl for<'a> FnOnce(&Bar0<'a>) -> R) -> Result<R> {
        self.0.try_access_with(f).ok_or(ENODEV)
    }
}

/// A GPU.
#[pin_data]
pub(crate) struct Gpu {
    pub(crate) hal: &'static dyn Hal,
    pub(crate) regs: Regs,
    pub(crate) state: State,
    pub(crate) dev: Arc<BoundHandle>,
    pub(crate) pool: Arc<TablePool>,
    vram_size: u64,
    pub(crate) aperture: Aperture,
    pub(crate) vram: vram::Owner,
    pub(crate) pagemap: Arc<Pagemap<Memory>>,
    /// Taken out when the driver is unbound.
    #[pin]
    live: Mutex<Option<LivePagemap<Memory>>>,
    #[pin]
    wakeup: Wakeup,
    #[pin]
    pub(crate) tlb: Tlb,
    #[pin]
    pub(crate) copy: CopyEngine,
    #[pin]
    pub(crate) kernel_runlist: Mutex<Runlist>,
    #[pin]
    pub(crate) user_runlist: Mutex<Runlist>,
    /// Held by who takes a channel off its engine: there is one register for that.
    #[pin]
    pub(crate) preemption: Mutex<()>,
    #[pin]
    pub(crate) queues: Queues,
    #[pin]
    pub(crate) faults: FaultBuffers,
    #[pin]
    spaces: Mutex<KVec<Arc<Space<Gpu>>>>,
}

impl Gpu {
    /// Makes ready everything in memory; [`start`](Self::start) comes next. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown chip, `ENOMEM`.
    pub(crate) fn new(
        pdev: &pci::Device<Core<'_>>,
        regs: Regs,
        master: pci::BusMaster,
    ) -> Result<Arc<Self>> {
        let dev: &Device<Core<'_>> = pdev.as_ref();
        let boot = regs.with(|bar| bar.read(regs::NV_PMC_BOOT_0))?;
        let hal = hal::for_chipset(boot.chipset().get())?;
        let memory = regs.with(|bar| bar.read(regs::NV_PFB_LOCAL_MEMORY_RANGE))?;
        let vram_size = u64::from(memory.magnitude().get()) << (memory.scale().get() + 20);
        dev_info!(
            dev,
            "chipset {:#x}, MMU v{}, {} MiB of device memory\n",
            boot.chipset().get(),
            hal.mmu_version(),
            vram_size >> 20
        );
        // What a driver before us left behind.
        regs.with(|bar| bar.write_reg(regs::SOFT_RESET::zeroed().with_reset(true)))?;

        let aperture = Aperture::new(pdev, vram_size)?;
        let region = CString::try_from_fmt(kernel::prelude::fmt!("drm/{}/vram0", dev.name()))?;
        let vram = Vram::new(vram_size, &region)?;
        let pages = u32::try_from(vram_size / PAGE_SIZE as u64)?;
        let live = LivePagemap::new(dev, pages, c"rsvm vram", Memory::new(vram.clone())?)?;
        let handle = Arc::new(BoundHandle::new(dev)?, GFP_KERNEL)?;
        let pool = TablePool::new()?;
        let kernel_runlist = Runlist::new(dev, runlist::KERNEL)?;
        let user_runlist = Runlist::new(dev, runlist::USER)?;
        let tables = pool.clone();
        Arc::pin_init(
            try_pin_init!(Self {
                faults <- FaultBuffers::new(dev, &regs),
                tlb <- Tlb::new(dev, hal, &tables),
                copy <- CopyEngine::new(dev, hal, &tables),
                hal,
                regs,
                state: State::new(master),
                dev: handle,
                pool,
                aperture,
                vram,
                pagemap: live.clone(),
                live <- new_mutex!(Some(live), "rsvm_pagemap"),
                vram_size,
                wakeup <- Wakeup::new(),
                kernel_runlist <- new_mutex!(kernel_runlist, "rsvm_kernel_runlist"),
                user_runlist <- new_mutex!(user_runlist, "rsvm_user_runlist"),
                preemption <- new_mutex!((), "rsvm_preemption"),
                queues <- Queues::new(),
                spaces <- new_mutex!(KVec::new(), "rsvm_spaces"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Lets processes have device memory: pages can be moved from here on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn open_memory(self: &Arc<Self>) -> Result {
        let evictor = Evictor::new(self.clone(), self.pagemap.clone());
        self.vram.set_mover(Arc::new(evictor, GFP_KERNEL)?);
        self.pagemap.data().attach(self.clone());
        Ok(())
    }

    /// What is left in device memory is lost to the processes that have it. Idempotent.
    pub(crate) fn close_memory(&self) {
        self.pagemap.data().detach();
        self.vram.close();
        let live = self.live.lock().take();
        if let Some(live) = live {
            memory::release(live);
        }
    }

    pub(crate) fn mmu_version(&self) -> u32 {
        self.hal.mmu_version()
    }

    pub(crate) fn va_bits(&self) -> u32 {
        self.hal.va_bits()
    }

    /// Sizes of pages, as a sum of bytes.
    pub(crate) fn page_sizes() -> u64 {
        [PageSize::Size4K, PageSize::Size64K, PageSize::Size2M]
            .into_iter()
            .map(|size| (size.pages() * PAGE_SIZE) as u64)
            .sum()
    }

    pub(crate) fn max_queues() -> u32 {
        hal::VEIDS
    }

    pub(crate) fn compute_class() -> u32 {
        compute::CLASS
    }

    /// Bytes of device memory.
    pub(crate) fn vram_total(&self) -> u64 {
        self.vram_size
    }

    /// What the virtual GPU counts about itself; `None` after the driver was unbound.
    pub(crate) fn model_counts(&self) -> Option<ModelCounts> {
        let read = |reads: fn(&Bar0<'_>) -> u32| self.regs.with(reads).ok();
        Some(ModelCounts {
            stale_hits: read(|bar| bar.read(regs::STALE_HITS).into_raw())?,
            lost_updates: read(|bar| bar.read(regs::LOST_UPDATES).into_raw())?,
            guest_errors: read(|bar| bar.read(regs::GUEST_ERRORS).into_raw())?,
        })
    }

    /// # Errors
    ///
    /// `ENODEV` when the driver is being unbound, `EIO` when the device is wedged.
    pub(crate) fn check(&self) -> Result {
        self.state.check()
    }

    /// Advanced when something happens that somebody may wait for.
    pub(crate) fn wakeup(&self) -> &Wakeup {
        &self.wakeup
    }

    /// Makes `space` one that unbind detaches.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the driver is being unbound, `ENOMEM`.
    pub(crate) fn add_space(&self, space: Arc<Space<Gpu>>) -> Result {
        let mut spaces = self.spaces.lock();
        if self.state.is_unbound() {
            return Err(ENODEV);
        }
        Ok(spaces.push(space, GFP_KERNEL)?)
    }

    pub(crate) fn remove_space(&self, space: &Arc<Space<Gpu>>) {
        let mut spaces = self.spaces.lock();
        let at = spaces.iter().position(|other| Arc::ptr_eq(other, space));
        let removed = at.and_then(|at| spaces.remove(at).ok());
        drop(spaces);
        drop(removed);
    }

    /// All spaces there are, for good once the state is unbound.
    pub(crate) fn take_spaces(&self) -> KVec<Arc<Space<Gpu>>> {
        core::mem::replace(&mut *self.spaces.lock(), KVec::new())
    }

    /// The queue that faults as `source`.
    pub(crate) fn queue(&self, source: Source) -> Option<Arc<Queue>> {
        self.queues.get(source)
    }

    /// Sends a program to the invalidation channel; wedges the device if it does not take it.
    /// `None` if there is nothing to wait for, because the device reaches no memory any more.
    pub(crate) fn send(&self, program: &Program) -> Option<Ticket> {
        match self.tlb.send(&self.regs, &self.state, program) {
            Ok(ticket) => ticket,
            Err(err) => {
                self.wedge("an invalidation could not be sent", err);
                None
            }
        }
    }

    /// Waits for a program; wedges the device if it does not finish in time.
    pub(crate) fn wait_for(&self, ticket: Option<Ticket>) {
        let Some(ticket) = ticket else { return };
        if let Err(err) = self.tlb.wait(&self.state, ticket) {
            self.wedge("an invalidation was not acknowledged", err);
        }
    }

    /// Sends a program and waits for it.
    pub(crate) fn run(&self, program: &Program) {
        self.wait_for(self.send(program));
    }
}

/// What the virtual GPU counts about itself.
pub(crate) struct ModelCounts {
    /// TLB hits that differed from memory.
    pub(crate) stale_hits: u32,
    /// Atomics on system memory that lost a write of a CPU.
    pub(crate) lost_updates: u32,
    /// Reserved bits set by the driver, and the like.
    pub(crate) guest_errors: u32,
}

/// An invalidation on its way.
pub(crate) enum InFlight {
    /// `None` if there is nothing to wait for.
    Sent(Option<Ticket>),
    Unsent(Pdb, PageRange),
}

/// An invalidation of what lost rights.
fn downgrade(pdb: Pdb, range: PageRange) -> Program {
    let mut program = Program::new();
    program.invalidate(pdb, Some(range), Barrier::Downgrade);
    program
}

/// Bytes on their way to system memory that are put in place while the others are being copied.
const PART: usize = SZ_256K;

impl Mmu for Gpu {
    type Tables = PageTables;
    type InFlight = InFlight;
    type Bindings = Bindings;
    type Memory = Memory;
    type UnderWay<'a> = CopyTicket<'a>;

    fn new_tables(&self) -> Result<PageTables> {
        let dev = self.dev.enter().ok_or(ENODEV)?;
        PageTables::new(self.hal, &self.pool, &dev)
    }

    fn refill(&self, reserve: &mut Reserve) -> Result {
        let dev = self.dev.enter().ok_or(ENODEV)?;
        reserve.refill(self.hal, &self.pool, &dev)
    }

    fn pdb(tables: &PageTables) -> Pdb {
        tables.pdb()
    }

    fn dma(&self) -> &Arc<BoundHandle> {
        &self.dev
    }

    fn invalidate(&self, tables: &PageTables, range: PageRange) -> InFlight {
        InFlight::Sent(self.send(&downgrade(tables.pdb(), range)))
    }

    fn invalidate_later(&self, tables: &PageTables, range: PageRange) -> InFlight {
        InFlight::Unsent(tables.pdb(), range)
    }

    fn wait(&self, flush: InFlight) {
        match flush {
            InFlight::Sent(ticket) => self.wait_for(ticket),
            InFlight::Unsent(pdb, range) => self.run(&downgrade(pdb, range)),
        }
    }

    fn complete(
        &self,
        tables: Pdb,
        mapped: &[PageRange],
        cancelled: &[Cancel],
    ) -> Result<(), Wedged> {
        complete::complete(self, tables, mapped, cancelled);
        if self.state.is_wedged() {
            Err(Wedged)
        } else {
            Ok(())
        }
    }

    fn replay(&self, tables: Pdb, range: PageRange) -> Result<(), Wedged> {
        complete::replay(self, tables, range);
        if self.state.is_wedged() {
            Err(Wedged)
        } else {
            Ok(())
        }
    }

    fn next_read(&self) -> u64 {
        self.next_read()
    }

    fn read_reports(&self) {
        // A device that does not finish its packets sends an interrupt when it does.
        let _ = self.flush_replayable();
    }

    fn next_report(&self) -> u64 {
        // None comes from a device that does not work or is gone.
        self.next_report().ok().flatten().unwrap_or(u64::MAX)
    }

    fn is_gone(&self) -> bool {
        self.check().is_err()
    }

    fn memory(&self) -> Option<(&Arc<Pagemap<Memory>>, &Arc<Vram>)> {
        Some((&self.pagemap, &self.vram))
    }

    fn transfer(
        &self,
        mut first: Option<&mut InFlight>,
        transfers: &mut dyn Iterator<Item = Transfer>,
    ) -> Result<CopyTicket<'_>> {
        let place = |target| match target {
            Target::System(addr) => Place::System(addr),
            Target::Vram(offset) => Place::Vram(offset),
        };
        let mut batch = self.copy_batch()?;
        if let Some(&mut InFlight::Unsent(pdb, range)) = first.as_deref_mut() {
            batch.first(&downgrade(pdb, range))?;
        }
        let mut bytes = 0;
        for Transfer { from, to, len } in transfers {
            if bytes >= PART && matches!(to, Target::System(_)) {
                batch.end_part();
                bytes = 0;
            }
            match from {
                Some(from) => batch.copy(place(from), place(to), len)?,
                None => batch.zero(place(to), len)?,
            }
            bytes += len;
        }
        let mut ticket = batch.submit()?;
        if let Some(flush) = first {
            ticket.begun()?;
            *flush = InFlight::Sent(None);
        }
        Ok(ticket)
    }
}

impl UnderWay for CopyTicket<'_> {
    fn arrive(&mut self) -> Result<Option<usize>> {
        Ok(self.next_part()?)
    }
}
