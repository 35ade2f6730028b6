// SPDX-License-Identifier: GPL-2.0

//! A channel: instance block, rings and the small address space they are seen through.
//!
//! The host reads pushbuffers through page directory 0x200 with addresses of 40 bits. That is an
//! address space of the driver's own, one for each channel, with nothing but the rings in it, which
//! the channel cannot write. The compute engine works in the address space of the process.

use super::pushbuf::{
    PushBuffer,
    GP_ENTRIES,
    PUSH_WORDS, //
};
use crate::{
    dma::DmaBuffer,
    hal::{
        Hal,
        VEIDS, //
    },
    hw::ramfc::{
        offset,
        value,
        ChannelInfo,
        Config,
        CopyConfig,
        GpBaseHi,
        PdbLo,
        UserdLo,
        INSTANCE_SIZE,
        TARGET_INVALID,
        TARGET_SYS_COHERENT, //
    },
    mmu::{
        pgtable::{
            PageTables,
            Reserve, //
        },
        pool::TablePool, //
    },
    svm::device::{
        PageSize,
        Pdb,
        Prot,
        Tables,
        Target, //
    },
};
use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::addr::VirtAddr,
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

/// GPU addresses in a channel's own address space, all within one leaf.
const GPFIFO_VA: u64 = 0x20_0000;
const PUSH_VA: u64 = GPFIFO_VA + (GP_ENTRIES * size_of::<u64>()) as u64;
/// Where a kernel channel writes its semaphore.
pub(crate) const SEMAPHORE_VA: u64 = PUSH_VA + (PUSH_WORDS * size_of::<u32>()) as u64;

const READ_ONLY: Prot = Prot {
    write: false,
    atomic: false,
};
const READ_WRITE: Prot = Prot {
    write: true,
    atomic: false,
};

/// What a channel is for.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// The driver's, for `MEM_OP`: privileged, with a semaphore page at this bus address.
    Kernel { semaphore: u64 },
    /// The driver's, for the copy engine on physical addresses, and the `MEM_OP` that comes before a
    /// copy; also with a semaphore page.
    Copy { semaphore: u64 },
    /// A user's: the compute engine works as this VEID in the page directory at this bus address.
    User { veid: u32, pdb: Pdb },
}

pub(crate) struct Channel {
    /// Number of the channel, and of its group.
    pub(crate) chid: u32,
    pub(crate) rings: PushBuffer,
    instance: DmaBuffer<u32>,
    tables: PageTables,
    role: Role,
}

impl Channel {
    /// Makes a channel in memory; the device does not know of it yet. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` when the driver is being unbound.
    pub(crate) fn new(
        dev: &Device<Bound>,
        hal: &'static dyn Hal,
        pool: &Arc<TablePool>,
        chid: u32,
        role: Role,
    ) -> Result<Self> {
        let mut channel = Self {
            chid,
            rings: PushBuffer::new(dev, PUSH_VA)?,
            instance: DmaBuffer::new(dev, INSTANCE_SIZE / size_of::<u32>())?,
            tables: PageTables::new(hal, pool, dev)?,
            role,
        };
        channel.map_rings(dev, hal, pool)?;
        channel.write_instance()?;
        Ok(channel)
    }

