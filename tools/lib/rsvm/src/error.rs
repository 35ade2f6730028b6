// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What can go wrong, in words a user of the library understands.

use std::fmt;
use std::io;

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum $name {
            $($variant,)*
            /// A number that this library does not know.
            Unknown(u32),
        }

        impl From<u32> for $name {
            fn from(number: u32) -> Self {
                match number {
                    $($number => $name::$variant,)*
                    other => $name::Unknown(other),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(name: $name) -> Self {
                match name {
                    $($name::$variant => $number,)*
                    $name::Unknown(other) => other,
                }
            }
        }
    };
}

numbered! {
    /// How the device wanted to reach memory: DRM_RSVM_ACCESS_*.
    Access { Read = 0, Write = 1, Atomic = 2, Execute = 3, }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::Read => f.write_str("read from"),
            Access::Write => f.write_str("write to"),
            Access::Atomic => f.write_str("atomic on"),
            Access::Execute => f.write_str("instruction fetch from"),
            Access::Unknown(n) => write!(f, "access (kind {n}) to"),
        }
    }
}

numbered! {
    /// Why a queue was killed: DRM_RSVM_FAULT_*.
    Reason {
        NoMapping = 1,
        Protection = 2,
        Atomic = 3,
        NoMemory = 4,
        Io = 5,
        BadAddress = 6,
        Exception = 7,
        Method = 8,
        Exited = 9,
        Killed = 10,
    }
}

/// Why a queue no longer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The queue that was killed.
    pub queue_id: u32,
    /// Address that could not be served; the pc for [`Reason::Exception`].
    pub addr: u64,
    /// What the device wanted to do there.
    pub access: Access,
    /// Why it could not.
    pub reason: Reason,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault {
            queue_id,
            addr,
            access,
            reason,
        } = self;
        let why = match reason {
            Reason::NoMapping => "no mapping there",
            Reason::Protection => "the mapping does not allow it",
            Reason::Atomic => "the device cannot do atomics there",
            Reason::NoMemory => "out of memory",
            Reason::Io => "the memory behind it could not be read",
            Reason::BadAddress => "beyond the process's address space",
            Reason::Exited => "the process that owned the memory is gone",
            Reason::Unknown(_) => "unknown reason",
            Reason::Exception => {
                return write!(
                    f,
                    "GPU exception: illegal instruction, ebreak or misaligned atomic at pc {addr:#x} (queue {queue_id})"
                );
            }
            Reason::Method => {
                return write!(
                    f,
                    "GPU error: method {addr:#x} unknown or not allowed (queue {queue_id})"
                );
            }
            Reason::Killed => return write!(f, "queue {queue_id} was destroyed while it ran"),
        };
        write!(f, "GPU fault: {access} {addr:#x}: {why} (queue {queue_id})")
    }
}

/// An error of this library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No render node belongs to the driver.
    #[error("no rsvm device: no render node in /dev/dri has this driver (is the module loaded?)")]
    NoDevice,
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The object file cannot run on the device.
    #[error("cannot load GPU program: {0}")]
    Elf(String),
    /// The program has no such function.
    #[error("GPU program has no function '{0}'")]
    NoKernel(String),
    /// The wait ended before the work did.
    #[error("GPU work not finished in time (queue {0})")]
    Timeout(u32),
    /// No event came in time.
    #[error("no event in time")]
    NoEvent,
    /// The queue was killed.
    #[error("{0}")]
    Fault(Fault),
    /// An argument makes no sense.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The driver does not report something it should.
    #[error("statistics of the device file lack {0}")]
    NoStatistic(&'static str),
}

impl Error {
    /// Wraps the error of a system call made to do `what`.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { what, source }
    }

    /// The errno that stands for this error in the C interface.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NoDevice => libc::ENODEV,
            Error::System { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Error::Elf(_) => libc::ENOEXEC,
            Error::NoKernel(_) => libc::ENOENT,
            Error::Timeout(_) | Error::NoEvent => libc::ETIME,
            Error::Fault(_) => libc::EIO,
            Error::Invalid(_) => libc::EINVAL,
            Error::NoStatistic(_) => libc::ENODATA,
        }
    }
}

/// Shorthand for results of this library.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(access: u32, reason: u32) -> Fault {
        Fault {
            queue_id: 3,
            addr: 0x7f00_1234_5000,
            access: access.into(),
            reason: reason.into(),
        }
    }

    #[test]
    fn fault_texts_say_what_where_and_why() {
        assert_eq!(
            fault(1, 1).to_string(),
            "GPU fault: write to 0x7f0012345000: no mapping there (queue 3)"
        );
        assert_eq!(
            fault(0, 2).to_string(),
            "GPU fault: read from 0x7f0012345000: the mapping does not allow it (queue 3)"
        );
        assert!(fault(3, 7).to_string().contains("pc 0x7f0012345000"));
        assert!(fault(9, 99).to_string().contains("unknown reason"));
    }

    #[test]
    fn every_reason_has_a_text_of_its_own() {
        let texts: std::collections::HashSet<_> = (1..=11)
            .map(|reason| fault(0, reason).to_string())
            .collect();
        assert_eq!(texts.len(), 11);
    }

    #[test]
    fn errno_of_a_system_error_is_the_systems() {
        let err = Error::system("create a queue")(io::Error::from_raw_os_error(libc::EBUSY));
        assert_eq!(err.errno(), libc::EBUSY);
        assert!(err.to_string().starts_with("create a queue: "));
    }
}
