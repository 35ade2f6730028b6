// SPDX-License-Identifier: GPL-2.0

//! What tests and developers see of a device, in debugfs under the name of the driver and the
//! device.

use crate::{
    gpu::Gpu,
    stats::Stats,
    svm::{
        handover::QUANTUM_US,
        inject::INJECT,
        mirror::NODE_MIB, //
    }, //
};
use core::fmt;
use kernel::{
    debugfs::Scope,
    device,
    prelude::*,
    str::CString,
    sync::Arc, //
};

/// What the files show.
pub(crate) struct Data {
    gpu: Arc<Gpu>,
    stats: Arc<Stats>,
}

/// Makes the files. They go when the result is dropped.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn new(
    dev: &device::Device,
    gpu: &Arc<Gpu>,
    stats: &Arc<Stats>,
) -> Result<Pin<KBox<Scope<Data>>>> {
    let name = CString::try_from_fmt(fmt!("rsvm-{}", dev.name()))?;
    let data = Data {
        gpu: gpu.clone(),
        stats: stats.clone(),
    };
    let scope = Scope::dir(Ok::<_, Error>(data), &name, |data, dir| {
        dir.read_callback_file(c"stats", data, &show_stats);
        let residency = &data.gpu.vram.residency_ms;
        dir.read_write_file(c"vram_residency_ms", residency);
        dir.read_write_file(c"interval_mib", &NODE_MIB);
        dir.read_write_file(c"atomic_quantum_us", &QUANTUM_US);
        dir.read_write_file(c"inject_collision", &INJECT.collision);
        dir.read_write_file(c"inject_commit_delay_us", &INJECT.commit_delay_us);
        dir.read_write_file(c"inject_replay_delay_us", &INJECT.replay_delay_us);
        dir.read_write_file(
            c"inject_invalidation_delay_ms",
            &INJECT.invalidation_delay_ms,
        );
    });
    KBox::pin_init(scope, GFP_KERNEL)
}

/// One `name value` to a line: counters of all mirrors there ever were, and the model's own.
fn show_stats(data: &Data, f: &mut kernel::fmt::Formatter<'_>) -> fmt::Result {
    let mut result = Ok(());
    data.stats.total().for_each(|name, value| {
        result = result.and_then(|()| writeln!(f, "{name} {value}"));
    });
    result?;
    for (name, value) in data.gpu.copy.counters.all() {
        writeln!(f, "{name} {value}")?;
    }
    data.gpu.vram.for_each_stat(|name, value| {
        result = result.and_then(|()| writeln!(f, "{name} {value}"));
    });
    result?;
    data.gpu.pagemap.data().for_each_stat(|name, value| {
        result = result.and_then(|()| writeln!(f, "{name} {value}"));
    });
    result?;
    if let Some(counts) = data.gpu.model_counts() {
        writeln!(f, "stale_hits {}", counts.stale_hits)?;
        writeln!(f, "lost_updates {}", counts.lost_updates)?;
        writeln!(f, "guest_errors {}", counts.guest_errors)?;
    }
    Ok(())
}
