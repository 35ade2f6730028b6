// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::{
    mm::{
        hmm::PfnBuf,
        memremap::LivePagemap,
        space::{
            IntervalRef,
            LEAF_SIZE, //
        },
        testing::*, //
    },
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

mod back;
mod bounce;
mod there;

/// Pages of the device.
const DEVICE_PAGES: u32 = 3 * HUGE_PAGES as u32;

/// A process with memory, and a device with memory.
struct Bench {
    range: PageRange,
    live: Option<LivePagemap<Ram>>,
    f: Fixture,
    buf: MigrateBuf,
}

impl Bench {
    /// `pages` small pages, each written to, or none if `touched` is false.
    fn small(pages: usize, touched: bool) -> Result<Self> {
        let all = map_aligned(HUGE_PAGES, false)?;
        let range = PageRange::from_len(all.start(), pages * PAGE_SIZE)?;
        let this = Self::of(range)?;
        if touched {
            this.write(range, 1)?;
        }
        Ok(this)
    }

    /// 2 MiB in one piece.
    fn huge(touched: bool) -> Result<Self> {
        let this = Self::of(map_aligned(HUGE_PAGES, true)?)?;
        if touched {
            this.write(this.range, 1)?;
        }
        Ok(this)
    }

    fn of(range: PageRange) -> Result<Self> {
        let ram = Ram::new(DEVICE_PAGES)?;
        let live = LivePagemap::new(DmaDevice::new()?.bound(), DEVICE_PAGES, c"kunit", ram)?;
        Ok(Self {
            range,
            f: Fixture::with_pagemap(range, live.clone())?,
            live: Some(live),
            buf: MigrateBuf::new()?,
        })
    }

    fn pagemap(&self) -> Arc<Pagemap<Ram>> {
        // PANIC: Taken at the end of a test only.
        Arc::clone(self.live.as_ref().expect("not drained yet"))
    }

    fn ram(&self) -> Ram {
        Ram(self.pagemap().data().0.clone())
    }

    /// Writes to the first and the last bytes of each page what belongs there.
    fn write(&self, range: PageRange, tag: u64) -> Result {
        for addr in range.iter_pages() {
            for at in [addr.as_usize(), addr.as_usize() + PAGE_SIZE - 8] {
                UserSlice::new(UserPtr::from_addr(at), 8)
                    .writer()
                    .write(&(addr.as_u64() | tag))?;
            }
        }
        Ok(())
    }

    /// Reads with a CPU: whether all of `range` is as [`Self::write`] left it.
    fn check(&self, range: PageRange, tag: u64) -> Result<bool> {
        for addr in range.iter_pages() {
            for at in [addr.as_usize(), addr.as_usize() + PAGE_SIZE - 8] {
                if read(at)? != addr.as_u64() | tag {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Moves `range` to device pages from `first` on, as far as `give` says so and `copied` agrees.
    fn send(
        &mut self,
        range: PageRange,
        whole: bool,
        first: u32,
        give: impl Fn(usize, Order) -> bool,
        copied: impl FnMut(&Copy) -> bool,
    ) -> Result<usize> {
        let pagemap = self.pagemap();
        let mut session = self.f.session()?;
        let collected = session.migrate(range, whole, &mut self.buf)?;
        let Some(collected) = collected else {
            return Ok(0);
        };
        let filled = collected.flushed().fill(|page, order| {
            // CAST: Less than 512.
            give(page, order)
                .then(|| pagemap.folio(first + page as u32, order).ok())
                .flatten()
        });
        for copy in filled.copies() {
            pagemap.data().copy_in(&filled, &copy)?;
        }
        let installed = filled.install(copied);
        Ok(installed.pages())
    }

    /// Moves everything that can be moved.
    fn send_all(&mut self, whole: bool, first: u32) -> Result<usize> {
        self.send(self.range, whole, first, |_, _| true, |_| true)
    }

    /// Evicts `pages` from `first` on. Returns how many moved.
    fn evict(&mut self, first: u32, live: &[u64; HUGE_PAGES / 64]) -> Result<usize> {
        let pagemap = self.pagemap();
        let evicted = pagemap.evict(first, live, &mut self.buf)?;
        match evicted {
            Some(filled) => pagemap.data().bring_back(filled, usize::MAX),
            None => Ok(0),
        }
    }

    /// Recalls what of `range` is in device memory. Returns how many pages moved.
    fn recall(&mut self, range: PageRange, whole: bool) -> Result<usize> {
        let pagemap = self.pagemap();
        let mut session = self.f.session()?;
        let recalled = session.recall(range, whole, &mut self.buf)?;
        match recalled {
            Some(filled) => pagemap.data().bring_back(filled.flushed(), usize::MAX),
            None => Ok(0),
        }
    }

    fn watch(&self, session: &MmSession<'_, Fake>) -> Result<IntervalRef<Fake>> {
        session.node(self.range.start())
    }

    /// How many pages of the range are in device memory, and how many of these are writable.
    fn located(&self) -> Result<(usize, usize)> {
        let session = self.f.session()?;
        let handle = self.watch(&session)?;
        let mut buf = PfnBuf::new(self.range.pages())?;
        let seen = look(&session, &handle, self.range, &mut buf)?;
        let mut found = (0, 0);
        let commit = seen.commit().map_err(|_| EAGAIN)?;
        let pages = (0..self.range.pages()).filter_map(|page| commit.page(page));
        for page in pages.filter(|page| page.private.is_some()) {
            found.0 += 1;
            found.1 += usize::from(page.writable);
        }
        Ok(found)
    }

    /// Unmaps the memory; then nothing of the device may be in use.
    fn end(mut self) -> Result<bool> {
        munmap(self.range)?;
        let ram = self.ram();
        let live = self.live.take().ok_or(EINVAL)?;
        let drained = live.drain(soon()).is_ok();
        Ok(drained && ram.0.freed.load(Relaxed) > 0)
    }
}

impl Drop for Bench {
    /// A test that fails must not wait for pages that its own process has.
    fn drop(&mut self) {
        let _ = munmap(self.range);
    }
}

/// A hang guard.
fn soon() -> Instant<Monotonic> {
    Instant::now() + Delta::from_secs(60)
}

fn read(at: usize) -> Result<u64> {
    UserSlice::new(UserPtr::from_addr(at), 8)
        .reader()
        .read::<u64>()
}

/// Maps `pages` pages of anonymous memory, of which the start is a multiple of 2 MiB.
fn map_aligned(pages: usize, huge: bool) -> Result<PageRange> {
    let len = pages * PAGE_SIZE;
    let area = map_anon_len(len + LEAF_SIZE)?;
    let start = VirtAddr::new(area.start().as_usize().next_multiple_of(LEAF_SIZE));
    let range = PageRange::from_len(start, len)?;
    if huge {
        advise_huge(range)?;
    }
    Ok(range)
}

const ALL: [u64; HUGE_PAGES / 64] = [u64::MAX; HUGE_PAGES / 64];
