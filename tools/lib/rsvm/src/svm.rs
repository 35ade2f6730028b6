// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Where memory is: moving it, and saying where it should be.

use crate::error::{Error, Result};
use crate::{uapi, Context};

/// Where memory can be: DRM_RSVM_SVM_LOCATION_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Location {
    /// Wherever the driver thinks best.
    Any = 0,
    /// In system memory.
    System = 1,
    /// In device memory.
    Vram = 2,
}

impl Location {
    /// The location with this number.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is none.
    pub fn from_raw(raw: u32) -> Result<Self> {
        match raw {
            0 => Ok(Self::Any),
            1 => Ok(Self::System),
            2 => Ok(Self::Vram),
            _ => Err(Error::Invalid("location")),
        }
    }
}

/// An attribute of a range: DRM_RSVM_SVM_ATTR_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Attribute {
    /// A [`Location`].
    PreferredLocation = 0,
    /// An [`AtomicMode`].
    AtomicMode = 1,
    /// How many bytes move at once.
    Granularity = 2,
    /// 1 if the range never moves to device memory.
    NoMigrate = 3,
}

/// What the device's atomics need: DRM_RSVM_SVM_ATOMIC_*.
///
/// All but [`AtomicMode::Device`] are atomic against the CPU. Where that is not possible, in shared
/// mappings and files, an atomic kills its queue with [`crate::Reason::Atomic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum AtomicMode {
    /// The driver chooses between system and device memory.
    Auto = 0,
    /// In system memory, in pages that are taken away from all CPUs for it.
    System = 1,
    /// In device memory where pages can move there.
    Vram = 2,
    /// Among threads of the device only: what the CPU stores in the same word may be lost.
    Device = 3,
}

impl AtomicMode {
    /// The mode with this number, as [`Context::attribute`] gives it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is none.
    pub fn from_raw(raw: u64) -> Result<Self> {
        match raw {
            0 => Ok(Self::Auto),
            1 => Ok(Self::System),
            2 => Ok(Self::Vram),
            3 => Ok(Self::Device),
            _ => Err(Error::Invalid("atomic mode")),
        }
    }
}

/// Where the pages of a range are, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// In system memory.
    pub system: u64,
    /// In device memory.
    pub vram: u64,
    /// Mapped by the device.
    pub mapped_read: u64,
    /// Mapped by the device for writing.
    pub mapped_write: u64,
}

impl Context {
    /// Has `len` bytes at `addr`, whole pages, moved to system or device memory, and returns at
    /// once. When everything was tried, `value` is written to `fence` unless that is null;
    /// [`Queue::wait_value`](crate::Queue::wait_value) waits for it.
    ///
    /// # Safety
    ///
    /// `fence` is null, or stays valid until it is written.
    ///
    /// # Errors
    ///
    /// [`Error::System`]; ENOENT if nothing is mapped there.
    pub unsafe fn migrate(
        &self,
        addr: *const u8,
        len: usize,
        to: Location,
        fence: *mut u64,
        value: u64,
    ) -> Result<()> {
        let range = uapi::SvmRange {
            addr: addr.addr() as u64,
            len: len as u64,
        };
        let mut migrate = uapi::SvmMigrate {
            vm_id: self.vm_id(),
            location: to as u32,
            num_ranges: 1,
            ranges: std::ptr::from_ref(&range).addr() as u64,
            fence_addr: fence.addr() as u64,
            fence_value: value,
            ..Default::default()
        };
        uapi::ioctl(self.fd(), &mut migrate).map_err(Error::system("migrate memory"))
    }

    /// Sets an attribute of `len` bytes at `addr`, whole pages.
    ///
    /// # Errors
    ///
    /// [`Error::System`]; EINVAL for a value the attribute cannot have.
    pub fn set_attribute(
        &self,
        addr: *const u8,
        len: usize,
        attribute: Attribute,
        value: u64,
    ) -> Result<()> {
        self.set_attribute_raw(addr, len, attribute as u32, value)
    }

    pub(crate) fn set_attribute_raw(
        &self,
        addr: *const u8,
        len: usize,
        attribute: u32,
        value: u64,
    ) -> Result<()> {
        let attr = uapi::SvmAttr {
            r#type: attribute,
            pad: 0,
            value,
        };
        let mut set = uapi::SvmSetAttr {
            vm_id: self.vm_id(),
            addr: addr.addr() as u64,
            len: len as u64,
            attrs: std::ptr::from_ref(&attr).addr() as u64,
            count: 1,
            stride: size_of_val(&attr) as u32,
            ..Default::default()
        };
        uapi::ioctl(self.fd(), &mut set).map_err(Error::system("set an attribute"))
    }

    /// Sets what atomics need in `len` bytes at `addr`, whole pages.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn set_atomic_mode(&self, addr: *const u8, len: usize, mode: AtomicMode) -> Result<()> {
        self.set_attribute(addr, len, Attribute::AtomicMode, mode as u64)
    }

    /// The value of an attribute at `addr`, the start of a page.
    ///
    /// # Errors
    ///
    /// [`Error::System`]; ENOENT if nothing is mapped there.
    pub fn attribute(&self, addr: *const u8, attribute: Attribute) -> Result<u64> {
        self.attribute_raw(addr, attribute as u32)
    }

    pub(crate) fn attribute_raw(&self, addr: *const u8, attribute: u32) -> Result<u64> {
        let mut attr = uapi::SvmAttr {
            r#type: attribute,
            ..Default::default()
        };
        let mut get = uapi::SvmGetAttr {
            vm_id: self.vm_id(),
            addr: addr.addr() as u64,
            len: 4096,
            attrs: std::ptr::from_mut(&mut attr).expose_provenance() as u64,
            count: 1,
            stride: size_of::<uapi::SvmAttr>() as u32,
            ..Default::default()
        };
        uapi::ioctl(self.fd(), &mut get).map_err(Error::system("get an attribute"))?;
        // SAFETY: `attr` lives; the driver has written to it through its address.
        Ok(unsafe { std::ptr::from_ref(&attr).read_volatile() }.value)
    }

    /// Where `len` bytes at `addr`, whole pages, are now.
    ///
    /// # Errors
    ///
    /// [`Error::System`]; ENOENT if nothing is mapped there.
    pub fn residency(&self, addr: *const u8, len: usize) -> Result<Residency> {
        let mut get = uapi::SvmGetAttr {
            vm_id: self.vm_id(),
            addr: addr.addr() as u64,
            len: len as u64,
            ..Default::default()
        };
        uapi::ioctl(self.fd(), &mut get).map_err(Error::system("ask where memory is"))?;
        Ok(Residency {
            system: get.system,
            vram: get.vram,
            mapped_read: get.mapped_read,
            mapped_write: get.mapped_write,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_by_number() {
        for location in [Location::Any, Location::System, Location::Vram] {
            assert_eq!(Location::from_raw(location as u32).unwrap(), location);
        }
        assert!(Location::from_raw(3).is_err());
    }

    #[test]
    fn atomic_modes_by_number() {
        for mode in [
            AtomicMode::Auto,
            AtomicMode::System,
            AtomicMode::Vram,
            AtomicMode::Device,
        ] {
            assert_eq!(AtomicMode::from_raw(mode as u64).unwrap(), mode);
        }
        assert!(AtomicMode::from_raw(4).is_err());
    }
}
