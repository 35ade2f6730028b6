// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the driver counts for an open file, from its fdinfo.

use crate::error::{Error, Result};

macro_rules! stats {
    ($($(#[$meta:meta])* $field:ident = $key:literal,)*) => {
        /// Counters of one context since it was opened.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats { $($(#[$meta])* pub $field: u64,)* }

        impl Stats {
            /// Reads the counters out of the text of an fdinfo file.
            ///
            /// # Errors
            ///
            /// [`Error::NoStatistic`] names the first that is missing.
            pub fn parse(text: &str) -> Result<Self> {
                Ok(Stats { $($field: value(text, $key)?,)* })
            }

            /// What was counted since `earlier`.
            pub fn since(&self, earlier: &Stats) -> Stats {
                Stats { $($field: self.$field.wrapping_sub(earlier.$field),)* }
            }
        }
    };
}

stats! {
    /// Faults served.
    faults = "rsvm-faults",
    /// Batches they came in.
    batches = "rsvm-batches",
    /// Pages of 4 KiB mapped.
    pages = "rsvm-pages",
    /// Leaf entries of 4 KiB written.
    map_4k = "rsvm-map-4k",
    /// Leaf entries of 64 KiB written.
    map_64k = "rsvm-map-64k",
    /// Leaf entries of 2 MiB written.
    map_2m = "rsvm-map-2m",
    /// Invalidations by the kernel's memory management that cleared something.
    invalidations = "rsvm-invalidations",
    /// Replays of faulted accesses.
    replays = "rsvm-replays",
    /// Snapshots thrown away because memory changed meanwhile.
    retries = "rsvm-retries",
    /// 2 MiB entries split into smaller ones.
    demotions = "rsvm-demotions",
    /// Pages mapped beside the one that faulted.
    prefetched = "rsvm-prefetched",
    /// Migrations to device memory.
    migrations = "rsvm-migrations",
    /// Pages of 4 KiB that came to device memory.
    to_vram = "rsvm-to-vram",
    /// How many of them had no memory before.
    zeroed = "rsvm-zeroed",
    /// Pages that came back to system memory by request.
    recalled = "rsvm-recalled",
    /// Pages that stay in system memory for a while because they bounced.
    thrashed = "rsvm-thrashed",
    /// Pages of system memory taken away from all CPUs for atomics.
    grabs = "rsvm-grabs",
    /// How many of them were given back.
    revoked = "rsvm-revoked",
}

fn value(text: &str, key: &'static str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or(Error::NoStatistic(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(keys: &[&str]) -> String {
        let mut text = String::from("pos:\t0\ndrm-driver:\trsvm\n");
        for (i, key) in keys.iter().enumerate() {
            text += &format!("{key}:\t{}\n", i + 1);
        }
        text
    }

    const ALL: [&str; 18] = [
        "rsvm-faults",
        "rsvm-batches",
        "rsvm-pages",
        "rsvm-map-4k",
        "rsvm-map-64k",
        "rsvm-map-2m",
        "rsvm-invalidations",
        "rsvm-replays",
        "rsvm-retries",
        "rsvm-demotions",
        "rsvm-prefetched",
        "rsvm-migrations",
        "rsvm-to-vram",
        "rsvm-zeroed",
        "rsvm-recalled",
        "rsvm-thrashed",
        "rsvm-grabs",
        "rsvm-revoked",
    ];

    #[test]
    fn counters_are_found_by_name() {
        let stats = Stats::parse(&text(&ALL)).unwrap();
        assert_eq!((stats.faults, stats.map_2m, stats.prefetched), (1, 6, 11));
    }

    #[test]
    fn a_missing_counter_is_named() {
        let err = Stats::parse(&text(&ALL[1..])).unwrap_err();
        assert!(err.to_string().ends_with("rsvm-faults"), "{err}");
    }

    #[test]
    fn differences() {
        let (a, b) = (
            Stats {
                faults: 3,
                ..Default::default()
            },
            Stats {
                faults: 10,
                ..Default::default()
            },
        );
        assert_eq!(b.since(&a).faults, 7);
    }
}
