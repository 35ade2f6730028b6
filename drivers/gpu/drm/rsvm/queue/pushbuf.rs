// SPDX-License-Identifier: GPL-2.0

//! Pushbuffer and GP ring of a channel.
//!
//! Methods lie in a ring of words; each GP entry names a run of them. The device writes how many GP
//! entries it is through with (GP_GET) into USERD, which frees their words.

use crate::{
    dma::DmaBuffer,
    hw::ramfc::{
        userd,
        GpEntryHi,
        GpEntryLo, //
    },
    reset::BOUND, //
};
use kernel::{
    device::{
        Bound,
        Device, //
    },
    io::poll::read_poll_timeout,
    prelude::*,
    sync::barrier,
    time::Delta, //
};

/// How often room in a ring is looked for.
const POLL: Delta = Delta::from_micros(20);

/// GP entries; a power of two, and as many as fit a page.
pub(crate) const GP_ENTRIES: usize = 512;
/// 32-bit words for methods.
pub(crate) const PUSH_WORDS: usize = 16 << 10;
/// Most words of one push of a user, so that several have room.
pub(crate) const MAX_PUSH_WORDS: usize = PUSH_WORDS / 4;

/// Which words of a ring are in use.
struct Ring {
    /// Next GP entry to write, and the first one the device is not through with.
    put: usize,
    get: usize,
    /// Word after the last push; first word in use. Equal only when nothing is in use.
    head: usize,
    tail: usize,
    /// For each GP entry, the word after its push.
    ends: KVec<usize>,
}

impl Ring {
    fn new() -> Result<Self> {
        Ok(Self {
            put: 0,
            get: 0,
            head: 0,
            tail: 0,
            ends: KVec::from_elem(0, GP_ENTRIES, GFP_KERNEL)?,
        })
    }

    /// Forgets what was pushed.
    fn clear(&mut self) {
        self.put = 0;
        self.get = 0;
        self.head = 0;
        self.tail = 0;
    }

    /// Takes over what the device says.
    ///
    /// # Errors
    ///
    /// `EIO` if that is no entry that was pushed.
    fn retire(&mut self, get: usize) -> Result {
        let pending = self.put.wrapping_sub(self.get) % GP_ENTRIES;
        let done = get.wrapping_sub(self.get) % GP_ENTRIES;
        if get >= GP_ENTRIES || done > pending {
            return Err(EIO);
        }
        if done != 0 {
            self.tail = self.ends[(get + GP_ENTRIES - 1) % GP_ENTRIES];
            self.get = get;
        }
        if self.get == self.put {
            self.head = 0;
            self.tail = 0;
        }
        Ok(())
    }

    /// First word for a push of `len` words.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if they do not fit now.
    fn place(&self, len: usize) -> Result<usize> {
        if (self.put + 1) % GP_ENTRIES == self.get {
            return Err(EAGAIN);
        }
        let empty = self.get == self.put;
        if empty || self.head > self.tail {
            if self.head + len <= PUSH_WORDS {
                return Ok(self.head);
            }
            // Head and tail must not meet while something is in use.
            if len < self.tail {
                return Ok(0);
            }
        } else if self.head + len < self.tail {
            return Ok(self.head);
        }
        Err(EAGAIN)
    }

    fn take(&mut self, first: usize, len: usize) {
        self.ends[self.put] = first + len;
        self.head = first + len;
        self.put = (self.put + 1) % GP_ENTRIES;
    }
}

/// The rings and USERD of a channel.
pub(crate) struct PushBuffer {
    words: DmaBuffer<u32>,
    gpfifo: DmaBuffer<u64>,
    userd: DmaBuffer<u32>,
    /// GPU address of the first word.
    base: u64,
    ring: Ring,
}

