// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The PCI function: configuration space, capabilities and BAR layout, as
//! `Documentation/gpu/rsvm/virtual-gpu.rst` and the PCI Express base
//! specification have them. No I/O happens here: a write returns what the
//! device has to do about it.

/// Size of the configuration space in bytes, extended part included (empty).
pub const CONFIG_SIZE: usize = 4096;
/// Size of BAR0 (registers) in bytes.
pub const BAR0_SIZE: u64 = 16 << 20;
/// Size of BAR3 (MSI-X table and PBA) in bytes.
pub const BAR3_SIZE: u64 = 4096;
/// Number of MSI-X vectors.
pub const MSIX_VECTORS: usize = 16;
/// Offset of the MSI-X pending bit array in BAR3 in bytes.
pub const MSIX_PBA: usize = 0x800;

/// PCI vendor and device id.
pub const VENDOR_DEVICE: u32 = 0x10f0_1af4;

const COMMAND: usize = 0x04;
const COMMAND_MASTER: u16 = 1 << 2;
/// Memory, bus master, parity, SERR, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0546;

const PM: usize = 0x40;
const PCIE: usize = 0x48;
const MSIX: usize = 0x88;

const DEVCAP_ROLE_BASED_ERRORS: u32 = 1 << 15;
const DEVCAP_FLR: u32 = 1 << 28;
/// Relaxed ordering, no snoop, 512-byte read requests: the reset value that
/// the specification asks for.
const DEVCTL_RESET: u16 = 0x2810;
const DEVCTL_FLR: u16 = 1 << 15;

const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_WRITABLE: u16 = 0xc000;

/// Configuration space of the function.
///
/// # Invariants
///
/// Bits outside `writable` never change after [`ConfigSpace::new`].
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    writable: Box<[u8; CONFIG_SIZE]>,
    reset: Box<[u8; CONFIG_SIZE]>,
}

/// What a configuration write asks the device to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Bus mastering was switched on or off.
    pub bus_master: Option<bool>,
    /// MSI-X was switched on or off.
    pub msix_enable: Option<bool>,
    /// A function level reset was started. The configuration space has been
    /// reset already.
    pub reset: bool,
}

impl ConfigSpace {
    /// Builds the configuration space of a device whose BAR1 shows `vram_size`
    /// bytes, a power of two.
    ///
    /// # Panics
    ///
    /// If `vram_size` is no power of two, or below the BAR granule of 16 bytes.
    pub fn new(vram_size: u64) -> Self {
        assert!(vram_size.is_power_of_two() && vram_size >= 16);
        let mut cfg = ConfigSpace {
            bytes: Box::new([0; CONFIG_SIZE]),
            writable: Box::new([0; CONFIG_SIZE]),
            reset: Box::new([0; CONFIG_SIZE]),
        };
        cfg.header(vram_size);
        cfg.capabilities();
        cfg.reset.copy_from_slice(&cfg.bytes[..]);
        cfg
    }

    fn header(&mut self, vram_size: u64) {
        self.set32(0x00, VENDOR_DEVICE);
        self.set16(0x06, 1 << 4); // capability list
        self.set32(0x08, 0x1200_0001); // processing accelerator, revision 1
        self.set32(0x2c, 0x0001_1af4); // subsystem: NVIDIA-class
        self.bytes[0x34] = PM as u8;
        self.allow16(COMMAND, COMMAND_WRITABLE);
        self.allow8(0x0c, 0xff); // cache line size
        self.allow8(0x3c, 0xff); // interrupt line
        self.bar32(0, BAR0_SIZE);
        self.bar64(1, vram_size);
        self.bar32(3, BAR3_SIZE);
    }

    fn capabilities(&mut self) {
        // Power management 1.2, state kept on return to D0.
        self.set16(PM, 0x01 | ((PCIE as u16) << 8));
        self.set16(PM + 2, 3);
        self.set16(PM + 4, 1 << 3);
        self.allow16(PM + 4, 3);

        // PCI Express endpoint, version 2, one lane at 2.5 GT/s.
        self.set16(PCIE, 0x10 | ((MSIX as u16) << 8));
        self.set16(PCIE + 0x02, 2);
        self.set32(PCIE + 0x04, DEVCAP_ROLE_BASED_ERRORS | DEVCAP_FLR);
        self.set16(PCIE + 0x08, DEVCTL_RESET);
        self.allow16(PCIE + 0x08, !DEVCTL_FLR);
        self.set32(PCIE + 0x0c, 0x11);
        self.allow16(PCIE + 0x10, 0x00c3);
        self.set16(PCIE + 0x12, 0x11);
        self.set16(PCIE + 0x30, 1);

        self.set16(MSIX, 0x11);
        self.set16(MSIX + 2, MSIX_VECTORS as u16 - 1);
        self.allow16(MSIX + 2, MSIX_WRITABLE);
        self.set32(MSIX + 4, 3); // table: BAR3 + 0
        self.set32(MSIX + 8, MSIX_PBA as u32 | 3);
    }

    /// Is bus mastering on?
    pub fn bus_master(&self) -> bool {
        self.get16(COMMAND) & COMMAND_MASTER != 0
    }

    /// Is MSI-X on?
    pub fn msix_enable(&self) -> bool {
        self.get16(MSIX + 2) & MSIX_ENABLE != 0
    }

