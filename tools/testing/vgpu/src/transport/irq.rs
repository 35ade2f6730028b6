// SPDX-License-Identifier: GPL-2.0 OR MIT
//! MSI-X messages: an eventfd for each vector, given by the client.

use crate::pci::MSIX_VECTORS;
use crate::InterruptSink;
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, MutexGuard};

/// Where the device's interrupts leave. Shared by the engine threads that
/// raise them and the transport that wires them.
///
/// Lock order: leaf; nothing else is taken below it.
#[derive(Default)]
pub struct Msix {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    eventfds: [Option<File>; MSIX_VECTORS],
    /// Raised while the vector had no eventfd: what the PBA shows.
    pending: u64,
    enabled: bool,
    bus_master: bool,
}

impl State {
    fn deliver(&mut self, vector: usize) {
        let Some(file) = &mut self.eventfds[vector] else {
            self.pending |= 1 << vector;
            return;
        };
        self.pending &= !(1 << vector);
        if let Err(err) = file.write_all(&1u64.to_ne_bytes()) {
            tracing::error!("MSI-X vector {vector}: {err}");
        }
    }
}

impl Msix {
    fn lock(&self) -> MutexGuard<'_, State> {
        crate::lock(&self.state)
    }

    /// Gives `vectors` starting at `first` their eventfds. A vector that
    /// became pending while it had none fires now. Vectors that do not exist
    /// are dropped with a log line.
    pub fn wire(&self, first: usize, fds: Vec<File>) {
        let mut state = self.lock();
        for (vector, fd) in (first..).zip(fds) {
            if vector >= MSIX_VECTORS {
                tracing::warn!("eventfd for vector {vector}, which does not exist");
                return;
            }
            state.eventfds[vector] = Some(fd);
            if state.enabled && state.pending & (1 << vector) != 0 {
                state.deliver(vector);
            }
        }
    }

    /// Takes the eventfds of `count` vectors starting at `first` away.
    pub fn unwire(&self, first: usize, count: usize) {
        let mut state = self.lock();
        let end = first.saturating_add(count).min(MSIX_VECTORS);
        for fd in state.eventfds.iter_mut().take(end).skip(first) {
            *fd = None;
        }
    }

    /// Fires the wired vectors of a range, as the client asks for in a
    /// loopback test.
    pub fn trigger(&self, first: usize, count: usize) {
        let mut state = self.lock();
        for vector in first..first.saturating_add(count).min(MSIX_VECTORS) {
            state.deliver(vector);
        }
    }

    /// Follows the MSI-X enable bit. Switching it off forgets what is pending.
    pub fn set_enabled(&self, enabled: bool) {
        let mut state = self.lock();
        state.enabled = enabled;
        if !enabled {
            state.pending = 0;
        }
    }

    /// Follows the bus master bit: a message is a memory write, so without it
    /// none leaves.
    pub fn set_bus_master(&self, on: bool) {
        self.lock().bus_master = on;
    }

    /// The pending bit array.
    pub fn pending(&self) -> u64 {
        self.lock().pending
    }
}

impl InterruptSink for Msix {
    fn raise(&self, vector: u32) {
        let mut state = self.lock();
        let vector = vector as usize;
        if vector < MSIX_VECTORS && state.enabled && state.bus_master {
            state.deliver(vector);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

    fn wired(msix: &Msix, vector: usize) -> EventFd {
        use std::os::fd::{FromRawFd, IntoRawFd};
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let copy = event.try_clone().unwrap().into_raw_fd();
        // SAFETY: `into_raw_fd` gave up ownership of this open descriptor.
        msix.wire(vector, vec![unsafe { File::from_raw_fd(copy) }]);
        event
    }

    fn enabled() -> Msix {
        let msix = Msix::default();
        msix.set_enabled(true);
        msix.set_bus_master(true);
        msix
    }

    #[test]
    fn a_raised_vector_fires_its_own_eventfd() {
        let msix = enabled();
        let (one, two) = (wired(&msix, 1), wired(&msix, 2));
        msix.raise(2);
        assert_eq!(two.read().unwrap(), 1);
        assert!(one.read().is_err());
    }

    #[test]
    fn an_unwired_vector_is_pending_until_wired() {
        let msix = enabled();
        msix.raise(3);
        assert_eq!(msix.pending(), 1 << 3);
        assert_eq!(wired(&msix, 3).read().unwrap(), 1);
        assert_eq!(msix.pending(), 0);
    }

    #[test]
    fn nothing_leaves_without_bus_mastering_or_msix() {
        let msix = enabled();
        let event = wired(&msix, 0);
        msix.set_bus_master(false);
        msix.raise(0);
        msix.set_bus_master(true);
        msix.set_enabled(false);
        msix.raise(0);
        msix.set_enabled(true);
        assert!(event.read().is_err());
        assert_eq!(msix.pending(), 0);
    }

    #[test]
    fn vectors_that_do_not_exist_are_ignored() {
        let msix = enabled();
        msix.raise(MSIX_VECTORS as u32);
        msix.unwire(usize::MAX, usize::MAX);
        msix.trigger(MSIX_VECTORS, usize::MAX);
        assert_eq!(msix.pending(), 0);
    }
}
