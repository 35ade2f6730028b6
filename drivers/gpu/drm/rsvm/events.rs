// SPDX-License-Identifier: GPL-2.0

//! Event files: what happens in a mirrored address space, as a stream of records.

use crate::{
    fault::FaultInfo,
    svm::{
        device::Access,
        policy::Location, //
    }, //
};
use kernel::{
    fs::{
        anon_inode::{
            self,
            AnonInode,
            PollMask, //
        },
        File, //
    },
    iov::IovIterDest,
    new_mutex,
    new_poll_condvar,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::{
            PollCondVar,
            PollTable, //
        },
        Arc,
        Mutex,
        SpinLock, //
    },
    time::{
        Instant,
        Monotonic, //
    },
    uapi, //
};
use zerocopy_derive::Immutable;

/// Records that a reader may fall behind.
const CAPACITY: usize = 1024;

/// All event types, as a mask.
const ALL: u32 = 1 << uapi::DRM_RSVM_EVENT_FAULT
    | 1 << uapi::DRM_RSVM_EVENT_FATAL_FAULT
    | 1 << uapi::DRM_RSVM_EVENT_MIGRATE
    | 1 << uapi::DRM_RSVM_EVENT_EVICT
    | 1 << uapi::DRM_RSVM_EVENT_THRASH;

/// `struct drm_rsvm_event`, as bytes without padding.
#[repr(C)]
#[derive(Clone, Copy, Immutable, IntoBytes)]
struct Record {
    kind: u32,
    size: u32,
    time_ns: u64,
    addr: u64,
    len: u64,
    queue_id: u32,
    access: u32,
    reason: u32,
    dropped: u32,
}

static_assert!(size_of::<Record>() == size_of::<uapi::drm_rsvm_event>());

impl Record {
    const SIZE: usize = size_of::<Self>();

    fn new(kind: u32, addr: u64, access: u32) -> Self {
        Self {
            kind,
            // CAST: A few dozen bytes.
            size: Self::SIZE as u32,
            // CAST: CLOCK_MONOTONIC is never negative.
            time_ns: Instant::<Monotonic>::now().as_nanos() as u64,
            addr,
            len: 0,
            queue_id: 0,
            access,
            reason: uapi::DRM_RSVM_FAULT_NONE,
            dropped: 0,
        }
    }
}

/// The event files of one mirror.
#[pin_data]
pub(crate) struct Events {
    /// Types that somebody listens to, so that nobody pays for the others.
    wanted: Atomic<u32>,
    #[pin]
    streams: Mutex<Streams>,
}

struct Streams {
    open: KVec<Arc<Stream>>,
    /// The mirror is gone: no more records will come.
    ended: bool,
}

