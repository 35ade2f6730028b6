// SPDX-License-Identifier: GPL-2.0

//! Bus addresses of the pages of a leaf.
//!
//! C header: [`include/linux/hmm-dma.h`](srctree/include/linux/hmm-dma.h)

use crate::{
    bindings,
    device::{
        Bound,
        BoundHandle,
        Device, //
    },
    dma::DmaAddress,
    error::to_result,
    mm::addr::Pfn,
    prelude::*,
    sync::Arc, //
};

const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
const MAPPED: usize = bindings::hmm_pfn_flags_HMM_PFN_DMA_MAPPED;
const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;

/// The page of the process behind each slot of a leaf, and its mapping for DMA.
///
/// Memory is always mapped in both directions and never copied or synchronised: where DMA would
/// need that, a device cannot share memory with a process and [`DmaMap::new`] fails.
///
/// # Invariants
///
/// - `raw` was set up by `hmm_dma_map_alloc()` for the device of `handle` with `pages` entries of a
///   page each.
/// - An entry of `raw.pfn_list` is zero or has `HMM_PFN_VALID`. If it has `HMM_PFN_DMA_MAPPED`, too,
///   the page is mapped for DMA; else it is device memory.
/// - `mapped` is the number of entries with `HMM_PFN_DMA_MAPPED`, or more if some were leaked.
pub(super) struct DmaMap {
    raw: bindings::hmm_dma_map,
    handle: Arc<BoundHandle>,
    pages: usize,
    mapped: usize,
}

// SAFETY: `raw` owns what it points to, and all methods that change it take `&mut self`.
unsafe impl Send for DmaMap {}

impl DmaMap {
    /// Makes a map of `pages` empty entries, at least one.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EOPNOTSUPP`] if the device's DMA is not coherent or may be bounced;
    /// [`ENODEV`] once the device is unbound.
    pub(super) fn new(handle: &Arc<BoundHandle>, pages: usize) -> Result<Self> {
        let dev = handle.enter().ok_or(ENODEV)?;
        let mut raw = bindings::hmm_dma_map::default();
        // SAFETY: `dev` is bound and `raw` is zeroed.
        to_result(unsafe {
            bindings::hmm_dma_map_alloc(dev.as_raw(), &mut raw, pages, bindings::PAGE_SIZE)
        })?;
        // INVARIANT: The call zeroed `pfn_list`.
        Ok(Self {
            raw,
            handle: handle.clone(),
            pages,
            mapped: 0,
        })
    }

    /// Whether the map is for the device of `handle`.
    pub(super) fn is_for(&self, handle: &Arc<BoundHandle>) -> bool {
        Arc::ptr_eq(&self.handle, handle)
    }

    fn entries(&self) -> &[usize] {
        // SAFETY: By the type invariants.
        unsafe { core::slice::from_raw_parts(self.raw.pfn_list, self.pages) }
    }

    fn entry_mut(&mut self, index: usize) -> &mut usize {
        assert!(index < self.pages);
        // SAFETY: Within the list by the type invariants, which belongs to `self`.
        unsafe { &mut *self.raw.pfn_list.add(index) }
    }

    /// The page behind entry `index`, and whether it is device memory.
    pub(super) fn page(&self, index: usize) -> Option<(Pfn, bool)> {
        let entry = *self.entries().get(index)?;
        (entry & VALID != 0).then_some((Pfn::new(entry & !FLAGS), entry & MAPPED == 0))
    }

    /// Maps the page `pfn` for DMA as the empty entry `index`. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if there is no bus address for it.
    ///
    /// # Safety
    ///
    /// `dev` is the device of this map. `pfn` has a `struct page` that is not device memory and
    /// stays until [`unmap`](Self::unmap).
    pub(super) unsafe fn map(
        &mut self,
        dev: &Device<Bound>,
        index: usize,
        pfn: Pfn,
    ) -> Result<DmaAddress> {
        *self.entry_mut(index) = pfn.as_usize() | VALID;
        let mut p2p = bindings::pci_p2pdma_map_state::default();
        // SAFETY: `raw` was set up for `dev`, which is bound, and `index` is within. The entry names
        // a page that stays, by the caller's promise.
        let addr =
            unsafe { bindings::hmm_dma_map_pfn(dev.as_raw(), &mut self.raw, index, &mut p2p) };
        if addr == DmaAddress::MAX {
            *self.entry_mut(index) = 0;
            return Err(ENOMEM);
        }
        // INVARIANT: The call set `HMM_PFN_DMA_MAPPED`.
        self.mapped += 1;
        Ok(addr)
    }

    /// Notes that the page `pfn` of device memory is behind the empty entry `index`.
    pub(super) fn record(&mut self, index: usize, pfn: Pfn) {
        *self.entry_mut(index) = pfn.as_usize() | VALID;
    }

    /// Empties entry `index`, whose page the device cannot reach any more. Does not sleep. Without
    /// `dev`, an unbound device, the mapping for DMA is leaked.
    pub(super) fn unmap(&mut self, dev: Option<&Device<Bound>>, index: usize) {
        if let Some(dev) = dev.filter(|_| *self.entry_mut(index) & MAPPED != 0) {
            // SAFETY: `raw` was set up for `dev`, which is bound, and `index` is within.
            unsafe { bindings::hmm_dma_unmap_pfn(dev.as_raw(), &mut self.raw, index) };
            self.mapped -= 1;
        }
        *self.entry_mut(index) = 0;
    }
}

impl Drop for DmaMap {
    /// Frees what the IOMMU knows of the map. May sleep.
    fn drop(&mut self) {
        let dev = self.handle.enter();
        let in_iommu = self.raw.state.__size != 0 || self.mapped != 0;
        match dev {
            Some(dev) if self.mapped == 0 => {
                // SAFETY: `raw` was set up for `dev`, which is bound, and nothing is mapped.
                unsafe { bindings::hmm_dma_map_free(dev.as_raw(), &mut self.raw) };
            }
            _ if in_iommu => pr_warn!("DMA map dropped after its device; leaked\n"),
            _ => {
                // SAFETY: No IOVA is held, so the call frees the lists and does not look at the
                // device.
                unsafe { bindings::hmm_dma_map_free(core::ptr::null_mut(), &mut self.raw) };
            }
        }
    }
}
