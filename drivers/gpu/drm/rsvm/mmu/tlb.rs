// SPDX-License-Identifier: GPL-2.0

//! Invalidation, replay and cancel.
//!
//! All of it goes through the driver's own channel on a runlist of its own, so that it never waits
//! for a user's work. One push has any number of operations and ends by writing its number into
//! memory; pushes finish in order. That costs one register write, where the same by registers
//! costs several for each operation.
//!
//! Lock order: the channel's lock, the *invalidation lock*, is inside of page-table locks. It is
//! taken in reclaim, so nothing is allocated under it.

use crate::{
    dma::DmaBuffer,
    gpu::Regs,
    hal::Hal,
    hw::method::{
        self,
        host,
        mem_op,
        MemOpA,
        MemOpACancel,
        MemOpC,
        MemOpD,
        SemExecute,
        SEM_RELEASE, //
    },
    mmu::pool::TablePool,
    queue::{
        channel::{
            Channel,
            Role,
            SEMAPHORE_VA, //
        },
        runlist::{
            self,
            Runlist, //
        },
    },
    reset::{
        State,
        BOUND, //
    },
    svm::device::{
        Access,
        Cancel,
        Pdb, //
    },
};
use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::addr::{
        PageRange,
        VirtAddr, //
    },
    new_mutex,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// The driver's channel; users' channels have the numbers of their VEIDs.
pub(crate) const KERNEL_CHID: u32 = crate::hal::VEIDS;

/// Words of one `MEM_OP` with its header.
const OP_WORDS: usize = 5;
/// Most words of one invalidate.
pub(crate) const INVALIDATE_WORDS: usize = 2 * OP_WORDS;
/// Words of the semaphore release at the end of each push.
const RELEASE_WORDS: usize = 6;
/// Operations in one push.
const MAX_OPS: usize = 24;

/// What an invalidate has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// Older accesses that use what is thrown away: entries went, or lost rights. Their stores are
    /// visible to the CPU.
    Downgrade,
    /// Nothing but the invalidate itself: entries came, or won rights.
    Upgrade,
}

/// Operations for one push.
pub(crate) struct Program {
    words: [u32; MAX_OPS * OP_WORDS],
    len: usize,
}

impl Program {
    pub(crate) const fn new() -> Self {
        Self {
            words: [0; MAX_OPS * OP_WORDS],
            len: 0,
        }
    }

