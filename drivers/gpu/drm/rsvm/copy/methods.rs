// SPDX-License-Identifier: GPL-2.0

//! What the copy engine is told.

use super::Place;
use crate::{
    hw::method::{
        self,
        copy::{
            self,
            Launch,
            Remap, //
        },
        host, //
    },
    mmu::tlb::{
        Program,
        INVALIDATE_WORDS, //
    },
    queue::{
        channel::SEMAPHORE_VA,
        pushbuf::PUSH_WORDS, //
    },
};
use kernel::prelude::*;

/// The subchannel that has the copy engine.
const SUBCHANNEL: u32 = 4;

/// Most words of one operation: modes, addresses, length, launch, each with its header.
const OP_WORDS: usize = 3 + 5 + 2 + 2;
/// Words besides: binding the engine, an invalidate, what zeros are made of, and the semaphore for
/// each part.
const OTHER_WORDS: usize = 2 + INVALIDATE_WORDS + 4 + MAX_PARTS * 6;

/// Most operations of one batch.
pub(super) const MAX_OPS: usize = 1024;

/// Most parts of one batch.
pub(super) const MAX_PARTS: usize = 16;

const WORDS: usize = MAX_OPS * OP_WORDS + OTHER_WORDS;
static_assert!(WORDS <= PUSH_WORDS);

/// Bytes that one element of a fill has: four components of four bytes.
const FILL_UNIT: usize = 16;

/// Neighbouring operations become one up to here; the engine counts with 32 bits.
const MAX_RUN: usize = 1 << 30;

#[derive(Clone, Copy)]
struct Op {
    /// Zeros if there is none.
    from: Option<Place>,
    to: Place,
    len: usize,
}

impl Op {
    /// Whether `next` goes on where this ends.
    fn joins(&self, next: &Self) -> bool {
        let source = match (self.from, next.from) {
            (None, None) => true,
            (Some(from), Some(next)) => from.offset(self.len) == next,
            _ => false,
        };
        source && self.to.offset(self.len) == next.to && self.len + next.len <= MAX_RUN
    }
}

/// Methods of one batch, and what they have set so far.
pub(super) struct Methods {
    words: KVVec<u32>,
    ops: usize,
    /// The last operation: the next may join it.
    last: Option<Op>,
    src_mode: Option<u32>,
    dst_mode: Option<u32>,
    length: Option<u32>,
    has_remap: bool,
}

