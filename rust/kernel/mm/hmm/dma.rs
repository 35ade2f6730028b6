// SPDX-License-Identifier: GPL-2.0

//! DMA addresses of mirrored pages.
//!
//! C header: [`include/linux/hmm-dma.h`](srctree/include/linux/hmm-dma.h)

use super::{
    DevicePage,
    PrivateEntry,
    FLAGS,
    ORDER_SHIFT,
    VALID,
    WRITE, //
};
use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DmaAddress,
    error::to_result,
    mm::{
        addr::Pfn,
        folio, //
    },
    prelude::*,
    sync::aref::ARef, //
};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr, //
};

/// Marks an entry that the device may still use until a flush is acknowledged. The bits of the
/// order say nothing here and `hmm_dma_*()` do not look at them.
const REVOKED: usize = 1 << ORDER_SHIFT;

const MAPPED: usize = bindings::hmm_pfn_flags_HMM_PFN_DMA_MAPPED;

/// What a device knows of a run of mirrored pages: which page is where, on which bus address, and
/// whether the device may write to it.
///
/// An entry goes from free to live with [`DmaMap::map`], with [`DmaMap::revoke`] from live to
/// revoked, and when the device has acknowledged with [`DmaMap::unmap`] back to free. `F` is what
/// the driver has to show for an acknowledgement.
///
/// All entries have to be unmapped and the map freed with [`DmaMap::free`] before the device is
/// unbound. What an IOMMU knows of a map that is merely dropped can no longer be taken back, so it
/// is leaked, with a warning.
///
/// Memory is always mapped in both directions and never copied or synchronised: where DMA would
/// need that, a device cannot share memory with a process and [`DmaMap::new`] fails.
///
/// # Invariants
///
/// - `raw` was set up by `hmm_dma_map_alloc()` for `dev` with `addrs.len()` entries of a page each.
/// - An entry of `raw.pfn_list` is zero, or has `HMM_PFN_VALID`. With `HMM_PFN_DMA_MAPPED` its bus
///   address is in `addrs`; else it is device memory, and the index of the page is there.
/// - The folio of an entry with `HMM_PFN_VALID` but not `REVOKED` is mapped in the process.
/// - `mapped` is the number of entries with `HMM_PFN_DMA_MAPPED`.
pub struct DmaMap<F> {
    raw: bindings::hmm_dma_map,
    dev: ARef<Device>,
    addrs: KVVec<DmaAddress>,
    mapped: usize,
    _proof: PhantomData<fn(&F)>,
}

// SAFETY: `raw` owns what it points to, and all methods that change it take `&mut self`.
unsafe impl<F> Send for DmaMap<F> {}

/// An entry of a [`DmaMap`] that is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaPage {
    /// The page frame.
    pub pfn: Pfn,
    /// Its address on the bus, in bytes.
    pub addr: DmaAddress,
    /// Whether the device may write to it.
    pub writable: bool,
}

/// An entry of a [`DmaMap`] that is live and needs no bus address: the device's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateSlot {
    /// Which page of the pagemap.
    pub index: u32,
    /// Whether the device may write to it.
    pub writable: bool,
}

/// What [`DmaMap::revoke`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Entries that were live.
    pub pages: usize,
    /// Folios marked dirty.
    pub dirtied: usize,
}

impl<F> DmaMap<F> {
    /// Makes a map of `pages` free entries, at least one.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EOPNOTSUPP`] if the device's DMA is not coherent or may be bounced;
    /// [`EINVAL`] for no pages.
    pub fn new(dev: &Device<Bound>, pages: usize) -> Result<Self> {
        if pages == 0 {
            return Err(EINVAL);
        }
        let addrs = KVVec::from_elem(0, pages, GFP_KERNEL)?;
        let mut raw = bindings::hmm_dma_map::default();
        // SAFETY: `dev` is bound and `raw` is zeroed.
        to_result(unsafe {
            bindings::hmm_dma_map_alloc(dev.as_raw(), &mut raw, pages, bindings::PAGE_SIZE)
        })?;
        // INVARIANT: The call zeroed `pfn_list`.
        Ok(Self {
            raw,
            dev: dev.into(),
            addrs,
            mapped: 0,
            _proof: PhantomData,
        })
    }