    /// How many more operations fit.
    pub(crate) fn room(&self) -> usize {
        (self.words.len() - self.len) / OP_WORDS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The methods, for any channel that may use them.
    pub(crate) fn words(&self) -> &[u32] {
        &self.words[..self.len]
    }

    fn mem_op(&mut self, a: u32, b: u32, c: MemOpC, d: MemOpD) {
        let op = [
            method::increasing(0, host::MEM_OP_A, OP_WORDS - 1),
            a,
            b,
            c.into_raw(),
            d.into_raw(),
        ];
        self.words[self.len..][..OP_WORDS].copy_from_slice(&op);
        self.len += OP_WORDS;
    }

    /// Adds an invalidate of the caches of `pdb`, of all of it without a `range`. Takes up to two
    /// operations.
    pub(crate) fn invalidate(&mut self, pdb: Pdb, range: Option<PageRange>, barrier: Barrier) {
        let (c, d) = with_pdb(pdb);
        let c = c.with_const_ack::<{ mem_op::ACK_GLOBALLY }>();
        let sysmembar = barrier == Barrier::Downgrade;
        let Some(range) = range else {
            let a = MemOpA::zeroed().with_sysmembar(sysmembar);
            let d = d.with_const_op::<{ mem_op::OP_INVALIDATE }>();
            return self.mem_op(a.into_raw(), 0, c, d);
        };
        let d = d.with_const_op::<{ mem_op::OP_INVALIDATE_TARGETED }>();
        let (left, right) = cover(range);
        for block in [Some(left), right].into_iter().flatten() {
            let (lo, hi) = split(block.addr);
            let a = MemOpA::from_raw(lo & MemOpA::VA_LO_MASK | block.log2_pages)
                .with_sysmembar(sysmembar);
            self.mem_op(a.into_raw(), hi, c, d);
        }
    }

    /// Adds the end of a fault of the compute engine. All others it has are replayed.
    pub(crate) fn cancel(&mut self, hal: &dyn Hal, pdb: Pdb, cancel: &Cancel) {
        let (lo, hi) = split(cancel.addr.as_u64());
        let a =
            MemOpACancel::from_raw(lo & MemOpACancel::VA_LO_MASK | hal.engine_of(cancel.source));
        let (c, d) = with_pdb(pdb);
        let c = c.with_const_replay::<{ mem_op::REPLAY_CANCEL_VA_GLOBAL }>();
        let c = match cancel.access {
            Access::Read => c.with_const_level::<{ mem_op::CANCEL_ALL }>(),
            Access::Write => c.with_const_level::<{ mem_op::CANCEL_WRITE_AND_ATOMIC }>(),
            Access::Atomic => c.with_const_level::<{ mem_op::CANCEL_ATOMIC_ALL }>(),
        };
        let d = d.with_const_op::<{ mem_op::OP_INVALIDATE_TARGETED }>();
        self.mem_op(a.into_raw(), hi, c, d);
    }

    /// Adds a replay of all faults that wait, in whatever space. It goes as an invalidate of a
    /// page directory that does not exist.
    pub(crate) fn replay(&mut self) {
        let c = MemOpC::zeroed()
            .with_const_level::<{ mem_op::LEVEL_PTE_ONLY }>()
            .with_const_replay::<{ mem_op::REPLAY_START }>();
        let d = MemOpD::zeroed().with_const_op::<{ mem_op::OP_INVALIDATE_TARGETED }>();
        self.mem_op(0, 0, c, d);
    }

    /// As [`replay`](Self::replay), and what comes after it comes when each of them was translated
    /// or is in the fault buffer again.
    pub(crate) fn replay_ack_all(&mut self) {
        let c = MemOpC::zeroed()
            .with_const_level::<{ mem_op::LEVEL_PTE_ONLY }>()
            .with_const_ack::<{ mem_op::ACK_GLOBALLY }>()
            .with_const_replay::<{ mem_op::REPLAY_START_ACK_ALL }>();
        let d = MemOpD::zeroed().with_const_op::<{ mem_op::OP_INVALIDATE_TARGETED }>();
        self.mem_op(0, 0, c, d);
    }
}

/// Low and high word of an address.
fn split(addr: u64) -> (u32, u32) {
    // CAST: Splits it.
    (addr as u32, (addr >> 32) as u32)
}

fn with_pdb(pdb: Pdb) -> (MemOpC, MemOpD) {
    let (lo, hi) = split(pdb.0);
    let c = MemOpC::from_raw(lo & MemOpC::PDB_LO_MASK)
        .with_const_pdb_aperture::<{ mem_op::APERTURE_SYS_COHERENT }>();
    (c, MemOpD::from_raw(hi & MemOpD::PDB_HI_MASK))
}

/// An aligned block of a power of two of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    addr: u64,
    log2_pages: u32,
}

impl Block {
    /// The smallest block with the pages `first` and `last`.
    fn around(first: u64, last: u64) -> Self {
        let log2_pages = u64::BITS - (first ^ last).leading_zeros();
        Self {
            addr: first >> log2_pages << log2_pages << PAGE_SHIFT,
            log2_pages,
        }
    }
}

/// One or two blocks that cover `range`, together less than four times as large. One block alone
/// could be arbitrarily larger, when the range lies across a large power of two.
fn cover(range: PageRange) -> (Block, Option<Block>) {
    let first = range.start().as_u64() >> PAGE_SHIFT;
    let last = (range.end().as_u64() >> PAGE_SHIFT) - 1;
    let whole = Block::around(first, last);
    // CAST: Widening.
    if 1u64 << whole.log2_pages == range.pages() as u64 {
        return (whole, None);
    }
    // The most aligned page boundary inside; `whole` has more than one page here.
    let middle = last >> (whole.log2_pages - 1) << (whole.log2_pages - 1);
    (
        Block::around(first, middle - 1),
        Some(Block::around(middle, last)),
    )
}

/// Pushes sent and not waited for: the number of the last.
#[derive(Clone, Copy)]
pub(crate) struct Ticket(u64);