impl Events {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                wanted: Atomic::new(0),
                streams <- new_mutex!(Streams { open: KVec::new(), ended: false }, "Events"),
            }),
            GFP_KERNEL,
        )
    }

    /// Makes a file with the events whose types are in `mask`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an unknown type, `ENOENT` once the mirror is gone, `ENOMEM`.
    pub(crate) fn open(self: &Arc<Self>, mask: u32) -> Result<ARef<File>> {
        if mask & !ALL != 0 {
            return Err(EINVAL);
        }
        let stream = Stream::new(mask)?;
        {
            let mut streams = self.streams.lock();
            if streams.ended {
                return Err(ENOENT);
            }
            streams.open.push(stream.clone(), GFP_KERNEL)?;
            self.wanted.store(streams.wanted(), Relaxed);
        }
        // From here on it is the reader's drop that takes the stream out of the list.
        let reader = Reader {
            events: self.clone(),
            stream,
        };
        anon_inode::new_file::<Reader>(KBox::new(reader, GFP_KERNEL)?)
    }

    /// A fault at `addr` was served, which mapped `len` bytes. May sleep.
    pub(crate) fn served(&self, addr: u64, len: usize, access: Access) {
        self.post(uapi::DRM_RSVM_EVENT_FAULT, || Record {
            len: len as u64,
            ..Record::new(uapi::DRM_RSVM_EVENT_FAULT, addr, access_code(access, false))
        });
    }

    /// The queue `queue_id` was killed. May sleep.
    pub(crate) fn killed(&self, queue_id: u32, info: &FaultInfo) {
        self.post(uapi::DRM_RSVM_EVENT_FATAL_FAULT, || Record {
            queue_id,
            reason: info.reason as u32,
            ..Record::new(
                uapi::DRM_RSVM_EVENT_FATAL_FAULT,
                info.addr,
                access_code(info.access, info.execute),
            )
        });
    }

    /// `len` bytes from `addr` on moved to `to`. May sleep.
    pub(crate) fn migrated(&self, addr: u64, len: usize, to: Location) {
        self.post(uapi::DRM_RSVM_EVENT_MIGRATE, || Record {
            len: len as u64,
            reason: match to {
                Location::Any => uapi::DRM_RSVM_SVM_LOCATION_ANY,
                Location::System => uapi::DRM_RSVM_SVM_LOCATION_SYSTEM,
                Location::Vram => uapi::DRM_RSVM_SVM_LOCATION_VRAM,
            },
            ..Record::new(uapi::DRM_RSVM_EVENT_MIGRATE, addr, 0)
        });
    }

    /// `len` bytes somewhere in the mirror left device memory to make room. May sleep.
    pub(crate) fn evicted(&self, len: u64) {
        self.post(uapi::DRM_RSVM_EVENT_EVICT, || Record {
            len,
            ..Record::new(uapi::DRM_RSVM_EVENT_EVICT, 0, 0)
        });
    }

    /// `len` bytes from `addr` on stay in system memory for a while. May sleep.
    pub(crate) fn thrashing(&self, addr: u64, len: usize) {
        self.post(uapi::DRM_RSVM_EVENT_THRASH, || Record {
            len: len as u64,
            ..Record::new(uapi::DRM_RSVM_EVENT_THRASH, addr, 0)
        });
    }

    /// Ends all streams: readers get what is left, and then the end of the file.
    pub(crate) fn end(&self) {
        let mut streams = self.streams.lock();
        streams.ended = true;
        for stream in &streams.open {
            stream.end();
        }
    }

    fn post(&self, kind: u32, record: impl FnOnce() -> Record) {
        if self.wanted.load(Relaxed) & 1 << kind == 0 {
            return;
        }
        let record = record();
        for stream in &self.streams.lock().open {
            if stream.mask & 1 << kind != 0 {
                stream.push(record);
            }
        }
    }
}

impl Streams {
    fn wanted(&self) -> u32 {
        self.open.iter().fold(0, |mask, stream| mask | stream.mask)
    }
}

/// `DRM_RSVM_ACCESS_*` of an access.
pub(crate) fn access_code(access: Access, execute: bool) -> u32 {
    match access {
        Access::Read if execute => uapi::DRM_RSVM_ACCESS_EXECUTE,
        Access::Read => uapi::DRM_RSVM_ACCESS_READ,
        Access::Write => uapi::DRM_RSVM_ACCESS_WRITE,
        Access::Atomic => uapi::DRM_RSVM_ACCESS_ATOMIC,
    }
}

/// The records of one event file.
#[pin_data]
struct Stream {
    mask: u32,
    #[pin]
    ring: SpinLock<Ring>,
    #[pin]
    readable: PollCondVar,
}

/// A ring that forgets the oldest record when it is full.
struct Ring {
    /// As long as the ring's capacity.
    records: KVVec<Record>,
    /// Where the oldest one is.
    head: usize,
    len: usize,
    /// Records lost before the oldest one.
    dropped: u32,
    ended: bool,
}

impl Ring {
    fn new(capacity: usize) -> Result<Self> {
        Ok(Self {
            records: KVVec::from_elem(Record::new(0, 0, 0), capacity, GFP_KERNEL_ACCOUNT)?,
            head: 0,
            len: 0,
            dropped: 0,
            ended: false,
        })
    }

    /// Where the record `n` after the oldest one is or goes; `n` is at most the capacity.
    fn slot(&self, n: usize) -> usize {
        let slot = self.head + n;
        if slot < self.records.len() {
            slot
        } else {
            slot - self.records.len()
        }
    }

    fn push(&mut self, record: Record) {
        if self.len == self.records.len() {
            self.head = self.slot(1);
            self.len -= 1;
            self.lose(1);
        }
        let slot = self.slot(self.len);
        self.records[slot] = record;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Record> {
        if self.len == 0 {
            return None;
        }
        let mut record = self.records[self.head];
        record.dropped = core::mem::take(&mut self.dropped);
        self.head = self.slot(1);
        self.len -= 1;
        Some(record)
    }

    fn lose(&mut self, records: u32) {
        self.dropped = self.dropped.saturating_add(records);
    }
}

impl Stream {
    fn new(mask: u32) -> Result<Arc<Self>> {
        let ring = Ring::new(CAPACITY)?;
        Arc::pin_init(
            pin_init!(Self {
                mask,
                ring <- new_spinlock!(ring, "Stream::ring"),
                readable <- new_poll_condvar!("Stream::readable"),
            }),
            GFP_KERNEL,
        )
    }

