// SPDX-License-Identifier: GPL-2.0 OR MIT
//! An open device with a mirror of this process's address space.

use crate::error::{Error, Result};
use crate::events::Events;
use crate::queue::Queue;
use crate::stats::Stats;
use crate::uapi;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DRIVER: &[u8] = b"rsvm";
const RENDER_NODES: &str = "/dev/dri";

/// A property of the device: DRM_RSVM_PARAM_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Param {
    /// Width of a GPU virtual address in bits.
    VaBits = 0,
    /// Page-table format: 2 or 3.
    MmuVersion = 1,
    /// Leaf sizes as a sum of sizes in bytes.
    PageSizes = 2,
    /// DRM_RSVM_ATOMICS_* bits.
    Atomics = 3,
    /// Device memory in bytes.
    VramTotal = 4,
    /// Free device memory in bytes.
    VramFree = 5,
    /// How many queues the device can hold, over all processes.
    MaxQueues = 6,
    /// Largest number of dwords of one push.
    MaxPushDwords = 7,
    /// Class id of the compute engine.
    ComputeClass = 8,
}

/// An open device and, in it, this process's address space.
///
/// Queues and event files keep it alive. After `fork` the child must open one
/// of its own.
#[derive(Debug)]
pub struct Context {
    file: File,
    vm_id: u32,
    compute_class: u32,
}

impl Context {
    /// Opens the first render node that belongs to the driver.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] when there is none.
    pub fn open() -> Result<Arc<Self>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(RENDER_NODES)
            .map_err(|_| Error::NoDevice)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"renderD"))
            })
            .collect();
        paths.sort();
        let file = paths
            .iter()
            .filter_map(|path| open_node(path).ok())
            .find(|file| uapi::driver_name(file.as_fd()).is_ok_and(|name| name == DRIVER))
            .ok_or(Error::NoDevice)?;
        Context::from_file(file)
    }

    /// Opens this render node.
    ///
    /// # Errors
    ///
    /// [`Error::System`] when it cannot be opened, [`Error::NoDevice`] when it
    /// belongs to another driver.
    pub fn open_path(path: &Path) -> Result<Arc<Self>> {
        let file = open_node(path).map_err(Error::system("open the render node"))?;
        match uapi::driver_name(file.as_fd()) {
            Ok(name) if name == DRIVER => Context::from_file(file),
            _ => Err(Error::NoDevice),
        }
    }

    fn from_file(file: File) -> Result<Arc<Self>> {
        let class = query(file.as_fd(), Param::ComputeClass as u32)?;
        let compute_class =
            u32::try_from(class).map_err(|_| Error::Invalid("compute class of the device"))?;
        let mut vm = uapi::VmCreate::default();
        uapi::ioctl(file.as_fd(), &mut vm).map_err(Error::system("mirror the address space"))?;
        Ok(Arc::new(Context {
            file,
            vm_id: vm.vm_id,
            compute_class,
        }))
    }

    /// Asks for a property of the device.
    ///
    /// # Errors
    ///
    /// [`Error::System`] when the device is gone.
    pub fn query(&self, param: Param) -> Result<u64> {
        self.query_raw(param as u32)
    }

    /// As [`Context::query`], by number.
    pub(crate) fn query_raw(&self, param: u32) -> Result<u64> {
        query(self.file.as_fd(), param)
    }

    /// Makes a queue.
    ///
    /// # Errors
    ///
    /// [`Error::System`]; EBUSY when the device holds as many as it can.
    pub fn create_queue(self: &Arc<Self>) -> Result<Arc<Queue>> {
        Queue::new(Arc::clone(self))
    }

    /// Opens a file that tells what happens in this address space.
    /// `mask` has bits 1 << [`uapi::EVENT_FAULT`] and the like.
    ///
    /// # Errors
    ///
    /// [`Error::System`]; EINVAL for an unknown bit.
    pub fn open_events(&self, mask: u32) -> Result<Events> {
        let mut open = uapi::EventOpen {
            vm_id: self.vm_id,
            mask,
            ..Default::default()
        };
        uapi::ioctl(self.file.as_fd(), &mut open).map_err(Error::system("open an event file"))?;
        // SAFETY: The ioctl succeeded, so this descriptor is new and ours.
        Ok(unsafe { Events::from_raw_fd(open.fd) })
    }

    /// What the driver counted for this context so far.
    ///
    /// # Errors
    ///
    /// [`Error::System`] when it cannot be read, [`Error::NoStatistic`] when a
    /// counter is missing.
    pub fn stats(&self) -> Result<Stats> {
        let path = format!("/proc/self/fdinfo/{}", self.file.as_raw_fd());
        let text = fs::read_to_string(path).map_err(Error::system("read statistics"))?;
        Stats::parse(&text)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn vm_id(&self) -> u32 {
        self.vm_id
    }

    pub(crate) fn compute_class(&self) -> u32 {
        self.compute_class
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let mut destroy = uapi::VmDestroy {
            vm_id: self.vm_id,
            pad: 0,
        };
        // An error means that the device, and with it the mirror, is gone.
        let _ = uapi::ioctl(self.file.as_fd(), &mut destroy);
    }
}

fn open_node(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
}

fn query(fd: BorrowedFd<'_>, param: u32) -> Result<u64> {
    let mut query = uapi::Query {
        param,
        ..Default::default()
    };
    uapi::ioctl(fd, &mut query).map_err(Error::system("query the device"))?;
    Ok(query.value)
}
