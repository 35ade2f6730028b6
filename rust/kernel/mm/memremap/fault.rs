// SPDX-License-Identifier: GPL-2.0

//! Faults of CPUs on device memory.

use super::{
    DeviceMemory,
    Order,
    Pagemap, //
};
use crate::{
    bindings,
    mm::{
        addr::{
            PageRange,
            Pfn,
            VirtAddr, //
        },
        folio::{
            FolioHolder,
            RamFolio, //
        },
        migrate::{
            Collected,
            Filled,
            MigrateBuf,
            BLOCK, //
        },
        virt::VmaRef, //
    },
    prelude::*, //
};

/// How a CPU's fault ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The CPU tries again, and faults again if the page is still in device memory.
    Done,
    /// There is no memory; the kernel kills somebody to get some.
    OutOfMemory,
    /// What was in the page is lost: `SIGBUS`.
    Lost,
}

impl FaultOutcome {
    pub(super) fn into_raw(self) -> bindings::vm_fault_t {
        match self {
            Self::Done => 0,
            Self::OutOfMemory => bindings::vm_fault_reason_VM_FAULT_OOM,
            Self::Lost => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }
}

/// A CPU touched a page of device memory.
///
/// # Invariants
///
/// - `vmf` is valid, and its `mmap_lock` is held.
/// - `vmf.page` is a page of `pagemap` whose folio core mm has locked and referenced once for this.
pub struct CpuFault<'f, D: DeviceMemory> {
    vmf: *mut bindings::vm_fault,
    pagemap: &'f Pagemap<D>,
}

impl<'f, D: DeviceMemory> CpuFault<'f, D> {
    /// # Safety
    ///
    /// The invariants hold during `'f`.
    pub(super) unsafe fn from_raw(vmf: *mut bindings::vm_fault, pagemap: &'f Pagemap<D>) -> Self {
        // INVARIANT: By the caller's promise.
        Self { vmf, pagemap }
    }

    fn vmf(&self) -> &bindings::vm_fault {
        // SAFETY: By the type invariants.
        unsafe { &*self.vmf }
    }

    fn vma(&self) -> &VmaRef {
        // SAFETY: By the type invariants.
        unsafe { VmaRef::from_raw(self.vmf().__bindgen_anon_1.vma) }
    }

    fn folio(&self) -> *mut bindings::folio {
        // SAFETY: The page is valid.
        unsafe { bindings::page_folio(self.vmf().page) }
    }

    /// The pagemap of the page.
    pub fn pagemap(&self) -> &'f Pagemap<D> {
        self.pagemap
    }

    /// The address of the page in the process.
    pub fn addr(&self) -> VirtAddr {
        VirtAddr::new(self.vmf().__bindgen_anon_1.address).page()
    }

    /// The index of a page of the folio: the one touched if it is small.
    pub fn page(&self) -> u32 {
        // SAFETY: The page is valid.
        let pfn = Pfn::new(unsafe { bindings::page_to_pfn(self.vmf().page) });
        // The default does not happen: it is of this pagemap.
        self.pagemap.index(pfn).unwrap_or(0)
    }

    /// The size of the folio.
    pub fn order(&self) -> Order {
        // SAFETY: The folio is valid, and cannot be split by others while it is locked.
        Order::of_pages(unsafe { bindings::folio_nr_pages(self.folio()) })
    }

    /// The pages that one migration may bring back: the aligned 2 MiB, as far as the VMA covers
    /// them.
    pub fn window(&self) -> PageRange {
        let vma = self.vma();
        let vma = PageRange::new(VirtAddr::new(vma.start()), VirtAddr::new(vma.end()));
        PageRange::block(self.addr(), BLOCK)
            .and_then(|window| window.intersect(vma?).ok_or(EINVAL))
            // PANIC: Nobody can map the last page of the address space.
            .or_else(|_| PageRange::page(self.addr()))
            .expect("a user address")
    }

    /// Unmaps what of `range` lies in the pagemap, and gives each page memory to be copied to.
    /// `range` contains [`Self::addr`] and lies in [`Self::window`].
    ///
    /// A large folio that is mapped as a whole comes back as a whole, whatever `range` says, if
    /// there is a large folio of system memory for it. Else it is split first, since core mm cannot
    /// split the folio of a fault during the migration.
    ///
    /// [`None`] if there is nothing to do here any more, or not yet.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for a wrong range; [`EBUSY`] if the thread has a migration already; [`ENOMEM`] if
    /// there is no memory for the page touched.
    pub fn migrate<'m>(
        &'m self,
        range: PageRange,
        buf: &'m mut MigrateBuf,
    ) -> Result<Option<Filled<'m, D>>> {
        let window = self.window();
        if !window.covers(range) || !range.contains(self.addr()) {
            return Err(EINVAL);
        }
        let holder = FolioHolder::new()?;
        let mut huge = None;
        // Set by core mm if the fault is one of a page table entry; not to be followed.
        let whole = self.vmf().pte.is_null() && self.order() == Order::Huge;
        if whole {
            huge = RamFolio::huge(Some((self.vma(), window.start())));
            // SAFETY: By the type invariants the folio is locked, and one reference is ours; the
            // split leaves both with the page.
            if huge.is_none() && unsafe { bindings::split_huge_page(self.vmf().page) } != 0 {
                return Ok(None);
            }
        }
        let range = if huge.is_some() { window } else { range };
        // SAFETY: The VMA covers `range`; `self` is borrowed, so its `mmap_lock` is held, as are
        // lock and reference of `page`.
        let collected = unsafe {
            Collected::from_device(
                self.pagemap,
                self.vma(),
                range,
                true,
                self.vmf().page,
                holder,
                buf,
            )?
        };
        let Some(collected) = collected else {
            return Ok(None);
        };
        collected
            .fill_ram(Some((self.vma(), self.addr())), huge)
            .map(Some)
    }
}