impl Methods {
    /// Room for the methods of any batch. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            words: KVVec::with_capacity(WORDS, GFP_KERNEL)?,
            ops: 0,
            last: None,
            src_mode: None,
            dst_mode: None,
            length: None,
            has_remap: false,
        })
    }

    /// Begins a batch; nothing is known of what the channel was told before.
    pub(super) fn begin(&mut self) {
        self.words.clear();
        self.ops = 0;
        self.last = None;
        self.src_mode = None;
        self.dst_mode = None;
        self.length = None;
        self.has_remap = false;
        self.put(host::SET_OBJECT, &[copy::CLASS]);
    }

    /// Adds what the host does before all operations.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there are operations already, or for more than an invalidate.
    pub(super) fn first(&mut self, program: &Program) -> Result {
        let words = program.words();
        if self.last.is_some() || words.len() > INVALIDATE_WORDS {
            return Err(EINVAL);
        }
        self.push(words);
        Ok(())
    }

    /// Adds an operation; without `from` it writes zeros.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length that cannot be; `ENOSPC` if there are [`MAX_OPS`] of them.
    pub(super) fn add(&mut self, from: Option<Place>, to: Place, len: usize) -> Result {
        if len == 0 || len > MAX_RUN || (from.is_none() && len % FILL_UNIT != 0) {
            return Err(EINVAL);
        }
        let op = Op { from, to, len };
        if let Some(last) = self.last.as_mut().filter(|last| last.joins(&op)) {
            last.len += len;
            return Ok(());
        }
        if self.ops == MAX_OPS {
            return Err(ENOSPC);
        }
        self.ops += 1;
        if let Some(last) = self.last.replace(op) {
            self.launch(last);
        }
        Ok(())
    }

    /// Ends a part of the batch, of which there are no more than [`MAX_PARTS`]: everything before is
    /// visible to all, then `payload` is written to the semaphore.
    pub(super) fn end_part(&mut self, payload: u32) {
        if let Some(last) = self.last.take() {
            self.launch(last);
        }
        let (hi, lo) = split(SEMAPHORE_VA);
        self.put(copy::SEMAPHORE, &[hi, lo, payload]);
        let launch = Launch::zeroed()
            .with_const_transfer::<{ copy::TRANSFER_NONE }>()
            .with_const_semaphore::<{ copy::RELEASE_ONE_WORD }>()
            .with_flush(true);
        self.put(copy::LAUNCH_DMA, &[launch.into_raw()]);
    }

    /// Ends the batch and its last part.
    pub(super) fn end(&mut self, payload: u32) -> &[u32] {
        self.end_part(payload);
        &self.words
    }

    /// An interrupt after everything that the channel was told before, of which there was a batch.
    pub(super) fn interrupt() -> [u32; 2] {
        let launch = Launch::zeroed()
            .with_const_transfer::<{ copy::TRANSFER_NONE }>()
            .with_const_interrupt::<{ copy::INTERRUPT_NON_BLOCKING }>();
        [
            method::increasing(SUBCHANNEL, copy::LAUNCH_DMA, 1),
            launch.into_raw(),
        ]
    }

    /// Operations so far.
    pub(super) fn ops(&self) -> usize {
        self.ops
    }

    fn put(&mut self, first: u32, data: &[u32]) {
        self.push(&[method::increasing(SUBCHANNEL, first, data.len())]);
        self.push(data);
    }

    fn push(&mut self, words: &[u32]) {
        for &word in words {
            // There is room for all that a batch can be.
            let pushed = self.words.push_within_capacity(word);
            debug_assert!(pushed.is_ok());
        }
    }

    fn launch(&mut self, op: Op) {
        let (dst_mode, dst) = op.to.mode_and_addr();
        let (dst_hi, dst_lo) = split(dst);
        let launch = Launch::zeroed()
            .with_const_transfer::<{ copy::TRANSFER_PIPELINED }>()
            .with_dst_pitch(true)
            .with_dst_physical(true);
        let (launch, elements) = match op.from {
            Some(from) => {
                let (src_mode, src) = from.mode_and_addr();
                let (src_hi, src_lo) = split(src);
                if self.src_mode != Some(src_mode) {
                    self.put(copy::SRC_PHYS_MODE, &[src_mode]);
                    self.src_mode = Some(src_mode);
                }
                self.set_dst_mode(dst_mode);
                self.put(copy::OFFSET_IN, &[src_hi, src_lo, dst_hi, dst_lo]);
                let launch = launch.with_src_pitch(true).with_src_physical(true);
                (launch, op.len)
            }
            None => {
                self.set_remap();
                self.set_dst_mode(dst_mode);
                self.put(copy::OFFSET_OUT, &[dst_hi, dst_lo]);
                (launch.with_remap(true), op.len / FILL_UNIT)
            }
        };
        // CAST: At most `MAX_RUN`.
        let length = elements as u32;
        if self.length != Some(length) {
            self.put(copy::LINE_LENGTH_IN, &[length]);
            self.length = Some(length);
        }
        self.put(copy::LAUNCH_DMA, &[launch.into_raw()]);
    }

    fn set_dst_mode(&mut self, mode: u32) {
        if self.dst_mode != Some(mode) {
            self.put(copy::DST_PHYS_MODE, &[mode]);
            self.dst_mode = Some(mode);
        }
    }

    /// Elements are four times constant A, which is zero.
    fn set_remap(&mut self) {
        if self.has_remap {
            return;
        }
        let remap = Remap::zeroed()
            .with_const_x::<{ copy::CONST_A }>()
            .with_const_y::<{ copy::CONST_A }>()
            .with_const_z::<{ copy::CONST_A }>()
            .with_const_w::<{ copy::CONST_A }>()
            .with_const_component_bytes_minus_one::<3>()
            .with_const_dst_components_minus_one::<3>();
        self.put(copy::REMAP, &[0, 0, remap.into_raw()]);
        self.has_remap = true;
    }
}

/// High and low word of an address.
fn split(addr: u64) -> (u32, u32) {
    // CAST: Splits it.
    ((addr >> 32) as u32, addr as u32)
}

impl Place {
    /// The place `bytes` further on.
    fn offset(self, bytes: usize) -> Self {
        match self {
            Self::System(addr) => Self::System(addr + bytes as u64),
            Self::Vram(offset) => Self::Vram(offset + bytes as u64),
        }
    }

    fn mode_and_addr(self) -> (u32, u64) {
        match self {
            Self::System(addr) => (copy::MODE_COHERENT_SYSMEM, addr),
            Self::Vram(offset) => (copy::MODE_LOCAL_FB, offset),
        }
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_copy_methods)]
mod tests {
    use super::*;
    use crate::{
        mmu::tlb::Barrier,
        svm::device::Pdb, //
    };
    use kernel::{
        mm::addr::{
            PageRange,
            VirtAddr, //
        },
        page::PAGE_SIZE, //
    };

    const SYS: Place = Place::System(0x1_2345_6000);

    /// Header for methods on subchannel 4.
    fn header(count: u32, method: u32) -> u32 {
        0x2000_8000 | count << 16 | method / 4
    }