    fn entries(&self) -> &[usize] {
        // SAFETY: By the type invariants.
        unsafe { core::slice::from_raw_parts(self.raw.pfn_list, self.addrs.len()) }
    }

    fn entries_mut(&mut self) -> &mut [usize] {
        // SAFETY: By the type invariants; `pfn_list` belongs to `self`.
        unsafe { core::slice::from_raw_parts_mut(self.raw.pfn_list, self.addrs.len()) }
    }

    /// Makes entry `index` live, or gives a live one for the same page the rights of `page`, if
    /// they are more. Returns the bus address.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// Nothing changes if it fails: [`EINVAL`] if `index` is too large or `dev` another device,
    /// [`EAGAIN`] if the entry is revoked and not yet unmapped, [`EBUSY`] if it is live for another
    /// page, [`ENOMEM`] if the bus address cannot be had.
    pub fn map<P: DevicePage>(
        &mut self,
        dev: &Device<Bound>,
        index: usize,
        page: P,
    ) -> Result<DmaAddress> {
        self.check_device(dev)?;
        if let Some(addr) = self.enter(index, page.pfn(), P::WRITABLE)? {
            return Ok(addr);
        }
        let mut p2p = bindings::pci_p2pdma_map_state::default();
        // SAFETY: `raw` was set up for `dev`, which is bound, and `index` is within. The entry names
        // a page that is mapped in the process, by the invariants of `ReadPage`.
        let addr =
            unsafe { bindings::hmm_dma_map_pfn(dev.as_raw(), &mut self.raw, index, &mut p2p) };
        if addr == DmaAddress::MAX {
            self.entries_mut()[index] = 0;
            return Err(ENOMEM);
        }
        // INVARIANT: Mapped, and `page` will be revoked before the process loses it.
        self.addrs[index] = addr;
        self.mapped += 1;
        Ok(addr)
    }

    /// Makes entry `index` live for a page of the device's own memory, which needs no bus address,
    /// or gives a live one for the same page the rights of `page`, if they are more. Returns the
    /// index of the page in its pagemap.
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// Those of [`DmaMap::map`].
    pub fn record<P: PrivateEntry>(&mut self, index: usize, page: P) -> Result<u32> {
        self.enter(index, page.pfn(), P::WRITABLE)?;
        // INVARIANT: The page will be revoked before the process loses it.
        self.addrs[index] = page.index().into();
        Ok(page.index())
    }

    /// Enters a page. Returns what is in `addrs` for it if it was there already.
    fn enter(&mut self, index: usize, pfn: Pfn, writable: bool) -> Result<Option<DmaAddress>> {
        let old = *self.entries().get(index).ok_or(EINVAL)?;
        let new = pfn.as_usize() | VALID | if writable { WRITE } else { 0 };
        if old & REVOKED != 0 {
            return Err(EAGAIN);
        }
        if old & VALID != 0 && (old ^ new) & !FLAGS != 0 {
            return Err(EBUSY);
        }
        self.entries_mut()[index] = old | new;
        Ok((old & VALID != 0).then_some(self.addrs[index]))
    }

    /// Entry `index`, if it is live and device memory.
    pub fn device(&self, index: usize) -> Option<PrivateSlot> {
        let entry = *self.entries().get(index)?;
        (is_live(entry) && entry & MAPPED == 0).then(|| PrivateSlot {
            // CAST: That is where it came from.
            index: self.addrs[index] as u32,
            writable: entry & WRITE != 0,
        })
    }

    /// Entry `index`, if it is live and system memory.
    pub fn get(&self, index: usize) -> Option<DmaPage> {
        let entry = *self.entries().get(index)?;
        (is_live(entry) && entry & MAPPED != 0).then(|| DmaPage {
            pfn: Pfn::new(entry & !FLAGS),
            addr: self.addrs[index],
            writable: entry & WRITE != 0,
        })
    }

