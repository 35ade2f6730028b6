// SPDX-License-Identifier: GPL-2.0

//! Where the bytes of a buffer are, and how they move.
//!
//! Lock order: mmap_lock › the buffer's own › folio locks › page-table lock. Nobody waits for room
//! in device memory while he holds it, so that it is free within bounded time. Who evicts a buffer
//! has others' locks, and only tries.

use crate::{
    aperture,
    copy::{
        CopyError,
        Place, //
    },
    driver::RsvmDriver,
    gpu::Gpu,
    svm::{
        bound::{
            Buffer,
            Places, //
        },
        space::Space, //
    },
    vram::{
        Blocks,
        Evictable,
        Wait,
        Watcher, //
    },
};
use kernel::{
    dma::{
        DataDirection,
        MappedPage, //
    },
    drm::gem::mmap::{
        Fault,
        Outcome,
        UserRange, //
    },
    mm::Mm,
    new_mutex,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex,
        MutexGuard,
        SetOnce, //
    },
};

/// Pages that one batch of copies has.
const BATCH: usize = 512;
/// How often a copy that failed is tried.
const ATTEMPTS: usize = 4;

/// Where the bytes are.
enum Store {
    /// Nobody has used them: all are zero.
    Nowhere,
    Device(Blocks),
    System(KVVec<Page>),
    /// The object is gone.
    Closed,
}

struct State {
    store: Store,
    /// Spaces in which the buffer may be bound.
    spaces: KVec<Arc<Space<Gpu>>>,
}

/// The memory of a buffer.
#[pin_data]
pub(crate) struct Backing {
    gpu: Arc<Gpu>,
    watcher: Arc<dyn Watcher>,
    size: u64,
    user: SetOnce<UserRange<RsvmDriver>>,
    #[pin]
    state: Mutex<State>,
}

