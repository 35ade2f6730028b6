// SPDX-License-Identifier: GPL-2.0

//! Tests of the whole allocator, on a device that is not there.

use super::{
    alloc::Number,
    chunk::GROUP_PAGES,
    *, //
};
use kernel::{
    mm::testing::own_mm,
    sync::atomic::{
        Acquire,
        AtomicFlag,
        Release, //
    },
    time::{
        delay::fsleep,
        Instant, //
    }, //
};

const CHUNKS: u64 = 16;

/// Moves pages by giving them back.
#[pin_data]
struct FakeMover {
    vram: Arc<Vram>,
    /// Pages that cannot be moved.
    #[pin]
    stuck: Mutex<PageSet>,
    /// How many attempts to split come too early.
    early: Atomic<u32>,
    /// Allocates while a chunk is frozen.
    client: Arc<Client>,
    intruded: AtomicFlag,
}

impl Mover for FakeMover {
    fn move_out(&self, first: u32, pages: &PageSet) -> Result {
        let mut wanted = PageSet::default();
        wanted.insert(0);
        let no_wait = Wait::no_wait();
        if let Ok(mut got) = self.vram.alloc_window(&self.client, &wanted, no_wait) {
            if let Some(page) = got.take(0) {
                if position(page).0 == position(first).0 {
                    self.intruded.store(true, Release);
                }
                self.vram.free(page, 1);
            }
        }
        let stuck = *self.stuck.lock();
        for i in pages.iter().filter(|&i| !stuck.contains(i)) {
            self.vram.free(first + i as u32, 1);
        }
        Ok(())
    }

    /// Frees the second half.
    fn split(&self, first: u32) -> Result {
        let early = self.early.load(Relaxed);
        if early != 0 {
            self.early.store(early - 1, Relaxed);
            return Err(EAGAIN);
        }
        self.vram.folio_was_split(first);
        let half = CHUNK_PAGES as u32 / 2;
        self.vram.free(first + half, half);
        Ok(())
    }
}

/// What the client was told: bytes that were evicted, and bytes of its objects.
struct Heard {
    evicted: Atomic<u64>,
    objects: Atomic<i64>,
}

impl Watcher for Heard {
    fn evicted(&self, bytes: u64) {
        self.evicted.fetch_add(bytes, Relaxed);
    }

    fn objects_changed(&self, bytes: i64) {
        self.objects.fetch_add(bytes, Relaxed);
    }
}

/// An allocator with a fake mover, closed in the end.
struct Rig {
    heard: Arc<Heard>,
    vram: Owner,
    client: Arc<Client>,
    mover: Arc<FakeMover>,
}

impl Rig {
    fn new() -> Result<Self> {
        let vram = Vram::new(CHUNKS * CHUNK_SIZE, c"rsvm/kunit/vram0")?;
        vram.residency_ms.store(0, Relaxed);
        let heard = Heard {
            evicted: Atomic::new(0),
            objects: Atomic::new(0),
        };
        let heard = Arc::new(heard, GFP_KERNEL)?;
        let client = Client::new(own_mm()?, Some(heard.clone()))?;
        let (of, for_whom) = (vram.clone(), client.clone());
        let mover = Arc::pin_init(
            pin_init!(FakeMover {
                vram: of,
                stuck <- new_mutex!(PageSet::default()),
                early: Atomic::new(3),
                client: for_whom,
                intruded: AtomicFlag::new(false),
            }),
            GFP_KERNEL,
        )?;
        vram.set_mover(mover.clone());
        Ok(Self {
            heard,
            vram,
            client,
            mover,
        })
    }

    fn soon() -> Instant<kernel::time::Monotonic> {
        Instant::now() + Delta::from_secs(10)
    }

    fn huge(&self, wait: Wait<'_>) -> Result<u32> {
        let mut pages = self.vram.alloc_huge(&self.client, wait)?;
        assert!(pages.is_huge());
        pages.take_huge().ok_or(ENOENT)
    }

    fn settles_at(&self, free: u64) -> bool {
        self.settles(|now| now == free)
    }

    /// Waits for the worker.
    fn settles(&self, is_it: impl Fn(u64) -> bool) -> bool {
        for _ in 0..1000 {
            if is_it(self.vram.bytes_free()) {
                return true;
            }
            fsleep(Delta::from_millis(5));
        }
        false
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        *self.mover.stuck.lock() = PageSet::default();
        assert_eq!(self.vram.evict_all(Self::soon()), 0);
        assert_eq!(self.vram.bytes_free(), CHUNKS * CHUNK_SIZE);
        self.vram.close();
    }
}

