// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the server tells a client about regions and interrupts.

use crate::pci::{BAR0_SIZE, BAR3_SIZE, CONFIG_SIZE, MSIX_VECTORS};
use crate::Device;
use std::os::fd::AsRawFd;
use vfio_bindings::bindings::vfio::{
    vfio_region_info, vfio_region_sparse_mmap_area, VFIO_IRQ_INFO_EVENTFD,
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_BAR3_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_user::{IrqInfo, ServerRegion, SparseArea};

/// All regions: registers and MSI-X by messages, VRAM mapped as a whole.
///
/// The returned descriptor number belongs to `device`, which must outlive its
/// use.
pub fn regions(device: &Device) -> Vec<ServerRegion> {
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let size = match index {
                VFIO_PCI_CONFIG_REGION_INDEX => CONFIG_SIZE as u64,
                VFIO_PCI_BAR0_REGION_INDEX => BAR0_SIZE,
                VFIO_PCI_BAR1_REGION_INDEX => device.vram_size(),
                VFIO_PCI_BAR3_REGION_INDEX => BAR3_SIZE,
                _ => 0,
            };
            let mut region_info = vfio_region_info {
                argsz: size_of::<vfio_region_info>() as u32,
                index,
                size,
                ..Default::default()
            };
            if size != 0 {
                region_info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
            }
            let mut region = ServerRegion {
                region_info,
                sparse_areas: Vec::new(),
                mmap_fd: None,
            };
            if index == VFIO_PCI_BAR1_REGION_INDEX {
                region.region_info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
                // The crate sends a descriptor only along with areas.
                region.sparse_areas = vec![SparseArea {
                    area: vfio_region_sparse_mmap_area { offset: 0, size },
                }];
                region.mmap_fd = Some(device.vram_fd().as_raw_fd());
            }
            region
        })
        .collect()
}

/// All interrupt types: MSI-X, and none of the others.
pub fn irqs() -> Vec<IrqInfo> {
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| {
            let msix = index == VFIO_PCI_MSIX_IRQ_INDEX;
            IrqInfo {
                index,
                flags: if msix { VFIO_IRQ_INFO_EVENTFD } else { 0 },
                count: if msix { MSIX_VECTORS as u32 } else { 0 },
            }
        })
        .collect()
}