struct Sender {
    channel: Channel,
    /// Number of the last push.
    last: u64,
}

/// The driver's channel.
#[pin_data]
pub(crate) struct Tlb {
    /// Number of the last push that is done.
    semaphore: DmaBuffer<u64>,
    #[pin]
    sender: Mutex<Sender>,
}

impl Tlb {
    /// Makes the channel; [`start`](Self::start) comes next. May sleep.
    pub(crate) fn new<'a>(
        dev: &'a Device<Bound>,
        hal: &'static dyn Hal,
        pool: &'a Arc<TablePool>,
    ) -> impl PinInit<Self, Error> + 'a {
        pin_init::pin_init_scope(move || {
            let semaphore = DmaBuffer::new(dev, PAGE_SIZE / size_of::<u64>())?;
            let role = Role::Kernel {
                semaphore: semaphore.addr(),
            };
            let channel = Channel::new(dev, hal, pool, KERNEL_CHID, role)?;
            Ok(try_pin_init!(Self {
                semaphore,
                sender <- new_mutex!(Sender { channel, last: 0 }, "rsvm_invalidation"),
            }? Error))
        })
    }

    /// Puts the channel on the kernel's runlist and sees it work. May sleep.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if the device does not obey, `ENODEV` when it is gone.
    pub(crate) fn start(&self, regs: &Regs, state: &State, runlist: &mut Runlist) -> Result {
        runlist.add(regs, &self.sender.lock().channel)?;
        let ticket = self.send(regs, state, &Program::new())?;
        ticket.map_or(Ok(()), |ticket| self.wait(state, ticket))
    }

    /// Calls `stop`, which ends bus mastering, such that no program is sent after it.
    pub(crate) fn stop(&self, stop: impl FnOnce()) {
        let _sender = self.sender.lock();
        stop();
    }

    /// Sends a program. Sleeps on the invalidation lock, and, bounded, while the ring is full.
    /// `None` if the device was stopped: it reaches no memory, so there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if the device does not get on, `EIO` if it writes nonsense, `ENODEV` when it is
    /// gone.
    pub(crate) fn send(
        &self,
        regs: &Regs,
        state: &State,
        program: &Program,
    ) -> Result<Option<Ticket>> {
        let mut sender = self.sender.lock();
        if state.is_stopped() {
            return Ok(None);
        }
        let number = sender.last + 1;
        let release = release(number);
        let rings = &mut sender.channel.rings;
        rings.push_when_free(&[program.words(), &release])?;
        sender.last = number;
        runlist::ring_doorbell(regs, runlist::KERNEL, KERNEL_CHID)?;
        Ok(Some(Ticket(number)))
    }

    /// Waits until the device is done with a program, or stopped. May sleep.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if it is not in time, `ENODEV` after the driver was unbound.
    pub(crate) fn wait(&self, state: &State, ticket: Ticket) -> Result {
        // TIMEOUT: What is waited for never depends on the service of a fault; see `BOUND`.
        let done = |&done: &u64| done >= ticket.0 || state.is_stopped();
        self.semaphore.poll(0, done, BOUND)
    }

    /// Bus address of the channel's instance block.
    pub(crate) fn instance_addr(&self) -> u64 {
        self.sender.lock().channel.instance_addr()
    }
}

/// Writes `number` to the semaphore, after everything before.
fn release(number: u64) -> [u32; RELEASE_WORDS] {
    let (addr_lo, addr_hi) = split(SEMAPHORE_VA);
    let (payload_lo, payload_hi) = split(number);
    let execute = SemExecute::zeroed()
        .with_const_op::<SEM_RELEASE>()
        .with_payload_64bit(true);
    [
        method::increasing(0, host::SEM_ADDR_LO, RELEASE_WORDS - 1),
        addr_lo,
        addr_hi,
        payload_lo,
        payload_hi,
        execute.into_raw(),
    ]
}

/// The page of a fault, for [`Cancel`].
pub(crate) fn fault_addr(addr: u64) -> VirtAddr {
    // CAST: `usize` has 64 bits here.
    VirtAddr::new(addr as usize)
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_mmu_tlb)]
mod tests {
    use super::*;
    use crate::{
        hal,
        svm::device::Source, //
    };

