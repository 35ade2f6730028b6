// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Page tables made by hand: an encoder that knows nothing of the device's
//! decoder, written from the field tables.

use super::machine::Machine;
use rsvm_vgpu::config::MmuVersion;
use rsvm_vgpu::mem::{Aperture, PhysAddr};

/// What a page is mapped to.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub to: PhysAddr,
    /// log2 of its size in bytes: 12, 16, 21, or 29 with MMU v3.
    pub shift: u32,
    pub read_only: bool,
    pub no_atomic: bool,
    pub privileged: bool,
}

impl Page {
    pub fn new(to: PhysAddr, shift: u32) -> Self {
        Self {
            to,
            shift,
            read_only: false,
            no_atomic: false,
            privileged: false,
        }
    }
}

fn pte_aperture(a: Aperture) -> u64 {
    match a {
        Aperture::Vid => 0,
        Aperture::SysCoherent => 2,
        Aperture::SysNonCoherent => 3,
    }
}

fn pde_aperture(a: Aperture) -> u64 {
    match a {
        Aperture::Vid => 1,
        Aperture::SysCoherent => 2,
        Aperture::SysNonCoherent => 3,
    }
}

/// A valid PTE.
pub fn pte(version: MmuVersion, page: &Page) -> u64 {
    let mut e = 1 | pte_aperture(page.to.aperture) << 1;
    let flag = |on: bool, bit: u32| u64::from(on) << bit;
    match version {
        MmuVersion::V2 => {
            // PA[n:12] at bit 8, kind at 63:56.
            e |= page.to.addr / 4096 * 256 + (6 << 56);
            e |= flag(page.privileged, 5) | flag(page.read_only, 6) | flag(page.no_atomic, 7);
        }
        MmuVersion::V3 => {
            // PA as it is, kind at 11:8, PCF from bit 3.
            e |= page.to.addr + (6 << 8);
            e |= flag(page.privileged, 4) | flag(page.read_only, 5) | flag(page.no_atomic, 6);
        }
    }
    e
}

/// A directory entry; `shift` is that of the entry's address field.
pub fn pde(version: MmuVersion, table: PhysAddr) -> u64 {
    let address = match version {
        MmuVersion::V2 => table.addr / 16,
        MmuVersion::V3 => table.addr,
    };
    address | pde_aperture(table.aperture) << 1
}

fn decode_pde(version: MmuVersion, e: u64) -> Option<PhysAddr> {
    let aperture = match e / 2 % 4 {
        0 => return None,
        1 => Aperture::Vid,
        2 => Aperture::SysCoherent,
        _ => Aperture::SysNonCoherent,
    };
    let address = match version {
        MmuVersion::V2 => e % (1 << 54) / 16 * 256,
        MmuVersion::V3 => e % (1 << 52) / 256 * 256,
    };
    Some(PhysAddr::new(aperture, address))
}

/// Page tables of one address space.
pub struct Tables {
    pub root: PhysAddr,
    version: MmuVersion,
    /// Where tables lie, in turns.
    apertures: Vec<Aperture>,
    made: usize,
}

impl Tables {
    pub fn new(machine: &mut Machine, apertures: &[Aperture]) -> Self {
        let version = machine.version();
        Self {
            root: machine.page(apertures[0]),
            version,
            apertures: apertures.to_vec(),
            made: 0,
        }
    }

    fn table(&mut self, machine: &mut Machine) -> PhysAddr {
        self.made += 1;
        machine.page(self.apertures[self.made % self.apertures.len()])
    }

    /// Address of the entry that holds a page of size `shift` at `va`. Tables
    /// on the way are made if need be.
    pub fn entry(&mut self, machine: &mut Machine, va: u64, shift: u32) -> PhysAddr {
        let mut at = self.root;
        let top: &[u32] = match self.version {
            MmuVersion::V2 => &[47, 38, 29],
            MmuVersion::V3 => &[56, 47, 38, 29],
        };
        for &level in top {
            at = at.offset(va / (1 << level) % 512 * 8);
            if level == shift {
                return at;
            }
            at = self.descend(machine, at);
        }
        at = at.offset(va / (1 << 21) % 256 * 16);
        match shift {
            21 => at,
            16 => self.descend(machine, at).offset(va / 65536 % 32 * 8),
            12 => self
                .descend(machine, at.offset(8))
                .offset(va / 4096 % 512 * 8),
            _ => panic!("no page size {shift}"),
        }
    }

    fn descend(&mut self, machine: &mut Machine, at: PhysAddr) -> PhysAddr {
        if let Some(table) = decode_pde(self.version, machine.read(at)) {
            return table;
        }
        let table = self.table(machine);
        machine.write(at, pde(self.version, table));
        table
    }

    /// Maps a page, without an invalidate.
    pub fn map(&mut self, machine: &mut Machine, va: u64, page: &Page) {
        let at = self.entry(machine, va, page.shift);
        machine.write(at, pte(self.version, page));
    }

    pub fn unmap(&mut self, machine: &mut Machine, va: u64, shift: u32) {
        let at = self.entry(machine, va, shift);
        machine.write(at, 0);
    }
}