    fn end(payload: u32) -> [u32; 6] {
        // Semaphore high, low, payload; then flush, one word, no transfer.
        [
            header(3, 0x240),
            0,
            SEMAPHORE_VA as u32,
            payload,
            header(1, 0x300),
            0xc,
        ]
    }

    #[test]
    fn an_interrupt_moves_nothing() {
        assert_eq!(Methods::interrupt(), [header(1, 0x300), 0x40]);
    }

    #[test]
    fn an_empty_batch_only_releases() -> Result {
        let mut methods = Methods::new()?;
        methods.begin();
        let words = methods.end(7);
        assert_eq!(words[..2], [header(1, 0), 0xc5b5]);
        assert_eq!(words[2..], end(7));
        Ok(())
    }

    #[test]
    fn runs_are_joined() -> Result {
        let mut methods = Methods::new()?;
        methods.begin();
        for page in 0..3 {
            let at = page * 4096;
            methods.add(Some(SYS.offset(at)), Place::Vram(0x8000).offset(at), 4096)?;
        }
        assert_eq!(methods.ops(), 1);
        let words = methods.end(1);
        assert_eq!(
            words[2..words.len() - 6],
            [
                header(1, 0x260),
                1,
                header(1, 0x264),
                0,
                header(4, 0x400),
                1,
                0x2345_6000,
                0,
                0x8000,
                header(1, 0x418),
                0x3000,
                header(1, 0x300),
                // Both physical, both linear, pipelined.
                0x3181,
            ]
        );
        Ok(())
    }

    #[test]
    fn only_neighbours_are_joined() -> Result {
        let mut methods = Methods::new()?;
        methods.begin();
        let vram = |page: u64| Place::Vram(page << 12);
        methods.add(Some(SYS), vram(0), 4096)?;
        // The source goes on, the target does not; and the other way round.
        methods.add(Some(SYS.offset(4096)), vram(2), 4096)?;
        methods.add(Some(SYS), vram(3), 4096)?;
        // Zeros are no copy; device memory is no system memory at the same address.
        methods.add(None, vram(4), 4096)?;
        methods.add(None, vram(5), 4096)?;
        methods.add(None, Place::System(6 << 12), 4096)?;
        assert_eq!(methods.ops(), 5);
        Ok(())
    }

    #[test]
    fn zeros() -> Result {
        let mut methods = Methods::new()?;
        methods.begin();
        methods.add(None, Place::Vram(0x1_0000_1000), 4096)?;
        let words = methods.end(1);
        assert_eq!(
            words[2..words.len() - 6],
            [
                header(3, 0x700),
                0,
                0,
                // Four components of four bytes, all constant A.
                0x0303_4444,
                header(1, 0x264),
                0,
                header(2, 0x408),
                1,
                0x1000,
                header(1, 0x418),
                0x100,
                header(1, 0x300),
                // Remapped, target physical and linear.
                0x2501,
            ]
        );
        Ok(())
    }

    #[test]
    fn the_largest_batch_fits() -> Result {
        let mut methods = Methods::new()?;
        methods.begin();
        let mut program = Program::new();
        // Two blocks: it lies across a large power of two.
        let middle = VirtAddr::new(1 << 40);
        let range = PageRange::new(VirtAddr::new((1 << 40) - PAGE_SIZE), middle)?;
        let range = range.hull(PageRange::page(middle)?);
        program.invalidate(Pdb(0x1000), Some(range), Barrier::Downgrade);
        assert_eq!(program.words().len(), INVALIDATE_WORDS);
        methods.first(&program)?;
        for i in 0..MAX_OPS as u64 {
            let vram = Place::Vram(i << 20);
            let sys = Place::System(i << 20);
            let (from, to) = match i % 4 {
                0 => (None, sys),
                1 => (Some(sys), vram),
                2 => (None, vram),
                _ => (Some(vram), sys),
            };
            methods.add(from, to, 16 * (i as usize + 1))?;
        }
        assert_eq!(methods.add(None, SYS, 16).err(), Some(ENOSPC));
        let words = methods.end(1);
        assert!(words.len() <= WORDS);
        assert_eq!(words[words.len() - 6..], end(1));
        Ok(())
    }

    #[test]
    fn lengths_are_checked() -> Result {
        let mut methods = Methods::new()?;
        methods.begin();
        assert_eq!(methods.add(Some(SYS), SYS, 0).err(), Some(EINVAL));
        assert_eq!(methods.add(None, SYS, 8).err(), Some(EINVAL));
        assert_eq!(methods.add(Some(SYS), SYS, MAX_RUN + 1).err(), Some(EINVAL));
        assert_eq!(methods.ops(), 0);
        Ok(())
    }
}
