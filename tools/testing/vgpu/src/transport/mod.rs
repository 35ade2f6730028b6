// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The vfio-user server: what QEMU sees of the device.
//!
//! Everything a client can send is answered. An `Err` out of a backend call
//! would drop the connection, and with it the guest's device, so a request
//! that makes no sense is logged and answered like one that does.

mod irq;
mod regions;

pub use irq::Msix;

use crate::pci::{ConfigSpace, BAR0_SIZE, BAR3_SIZE, MSIX_PBA, MSIX_VECTORS};
use crate::Device;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_TYPE_MASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_BAR3_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, Server, ServerBackend};

/// Longest access in bytes that is looked at: what the version reply offers.
const MAX_TRANSFER: usize = 1 << 20;

/// Serves one client of `listener` after the other, until the first one has
/// gone or, with `persist`, for ever.
///
/// Between clients the device is reset and has no guest memory.
///
/// # Errors
///
/// When the listener cannot be used. A client that breaks the protocol only
/// loses its connection.
pub fn serve(
    listener: UnixListener,
    device: &Arc<Device>,
    msix: &Arc<Msix>,
    persist: bool,
) -> io::Result<()> {
    let server = Server::from_owned_fd(
        OwnedFd::from(listener),
        true,
        regions::irqs(),
        regions::regions(device),
    );
    loop {
        let mut backend = Backend::new(Arc::clone(device), Arc::clone(msix));
        // The crate panics on some malformed messages.
        let end = catch_unwind(AssertUnwindSafe(|| server.run(&mut backend)));
        backend.disconnect();
        match end {
            Ok(Ok(())) => tracing::info!("client disconnected"),
            Ok(Err(vfio_user::Error::SocketAccept(err))) => return Err(err),
            Ok(Err(err)) => tracing::error!("connection dropped: {err}"),
            Err(_) => tracing::error!("connection dropped: malformed message"),
        }
        if !persist {
            return Ok(());
        }
    }
}

/// One connection's view of the device.
struct Backend {
    device: Arc<Device>,
    msix: Arc<Msix>,
    config: ConfigSpace,
    /// The MSI-X table. Clients emulate it, so only its contents matter.
    table: [u8; MSIX_PBA],
}

impl Backend {
    fn new(device: Arc<Device>, msix: Arc<Msix>) -> Self {
        let config = ConfigSpace::new(device.vram_size());
        Backend {
            device,
            msix,
            config,
            table: [0; MSIX_PBA],
        }
    }

    /// Leaves nothing of this connection: no guest memory, no eventfds.
    fn disconnect(&mut self) {
        self.reset_function();
        self.device.dma_unmap_all();
        self.msix.unwire(0, MSIX_VECTORS);
    }

    /// Bus mastering goes off first, so that the model is quiet when its
    /// registers change.
    fn reset_function(&mut self) {
        self.config.reset();
        self.device.set_bus_master(false);
        self.msix.set_bus_master(false);
        self.msix.set_enabled(false);
        self.device.reset();
    }

    fn config_write(&mut self, offset: u64, data: &[u8]) {
        let effects = self.config.write(offset, data);
        if effects.reset {
            tracing::info!("function level reset");
            return self.reset_function();
        }
        if let Some(on) = effects.msix_enable {
            self.msix.set_enabled(on);
        }
        if let Some(on) = effects.bus_master {
            self.msix.set_bus_master(on);
            self.device.set_bus_master(on);
        }
    }

    fn registers_read(&self, offset: u64, data: &mut [u8]) {
        // Whatever its width, an access reads each register it touches once.
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let skip = (at % 4) as usize;
            let n = rest.len().min(4 - skip);
            let value = self.device.bar0_read((at - skip as u64) as u32);
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&value.to_le_bytes()[skip..skip + n]);
            at += n as u64;
            rest = later;
        }
    }

    fn registers_write(&self, offset: u64, data: &[u8]) {
        if offset % 4 != 0 || data.len() % 4 != 0 {
            tracing::warn!(
                "{}-byte register write at {offset:#x} dropped: registers are 32 bits wide",
                data.len()
            );
            return;
        }
        for (at, value) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            let value = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
            self.device.bar0_write(at as u32, value);
        }
    }

    fn msix_read(&self, offset: usize, data: &mut [u8]) {
        let pending = self.msix.pending().to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            *byte = match at.checked_sub(MSIX_PBA) {
                None => self.table[at],
                Some(at) => pending.get(at).copied().unwrap_or(0),
            };
        }
    }

    fn msix_write(&mut self, offset: usize, data: &[u8]) {
        for (at, &value) in (offset..).zip(data) {
            if let Some(byte) = self.table.get_mut(at) {
                *byte = value;
            }
        }
    }
}