    fn range(first: usize, end: usize) -> Result<PageRange> {
        PageRange::new(
            VirtAddr::new(first << PAGE_SHIFT),
            VirtAddr::new(end << PAGE_SHIFT),
        )
    }

    fn block(page: u64, log2_pages: u32) -> Block {
        Block {
            addr: page << PAGE_SHIFT,
            log2_pages,
        }
    }

    #[test]
    fn ranges_are_covered_tightly() -> Result {
        assert_eq!(cover(range(7, 8)?), (block(7, 0), None));
        assert_eq!(cover(range(512, 1024)?), (block(512, 9), None));
        // Across a large power of two.
        assert_eq!(
            cover(range(0xf_ffff, 0x10_0001)?),
            (block(0xf_ffff, 0), Some(block(0x10_0000, 0)))
        );
        assert_eq!(cover(range(5, 11)?), (block(4, 2), Some(block(8, 2))));
        for (first, end) in [(1, 2), (3, 9), (1, 513), (511, 1025), (4096, 4099)] {
            let (left, right) = cover(range(first, end)?);
            let blocks = [Some(left), right];
            for page in first as u64..end as u64 {
                let hit = |block: Block| {
                    block.addr >> PAGE_SHIFT == page >> block.log2_pages << block.log2_pages
                };
                assert!(blocks.iter().flatten().any(|&block| hit(block)));
            }
            let covered: usize = blocks
                .iter()
                .flatten()
                .map(|b| 1usize << b.log2_pages)
                .sum();
            assert!(covered < 4 * (end - first));
        }
        Ok(())
    }

    #[test]
    fn invalidates() -> Result {
        let pdb = Pdb(0x1_2345_6000);
        let mut program = Program::new();
        // Header: increasing, 4 words, subchannel 0, method 0x28 / 4.
        program.invalidate(
            pdb,
            Some(range(0x7_f123_4200, 0x7_f123_4400)?),
            Barrier::Downgrade,
        );
        // SYSMEMBAR and log2 9; VA hi; PDB, aperture 2, ACK_GLOBALLY; TARGETED, PDB hi.
        assert_eq!(
            program.words(),
            [0x2004_000a, 0x3420_0809, 0x7f12, 0x2345_6820, 0x5000_0001]
        );
        let mut program = Program::new();
        program.invalidate(pdb, None, Barrier::Upgrade);
        assert_eq!(
            program.words(),
            [0x2004_000a, 0, 0, 0x2345_6820, 0x4800_0001]
        );
        Ok(())
    }

    #[test]
    fn replays() {
        let mut program = Program::new();
        program.replay();
        assert_eq!(program.words(), [0x2004_000a, 0, 0, 0x84, 0x5000_0000]);
        let mut program = Program::new();
        program.replay_ack_all();
        assert_eq!(program.words(), [0x2004_000a, 0, 0, 0xa8, 0x5000_0000]);
    }

    #[test]
    fn cancels() -> Result {
        let cancel = Cancel {
            addr: VirtAddr::new(0x7fff_1234_5678),
            access: Access::Write,
            source: Source(5),
        };
        let mut program = Program::new();
        program.cancel(hal::for_chipset(0x162)?, Pdb(0x6000), &cancel);
        // Engine 69; access 6 in 9:7, replay 5 in 4:2.
        assert_eq!(
            program.words(),
            [0x2004_000a, 0x1234_5045, 0x7fff, 0x6b14, 0x5000_0000]
        );
        let mut program = Program::new();
        program.cancel(hal::for_chipset(0x180)?, Pdb(0x6000), &cancel);
        // Engine 389.
        assert_eq!(program.words()[1], 0x1234_5185);
        Ok(())
    }

    #[test]
    fn releases() {
        assert_eq!(
            release(0x1_0000_0002),
            [0x2005_0017, SEMAPHORE_VA as u32, 0, 2, 1, 0x0100_0001]
        );
    }

    #[test]
    fn a_program_has_room() {
        let mut program = Program::new();
        assert!(program.is_empty());
        assert_eq!(program.room(), MAX_OPS);
        program.replay();
        assert_eq!(program.room(), MAX_OPS - 1);
    }
}
