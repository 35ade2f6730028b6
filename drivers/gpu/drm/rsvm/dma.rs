// SPDX-License-Identifier: GPL-2.0

//! Memory that the driver and the device both access.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    devres::Devres,
    dma::{
        Coherent,
        CoherentIoBackend, //
    },
    io::{
        io_read,
        io_write,
        poll::read_poll_timeout,
        IoCapable, //
    },
    prelude::*,
    time::Delta,
    transmute::{
        AsBytes,
        FromBytes, //
    },
};

/// So long what the device writes is looked for without a pause: to sleep and be woken takes longer
/// than most of what it does.
const SPIN: Delta = Delta::from_millis(1);
/// How often it is looked for then.
const POLL: Delta = Delta::from_micros(20);

/// Coherent system memory as an array of `T`, each read and written as a whole.
///
/// It is given back when this is dropped, or when the driver is unbound while somebody still has
/// this; accesses fail from then on.
pub(crate) struct DmaBuffer<T: AsBytes + FromBytes + Send + Sync + 'static> {
    memory: Devres<Coherent<[T]>>,
    addr: u64,
}

impl<T: AsBytes + FromBytes + Copy + Send + Sync + 'static> DmaBuffer<T>
where
    CoherentIoBackend: IoCapable<T>,
{
    /// Allocates `len` zeroed elements, aligned to a page. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(dev: &Device<Bound>, len: usize) -> Result<Self> {
        let memory = Coherent::<T>::zeroed_slice(dev, len, GFP_KERNEL)?;
        let addr = memory.dma_address();
        Ok(Self {
            memory: Devres::new(dev, Ok::<_, Error>(memory))?,
            addr,
        })
    }

    /// Bus address of element 0.
    pub(crate) fn addr(&self) -> u64 {
        self.addr
    }

    /// # Errors
    ///
    /// `ERANGE` beyond the end, `ENODEV` after the driver was unbound.
    pub(crate) fn read(&self, index: usize) -> Result<T> {
        let memory = self.memory.try_access().ok_or(ENODEV)?;
        Ok(io_read!(&*memory, [try: index]))
    }

    /// Reads an element until `done` says that it is as it has to be, or `bound` is over, not
    /// counting [`SPIN`]. Sleeps.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`, and those of [`read`](Self::read).
    pub(crate) fn poll(&self, index: usize, done: impl Fn(&T) -> bool, bound: Delta) -> Result {
        let poll = |pause, bound| read_poll_timeout(|| self.read(index), &done, pause, bound);
        match poll(Delta::ZERO, SPIN) {
            Err(err) if err == ETIMEDOUT => poll(POLL, bound),
            other => other,
        }
        .map(|_| ())
    }

    /// # Errors
    ///
    /// `ERANGE` beyond the end, `ENODEV` after the driver was unbound.
    pub(crate) fn write(&self, index: usize, value: T) -> Result {
        let memory = self.memory.try_access().ok_or(ENODEV)?;
        io_write!(&*memory, [try: index], value);
        Ok(())
    }

    /// Reads `out.len()` elements from `index` on.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub(crate) fn read_slice(&self, index: usize, out: &mut [T]) -> Result {
        let memory = self.memory.try_access().ok_or(ENODEV)?;
        for (i, value) in out.iter_mut().enumerate() {
            *value = io_read!(&*memory, [try: index + i]);
        }
        Ok(())
    }

    /// Writes `values` from `index` on.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write); what fits has been written.
    pub(crate) fn write_slice(&self, index: usize, values: &[T]) -> Result {
        let memory = self.memory.try_access().ok_or(ENODEV)?;
        for (i, &value) in values.iter().enumerate() {
            io_write!(&*memory, [try: index + i], value);
        }
        Ok(())
    }

    /// Writes `value` to `len` elements from `index` on.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write); what fits has been written.
    pub(crate) fn fill(&self, index: usize, len: usize, value: T) -> Result {
        let memory = self.memory.try_access().ok_or(ENODEV)?;
        for i in index..index + len {
            io_write!(&*memory, [try: i], value);
        }
        Ok(())
    }
}
