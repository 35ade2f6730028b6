// SPDX-License-Identifier: GPL-2.0

//! Stopping: what holds when the device does not obey, and the order of teardown.
//!
//! The device goes through these states, never back:
//!
//! - *unbound*: the driver is being unbound. Nobody starts anything new; what is under way may
//!   still need the device, so that invalidations go on.
//! - *stopped*: bus mastering is off. The device reaches no memory, so nothing has to be waited for
//!   any more, and memory may be given back.
//! - *wedged*: stopped because the device did not do in time what it must. Binding again recovers
//!   it.

use crate::{
    gpu::Gpu,
    regs, //
};
use kernel::{
    io::Io,
    pci::BusMaster,
    prelude::*,
    sync::atomic::{
        Acquire,
        AtomicFlag,
        Full,
        Release, //
    },
    time::{
        Delta,
        Instant, //
    }, //
};

/// How long the device may take for what never depends on the service of a fault. An emulated
/// one on a busy machine is slow.
pub(crate) const BOUND: Delta = Delta::from_secs(10);

/// How long unbinding tries to bring back what is in device memory.
const EVICT_BOUND: Delta = Delta::from_secs(10);

/// How far the device is on its way out.
pub(crate) struct State {
    master: BusMaster,
    unbound: AtomicFlag,
    stopped: AtomicFlag,
    wedged: AtomicFlag,
}

impl State {
    pub(crate) fn new(master: BusMaster) -> Self {
        Self {
            master,
            unbound: AtomicFlag::new(false),
            stopped: AtomicFlag::new(false),
            wedged: AtomicFlag::new(false),
        }
    }

    pub(crate) fn is_unbound(&self) -> bool {
        self.unbound.load(Acquire)
    }

    pub(crate) fn is_wedged(&self) -> bool {
        self.wedged.load(Acquire)
    }

    /// Whether the device reaches no memory.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// # Errors
    ///
    /// `ENODEV` when the driver is being unbound, `EIO` when the device is wedged.
    pub(crate) fn check(&self) -> Result {
        if self.is_unbound() {
            Err(ENODEV)
        } else if self.is_wedged() {
            Err(EIO)
        } else {
            Ok(())
        }
    }

    /// Ends bus mastering. Anyone may do so, at any time, more than once: each caller may rely on
    /// it when this returns.
    fn stop(&self) {
        self.master.disable();
        self.stopped.store(true, Release);
    }
}

impl Gpu {
    /// Gives the device up: it reaches no memory when this returns, and everybody who waits for
    /// it gets an error. Any context that may take the lock of the bus's configuration space.
    pub(crate) fn wedge(&self, why: &str, err: Error) {
        self.state.stop();
        if !self.state.wedged.xchg(true, Full) && !self.state.is_unbound() {
            if let Some(dev) = self.dev.enter() {
                dev_err!(dev, "wedged: {} ({:?})\n", why, err);
            }
        }
        self.wakeup().notify_all();
        self.copy.notify();
    }

    /// Tells whether the device is on the bus and bound; gives it up if it was pulled out.
    pub(crate) fn check_presence(&self) -> bool {
        let Ok(boot) = self.regs.with(|bar| bar.read(regs::NV_PMC_BOOT_0)) else {
            return false;
        };
        let present = boot.into_raw() != u32::MAX;
        if !present {
            self.wedge("the device does not answer", ENODEV);
        }
        present
    }

    /// Makes the device one that is being unbound: nothing new is started, who waits gets an error.
    pub(crate) fn leave(&self) {
        self.state.unbound.store(true, Release);
        self.wakeup().notify_all();
    }

    /// Takes everything off the device and gives all coherent memory that it knows back. Bounded:
    /// neither users nor workers are waited for, only the device.
    pub(crate) fn teardown(&self) {
        self.leave();
        self.check_presence();

        // What is in device memory comes back while there is somebody to bring it.
        let left = self.vram.evict_all(Instant::now() + EVICT_BOUND);
        if left != 0 {
            if let Some(dev) = self.dev.enter() {
                dev_warn!(
                    dev,
                    "{} KiB of device memory are still in use\n",
                    left >> 10
                );
            }
        }

        // Engines. Queues first, their faults are cancelled while interrupts still come.
        self.queues.destroy_all(self);
        let spaces = self.take_spaces();
        self.copy.stop();
        self.disable_interrupts();
        self.faults.disable(&self.regs);

        self.tlb.stop(|| {
            // Ends the driver's own channel, and a kernel that nothing else could stop. It is done
            // when the read that follows is; an error means that there is no device.
            let reset = regs::SOFT_RESET::zeroed().with_reset(true);
            let _ = self.regs.with(|bar| bar.write_reg(reset));
            let _ = self.regs.with(|bar| bar.read(regs::NV_PMC_BOOT_0));
            self.state.stop();
        });

        // With nothing to wait for, this clears, unmaps and frees without a word to the device.
        for space in &spaces {
            space.detach();
        }
        self.close_memory();
    }
}
