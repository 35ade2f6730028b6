// SPDX-License-Identifier: GPL-2.0

//! rsvm: a GPU uses any pointer of a process.
//!
//! From the hardware upwards: `regs` and `hw` are formats, `hal` what differs between chips, `mmu`
//! page tables and their caches, `queue` channels, `fault` the way of a fault from the device to
//! its completion. `svm`, the mirror of an address space, knows the hardware through a trait only.
//! `driver`, `file` and what is around them are the interfaces to the kernel and to users.

mod aperture;
mod bo;
mod copy;
mod debugfs;
mod dma;
mod driver;
mod events;
mod fault;
mod fence;
mod file;
mod gpu;
mod hal;
mod hw;
mod irq;
mod migrate;
mod mmu;
mod queue;
mod regs;
mod reset;
mod stats;
mod svm;
mod vm;
mod vram;

use kernel::{
    driver::Registration,
    pci,
    prelude::*,
    workqueue::ModuleQueueGuard,
    InPlaceModule,
    ModuleMetadata,
    ThisModule, //
};

#[pin_data]
struct Rsvm {
    #[pin]
    _driver: Registration<pci::Adapter<driver::RsvmDriver>>,
    /// Dropped last: no code of the module runs after that.
    _workers: ModuleQueueGuard,
}

impl InPlaceModule for Rsvm {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Before the driver, which may probe a device right away.
            _workers: svm::space::WORKERS.start(c"rsvm", 0)?,
            _driver <- Registration::new(<Self as ModuleMetadata>::NAME, module),
        })
    }
}

module! {
    type: Rsvm,
    name: "rsvm",
    authors: ["rsvm developers"],
    description: "Shared virtual memory for GPUs",
    license: "GPL v2",
}