impl PushBuffer {
    /// Empty rings; the channel will see the words at GPU address `base`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(dev: &Device<Bound>, base: u64) -> Result<Self> {
        Ok(Self {
            words: DmaBuffer::new(dev, PUSH_WORDS)?,
            gpfifo: DmaBuffer::new(dev, GP_ENTRIES)?,
            userd: DmaBuffer::new(dev, userd::SIZE / size_of::<u32>())?,
            base,
            ring: Ring::new()?,
        })
    }

    /// Bus address of the words.
    pub(crate) fn words_addr(&self) -> u64 {
        self.words.addr()
    }

    /// Bus address of the GP ring.
    pub(crate) fn gpfifo_addr(&self) -> u64 {
        self.gpfifo.addr()
    }

    /// Bus address of USERD.
    pub(crate) fn userd_addr(&self) -> u64 {
        self.userd.addr()
    }

    /// Empties the rings. The channel is not on the device, and will start anew.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn reset(&mut self) -> Result {
        self.ring.clear();
        self.userd.write(userd::GP_GET, 0)?;
        self.userd.write(userd::GP_PUT, 0)
    }

    /// Appends one push made of `parts`. The caller rings the doorbell.
    ///
    /// # Errors
    ///
    /// `EAGAIN` while the ring is full, `EINVAL` if the push is empty or too long, `EIO` if the
    /// device wrote nonsense, `ENODEV` after the driver was unbound.
    pub(crate) fn push(&mut self, parts: &[&[u32]]) -> Result {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len == 0 || len > PUSH_WORDS {
            return Err(EINVAL);
        }
        // CAST: Widening.
        self.ring.retire(self.userd.read(userd::GP_GET)? as usize)?;
        let first = self.ring.place(len)?;
        // The device is through with what is overwritten before it wrote GP_GET.
        barrier::dma_mb(barrier::Full);
        let mut at = first;
        for part in parts {
            self.words.write_slice(at, part)?;
            at += part.len();
        }
        self.gpfifo
            .write(self.ring.put, gp_entry(self.base + first as u64 * 4, len))?;
        self.ring.take(first, len);
        barrier::dma_mb(barrier::Write);
        // CAST: Less than `GP_ENTRIES`.
        self.userd.write(userd::GP_PUT, self.ring.put as u32)?;
        barrier::dma_mb(barrier::Write);
        Ok(())
    }

    /// As [`push`](Self::push), but waits while the ring is full. Sleeps, bounded.
    ///
    /// # Errors
    ///
    /// Those of [`push`](Self::push), but `ETIMEDOUT` for `EAGAIN`.
    pub(crate) fn push_when_free(&mut self, parts: &[&[u32]]) -> Result {
        // TIMEOUT: The device takes the kernel's pushes one after the other, and waits for no
        // service of a fault meanwhile; see `BOUND`.
        read_poll_timeout(
            || match self.push(parts) {
                Err(err) if err == EAGAIN => Ok(false),
                other => other.map(|()| true),
            },
            |&pushed| pushed,
            POLL,
            BOUND,
        )
        .map(|_| ())
    }
}

/// The GP entry for `len` words at GPU address `addr`, which has 40 bits.
fn gp_entry(addr: u64, len: usize) -> u64 {
    // CAST: The address is split into its words; a push has far less than 2^21 words.
    let lo = GpEntryLo::from_raw(addr as u32 & GpEntryLo::ADDR_MASK);
    let hi = GpEntryHi::from_raw(
        (addr >> 32) as u32 & GpEntryHi::ADDR_MASK
            | (len as u32) << GpEntryHi::LENGTH_SHIFT & GpEntryHi::LENGTH_MASK,
    );
    u64::from(hi.into_raw()) << 32 | u64::from(lo.into_raw())
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_queue_pushbuf)]
mod tests {
    use super::*;

    #[test]
    fn gp_entries() {
        // Length in 30:10 of the second word, address bits 39:32 in its low byte.
        assert_eq!(gp_entry(0x12_3456_7890, 5), 0x0000_1412_3456_7890);
    }

    #[test]
    fn ring_wraps_and_never_overwrites() -> Result {
        let mut ring = Ring::new()?;
        let quarter = PUSH_WORDS / 4;
        for i in 0..4 {
            let at = ring.place(quarter)?;
            assert_eq!(at, i * quarter);
            ring.take(at, quarter);
        }
        // Full, and full still when less than what is wanted came free.
        assert_eq!(ring.place(1).err(), Some(EAGAIN));
        ring.retire(1)?;
        assert_eq!(ring.place(quarter).err(), Some(EAGAIN));
        let at = ring.place(quarter - 1)?;
        assert_eq!(at, 0);
        ring.take(at, quarter - 1);
        assert_eq!(ring.place(1).err(), Some(EAGAIN));
        // All done: it starts at the front.
        ring.retire(5)?;
        assert_eq!(ring.place(PUSH_WORDS)?, 0);
        Ok(())
    }

    #[test]
    fn ring_is_bounded_by_its_entries() -> Result {
        let mut ring = Ring::new()?;
        for _ in 0..GP_ENTRIES - 1 {
            let at = ring.place(1)?;
            ring.take(at, 1);
        }
        assert_eq!(ring.place(1).err(), Some(EAGAIN));
        ring.retire(1)?;
        assert!(ring.place(1).is_ok());
        Ok(())
    }

    #[test]
    fn nonsense_is_refused() -> Result {
        let mut ring = Ring::new()?;
        ring.take(0, 8);
        assert_eq!(ring.retire(2).err(), Some(EIO));
        assert_eq!(ring.retire(GP_ENTRIES).err(), Some(EIO));
        ring.retire(1)?;
        // It cannot go back.
        assert_eq!(ring.retire(0).err(), Some(EIO));
        Ok(())
    }
}
