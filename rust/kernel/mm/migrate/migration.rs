// SPDX-License-Identifier: GPL-2.0

//! A migration as core mm has it.

use super::*;

/// A migration under way.
///
/// # Invariants
///
/// - The first `count` entries of `buf.src` are as core mm left them in the last call.
/// - A frame in `buf.dst` from `finalized` on is that of a locked folio, with a reference of ours. If
///   it is large it has `COMPOUND` and the following entries are zero.
/// - If `vma` is not null, its `mmap_lock` is held, by `_mmap` or by the fault that is borrowed.
/// - Core mm's finalize was called for the entries before `finalized`, of which only the numbers are of
///   use, and has still to be called for the others.
pub(super) struct Migration<'m, D: DeviceMemory> {
    pub(super) vma: *mut bindings::vm_area_struct,
    pub(super) start: usize,
    pub(super) count: usize,
    pub(super) fault_page: *mut bindings::page,
    pub(super) direction: Direction,
    pub(super) pagemap: &'m Pagemap<D>,
    pub(super) buf: &'m mut MigrateBuf,
    pub(super) finalized: usize,
    /// Up to here `migrate_vma_pages()` or its like was called.
    pub(super) installed: usize,
    // After what needs them: fields are dropped in order, and `drop` comes before all.
    pub(super) _holder: FolioHolder,
    pub(super) _user: Option<User<'m, D>>,
    pub(super) _mmap: Option<MmapReadGuard<'m>>,
}

impl<'m, D: DeviceMemory> Migration<'m, D> {
    /// Collects the pages of `range` that can go in `direction`; [`None`] if there are none. Large
    /// folios are taken as a `whole`, or else split.
    ///
    /// # Safety
    ///
    /// The `mmap_lock` of `vma` is held during `'m`; `fault_page` is null, or locked and referenced
    /// by a fault of that time.
    pub(super) unsafe fn collect(
        pagemap: &'m Pagemap<D>,
        direction: Direction,
        (vma, fault_page): (*mut bindings::vm_area_struct, *mut bindings::page),
        range: PageRange,
        whole: bool,
        holder: FolioHolder,
        buf: &'m mut MigrateBuf,
    ) -> Result<Option<Self>> {
        if range.pages() > HUGE_PAGES {
            return Err(EINVAL);
        }
        let mut select = match direction {
            Direction::ToDevice => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_SYSTEM,
            Direction::ToRam => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
        };
        if whole && range.pages() == HUGE_PAGES {
            select |= bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_COMPOUND;
        }
        let mut args = bindings::migrate_vma {
            vma,
            src: buf.src.as_mut_ptr(),
            dst: buf.dst.as_mut_ptr(),
            cpages: 0,
            npages: 0,
            start: range.start().as_usize(),
            end: range.end().as_usize(),
            pgmap_owner: pagemap.owner(),
            // CAST: Flags of a few bits.
            flags: select as usize,
            fault_page,
        };
        // SAFETY: The arrays have an entry for each page; the lock is held.
        to_result(unsafe { bindings::migrate_vma_setup(&mut args) })?;
        // INVARIANT: Core mm has cleared `dst`.
        let this = Self {
            vma,
            start: args.start,
            count: args.npages,
            fault_page,
            direction,
            pagemap,
            buf,
            finalized: 0,
            installed: 0,
            _holder: holder,
            _user: None,
            _mmap: None,
        };
        // Even if there is none left core mm wants to be told of the end.
        Ok((args.cpages != 0).then_some(this))
    }

    /// For the entries of `range`.
    pub(super) fn args(&mut self, range: Range<usize>) -> bindings::migrate_vma {
        bindings::migrate_vma {
            vma: self.vma,
            src: self.buf.src[range.clone()].as_mut_ptr(),
            dst: self.buf.dst[range.clone()].as_mut_ptr(),
            cpages: range.len(),
            npages: range.len(),
            start: self.start + range.start * PAGE_SIZE,
            end: self.start + range.end * PAGE_SIZE,
            pgmap_owner: self.pagemap.owner(),
            flags: 0,
            fault_page: self.fault_page,
        }
    }

    /// The frame that entry `page` is to be copied from. A large folio is one entry for core mm, until
    /// it is split.
    pub(super) fn src_pfn(&self, page: usize) -> Option<Pfn> {
        pfn(self.buf.src[page]).or_else(|| {
            let head = self.buf.src[0];
            let whole = self.vma_window_is_whole() && head & COMPOUND != 0;
            pfn(head)
                .filter(|_| whole)
                .map(|head| Pfn::new(head.as_usize() + page))
        })
    }

    /// Whether there is a large folio at either end.
    pub(super) fn is_large(&self) -> bool {
        (self.buf.src[0] | self.buf.dst[0]) & COMPOUND != 0
    }

    /// Whether a large folio, which takes all the room, may be here.
    pub(super) fn vma_window_is_whole(&self) -> bool {
        self.count == HUGE_PAGES
    }

    /// Takes back what was to become of entry `page`.
    pub(super) fn release(&mut self, page: usize) {
        let old = core::mem::take(&mut self.buf.dst[page]);
        // SAFETY: By the type invariants the folio is locked and one reference is ours.
        unsafe {
            if let Some(folio) = folio(old) {
                bindings::folio_unlock(folio);
                bindings::folio_put(folio);
            }
        }
    }

    pub(super) fn release_all(&mut self) {
        for page in self.installed..self.count {
            self.release(page);
        }
    }

    /// Takes everything back where core mm could not cope: a large folio is split only if there is
    /// something for its first page, and a large hole has to be filled without gaps.
    pub(super) fn normalise(&mut self) {
        let head = self.buf.src[0];
        let dst = &self.buf.dst[..self.count];
        if self.count == 0 || head & COMPOUND == 0 || dst[0] & COMPOUND != 0 {
            return;
        }
        let bad = if head & VALID != 0 {
            dst[0] == 0
        } else {
            dst.contains(&0)
        };
        if bad {
            self.release_all();
        }
    }

    /// Lets core mm put the new pages in place, up to entry `end`. A large folio is one entry, and takes
    /// all the room.
    pub(super) fn install(&mut self, end: usize) {
        if self.installed == 0 {
            self.normalise();
        }
        let mut args = self.args(self.installed..end);
        // SAFETY: By the type invariants; `normalise` has left what core mm can deal with.
        unsafe {
            if self.vma.is_null() {
                bindings::migrate_device_pages(args.src, args.dst, args.npages);
            } else {
                bindings::migrate_vma_pages(&mut args);
            }
        }
        self.installed = end;
    }

    /// Lets the processes go on that wait for entries before `end`.
    pub(super) fn finalize(&mut self, end: usize) {
        let mut args = self.args(self.finalized..end);
        // INVARIANT: It is called now.
        self.finalized = end;
        // SAFETY: By the type invariants. What is in `dst` was copied, if core mm has taken it, and is
        // given back by core mm otherwise.
        unsafe {
            if self.vma.is_null() {
                bindings::migrate_device_finalize(args.src, args.dst, args.npages);
            } else {
                bindings::migrate_vma_finalize(&mut args);
            }
        }
    }
}

impl<D: DeviceMemory> Drop for Migration<'_, D> {
    fn drop(&mut self) {
        // Without new pages, core mm puts the old ones back.
        self.release_all();
        self.finalize(self.count);
    }
}
