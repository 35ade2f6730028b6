// SPDX-License-Identifier: GPL-2.0

//! How full device memory may be, and of what.
//!
//! Below the low watermark a worker begins to evict, and goes on until the high one is reached.
//! Each kind of use has a reserve: others evict of it only what is beyond.

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
use kernel::prelude::*;

/// Who uses device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pages of processes.
    Pages,
    /// Buffer objects.
    Objects,
}

/// Bytes in use by each [`Kind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) pages: u64,
    pub(crate) objects: u64,
}

impl Usage {
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Pages => self.pages,
            Kind::Objects => self.objects,
        }
    }

    pub(crate) fn of_mut(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Pages => &mut self.pages,
            Kind::Objects => &mut self.objects,
        }
    }
}

/// Limits of one device. All are bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) total: u64,
    pub(crate) low: u64,
    pub(crate) high: u64,
    reserve: u64,
}

impl Limits {
    /// For `total` bytes in blocks of `block`. A device with very few blocks has no watermarks:
    /// whoever allocates there evicts.
    pub(crate) const fn new(total: u64, block: u64) -> Self {
        let low = if total / block < 8 {
            0
        } else if total / 64 < block {
            block
        } else {
            total / 64
        };
        Self {
            total,
            low,
            high: 2 * low,
            reserve: total / 8,
        }
    }

    /// Whether the worker has to begin, with `free` bytes free.
    pub(crate) fn is_low(&self, free: u64) -> bool {
        free < self.low
    }

    /// Whether the worker may stop.
    pub(crate) fn is_enough(&self, free: u64) -> bool {
        free >= self.high
    }

    /// Whether something of `victim` may be evicted, by somebody who wants `bytes` for `kind`
    /// (`None`: by the worker, who only keeps the balance).
    pub(crate) fn may_evict(
        &self,
        usage: &Usage,
        victim: Kind,
        wanted: Option<(Kind, u64)>,
    ) -> bool {
        if usage.of(victim) > self.reserve {
            return true;
        }
        match wanted {
            None => false,
            // One's own, or what could not be had without going into the reserve of others.
            Some((kind, bytes)) => victim == kind || bytes > self.total - self.reserve,
        }
    }
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_vram_limits)]
mod tests {
    use super::*;

    const BLOCK: u64 = 2 << 20;
    const LIMITS: Limits = Limits::new(256 << 20, BLOCK);

    #[test]
    fn watermarks_have_a_distance() {
        assert_eq!((LIMITS.low, LIMITS.high), (4 << 20, 8 << 20));
        assert!(LIMITS.is_low(BLOCK) && !LIMITS.is_low(LIMITS.low));
        // Between the two nobody begins, and who began goes on.
        assert!(!LIMITS.is_low(LIMITS.low + BLOCK) && !LIMITS.is_enough(LIMITS.low + BLOCK));
        assert!(LIMITS.is_enough(LIMITS.high));
    }

    #[test]
    fn small_devices() {
        let limits = Limits::new(16 << 20, BLOCK);
        assert_eq!((limits.low, limits.high), (BLOCK, 2 * BLOCK));
        let tiny = Limits::new(4 << 20, BLOCK);
        assert!(!tiny.is_low(0) && tiny.is_enough(0));
    }

    #[test]
    fn neither_kind_crowds_the_other_out() {
        let reserve = LIMITS.total / 8;
        for (kind, other) in [(Kind::Pages, Kind::Objects), (Kind::Objects, Kind::Pages)] {
            let mut usage = Usage::default();
            *usage.of_mut(other) = reserve;
            *usage.of_mut(kind) = LIMITS.total - reserve;
            let wanted = Some((kind, BLOCK));
            assert!(!LIMITS.may_evict(&usage, other, wanted));
            assert!(LIMITS.may_evict(&usage, kind, wanted));
            assert!(!LIMITS.may_evict(&usage, other, None));
            *usage.of_mut(other) += BLOCK;
            assert!(LIMITS.may_evict(&usage, other, wanted));
        }
    }

    #[test]
    fn what_fits_the_total_can_be_had() {
        let usage = Usage {
            pages: LIMITS.total / 8,
            objects: 0,
        };
        assert!(LIMITS.may_evict(&usage, Kind::Pages, Some((Kind::Objects, LIMITS.total))));
    }
}