    /// Makes a channel that is not on the device any more as if new: what the device saved of its
    /// state is forgotten, and what was pushed.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn reset(&mut self) -> Result {
        self.rings.reset()?;
        self.instance.fill(0, INSTANCE_SIZE / size_of::<u32>(), 0)?;
        self.write_instance()
    }

    fn map_rings(&mut self, dev: &Device<Bound>, hal: &dyn Hal, pool: &Arc<TablePool>) -> Result {
        let mut reserve = Reserve::default();
        reserve.refill(hal, pool, dev)?;
        let mut map = |va: u64, bytes: usize, addr: u64, prot| {
            for at in (0..bytes).step_by(PAGE_SIZE) {
                let target = Target::System(addr + at as u64);
                let va = VirtAddr::try_from(va + at as u64)?;
                self.tables
                    .write(va, PageSize::Size4K, target, prot, &mut reserve)?;
            }
            Ok::<_, Error>(())
        };
        let gpfifo = self.rings.gpfifo_addr();
        let words = self.rings.words_addr();
        map(GPFIFO_VA, GP_ENTRIES * size_of::<u64>(), gpfifo, READ_ONLY)?;
        map(PUSH_VA, PUSH_WORDS * size_of::<u32>(), words, READ_ONLY)?;
        if let Role::Kernel { semaphore } | Role::Copy { semaphore } = self.role {
            map(SEMAPHORE_VA, PAGE_SIZE, semaphore, READ_WRITE)?;
        }
        Ok(())
    }

    fn write_instance(&self) -> Result {
        let role = self.role;
        let set = |offset: usize, value: u32| self.instance.write(offset / size_of::<u32>(), value);
        let set_pdb = |offset: usize, pdb: Pdb, replay: bool| {
            // CAST: The address is split into its words; tables are aligned to a page.
            let lo = PdbLo::from_raw(pdb.0 as u32 & PdbLo::ADDR_MASK)
                .with_const_target::<TARGET_SYS_COHERENT>()
                .with_volatile(true)
                .with_version_2(true)
                .with_big_64k(true)
                .with_replay_data(replay)
                .with_replay_fetch(replay);
            set(offset, lo.into_raw())?;
            set(offset + 4, (pdb.0 >> 32) as u32)
        };

        let userd = self.rings.userd_addr();
        // CAST: As above; USERD is aligned to 512 bytes. Bus addresses have 40 bits here, by the
        // DMA mask.
        let userd_lo = UserdLo::from_raw(userd as u32 & UserdLo::ADDR_MASK)
            .with_const_target::<TARGET_SYS_COHERENT>();
        set(offset::USERD_LO, userd_lo.into_raw())?;
        set(offset::USERD_HI, (userd >> 32) as u32)?;
        set(offset::SIGNATURE, value::SIGNATURE)?;
        set(offset::ACQUIRE, value::ACQUIRE)?;
        set(offset::GP_BASE_LO, GPFIFO_VA as u32)?;
        let gp_base_hi = GpBaseHi::from_raw((GPFIFO_VA >> 32) as u32)
            .with_const_log2_entries::<{ GP_ENTRIES.ilog2() }>();
        set(offset::GP_BASE_HI, gp_base_hi.into_raw())?;
        set(offset::FORMATS, value::FORMATS)?;
        set(offset::TARGET, value::TARGET)?;
        let copy = CopyConfig::zeroed().with_physical(matches!(role, Role::Copy { .. }));
        set(offset::COPY_CONFIG, copy.into_raw())?;
        set(offset::CHID, self.chid)?;
        set(offset::METHOD_CONTROL, value::METHOD_CONTROL)?;
        set_pdb(offset::PDB_LO, self.tables.pdb(), false)?;

        let (veid, privileged) = match role {
            Role::Kernel { .. } | Role::Copy { .. } => (0, true),
            Role::User { veid, .. } => (veid, false),
        };
        let config = Config::zeroed()
            .with_userd_writeback(true)
            .with_privileged(privileged);
        set(offset::CONFIG, config.into_raw())?;
        let info = ChannelInfo::zeroed()
            .try_with_chid(self.chid)?
            .try_with_veid(veid)?;
        set(offset::CHANNEL_INFO, info.into_raw())?;
        set(offset::ENGINE_VEID, veid)?;

        for other in 0..VEIDS as usize {
            let at = offset::SUBCONTEXT_PDB + other * offset::SUBCONTEXT_STRIDE;
            set(at, TARGET_INVALID)?;
        }
        if let Role::User { veid, pdb } = role {
            // CAST: Widening.
            let at = offset::SUBCONTEXT_PDB + veid as usize * offset::SUBCONTEXT_STRIDE;
            set_pdb(at, pdb, true)?;
            set(
                offset::SUBCONTEXTS + (veid / 32) as usize * size_of::<u32>(),
                1 << (veid % 32),
            )?;
        }
        Ok(())
    }

    /// Bus address of the instance block.
    pub(crate) fn instance_addr(&self) -> u64 {
        self.instance.addr()
    }

    /// The address space the host sees the rings through.
    pub(crate) fn host_pdb(&self) -> Pdb {
        self.tables.pdb()
    }
}
