// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The MMU's thread: operations triggered by registers, late VALID bits,
//! surprise removal. Asleep when there is nothing to do.

use super::maintenance::Source;
use crate::core::Core;
use crate::lock;
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Starts the thread; it ends after [`super::FaultUnit::stop`].
///
/// # Errors
///
/// The host's.
pub fn start(core: &Arc<Core>) -> io::Result<JoinHandle<()>> {
    let core = core.clone();
    std::thread::Builder::new()
        .name("mmu".into())
        .spawn(move || run(&core))
}

fn run(core: &Core) {
    let unit = &core.faults;
    // Acknowledgements held back.
    let mut acks: Vec<(Instant, Source)> = Vec::new();
    let mut removed = false;
    loop {
        let now = Instant::now();
        acks.retain(|&(due, source)| {
            if due <= now {
                unit.acknowledge(source);
            }
            due > now
        });
        if core.removed() && !removed {
            removed = true;
            core.mmu.retire_map(core.mem.set_bus_master(false));
            core.host.reset(core);
            core.mem.vram().fill_ones();
        }
        let mut state = lock(&unit.state);
        unit.finish_late(core, &mut state, Some(now));
        if state.stop {
            return;
        }
        if let Some((source, op)) = state.queue.pop_front() {
            drop(state);
            op.execute(core);
            if let Some(delay) = unit.ack_delay(&op) {
                acks.push((Instant::now() + delay, source));
            }
            continue;
        }
        if std::mem::take(&mut state.woken) {
            continue;
        }
        let late = state.late.iter().map(|l| l.due);
        match acks.iter().map(|a| a.0).chain(late).min() {
            None => drop(
                unit.wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            ),
            Some(due) => {
                let time = due.saturating_duration_since(Instant::now());
                drop(
                    unit.wake
                        .wait_timeout(state, time)
                        .unwrap_or_else(PoisonError::into_inner),
                );
            }
        }
    }
}