/// Something that leaves when it is asked to, unless it is busy.
#[pin_data]
struct FakeObject {
    #[pin]
    blocks: Mutex<Option<Blocks>>,
    busy: AtomicFlag,
}

impl FakeObject {
    fn new(rig: &Rig, bytes: u64, wait: Wait<'_>) -> Result<Arc<Self>> {
        Self::with_use(rig, bytes, false, wait)
    }

    fn with_use(rig: &Rig, bytes: u64, busy: bool, wait: Wait<'_>) -> Result<Arc<Self>> {
        let this = Arc::pin_init(
            pin_init!(Self {
                blocks <- new_mutex!(None),
                busy: AtomicFlag::new(busy),
            }),
            GFP_KERNEL,
        )?;
        let watcher: Arc<dyn Watcher> = rig.heard.clone();
        let blocks = rig
            .vram
            .alloc_object(&rig.client.mm, &watcher, bytes, this.clone(), wait)?;
        assert_eq!(blocks.iter().map(|(_, len)| len).sum::<u64>(), bytes);
        *this.blocks.lock() = Some(blocks);
        Ok(this)
    }

    fn is_resident(&self) -> bool {
        self.blocks.lock().is_some()
    }
}

impl Evictable for FakeObject {
    fn evict(&self) -> Result {
        if self.busy.load(Acquire) {
            return Err(EAGAIN);
        }
        let blocks = self.blocks.lock().take();
        drop(blocks);
        Ok(())
    }
}

#[kunit_tests(rsvm_vram)]
mod cases {
    use super::*;

    #[test]
    fn what_is_not_taken_goes_back() -> Result {
        let rig = Rig::new()?;
        let total = rig.vram.bytes_free();
        let wait = Wait::no_wait();
        drop(rig.vram.alloc_huge(&rig.client, wait)?);
        assert!(rig.settles_at(total));

        let mut wanted = PageSet::default();
        (0..GROUP_PAGES).for_each(|i| wanted.insert(32 + i));
        wanted.insert(500);
        let mut pages = rig.vram.alloc_window(&rig.client, &wanted, wait)?;
        assert!(!pages.is_huge() && pages.take(0).is_none());
        let first = pages.take(32).ok_or(ENOENT)?;
        assert_eq!(first as usize % GROUP_PAGES, 0);
        for i in 1..GROUP_PAGES {
            assert_eq!(pages.take(32 + i), Some(first + i as u32));
        }
        drop(pages);
        assert_eq!(
            rig.vram.resident(&rig.client),
            (GROUP_PAGES * PAGE_SIZE) as u64
        );
        assert_eq!(rig.vram.bytes_free(), total - CHUNK_SIZE);
        rig.vram.free(first, GROUP_PAGES as u32);
        assert!(rig.settles_at(total));
        Ok(())
    }

    #[test]
    fn who_tends_returns_blocks_without_the_worker() -> Result {
        let rig = Rig::new()?;
        let total = rig.vram.bytes_free();
        let first = rig.huge(Wait::no_wait())?;
        rig.vram.tend(|| {
            rig.vram.tend(|| ());
            rig.vram.free(first, CHUNK_PAGES as u32);
            // The worker would have done it by then.
            fsleep(Delta::from_millis(50));
            assert_eq!(rig.vram.bytes_free(), total - CHUNK_SIZE);
        });
        assert_eq!(rig.vram.bytes_free(), total);
        Ok(())
    }

    #[test]
    fn small_windows_share_a_chunk() -> Result {
        let rig = Rig::new()?;
        let wait = Wait::no_wait();
        let mut wanted = PageSet::default();
        (0..GROUP_PAGES).for_each(|i| wanted.insert(i));
        for _ in 0..CHUNK_PAGES / GROUP_PAGES {
            let mut pages = rig.vram.alloc_window(&rig.client, &wanted, wait)?;
            (0..GROUP_PAGES).for_each(|i| assert!(pages.take(i).is_some()));
        }
        assert_eq!(rig.vram.bytes_free(), (CHUNKS - 1) * CHUNK_SIZE);
        // A whole window is a chunk of its own, in order.
        let mut pages = rig.vram.alloc_window(&rig.client, &PageSet::FULL, wait)?;
        let first = pages.take(0).ok_or(ENOENT)?;
        assert_eq!(first as usize % CHUNK_PAGES, 0);
        (1..CHUNK_PAGES).for_each(|i| assert_eq!(pages.take(i), Some(first + i as u32)));
        // Another client gets another chunk.
        let other = Client::new(own_mm()?, None)?;
        drop(rig.vram.alloc_window(&other, &wanted, wait)?);
        assert!(rig.settles_at((CHUNKS - 2) * CHUNK_SIZE));
        Ok(())
    }