    fn push(&self, record: Record) {
        self.ring.lock().push(record);
        self.readable.notify_all();
    }

    fn end(&self) {
        self.ring.lock().ended = true;
        self.readable.notify_all();
    }

    /// The oldest record, `None` at the end; waits for one unless `nonblocking`.
    fn next(&self, nonblocking: bool) -> Result<Option<Record>> {
        let mut ring = self.ring.lock();
        loop {
            if let Some(record) = ring.pop() {
                return Ok(Some(record));
            }
            if ring.ended {
                return Ok(None);
            }
            if nonblocking {
                return Err(EAGAIN);
            }
            if self.readable.wait_interruptible(&mut ring) {
                return Err(ERESTARTSYS);
            }
        }
    }
}

/// What an event file owns.
struct Reader {
    events: Arc<Events>,
    stream: Arc<Stream>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut streams = self.events.streams.lock();
        streams
            .open
            .retain(|stream| !Arc::ptr_eq(stream, &self.stream));
        self.events.wanted.store(streams.wanted(), Relaxed);
    }
}

#[vtable]
impl AnonInode for Reader {
    type Ptr = KBox<Self>;

    const NAME: &'static CStr = c"[rsvm_event]";

    fn read(this: &Self, iov: &mut IovIterDest<'_>, nonblocking: bool) -> Result<usize> {
        if iov.len() < Record::SIZE {
            return Err(EINVAL);
        }
        let mut bytes = 0;
        while iov.len() >= Record::SIZE {
            // Only the first record is waited for.
            let record = match this.stream.next(nonblocking || bytes != 0) {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(_) if bytes != 0 => break,
                Err(err) => return Err(err),
            };
            if iov.copy_to_iter(record.as_bytes()) != Record::SIZE {
                this.stream
                    .ring
                    .lock()
                    .lose(record.dropped.saturating_add(1));
                return if bytes != 0 { Ok(bytes) } else { Err(EFAULT) };
            }
            bytes += Record::SIZE;
        }
        Ok(bytes)
    }

    fn poll(this: &Self, file: &File, table: &PollTable<'_>) -> PollMask {
        table.register_wait(file, &this.stream.readable);
        let ring = this.stream.ring.lock();
        let mut mask = PollMask::default();
        if ring.len != 0 || ring.ended {
            mask = mask | PollMask::READABLE;
        }
        if ring.ended {
            mask = mask | PollMask::HANGUP;
        }
        mask
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_events)]
mod tests {
    use super::*;

    fn record(addr: u64) -> Record {
        Record::new(uapi::DRM_RSVM_EVENT_FAULT, addr, uapi::DRM_RSVM_ACCESS_READ)
    }

    #[test]
    fn ring_keeps_order() -> Result {
        let mut ring = Ring::new(4)?;
        for addr in 0..3 {
            ring.push(record(addr));
        }
        for addr in 0..3 {
            let got = ring.pop().ok_or(EINVAL)?;
            assert_eq!((got.addr, got.dropped), (addr, 0));
        }
        assert!(ring.pop().is_none());
        Ok(())
    }

    #[test]
    fn full_ring_tells_what_it_lost() -> Result {
        let mut ring = Ring::new(4)?;
        for addr in 0..10 {
            ring.push(record(addr));
        }
        let got = ring.pop().ok_or(EINVAL)?;
        assert_eq!((got.addr, got.dropped), (6, 6));
        let got = ring.pop().ok_or(EINVAL)?;
        assert_eq!((got.addr, got.dropped), (7, 0));
        // What was popped made room.
        ring.push(record(10));
        ring.push(record(11));
        ring.push(record(12));
        let got = ring.pop().ok_or(EINVAL)?;
        assert_eq!((got.addr, got.dropped), (9, 1));
        Ok(())
    }

    #[test]
    fn only_wanted_events_arrive() -> Result {
        let events = Events::new()?;
        let stream = Stream::new(1 << uapi::DRM_RSVM_EVENT_FATAL_FAULT)?;
        {
            let mut streams = events.streams.lock();
            streams.open.push(stream.clone(), GFP_KERNEL)?;
            events.wanted.store(streams.wanted(), Relaxed);
        }
        events.served(0x1000, 4096, Access::Write);
        assert!(stream.next(true).is_err_and(|err| err == EAGAIN));
        events.end();
        assert!(stream.next(false)?.is_none());
        assert!(events.open(0).is_err_and(|err| err == ENOENT));
        assert!(events.open(ALL + 1).is_err_and(|err| err == EINVAL));
        Ok(())
    }
}
