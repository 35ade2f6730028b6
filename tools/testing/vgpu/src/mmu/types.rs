// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What an access asks of the MMU, and what it can be refused for.

use crate::mem::PhysAddr;

/// Kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// Needs atomic permission: all RISC-V AMOs and LR.
    Atomic,
    /// An atomic that needs only write permission (reductions).
    AtomicWeak,
    /// An instruction fetch: reported as a read by the GCC client.
    Fetch,
    /// Reported only if the prefetch filter lets it through.
    Prefetch,
}

impl Access {
    /// The access field of a fault packet.
    pub fn code(self) -> u32 {
        match self {
            Self::Read | Self::Fetch => 0,
            Self::Write => 1,
            Self::Atomic => 2,
            Self::Prefetch => 3,
            Self::AtomicWeak => 4,
        }
    }
}

/// Why an access faulted: the type field of a fault packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FaultType {
    Pde = 0,
    PdeSize = 1,
    Pte = 2,
    VaLimit = 3,
    UnboundInst = 4,
    Privilege = 5,
    ReadOnly = 6,
    Aperture = 0xa,
    Kind = 0xc,
    Region = 0xd,
    Poison = 0xe,
    Atomic = 0xf,
}

/// The address space an engine works in, from an instance block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The instance block, which fault packets name.
    pub inst: PhysAddr,
    /// Root of the page tables; none is a PDB with target INVALID.
    pub pdb: Option<PhysAddr>,
    /// Engine id in fault packets.
    pub engine: u16,
    /// Data accesses fault replayably (PDB bit 4).
    pub replay_data: bool,
    /// Instruction fetches fault replayably (PDB bit 5).
    pub replay_fetch: bool,
    /// May use pages with PRIV set.
    pub privileged: bool,
}

/// Which unit accesses: it names a uTLB in fault packets and targeted cancels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: u8,
    pub hub: bool,
    pub gpc: u8,
}

/// Client id of instruction fetches.
pub const CLIENT_GCC: u8 = 0x11;
/// Hub client ids.
pub const CLIENT_HUB_CE0: u8 = 1;
pub const CLIENT_HUB_HOST: u8 = 6;

impl Client {
    /// Data client of hart group `n`: T1_n of its GPC, 16 groups to a GPC.
    pub fn group(n: u32) -> Self {
        let t1 = (n % 16) as u8;
        Self {
            id: if t1 < 8 { t1 } else { 0x21 + t1 - 8 },
            hub: false,
            gpc: (n / 16) as u8,
        }
    }

    pub fn hub(id: u8) -> Self {
        Self {
            id,
            hub: true,
            gpc: 0,
        }
    }
}

/// One refused access, as a fault packet tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub space: Space,
    /// GPU virtual address of the access, in bytes.
    pub va: u64,
    pub ty: FaultType,
    pub access: Access,
    pub client: Client,
    pub replayable: bool,
}

/// Which parked faults a cancel picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// All of one client (uTLB).
    Targeted(Client),
    Global,
    /// Those of one page, page directory, engine and kind of access.
    Va {
        pdb: Option<PhysAddr>,
        /// First byte of the 4 KiB page.
        va: u64,
        engine: u16,
        access: CancelAccess,
    },
}

/// The access field of a cancel by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelAccess {
    Read,
    Write,
    AtomicStrong,
    AtomicWeak,
    AtomicAll,
    WriteAndAtomic,
    All,
}

impl Cancel {
    /// Whether a parked fault is cancelled by this.
    pub fn matches(&self, fault: &Fault) -> bool {
        match *self {
            Self::Global => true,
            Self::Targeted(client) => fault.client == client,
            Self::Va {
                pdb,
                va,
                engine,
                access,
            } => {
                fault.va >> 12 == va >> 12
                    && fault.space.engine == engine
                    && (pdb.is_none() || fault.space.pdb == pdb)
                    && access.matches(fault.access)
            }
        }
    }
}

impl CancelAccess {
    fn matches(self, access: Access) -> bool {
        use Access::{Atomic, AtomicWeak, Fetch, Prefetch, Read, Write};
        match self {
            Self::Read => matches!(access, Read | Fetch | Prefetch),
            Self::Write => access == Write,
            Self::AtomicStrong => access == Atomic,
            Self::AtomicWeak => access == AtomicWeak,
            Self::AtomicAll => matches!(access, Atomic | AtomicWeak),
            Self::WriteAndAtomic => matches!(access, Write | Atomic | AtomicWeak),
            Self::All => true,
        }
    }
}
