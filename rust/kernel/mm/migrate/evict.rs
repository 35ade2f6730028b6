// SPDX-License-Identifier: GPL-2.0

//! Eviction of device memory, whoever owns it.

use super::*;

/// Whether some pages of a folio are mapped and others by nobody.
///
/// # Safety
///
/// The caller has a reference to `folio`, which is large.
unsafe fn is_partly_mapped(folio: *mut bindings::folio) -> bool {
    // SAFETY: By the caller's promise.
    unsafe {
        let mut mapped = bindings::folio_mapcount(folio);
        if mapped == 0 || bindings::folio_entire_mapcount(folio) != 0 {
            return false;
        }
        // Without a count for each page, one mapped twice hides one unmapped.
        if cfg!(not(CONFIG_NO_PAGE_MAPCOUNT)) {
            let counts = &raw const (*folio).__bindgen_anon_2.__bindgen_anon_1.__bindgen_anon_1;
            mapped = bindings::atomic_read(&raw const (*counts).__bindgen_anon_1._nr_pages_mapped);
        }
        // CAST: Neither is negative.
        (mapped as usize) < bindings::folio_nr_pages(folio)
    }
}

impl<D: DeviceMemory> Pagemap<D> {
    /// Splits the large folio that holds `page`, so that its pages come and go one by one. Nothing
    /// happens if it is small or free.
    ///
    /// Sleeps, but waits for no folio lock.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for a wrong index; [`EBUSY`] and [`EAGAIN`] if the folio is in use by others at
    /// the moment.
    pub fn split(&self, page: u32) -> Result {
        self.split_if(page, |_| true)
    }

    /// Splits the large folio that holds `page` if some of its pages are mapped and others by
    /// nobody any more: those are free then, which core mm leaves to the driver.
    ///
    /// # Errors
    ///
    /// [`EAGAIN`] if all of it is mapped; else as for [`split`](Self::split).
    pub fn split_partly_mapped(&self, page: u32) -> Result {
        // SAFETY: `split_if` has a reference to the folio, which is large.
        self.split_if(page, |folio| unsafe { is_partly_mapped(folio) })
    }

    fn split_if(&self, page: u32, wanted: impl FnOnce(*mut bindings::folio) -> bool) -> Result {
        if page >= self.pages() {
            return Err(EINVAL);
        }
        let Some(_user) = self.enter() else {
            return Ok(());
        };
        let pfn = self.pfn(page as usize);
        // SAFETY: The user keeps all `struct page`s.
        let page = unsafe { bindings::pfn_to_page(pfn.as_usize()) };
        // SAFETY: As above. What a free page says of its folio may be stale, but is one of these.
        let folio = unsafe { bindings::page_folio(page) };
        // SAFETY: As above.
        if !unsafe { bindings::folio_try_get(folio) } {
            return Ok(());
        }
        // SAFETY: The reference is ours, the lock, too, where it is let go; after a split both are
        // with the first page.
        unsafe {
            let result = if bindings::page_folio(page) != folio {
                Err(EAGAIN)
            } else if bindings::folio_nr_pages(folio) == 1 {
                Ok(())
            } else if !wanted(folio) {
                Err(EAGAIN)
            } else if !bindings::folio_trylock(folio) {
                Err(EBUSY)
            } else {
                let result = to_result(bindings::split_huge_page(folio.cast()));
                bindings::folio_unlock(folio);
                result
            };
            bindings::folio_put(folio);
            result
        }
    }

    /// Unmaps and locks pages in use and gives each system memory to be copied to: those of the 512
    /// pages from `first` on, a multiple of that, whose bits are set in `live`.
    ///
    /// No new folio may be claimed among them until it returns. A large folio comes as a whole if
    /// there is a large folio of system memory, else it is split. What is busy is left out, so that
    /// nothing in the result does not mean that nothing is there.
    ///
    /// Waits for no folio lock, so it may be called with an `mmap_lock` held; but not while the
    /// thread itself has a folio locked. Allocates.
    ///
    /// [`None`] if there is nothing to move.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for a wrong index; [`EBUSY`] if the thread has a folio locked; [`ENOMEM`].
    pub fn evict<'m>(
        &'m self,
        first: u32,
        live: &[u64; HUGE_PAGES / 64],
        buf: &'m mut MigrateBuf,
    ) -> Result<Option<Filled<'m, D>>> {
        let start = first as usize;
        if start % HUGE_PAGES != 0 {
            return Err(EINVAL);
        }
        let claims = self.claims().window(start).ok_or(EINVAL)?;
        let holder = FolioHolder::new()?;
        let Some(user) = self.enter() else {
            return Ok(None);
        };
        let is_live = |page: usize| live[page / 64] & claims[page / 64] & 1 << (page % 64) != 0;
        let page_at = |page: usize| {
            // SAFETY: The user keeps all `struct page`s.
            unsafe { bindings::pfn_to_page(self.pfn(start + page).as_usize()) }
        };
        // SAFETY: As above.
        let in_use = |page: usize| unsafe { bindings::page_ref_count(page_at(page)) } != 0;

        // A folio may be split while this looks at it, but not become larger.
        // SAFETY: As above; a hint as long as the folio is not locked.
        let nr = unsafe { bindings::folio_nr_pages(page_at(0).cast()) };
        let mut whole = nr == HUGE_PAGES && (0..HUGE_PAGES).all(is_live) && in_use(0);
        let mut huge = None;
        if whole {
            huge = RamFolio::huge(None);
            if huge.is_none() {
                // Core mm cannot split it later without a VMA.
                match self.split(first) {
                    Ok(()) => whole = false,
                    Err(_) => return Ok(None),
                }
            }
        }

        // Each entry has to be of a page in use, which `page_folio()` does not lie about; core mm
        // takes all entries of a large folio for one.
        let mut count = 0;
        for page in (0..HUGE_PAGES).filter(|page| is_live(*page) && (whole || in_use(*page))) {
            buf.src[count] = self.pfn(start + page).as_usize();
            count += 1;
        }
        buf.dst.fill(0);
        // SAFETY: The frames have `struct page`s, which the user keeps.
        unsafe { bindings::migrate_device_pfns(buf.src.as_mut_ptr(), count) };
        // INVARIANT: `dst` is empty.
        let core = Migration {
            vma: ptr::null_mut(),
            start: 0,
            count,
            fault_page: ptr::null_mut(),
            direction: Direction::ToRam,
            pagemap: self,
            buf,
            finalized: 0,
            installed: 0,
            _holder: holder,
            _user: Some(user),
            _mmap: None,
        };
        if !core.buf.src[..count].iter().copied().any(is_migrating) {
            return Ok(None);
        }
        // No range of addresses: only where a fault was, is known.
        let range = PageRange::from_len(VirtAddr::new(0), HUGE_PAGES * PAGE_SIZE)?;
        Collected { core, range }.fill_ram(None, huge).map(Some)
    }
}
