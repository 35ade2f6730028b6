// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The command line.

use clap::{ArgAction, Args as ClapArgs, Parser, ValueEnum};
use rsvm_vgpu::config::{Config, Inject, MmuVersion, TlbMode};
use std::path::PathBuf;
use std::time::Duration;

/// A virtual GPU for the rsvm driver, as a vfio-user PCI device.
///
/// Waits on a socket for a VMM, for example QEMU with
/// -device '{"driver":"vfio-user-pci","socket":{"path":"PATH","type":"unix"}}'
/// and guest memory from memory-backend-memfd,share=on. Ends when the VMM has
/// disconnected. SIGUSR1 removes the device from the bus by surprise.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 90)]
pub struct Args {
    /// Unix socket to listen on
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Serve the next client after one has disconnected, with a device that
    /// was reset
    #[arg(long)]
    pub persist: bool,
    /// Write counters as one line of JSON to this file at exit
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// What to log to stderr: a level, or module=level pairs
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub log: String,

    /// Page-table format: 2 (Turing) or 3 (Hopper)
    #[arg(long, value_name = "VERSION", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(2..=3))]
    pub mmu: u8,
    /// Device memory: bytes, or with a suffix K, M or G; a power of two
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_vram)]
    pub vram: u64,
    /// Groups of harts; each has a TLB of its own
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=128))]
    pub groups: u32,
    /// Harts in each group
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub harts: u32,
    /// Host threads that run the harts
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// When TLB entries go that nobody invalidated
    #[arg(long, value_enum, default_value_t = Tlb::Never)]
    pub tlb: Tlb,
    /// Look for stale TLB entries by a whole walk on each hit, not only at the
    /// leaf entry
    #[arg(long)]
    pub full_shadow_walk: bool,
    /// The last 4 KiB that a physical copy wrote are seen by others only after a
    /// flush
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub ce_lazy_writes: bool,

    #[command(flatten)]
    pub inject: InjectArgs,
}

/// When TLB entries are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tlb {
    /// Never: a missing invalidate misbehaves for ever
    Never,
    /// Now and then, by the seed
    Random,
    /// At once: every access walks the page tables
    None,
}

/// Faults injected on purpose. "EVERY" counts events and 0 is off; a TIME has
/// a suffix us, ms or s.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    next_help_heading = "Fault injection (N counts events, 0 is off; TIME like 50us, 3ms, 1s)"
)]
pub struct InjectArgs {
    /// Seed of every random choice the device makes
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// One in N fault packets becomes valid after later ones
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub out_of_order_every: u32,
    /// How long such a packet waits at most
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_time)]
    pub out_of_order_delay: Duration,
    /// One in N fault packets is written twice
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub duplicate_every: u32,
    /// Upper limit of the entries of either fault buffer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub fault_buffer_entries: Option<u32>,
    /// Delay of each acknowledgement of an invalidate or replay
    #[arg(long, value_name = "TIME", default_value = "0us", value_parser = parse_time)]
    pub ack_delay: Duration,
    /// Every N-th acknowledgement never comes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub ack_lost_every: u32,
    /// Once in N accesses, wait between translation and access
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub access_delay_every: u32,
    /// How long that wait is
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_time)]
    pub access_delay: Duration,
    /// Once in 64 atomics on system memory, wait this long inside it: a CPU's
    /// write that the driver let through is lost then, and counted
    #[arg(long, value_name = "TIME", default_value = "20us", value_parser = parse_time)]
    pub atomic_window: Duration,
    /// Every N-th copy ends in an error
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub launch_error_every: u32,
    /// The N-th copy ends in an error; repeatable
    #[arg(long, value_name = "N")]
    pub launch_error_at: Vec<u64>,
    /// One in N copies, by the seed, ends in an error
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub launch_error_one_in: u32,
    /// How long each launch of the copy engine waits before it begins
    #[arg(long, value_name = "TIME", default_value = "0us", value_parser = parse_time)]
    pub ce_delay: Duration,
    /// Poison the page of device memory at this offset (ECC); repeatable
    #[arg(long, value_name = "OFFSET", value_parser = parse_size)]
    pub poison: Vec<u64>,
    /// The device vanishes from the bus at the N-th fault packet
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub remove_at_fault: u64,
    /// The device vanishes from the bus at the N-th doorbell
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub remove_at_doorbell: u64,
    /// The device vanishes from the bus at the N-th register read
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub remove_at_read: u64,
    /// The device vanishes from the bus when the N-th copy begins
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub remove_at_copy: u64,
}

