// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Programs and the kernels in them.

use crate::elf::Image;
use crate::error::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// A GPU program in this process's memory. Every queue can run it.
#[derive(Debug)]
pub struct Module {
    image: Image,
}

/// A function of a program. Keeps the program in memory.
#[derive(Clone, Debug)]
pub struct Kernel {
    module: Arc<Module>,
    address: u64,
}

impl Module {
    /// Loads the contents of an ELF file: RV64 IMAFD, lp64d, a static PIE.
    ///
    /// # Errors
    ///
    /// [`Error::Elf`] says why the device cannot run it.
    pub fn load(elf: &[u8]) -> Result<Arc<Self>> {
        let image = Image::load(elf)?;
        Ok(Arc::new(Module { image }))
    }

    /// As [`Module::load`], from a file.
    ///
    /// # Errors
    ///
    /// Also [`Error::System`] when the file cannot be read.
    pub fn load_file(path: &Path) -> Result<Arc<Self>> {
        Module::load(&std::fs::read(path).map_err(Error::system("read the GPU program"))?)
    }

    /// Finds a function by name.
    ///
    /// # Errors
    ///
    /// [`Error::NoKernel`].
    pub fn kernel(self: &Arc<Self>, name: &str) -> Result<Kernel> {
        let address = self.image.function(name);
        Ok(Kernel {
            module: Arc::clone(self),
            address: address.ok_or_else(|| Error::NoKernel(name.into()))?,
        })
    }
}

impl Kernel {
    /// Where its first instruction lies.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn module(&self) -> &Arc<Module> {
        &self.module
    }
}