impl Backing {
    pub(super) fn new(gpu: Arc<Gpu>, watcher: Arc<dyn Watcher>, size: u64) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                gpu,
                watcher,
                size,
                user: SetOnce::new(),
                state <- new_mutex!(
                    State {
                        store: Store::Nowhere,
                        spaces: KVec::new(),
                    },
                    "rsvm_buffer",
                ),
            }),
            GFP_KERNEL,
        )
    }

    pub(super) fn set_user_range(&self, range: UserRange<RsvmDriver>) {
        self.user.populate(range);
    }

    /// The offset in the device's file at which it is mapped.
    pub(crate) fn mmap_offset(&self) -> Option<u64> {
        self.user.as_ref().map(UserRange::offset)
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Notes that the buffer may be bound in `space`, before it is.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn add_space(&self, space: &Arc<Space<Gpu>>) -> Result {
        let spaces = &mut self.state.lock().spaces;
        spaces.retain(|other| !other.is_detached());
        if !spaces.iter().any(|other| Arc::ptr_eq(other, space)) {
            spaces.push(space.clone(), GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Gives all memory back: nobody maps or binds the buffer any more.
    pub(super) fn close(&self) {
        let (store, spaces) = {
            let mut state = self.state.lock();
            (
                core::mem::replace(&mut state.store, Store::Closed),
                core::mem::replace(&mut state.spaces, KVec::new()),
            )
        };
        drop(store);
        drop(spaces);
    }

    fn pages(&self) -> usize {
        // CAST: 64 bits both.
        self.size as usize / PAGE_SIZE
    }

    /// Serves a CPU's access to a page. Does not wait for room in device memory.
    pub(super) fn cpu_fault(self: &Arc<Self>, fault: Fault<'_>) -> Outcome {
        let page = fault.page();
        if page >= self.pages() {
            return Outcome::SIGBUS;
        }
        let mut state = match self.populated(fault.mm()) {
            Ok(state) => state,
            Err(ENOMEM) => return Outcome::OOM,
            Err(EINTR) => return Outcome::AGAIN,
            Err(_) => return Outcome::SIGBUS,
        };
        match &mut state.store {
            Store::Device(blocks) if !self.gpu.state.is_unbound() => {
                blocks.touch();
                let offset = page as u64 * PAGE_SIZE as u64;
                match offset_in_vram(blocks, offset) {
                    Some(at) => fault.insert_bar_page(aperture::BAR, at),
                    None => Outcome::SIGBUS,
                }
            }
            Store::System(pages) => match pages.get(page) {
                Some(page) => fault.insert_page(page),
                None => Outcome::SIGBUS,
            },
            // What was in a device that is gone is lost.
            _ => Outcome::SIGBUS,
        }
    }

    /// Sees to it that the buffer has memory, wherever. The process with the memory `mm` pays.
    fn populated(self: &Arc<Self>, mm: &Mm) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        if !matches!(state.store, Store::Nowhere) {
            return Ok(state);
        }
        drop(state);
        let room = self.alloc(mm, Wait::no_wait());
        if let Ok(state) = room.and_then(|blocks| self.move_in(blocks)) {
            return Ok(state);
        }
        let pages = self.alloc_pages(__GFP_ZERO)?;
        let mut state = self.state.lock();
        if matches!(state.store, Store::Nowhere) {
            state.store = Store::System(pages);
        }
        Ok(state)
    }

    /// Device memory for all of it, for which the process with the memory `mm` pays.
    fn alloc(self: &Arc<Self>, mm: &Mm, wait: Wait<'_>) -> Result<Blocks> {
        let vram = &self.gpu.vram;
        vram.alloc_object(mm, &self.watcher, self.size, self.clone(), wait)
    }

    fn alloc_pages(&self, flags: kernel::alloc::Flags) -> Result<KVVec<Page>> {
        let mut pages = KVVec::with_capacity(self.pages(), GFP_KERNEL)?;
        for _ in 0..self.pages() {
            pages.push(Page::alloc_page(GFP_KERNEL | flags)?, GFP_KERNEL)?;
        }
        Ok(pages)
    }

    /// Moves the buffer to `blocks`, unless it is in device memory by now.
    fn move_in(&self, blocks: Blocks) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        match &state.store {
            Store::Closed => return Err(ENOENT),
            Store::Device(_) => return Ok(state),
            Store::Nowhere => self.zero(&blocks)?,
            Store::System(pages) => {
                self.unmap_user();
                self.transfer(&blocks, pages, DataDirection::ToDevice)?;
            }
        }
        state.store = Store::Device(blocks);
        Ok(state)
    }

    fn unmap_user(&self) {
        if let Some(range) = self.user.as_ref() {
            range.unmap();
        }
    }

    /// Zeroes `blocks`.
    fn zero(&self, blocks: &Blocks) -> Result {
        for (offset, bytes) in blocks.iter() {
            // CAST: 64 bits both.
            self.copy(|batch| batch.zero(Place::Vram(offset), bytes as usize))?;
        }
        Ok(())
    }

    /// Copies all of the buffer between `blocks` and `pages`.
    fn transfer(&self, blocks: &Blocks, pages: &[Page], dir: DataDirection) -> Result {
        let dev = self.gpu.dev.enter().ok_or(ENODEV)?;
        let mut mapped = KVec::with_capacity(BATCH.min(pages.len()), GFP_KERNEL)?;
        for (i, pages) in pages.chunks(BATCH).enumerate() {
            for page in pages {
                mapped.push(MappedPage::new(&dev, page, dir)?, GFP_KERNEL)?;
            }
            self.copy(|batch| {
                for (j, page) in mapped.iter().enumerate() {
                    let offset = ((i * BATCH + j) * PAGE_SIZE) as u64;
                    let vram = Place::Vram(offset_in_vram(blocks, offset).ok_or(EINVAL)?);
                    let system = Place::System(page.addr());
                    match dir {
                        DataDirection::ToDevice => batch.copy(system, vram, PAGE_SIZE)?,
                        _ => batch.copy(vram, system, PAGE_SIZE)?,
                    }
                }
                Ok(())
            })?;
            mapped.clear();
        }
        Ok(())
    }

    /// Has the engine do what `fill` puts into a batch. A batch that fails is tried again.
    fn copy(&self, fill: impl Fn(&mut crate::copy::Batch<'_>) -> Result) -> Result {
        for _ in 0..ATTEMPTS {
            let mut batch = self.gpu.copy_batch()?;
            fill(&mut batch)?;
            match batch.submit()?.wait() {
                Ok(()) => return Ok(()),
                Err(CopyError::Failed) => (),
                Err(CopyError::Gone) => return Err(ENODEV),
            }
        }
        Err(EIO)
    }
}

/// Byte `offset` of the buffer, as an offset into device memory.
fn offset_in_vram(blocks: &Blocks, mut offset: u64) -> Option<u64> {
    for (start, bytes) in blocks.iter() {
        if offset < bytes {
            return Some(start + offset);
        }
        offset -= bytes;
    }
    None
}

impl Evictable for Backing {
    fn evict(&self) -> Result {
        let mut state = self.state.try_lock().ok_or(EAGAIN)?;
        let State { store, spaces } = &mut *state;
        let Store::Device(blocks) = &*store else {
            // It is about to move in.
            return Err(EAGAIN);
        };
        let pages = self.alloc_pages(__GFP_NOWARN)?;
        self.unmap_user();
        spaces.retain(|space| {
            space.withdraw_buffer(|buffer| core::ptr::eq::<Self>(&*buffer.backing, self))
        });
        self.transfer(blocks, &pages, DataDirection::FromDevice)?;
        let old = core::mem::replace(store, Store::System(pages));
        drop(state);
        drop(old);
        Ok(())
    }
}

/// A buffer as something that can be bound.
#[derive(Clone)]
pub(crate) struct BackingRef {
    pub(super) backing: Arc<Backing>,
    /// Who pays for it where it is bound.
    pub(super) mm: ARef<Mm>,
}

impl PartialEq for BackingRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backing, &other.backing)
    }
}

impl Buffer for BackingRef {
    fn with_places<R>(
        &self,
        cancelled: &dyn Fn() -> bool,
        f: impl FnOnce(Places<'_>) -> R,
    ) -> Result<R> {
        let this = &self.backing;
        let mut state = this.state.lock();
        while !matches!(state.store, Store::Device(_)) {
            drop(state);
            let wait = Wait {
                until: None,
                cancelled,
            };
            let blocks = this.alloc(&self.mm, wait)?;
            state = this.move_in(blocks)?;
        }
        let Store::Device(blocks) = &state.store else {
            return Err(EAGAIN);
        };
        blocks.touch();
        Ok(f(&|offset| offset_in_vram(blocks, offset)))
    }
}
