// SPDX-License-Identifier: GPL-2.0

//! What differs between the chips.
//!
//! An implementation is a table of formats: pure functions, no state. Nothing outside of `hal` and
//! `hw` asks which chip it is.

mod gh100;
mod tu102;

use crate::{
    hw::fault::{
        self,
        FaultAddress,
        FaultEngine,
        FaultStatus,
        PACKET_WORDS, //
    },
    svm::device::{
        Access,
        Prot,
        Source,
        Target, //
    },
};
use kernel::prelude::*;

/// One level of page directories above PDE0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// Lowest bit of the virtual address that indexes it.
    pub(crate) shift: u32,
    /// How many entries of eight bytes it has.
    pub(crate) entries: usize,
}

/// A chip.
pub(crate) trait Hal: Sync {
    /// Version of the page-table format.
    fn mmu_version(&self) -> u32;

    /// Width of a virtual address in bits.
    fn va_bits(&self) -> u32;

    /// The levels above PDE0, root first.
    fn levels(&self) -> &'static [Level];

    /// The entry of an upper level for a table of the next one at bus address `table`.
    fn pde(&self, table: u64) -> u64;

    /// The two words of a PDE0 with a table of 64 KiB pages, of 4 KiB pages, both or none.
    fn pde0(&self, big: Option<u64>, small: Option<u64>) -> [u64; 2];

    /// A valid PTE, of any page size.
    fn pte(&self, target: Target, prot: Prot) -> u64;

    /// First of the engine ids with which the compute engine's VEIDs fault.
    fn compute_engine(&self) -> u32;
}

/// The implementation for a chip, by `NV_PMC_BOOT_0`'s chipset.
///
/// # Errors
///
/// `ENODEV` if there is none.
pub(crate) fn for_chipset(chipset: u32) -> Result<&'static dyn Hal> {
    match chipset {
        0x162 => Ok(tu102::TU102),
        0x180 => Ok(gh100::GH100),
        _ => Err(ENODEV),
    }
}

/// How many VEIDs the compute engine has.
pub(crate) const VEIDS: u32 = 64;

/// The VEID in the name of a queue. The rest tells it from earlier queues of the same VEID.
pub(crate) const fn veid_of(source: Source) -> u32 {
    source.0 % VEIDS
}

/// Why the device could not do an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No translation, or one with too few rights: may be served.
    Translation,
    /// The address has more bits than the page tables.
    VaLimit,
    Privilege,
    Poison,
    /// Anything else; a mistake in the page tables.
    Other(u32),
}

/// A fault packet after decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Bus address of the instance block whose page directory was walked.
    pub(crate) instance: u64,
    /// Page that was accessed: a byte address.
    pub(crate) addr: u64,
    pub(crate) access: Access,
    pub(crate) fetch: bool,
    pub(crate) cause: Cause,
    /// Whose hardware threads, if the compute engine faulted.
    pub(crate) veid: Option<u32>,
    pub(crate) replayable: bool,
}

impl<'hal> dyn Hal + 'hal {
    /// Engine id of the queue `source`.
    pub(crate) fn engine_of(&self, source: Source) -> u32 {
        self.compute_engine() + veid_of(source)
    }

    /// Decodes a fault packet.
    pub(crate) fn decode(&self, words: &[u32; PACKET_WORDS]) -> Packet {
        let info = FaultStatus::from_raw(words[fault::VALID_WORD]);
        let kind = info.kind().get();
        let engine = FaultEngine::from_raw(words[6]).id().get();
        Packet {
            instance: u64::from(words[1]) << 32 | u64::from(words[0] & !0xfff),
            addr: u64::from(words[3]) << 32 | u64::from(words[2] & FaultAddress::PAGE_MASK),
            access: match info.access().get() % fault::access::PHYS_READ {
                fault::access::WRITE | fault::access::ATOMIC_WEAK => Access::Write,
                fault::access::ATOMIC_STRONG => Access::Atomic,
                _ => Access::Read,
            },
            fetch: !info.hub() && info.client().get() == fault::CLIENT_GCC,
            cause: match kind {
                fault::kind::PDE
                | fault::kind::PTE
                | fault::kind::READ_ONLY
                | fault::kind::ATOMIC => Cause::Translation,
                fault::kind::VA_LIMIT => Cause::VaLimit,
                fault::kind::PRIVILEGE => Cause::Privilege,
                fault::kind::POISON => Cause::Poison,
                other => Cause::Other(other),
            },
            veid: engine
                .checked_sub(self.compute_engine())
                .filter(|&veid| veid < VEIDS),
            replayable: info.replayable(),
        }
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_hal)]
mod tests {
    use super::*;

    /// A write by T1_3 to 0x7fff_1234_5000 through the instance block at 0x1_2345_6000, VALID.
    fn packet(engine: u32, word7: u32) -> [u32; PACKET_WORDS] {
        [0x2345_6200, 1, 0x1234_5002, 0x7fff, 0, 0, engine, word7]
    }

    #[test]
    fn chips() {
        assert!(for_chipset(0x162).is_ok_and(|hal| hal.mmu_version() == 2 && hal.va_bits() == 49));
        assert!(for_chipset(0x180).is_ok_and(|hal| hal.mmu_version() == 3 && hal.va_bits() == 57));
        assert!(for_chipset(0x172).is_err());
    }

    #[test]
    fn packets() -> Result {
        let hal = for_chipset(0x162)?;
        // VALID, replay enabled, replayable, access 1, client 3, PTE.
        let got = hal.decode(&packet(64 + 5, 0xc001_0382));
        let want = Packet {
            instance: 0x1_2345_6000,
            addr: 0x7fff_1234_5000,
            access: Access::Write,
            fetch: false,
            cause: Cause::Translation,
            veid: Some(5),
            replayable: true,
        };
        assert_eq!(got, want);
        // Not replayable, a fetch by GCC, VA limit.
        let got = hal.decode(&packet(64 + 63, 0x8000_1103));
        assert!(!got.replayable && got.fetch && got.access == Access::Read);
        assert_eq!(got.cause, Cause::VaLimit);
        assert_eq!(got.veid, Some(63));
        // The host of TU102, hub client 6, an atomic, of ATOMIC type.
        let got = hal.decode(&packet(32, 0x8012_060f));
        assert_eq!(got.veid, None);
        assert!(!got.fetch && got.access == Access::Atomic);
        // Weak atomics need no more than writing.
        assert_eq!(hal.decode(&packet(64, 0x8004_0006)).access, Access::Write);
        Ok(())
    }

    #[test]
    fn engines_differ() -> Result {
        let (tu102, gh100) = (for_chipset(0x162)?, for_chipset(0x180)?);
        assert_eq!(tu102.engine_of(Source(7)), 71);
        assert_eq!(tu102.engine_of(Source(7 + 5 * VEIDS)), 71);
        assert_eq!(gh100.engine_of(Source(7)), 391);
        assert_eq!(gh100.decode(&packet(391, 0x8000_0002)).veid, Some(7));
        // 64 is the host of GH100.
        assert_eq!(gh100.decode(&packet(64, 0x8000_0002)).veid, None);
        Ok(())
    }
}
