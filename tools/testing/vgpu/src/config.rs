// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Everything that is chosen before the device exists.

use std::time::Duration;

/// Page-table format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmuVersion {
    /// Pascal to Ampere, 49-bit VA ("TU102 host").
    V2,
    /// Hopper, 57-bit VA ("GH100 host").
    V3,
}

/// When a TLB forgets what nobody invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlbMode {
    /// Never: a missing invalidate misbehaves for ever.
    Never,
    /// Now and then, by the seed.
    Random,
    /// At once: each access walks the page tables.
    None,
}

/// The device as built.
#[derive(Clone, Debug)]
pub struct Config {
    pub mmu: MmuVersion,
    /// Size of device memory in bytes; a power of two, at least 1 MiB.
    pub vram_bytes: u64,
    /// Hart groups; each has a uTLB. At most 16 per GPC id, 128 in all.
    pub groups: u32,
    pub harts_per_group: u32,
    /// OS threads that run the harts.
    pub compute_threads: u32,
    pub tlb: TlbMode,
    /// Walk the page tables on every hit to find stale ones; otherwise only the
    /// leaf entry is compared.
    pub full_shadow_walk: bool,
    /// The end of a physical copy is seen by others only after a flush.
    pub copy_lazy_writes: bool,
    pub inject: Inject,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mmu: MmuVersion::V2,
            vram_bytes: 256 << 20,
            groups: 16,
            harts_per_group: 64,
            compute_threads: 1,
            tlb: TlbMode::Never,
            full_shadow_walk: false,
            copy_lazy_writes: true,
            inject: Inject::default(),
        }
    }
}

/// Faults injected on purpose. "Every n-th" counts events; 0 is off.
#[derive(Clone, Debug, Default)]
pub struct Inject {
    /// Seed of every random choice in the device.
    pub seed: u64,
    /// Fault packets become VALID out of order: one in n waits for later ones.
    pub out_of_order_every: u32,
    /// How long such a packet waits at most.
    pub out_of_order_delay: Duration,
    /// One in n fault packets is written twice.
    pub duplicate_every: u32,
    /// Upper limit of the entries of either fault buffer, whatever SIZE says.
    pub fault_buffer_entries: Option<u32>,
    /// Delay of every acknowledgement of an invalidate or replay.
    pub ack_delay: Duration,
    /// Every n-th acknowledgement never comes.
    pub ack_lost_every: u32,
    /// Delay between a translation and the access it is for, once in n.
    pub access_delay_every: u32,
    pub access_delay: Duration,
    /// Widening of the window inside an atomic on system memory, once in 64.
    pub atomic_window: Duration,
    /// Every n-th copy ends in LAUNCHERR.
    pub launch_error_every: u32,
    /// These copies do, counted from 1.
    pub launch_error_at: Vec<u64>,
    /// One in n copies does, by the seed.
    pub launch_error_one_in: u32,
    /// How long a launch of the copy engine waits before it begins.
    pub copy_delay: Duration,
    /// Offsets in device memory whose page is poisoned (uncorrectable ECC).
    pub poison: Vec<u64>,
    /// The device vanishes from the bus at the n-th fault packet.
    pub remove_at_fault: u64,
    /// The device vanishes from the bus at the n-th doorbell.
    pub remove_at_doorbell: u64,
    /// The device vanishes from the bus at the n-th register read.
    pub remove_at_read: u64,
    /// The device vanishes from the bus when the n-th copy begins.
    pub remove_at_copy: u64,
}
