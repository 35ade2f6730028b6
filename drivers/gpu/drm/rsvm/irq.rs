// SPDX-License-Identifier: GPL-2.0

//! Interrupts.
//!
//! Each subtree of the interrupt tree has a message of its own, and so a handler of its own. All
//! work is done in threads. The order is always: clear the leaf, look at what it stands for,
//! whatever comes later sends a new message.

use crate::{
    gpu::Gpu,
    queue,
    regs::{
        vector,
        NV_INTR_LEAF,
        NV_INTR_LEAF_EN_CLEAR,
        NV_INTR_LEAF_EN_SET,
        NV_INTR_TOP_EN_CLEAR,
        NV_INTR_TOP_EN_SET,
        NV_PFIFO_INTR,
        NV_PFIFO_INTR_EN, //
    },
};
use kernel::{
    device::Bound,
    io::{
        register::Array,
        Io, //
    },
    irq::{
        IrqReturn,
        ThreadedHandler, //
    },
    pci::{
        self,
        IrqType,
        IrqTypes,
        ThreadedHandlers, //
    },
    prelude::*,
    sync::Arc, //
};

/// Vectors in use: subtree 0 has what the engines finished, 1 the replayable fault buffer, 2 the
/// other fault buffer, errors and the host, 3 errors of the copy engine.
const SUBTREES: u32 = 4;

/// Sources that are let through.
const ENABLED: [u32; 8] = [
    vector::COMPUTE,
    vector::COPY,
    vector::REPLAYABLE,
    vector::REPLAYABLE_ERROR,
    vector::NON_REPLAYABLE,
    vector::NON_REPLAYABLE_ERROR,
    vector::PFIFO,
    vector::COPY_ERROR,
];

/// The handler of one subtree.
pub(crate) struct Subtree {
    gpu: Arc<Gpu>,
    index: usize,
}

/// Registers a handler for each subtree. Nothing is sent before [`Gpu::enable_interrupts`].
///
/// # Errors
///
/// `ENOSPC` if there are not enough vectors, `ENOMEM`.
pub(crate) fn register<'a>(
    pdev: &'a pci::Device<Bound>,
    gpu: &Arc<Gpu>,
) -> Result<ThreadedHandlers<'a, Subtree>> {
    let types = IrqTypes::default().with(IrqType::MsiX);
    let handler = |index| {
        Ok::<_, Error>(Subtree {
            gpu: gpu.clone(),
            index,
        })
    };
    // SAFETY: The result becomes part of the driver's data, which the driver core drops.
    unsafe { ThreadedHandlers::new(pdev, SUBTREES, types, c"rsvm", handler) }
}

impl ThreadedHandler for Subtree {
    fn handle_threaded(&self) -> IrqReturn {
        // An error means that the driver is being unbound; nothing is left to be done then.
        let _ = match self.index {
            0 => self.finished(),
            1 => self.gpu.drain_replayable(true),
            2 => self.host(),
            _ => self.copy_error(),
        };
        IrqReturn::Handled
    }
}

impl Subtree {
    /// A user fence was written, or the copy engine came to where it was asked to tell. All who wait
    /// look at memory, so that the leaf need not be read.
    fn finished(&self) -> Result {
        // Those who wait for what was done by now need not wait for the register.
        self.gpu.copy.notify();
        let (leaf, compute) = vector::leaf(vector::COMPUTE);
        let (_, copy) = vector::leaf(vector::COPY);
        self.gpu.clear_leaf(leaf, compute | copy)?;
        self.gpu.copy.notify();
        self.gpu.wakeup().notify_all();
        Ok(())
    }

    fn copy_error(&self) -> Result {
        let (leaf, bit) = vector::leaf(vector::COPY_ERROR);
        self.gpu.clear_leaf(leaf, bit)?;
        self.gpu.copy.notify_error();
        Ok(())
    }

    fn host(&self) -> Result {
        let gpu = &self.gpu;
        let (leaf, _) = vector::leaf(vector::PFIFO);
        let pending = gpu
            .regs
            .with(|bar| NV_INTR_LEAF::try_at(leaf).map_or(0, |at| bar.read(at).into_raw()))?;
        gpu.clear_leaf(leaf, pending)?;
        let is_set = |vector| pending & vector::leaf(vector).1 != 0;

        if is_set(vector::REPLAYABLE_ERROR) {
            gpu.recover_replayable()?;
        }
        if is_set(vector::NON_REPLAYABLE) || is_set(vector::NON_REPLAYABLE_ERROR) {
            gpu.drain_non_replayable(is_set(vector::NON_REPLAYABLE_ERROR))?;
        }
        if is_set(vector::PFIFO) {
            let intr = gpu.regs.with(|bar| bar.read(NV_PFIFO_INTR))?;
            gpu.regs.with(|bar| bar.write_reg(intr))?;
            if intr.pbdma() {
                gpu.copy.notify_error();
                queue::report_stopped_channels(gpu)?;
            }
            if intr.sched() || intr.bind() {
                gpu.wedge("the host refused a runlist or an instance block", EINVAL);
            }
        }
        Ok(())
    }
}

impl Gpu {
    /// Clears pending vectors of a leaf.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn clear_leaf(&self, leaf: usize, vectors: u32) -> Result {
        let value = NV_INTR_LEAF::from_raw(vectors);
        self.regs.with(|bar| {
            if let Some(at) = NV_INTR_LEAF::try_at(leaf) {
                bar.write(at, value);
            }
        })
    }

    /// Lets interrupts through. Handlers are registered.
    ///
    /// # Errors
    ///
    /// `ENODEV` after the driver was unbound.
    pub(crate) fn enable_interrupts(&self) -> Result {
        let pfifo = NV_PFIFO_INTR_EN::zeroed()
            .with_pbdma(true)
            .with_sched(true)
            .with_bind(true);
        self.regs.with(|bar| bar.write_reg(pfifo))?;
        for vector in ENABLED {
            let (leaf, bit) = vector::leaf(vector);
            let value = NV_INTR_LEAF_EN_SET::from_raw(bit);
            self.regs.with(|bar| {
                if let Some(at) = NV_INTR_LEAF_EN_SET::try_at(leaf) {
                    bar.write(at, value);
                }
            })?;
        }
        let top = NV_INTR_TOP_EN_SET::from_raw((1 << SUBTREES) - 1);
        self.regs.with(|bar| bar.write_reg(top))
    }

    /// Lets no interrupt through any more. Handlers may still run.
    pub(crate) fn disable_interrupts(&self) {
        // An error means that there is no device.
        let top = NV_INTR_TOP_EN_CLEAR::from_raw((1 << SUBTREES) - 1);
        let _ = self.regs.with(|bar| bar.write_reg(top));
        for vector in ENABLED {
            let (leaf, bit) = vector::leaf(vector);
            let value = NV_INTR_LEAF_EN_CLEAR::from_raw(bit);
            let _ = self.regs.with(|bar| {
                if let Some(at) = NV_INTR_LEAF_EN_CLEAR::try_at(leaf) {
                    bar.write(at, value);
                }
            });
        }
    }
}
