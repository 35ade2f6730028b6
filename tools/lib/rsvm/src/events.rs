// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Event files.

use crate::error::{Error, Fault, Result};
use crate::uapi::{Event, EVENT_FATAL_FAULT};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::time::{Duration, Instant};

/// A file that tells what happens in a mirror. Pollable.
#[derive(Debug)]
pub struct Events {
    file: File,
}

impl Events {
    /// # Safety
    ///
    /// `fd` is an open event file that nobody else owns.
    pub(crate) unsafe fn from_raw_fd(fd: RawFd) -> Self {
        Events {
            // SAFETY: By this function's contract.
            file: unsafe { File::from_raw_fd(fd) },
        }
    }

    /// The next event, or `None` when none comes in time.
    ///
    /// # Errors
    ///
    /// [`Error::System`] when the file cannot be read.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Option<Event>> {
        if !self
            .poll(timeout)
            .map_err(Error::system("wait for an event"))?
        {
            return Ok(None);
        }
        let mut bytes = [0u8; size_of::<Event>()];
        match (&self.file).read(&mut bytes) {
            // SAFETY: `Event` is integers only, so any bytes make one.
            Ok(n) if n == bytes.len() => Ok(Some(unsafe {
                std::mem::transmute::<[u8; size_of::<Event>()], Event>(bytes)
            })),
            Ok(_) => Ok(None),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(err) => Err(Error::system("read an event")(err)),
        }
    }

    /// Is there something to read before the time is over?
    fn poll(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            // Rounded up, so as not to spin through the last millisecond.
            let ms = left.map_or(-1, |left| {
                i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
            });
            let mut poll = libc::pollfd {
                fd: self.file.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: One entry, and it is ours.
            match unsafe { libc::poll(&mut poll, 1, ms) } {
                -1 => {
                    let err = io::Error::last_os_error();
                    if err.kind() != io::ErrorKind::Interrupted {
                        return Err(err);
                    }
                }
                n => return Ok(n > 0),
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Event {
    /// Why the queue was killed, if this event says so.
    pub fn fault(&self) -> Option<Fault> {
        (self.r#type == EVENT_FATAL_FAULT).then(|| Fault {
            queue_id: self.queue_id,
            addr: self.addr,
            access: self.access.into(),
            reason: self.reason.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// An event file whose events the test writes.
    fn events() -> (Events, UnixStream) {
        let (reader, writer) = UnixStream::pair().unwrap();
        let file = File::from(OwnedFd::from(reader));
        (Events { file }, writer)
    }

    #[test]
    fn a_record_is_read_whole() {
        let (events, mut writer) = events();
        let mut bytes = [0; size_of::<Event>()];
        bytes[0] = EVENT_FATAL_FAULT as u8;
        bytes[4] = size_of::<Event>() as u8;
        bytes[16] = 0x40;
        bytes[32] = 5;
        bytes[36] = 1;
        bytes[40] = 2;
        writer.write_all(&bytes).unwrap();
        let event = events.next(None).unwrap().unwrap();
        assert_eq!(
            event.fault().unwrap().to_string(),
            "GPU fault: write to 0x40: the mapping does not allow it (queue 5)"
        );
    }

    #[test]
    fn nothing_in_time_is_none() {
        let (events, _writer) = events();
        assert_eq!(events.next(Some(Duration::from_millis(5))).unwrap(), None);
    }

    #[test]
    fn a_served_fault_is_no_fatal_one() {
        assert_eq!(Event::default().fault(), None);
    }
}