/// Does an access of `len` bytes lie within `size` bytes? Logs when not.
fn within(region: u32, offset: u64, len: usize, size: u64) -> bool {
    let inside = offset
        .checked_add(len as u64)
        .is_some_and(|end| end <= size);
    if !inside {
        tracing::warn!("region {region}: {len} bytes at {offset:#x} are outside");
    }
    inside
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if data.len() > MAX_TRANSFER {
            // The crate allocates what the client asks for, but the pages are
            // not there until they are touched.
            tracing::warn!("read of {} bytes from region {region} ignored", data.len());
            return Ok(());
        }
        if self.device.removed() {
            data.fill(0xff);
            return Ok(());
        }
        let len = data.len();
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => self.config.read(offset, data),
            VFIO_PCI_BAR0_REGION_INDEX if within(region, offset, len, BAR0_SIZE) => {
                self.registers_read(offset, data);
            }
            VFIO_PCI_BAR1_REGION_INDEX if within(region, offset, len, self.device.vram_size()) => {
                self.device.vram_read(offset, data);
            }
            VFIO_PCI_BAR3_REGION_INDEX if within(region, offset, len, BAR3_SIZE) => {
                self.msix_read(offset as usize, data);
            }
            _ => data.fill(0xff),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if data.len() > MAX_TRANSFER || self.device.removed() {
            return Ok(());
        }
        let len = data.len();
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => self.config_write(offset, data),
            VFIO_PCI_BAR0_REGION_INDEX if within(region, offset, len, BAR0_SIZE) => {
                self.registers_write(offset, data);
            }
            VFIO_PCI_BAR1_REGION_INDEX if within(region, offset, len, self.device.vram_size()) => {
                self.device.vram_write(offset, data);
            }
            VFIO_PCI_BAR3_REGION_INDEX if within(region, offset, len, BAR3_SIZE) => {
                self.msix_write(offset as usize, data);
            }
            _ => tracing::warn!("write to region {region} dropped"),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        // Memory without a descriptor is the VMM's own (firmware, another
        // device's BAR): the model cannot reach it, and an access is a DMA
        // error there.
        let Some(fd) = fd else {
            tracing::debug!("DMA map {address:#x}+{size:#x} has no descriptor: not reachable");
            return Ok(());
        };
        let writable = flags.contains(DmaMapFlags::WRITE);
        match self.device.dma_map(address, size, &fd, offset, writable) {
            Ok(()) => tracing::debug!("DMA map {address:#x}+{size:#x} writable={writable}"),
            Err(err) => tracing::error!("DMA map {address:#x}+{size:#x}: {err}"),
        }
        Ok(())
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        // Returns, and so replies, only after the engines left the old map.
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            self.device.dma_unmap_all();
        } else {
            self.device.dma_unmap(address, size);
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        tracing::info!("reset");
        self.reset_function();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let action = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
        if index != VFIO_PCI_MSIX_IRQ_INDEX || action != VFIO_IRQ_SET_ACTION_TRIGGER {
            tracing::warn!("interrupt setup {flags:#x} of type {index} ignored");
            return Ok(());
        }
        let (first, count) = (start as usize, count as usize);
        if flags & VFIO_IRQ_SET_DATA_EVENTFD == 0 {
            if count == 0 {
                self.msix.unwire(0, MSIX_VECTORS);
            } else {
                self.msix.trigger(first, count);
            }
        } else if fds.is_empty() {
            self.msix.unwire(first, count);
        } else {
            self.msix.wire(first, fds);
        }
        Ok(())
    }
}