    /// Whether an entry in `range` is live. Indices beyond the end count as free.
    pub fn is_live(&self, range: Range<usize>) -> bool {
        let end = range.end.min(self.addrs.len());
        self.entries()
            .get(range.start..end)
            .is_some_and(|entries| entries.iter().copied().any(is_live))
    }

    /// Makes all live entries in `range` revoked, and marks the folios of the writable ones dirty and
    /// accessed: core cannot see that the device wrote to them, nor do its entries for exclusive
    /// pages remember it. Does not sleep.
    ///
    /// To be called with the lock held that the pages were committed under, when the device's
    /// entries have been cleared and the flush is not yet acknowledged. That order is sound, since
    /// whoever wants to clean a page has to invalidate it first, and waits for the flush.
    pub fn revoke(&mut self, range: Range<usize>) -> Revoked {
        let mut revoked = Revoked::default();
        let end = range.end.min(self.addrs.len());
        let mut clean_from = Pfn::new(0);
        let mut folio_start = Pfn::new(0);
        for entry in self
            .entries_mut()
            .get_mut(range.start..end)
            .unwrap_or_default()
        {
            if !is_live(*entry) {
                continue;
            }
            revoked.pages += 1;
            let pfn = Pfn::new(*entry & !FLAGS);
            if *entry & WRITE != 0 && !(folio_start..clean_from).contains(&pfn) {
                // SAFETY: The entry is live, so by the type invariants the folio is mapped in the
                // process: core is waiting for the invalidation that calls this, or for the lock.
                clean_from = unsafe { folio::mark_written(pfn, *entry & MAPPED == 0) };
                folio_start = pfn;
                revoked.dirtied += 1;
            }
            *entry |= REVOKED;
        }
        revoked
    }

    /// Frees all revoked entries in `range`: the device has acknowledged a flush that was started
    /// after they were revoked. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `dev` is another device.
    pub fn unmap(&mut self, dev: &Device<Bound>, range: Range<usize>, _proof: &F) -> Result {
        self.check_device(dev)?;
        let range = range.start..range.end.min(self.addrs.len());
        if self.mapped == 0 {
            let entries = self.entries_mut().get_mut(range).unwrap_or_default();
            let revoked = entries.iter_mut().filter(|entry| **entry & REVOKED != 0);
            revoked.for_each(|entry| *entry = 0);
            return Ok(());
        }
        for index in range {
            if self.entries()[index] & REVOKED == 0 {
                continue;
            }
            // SAFETY: `raw` was set up for `dev`, which is bound, and `index` is within.
            if unsafe { bindings::hmm_dma_unmap_pfn(dev.as_raw(), &mut self.raw, index) } {
                self.mapped -= 1;
            }
            self.entries_mut()[index] = 0;
        }
        Ok(())
    }

    /// Frees the map with all entries, which are revoked or free.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `dev` is another device.
    pub fn free(mut self, dev: &Device<Bound>, proof: &F) -> Result {
        self.unmap(dev, 0..self.addrs.len(), proof)?;
        if self.mapped == 0 {
            // SAFETY: `raw` was set up for `dev`, which is bound, and nothing is mapped.
            unsafe { bindings::hmm_dma_map_free(dev.as_raw(), &mut self.raw) };
            // Nothing is left for `drop`.
            self.raw = bindings::hmm_dma_map::default();
        }
        Ok(())
    }

    fn check_device(&self, dev: &Device<Bound>) -> Result {
        if ptr::eq(dev.as_raw(), self.dev.as_raw()) {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }
}

fn is_live(entry: usize) -> bool {
    entry & (VALID | REVOKED) == VALID
}

impl<F> Drop for DmaMap<F> {
    fn drop(&mut self) {
        let in_iommu =
            self.raw.state.__size != 0 || !self.raw.dma_list.is_null() && self.mapped != 0;
        if in_iommu {
            dev_warn!(self.dev, "DMA map dropped with mappings; leaked\n");
            return;
        }
        // SAFETY: There is no IOVA space, so this only frees the lists, or nothing after `free`.
        unsafe { bindings::hmm_dma_map_free(self.dev.as_raw(), &mut self.raw) };
    }
}