impl Args {
    /// The device these options describe.
    pub fn config(&self) -> Config {
        let inject = self.inject.clone();
        Config {
            mmu: if self.mmu == 3 {
                MmuVersion::V3
            } else {
                MmuVersion::V2
            },
            vram_bytes: self.vram,
            groups: self.groups,
            harts_per_group: self.harts,
            compute_threads: self.threads,
            tlb: match self.tlb {
                Tlb::Never => TlbMode::Never,
                Tlb::Random => TlbMode::Random,
                Tlb::None => TlbMode::None,
            },
            full_shadow_walk: self.full_shadow_walk,
            copy_lazy_writes: self.ce_lazy_writes,
            inject: Inject {
                seed: inject.seed,
                out_of_order_every: inject.out_of_order_every,
                out_of_order_delay: inject.out_of_order_delay,
                duplicate_every: inject.duplicate_every,
                fault_buffer_entries: inject.fault_buffer_entries,
                ack_delay: inject.ack_delay,
                ack_lost_every: inject.ack_lost_every,
                access_delay_every: inject.access_delay_every,
                access_delay: inject.access_delay,
                atomic_window: inject.atomic_window,
                launch_error_every: inject.launch_error_every,
                launch_error_at: inject.launch_error_at,
                launch_error_one_in: inject.launch_error_one_in,
                copy_delay: inject.ce_delay,
                poison: inject.poison,
                remove_at_fault: inject.remove_at_fault,
                remove_at_doorbell: inject.remove_at_doorbell,
                remove_at_read: inject.remove_at_read,
                remove_at_copy: inject.remove_at_copy,
            },
        }
    }
}

/// Bytes, with an optional suffix K, M or G; 0x for hexadecimal.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    number
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| "expected a size such as 65536, 0x10000, 256M or 1G".into())
}

fn parse_vram(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size.is_power_of_two() && (1 << 20..=1 << 36).contains(&size) {
        Ok(size)
    } else {
        Err("device memory is a power of two from 1M to 64G".into())
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    // "us" and "ms" end in "s" too, so they come first.
    [("us", 1), ("ms", 1_000), ("s", 1_000_000)]
        .into_iter()
        .find_map(|(suffix, us)| Some((text.strip_suffix(suffix)?, us)))
        .and_then(|(number, us)| number.parse::<u64>().ok()?.checked_mul(us))
        .map(Duration::from_micros)
        .ok_or_else(|| "expected a time such as 50us, 3ms or 1s".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_default_device() {
        let args = Args::parse_from(["rsvm-vgpu", "--socket", "s"]);
        let (cfg, def) = (args.config(), Config::default());
        assert_eq!(cfg.mmu, def.mmu);
        assert_eq!(cfg.vram_bytes, def.vram_bytes);
        assert_eq!(cfg.groups, def.groups);
        assert_eq!(cfg.harts_per_group, def.harts_per_group);
        assert_eq!(cfg.copy_lazy_writes, def.copy_lazy_writes);
        assert_eq!(cfg.inject.ack_lost_every, 0);
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("0x10000"), Ok(65536));
        assert!(parse_size("").is_err());
        assert!(parse_size("99999999999G").is_err());
        assert!(parse_vram("3M").is_err());
        assert!(parse_vram("512K").is_err());
        assert_eq!(parse_time("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_time("2s"), Ok(Duration::from_secs(2)));
        assert!(parse_time("5").is_err());
    }
}