    /// Puts every register back to its reset value.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.reset[..]);
    }

    /// Reads `data.len()` bytes at `offset`; beyond the end reads zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(bytes) = usize::try_from(offset)
            .ok()
            .and_then(|at| self.bytes.get(at..))
        else {
            return;
        };
        let n = data.len().min(bytes.len());
        data[..n].copy_from_slice(&bytes[..n]);
    }

    /// Writes `data` at `offset`: read-only bits keep their value, what lies
    /// beyond the end is dropped.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effects {
        let (master, msix) = (self.bus_master(), self.msix_enable());
        let mut reset = false;
        let start = usize::try_from(offset).unwrap_or(CONFIG_SIZE);
        for (at, &value) in (start.min(CONFIG_SIZE)..CONFIG_SIZE).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !mask) | (value & mask);
            // The high byte of DEVCTL holds the bit that starts an FLR.
            reset |= at == PCIE + 9 && value & (DEVCTL_FLR >> 8) as u8 != 0;
        }
        if reset {
            self.reset();
        }
        let changed = |old, new| (old != new).then_some(new);
        Effects {
            bus_master: changed(master, self.bus_master()),
            msix_enable: changed(msix, self.msix_enable()),
            reset,
        }
    }

    fn bar32(&mut self, index: usize, size: u64) {
        let mask = !(size as u32 - 1);
        self.allow32(0x10 + 4 * index, mask);
    }

    fn bar64(&mut self, index: usize, size: u64) {
        let at = 0x10 + 4 * index;
        let mask = !(size - 1);
        self.set32(at, 0xc); // 64-bit, prefetchable
        self.allow32(at, mask as u32 & !0xf);
        self.allow32(at + 4, (mask >> 32) as u32);
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn set16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow8(&mut self, at: usize, mask: u8) {
        self.writable[at] = mask;
    }

    fn allow16(&mut self, at: usize, mask: u16) {
        self.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }

    fn allow32(&mut self, at: usize, mask: u32) {
        self.writable[at..at + 4].copy_from_slice(&mask.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VRAM: u64 = 256 << 20;

    fn read32(cfg: &ConfigSpace, at: u64) -> u32 {
        let mut b = [0; 4];
        cfg.read(at, &mut b);
        u32::from_le_bytes(b)
    }

    #[test]
    fn bars_report_their_size() {
        let mut cfg = ConfigSpace::new(VRAM);
        for bar in 0..6 {
            cfg.write(0x10 + 4 * bar, &[0xff; 4]);
        }
        assert_eq!(read32(&cfg, 0x10), 0xff00_0000);
        assert_eq!(read32(&cfg, 0x14), 0xf000_000c);
        assert_eq!(read32(&cfg, 0x18), 0xffff_ffff);
        assert_eq!(read32(&cfg, 0x1c), 0xffff_f000);
        assert_eq!(read32(&cfg, 0x20), 0);
        assert_eq!(read32(&cfg, 0x24), 0);
    }

    #[test]
    fn a_vram_bar_above_4_gib_has_no_writable_low_half() {
        let mut cfg = ConfigSpace::new(8 << 30);
        cfg.write(0x14, &[0xff; 8]);
        assert_eq!(read32(&cfg, 0x14), 0xc);
        assert_eq!(read32(&cfg, 0x18), 0xffff_fffe);
    }

    #[test]
    fn capability_list_ends_and_names_three() {
        let cfg = ConfigSpace::new(VRAM);
        let (mut at, mut ids) = (read32(&cfg, 0x34) & 0xff, vec![]);
        while at != 0 {
            assert!(ids.len() < 3, "list does not end");
            let cap = read32(&cfg, at.into());
            ids.push(cap & 0xff);
            at = (cap >> 8) & 0xff;
        }
        assert_eq!(ids, [0x01, 0x10, 0x11]);
    }

    #[test]
    fn read_only_bits_stay() {
        let mut cfg = ConfigSpace::new(VRAM);
        cfg.write(0, &[0xff; 0x10]);
        assert_eq!(read32(&cfg, 0), VENDOR_DEVICE);
        assert_eq!(read32(&cfg, 8), 0x1200_0001);
    }

    #[test]
    fn command_and_msix_report_changes_once() {
        let mut cfg = ConfigSpace::new(VRAM);
        let on = cfg.write(4, &[0x06, 0]);
        assert_eq!(on.bus_master, Some(true));
        assert_eq!(read32(&cfg, 4) as u16, 6);
        assert_eq!(cfg.write(4, &[0x06, 0]), Effects::default());
        let msix = cfg.write(MSIX as u64 + 2, &0x8000u16.to_le_bytes());
        assert_eq!(msix.msix_enable, Some(true));
    }

    #[test]
    fn flr_resets_and_reports_bus_mastering_off() {
        let mut cfg = ConfigSpace::new(VRAM);
        cfg.write(4, &[0x06, 0]);
        let flr = cfg.write(PCIE as u64 + 8, &(DEVCTL_RESET | DEVCTL_FLR).to_le_bytes());
        assert!(flr.reset);
        assert_eq!(flr.bus_master, Some(false));
        assert_eq!(read32(&cfg, PCIE as u64 + 8) as u16, DEVCTL_RESET);
    }

    #[test]
    fn accesses_beyond_the_end_are_harmless() {
        let mut cfg = ConfigSpace::new(VRAM);
        let mut b = [0xaa; 8];
        cfg.read(CONFIG_SIZE as u64 - 4, &mut b);
        assert_eq!(b, [0; 8]);
        cfg.read(u64::MAX, &mut b);
        assert_eq!(cfg.write(u64::MAX - 1, &[0xff; 8]), Effects::default());
    }
}