    #[test]
    fn oversubscription_goes_on() -> Result {
        let rig = Rig::new()?;
        let wait = Wait::until(Rig::soon(), &|| false);
        for _ in 0..4 * CHUNKS {
            rig.huge(wait)?;
        }
        assert!(!rig.mover.intruded.load(Acquire));
        Ok(())
    }

    #[test]
    fn the_worker_keeps_the_watermarks() -> Result {
        let rig = Rig::new()?;
        let wait = Wait::no_wait();
        for _ in 0..CHUNKS {
            rig.huge(wait)?;
        }
        assert!(rig.settles(|free| free >= rig.vram.limits.high));
        Ok(())
    }

    #[test]
    fn what_is_fresh_stays() -> Result {
        let rig = Rig::new()?;
        rig.vram.residency_ms.store(3_600_000, Relaxed);
        for _ in 0..CHUNKS {
            rig.huge(Wait::no_wait())?;
        }
        assert_eq!(rig.huge(Wait::no_wait()), Err(ENOSPC));
        let soon = Instant::now() + Delta::from_millis(50);
        assert_eq!(rig.huge(Wait::until(soon, &|| false)), Err(ENOSPC));
        assert_eq!(rig.huge(Wait::until(Rig::soon(), &|| true)), Err(EINTR));
        assert_eq!(rig.vram.counters.evictions.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn the_least_recently_used_goes() -> Result {
        let rig = Rig::new()?;
        let no_wait = Wait::no_wait();
        let mut firsts = KVec::new();
        rig.vram.residency_ms.store(3_600_000, Relaxed);
        for _ in 0..CHUNKS {
            firsts.push(rig.huge(no_wait)?, GFP_KERNEL)?;
        }
        rig.vram.touch(firsts[0]);
        let evicted = |vram: &Vram, first: u32| vram.chunks[position(first).0].live() == 0;
        // The worker finds all of it too fresh.
        assert!(matches!(
            rig.vram.evict_one(&evict::Wish::All),
            evict::Evicted::Freed
        ));
        assert!(!evicted(&rig.vram, firsts[0]));
        assert!(evicted(&rig.vram, firsts[1]));
        Ok(())
    }

    #[test]
    fn what_cannot_move_stays() -> Result {
        let rig = Rig::new()?;
        rig.mover.stuck.lock().insert(3);
        let first = rig.huge(Wait::no_wait())?;
        assert!(matches!(
            rig.vram.evict_one(&evict::Wish::All),
            evict::Evicted::Failed
        ));
        let chunk = &rig.vram.chunks[position(first).0];
        assert!(chunk.pages().iter().eq([3]));
        assert_eq!(
            rig.heard.evicted.load(Relaxed),
            CHUNK_SIZE - PAGE_SIZE as u64
        );
        // It is in the order again, and can be used and given back as before.
        rig.vram.touch(first);
        rig.vram.free(first + 3, 1);
        assert!(rig.settles_at(CHUNKS * CHUNK_SIZE));
        Ok(())
    }

    #[test]
    fn half_a_folio_comes_back() -> Result {
        let rig = Rig::new()?;
        let mut pages = rig
            .vram
            .alloc_window(&rig.client, &PageSet::FULL, Wait::no_wait())?;
        let small = pages.take(0).ok_or(ENOENT)?;
        let whole = rig.huge(Wait::no_wait())?;
        rig.vram.split_later(small);
        rig.vram.split_later(whole + 77);
        let chunk = &rig.vram.chunks[position(whole).0];
        for _ in 0..1000 {
            if !chunk.is_full() {
                break;
            }
            fsleep(Delta::from_millis(5));
        }
        assert_eq!(chunk.live(), CHUNK_PAGES / 2);
        // Once is enough, and what is in small pieces already is left alone.
        rig.vram.split_later(whole);
        assert_eq!(rig.vram.counters.splits.load(Relaxed), 1);
        rig.vram.free(small, 1);
        rig.vram.free(whole, CHUNK_PAGES as u32 / 2);
        Ok(())
    }

    #[test]
    fn who_waits_is_not_overtaken() -> Result {
        let rig = Rig::new()?;
        let first = Number::draw(&rig.vram)?;
        let second = Number::draw(&rig.vram)?;
        assert!(first.is_first() && !second.is_first());
        assert_eq!(rig.huge(Wait::no_wait()), Err(ENOSPC));
        drop(first);
        assert!(second.is_first());
        drop(second);
        rig.huge(Wait::no_wait())?;
        Ok(())
    }

    #[test]
    fn pages_and_objects_evict_each_other() -> Result {
        let rig = Rig::new()?;
        let wait = Wait::until(Rig::soon(), &|| false);
        let total = CHUNKS * CHUNK_SIZE;
        for _ in 0..CHUNKS {
            rig.huge(wait)?;
        }
        let half = FakeObject::new(&rig, total / 2, wait)?;
        assert!(half.is_resident());
        // As large as the device. The worker that keeps the watermarks would move it out again.
        let whole = FakeObject::with_use(&rig, total, true, wait)?;
        assert!(whole.is_resident() && !half.is_resident());
        whole.busy.store(false, Release);
        assert_eq!(
            FakeObject::new(&rig, total + CHUNK_SIZE, wait).err(),
            Some(ENOSPC)
        );
        rig.huge(wait)?;
        assert!(!whole.is_resident());
        Ok(())
    }

    #[test]
    fn a_reserve_is_left_alone() -> Result {
        let rig = Rig::new()?;
        let wait = Wait::until(Rig::soon(), &|| false);
        let small = FakeObject::new(&rig, CHUNK_SIZE, wait)?;
        for _ in 0..2 * CHUNKS {
            rig.huge(wait)?;
        }
        assert!(small.is_resident());
        Ok(())
    }

    #[test]
    fn busy_objects_stay() -> Result {
        let rig = Rig::new()?;
        let wait = Wait::until(Rig::soon(), &|| false);
        let busy = FakeObject::new(&rig, CHUNK_SIZE, wait)?;
        let other = FakeObject::new(&rig, CHUNK_SIZE, wait)?;
        busy.busy.store(true, Release);
        assert!(matches!(
            rig.vram.evict_one(&evict::Wish::All),
            evict::Evicted::Failed
        ));
        assert!(matches!(
            rig.vram.evict_one(&evict::Wish::All),
            evict::Evicted::Freed
        ));
        assert!(busy.is_resident() && !other.is_resident());
        busy.busy.store(false, Release);
        Ok(())
    }

    #[test]
    fn odd_sizes() -> Result {
        let rig = Rig::new()?;
        let wait = Wait::no_wait();
        let total = rig.vram.bytes_free();
        let sizes = [4 << 10, 64 << 10, (2 << 20) + (4 << 10), 3 << 20];
        let mut objects = KVec::new();
        for bytes in sizes {
            objects.push(FakeObject::new(&rig, bytes, wait)?, GFP_KERNEL)?;
        }
        assert_eq!(rig.vram.bytes_free(), total - sizes.iter().sum::<u64>());
        assert_eq!(
            rig.heard.objects.load(Relaxed) as u64,
            sizes.iter().sum::<u64>()
        );
        for object in &objects {
            object.evict()?;
        }
        assert_eq!(rig.vram.bytes_free(), total);
        assert_eq!(rig.heard.objects.load(Relaxed), 0);
        for bytes in [0, 1, 4097] {
            assert_eq!(FakeObject::new(&rig, bytes, wait).err(), Some(EINVAL));
        }
        Ok(())
    }

    #[test]
    fn closed_is_closed() -> Result {
        let rig = Rig::new()?;
        let first = rig.huge(Wait::no_wait())?;
        rig.mover.stuck.lock().insert(0);
        let until = Instant::now() + Delta::from_millis(50);
        assert_eq!(rig.vram.evict_all(until), CHUNK_SIZE);
        assert_eq!(rig.huge(Wait::no_wait()), Err(ENODEV));
        rig.vram.close();
        // What is left still comes back.
        rig.vram.free(first, 1);
        assert!(rig.settles_at(CHUNKS * CHUNK_SIZE));
        Ok(())
    }
}
