// SPDX-License-Identifier: GPL-2.0

//! The dmem cgroup: who uses how much of a device's memory.
//!
//! C header: [`include/linux/cgroup_dmem.h`](srctree/include/linux/cgroup_dmem.h)
//!
//! Without `CONFIG_CGROUP_DMEM` all charges succeed and nothing is counted.

use crate::{
    bindings,
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    mm::Mm,
    prelude::*,
    sync::Arc, //
};
use core::ptr;

/// What a driver does about a limit that was lowered below what is in use.
pub trait Reclaim: Send + Sync + 'static {
    /// Tries to free `bytes` of what is charged to `pool` or below it. May sleep. Called again
    /// while usage stays above the limit, a few times at most.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if nothing could be freed; any other error ends the attempt.
    fn reclaim(&self, pool: &Pool, bytes: u64) -> Result;
}

/// Memory of a device that cgroups have limits for, until it is dropped.
///
/// Dropping it waits for callbacks of [`Reclaim`], so it must not be done by one.
///
/// # Invariants
///
/// `region` is a registered region, or null without `CONFIG_CGROUP_DMEM`. What its callback gets
/// is the pointer in `_owner`.
pub struct Region<T: Reclaim> {
    region: *mut bindings::dmem_cgroup_region,
    _owner: Arc<T>,
}

// SAFETY: Regions belong to no thread; `_owner` may be shared among them.
unsafe impl<T: Reclaim> Send for Region<T> {}
// SAFETY: A region is protected by the cgroup's own locks.
unsafe impl<T: Reclaim> Sync for Region<T> {}

impl<T: Reclaim> Region<T> {
    const OPS: bindings::dmem_cgroup_ops = bindings::dmem_cgroup_ops {
        reclaim: Some(Self::reclaim),
    };

    /// Registers `size` bytes as `name`, such as `drm/0000:00:02.0/vram0`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` for a size of 0.
    pub fn new(name: &CStr, size: u64, owner: Arc<T>) -> Result<Self> {
        if size == 0 {
            return Err(EINVAL);
        }
        let init = bindings::dmem_cgroup_init {
            size,
            ops: &Self::OPS,
            reclaim_priv: ptr::from_ref::<T>(&owner).cast_mut().cast(),
        };
        // SAFETY: `init` is read and the name copied during the call; the operations are static.
        // `owner` is kept until the region is unregistered, which waits for callbacks.
        let region = unsafe { bindings::dmem_cgroup_register(&init, name.as_char_ptr()) };
        // INVARIANT: Just registered, for `owner`.
        Ok(Self {
            region: from_err_ptr(region)?,
            _owner: owner,
        })
    }

    /// Charges `bytes` to the cgroup that the process with the memory `mm` is in at the moment. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// See [`ChargeError`]; among others are `ENOMEM`, and `ESRCH` if the process has left `mm`.
    pub fn try_charge(&self, mm: &Mm, bytes: u64) -> Result<Charge, ChargeError> {
        let (mut pool, mut limit) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: By the type invariant the region is registered; `mm` is valid.
        let result = to_result(unsafe {
            bindings::dmem_cgroup_charge_mm(self.region, mm.as_raw(), bytes, &mut pool, &mut limit)
        });
        match result {
            // INVARIANT: The charge and its references were just made.
            Ok(()) => Ok(Charge { pool, bytes }),
            // INVARIANT: The references to the limiting pool are the caller's.
            Err(_) if !limit.is_null() => Err(ChargeError::Limit(Pool(limit))),
            Err(err) => Err(ChargeError::Other(err)),
        }
    }

    extern "C" fn reclaim(
        pool: *mut bindings::dmem_cgroup_pool_state,
        bytes: u64,
        owner: *mut ffi::c_void,
    ) -> ffi::c_int {
        // SAFETY: By the type invariant `owner` is what the region keeps alive, and it cannot go
        // during a callback.
        let owner = unsafe { &*owner.cast::<T>() };
        // The caller's references last through the callback, and are not ours to put.
        // INVARIANT: As above.
        let pool = core::mem::ManuallyDrop::new(Pool(pool));
        from_result(|| owner.reclaim(&pool, bytes).map(|()| 0))
    }
}

impl<T: Reclaim> Drop for Region<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::dmem_cgroup_unregister(self.region) };
    }
}

/// What one cgroup uses of a region. It may outlive both.
///
/// # Invariants
///
/// Owns a reference to a pool and to its cgroup, or is null without `CONFIG_CGROUP_DMEM`.
pub struct Pool(*mut bindings::dmem_cgroup_pool_state);

// SAFETY: Pools belong to no thread.
unsafe impl Send for Pool {}
// SAFETY: A pool is a set of atomic counters.
unsafe impl Sync for Pool {}

/// Why something could not be charged.
pub enum ChargeError {
    /// It would exceed the limit of this pool: the one of the process or one above.
    Limit(Pool),
    /// Something else.
    Other(Error),
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the references are ours; null is ignored.
        unsafe { bindings::dmem_cgroup_put(self.0) };
    }
}

/// Bytes that are charged to a pool until this is dropped, which may be done in any context but
/// NMI.
///
/// # Invariants
///
/// `pool` has that charge and the references that come with it, or is null without
/// `CONFIG_CGROUP_DMEM`.
pub struct Charge {
    pool: *mut bindings::dmem_cgroup_pool_state,
    bytes: u64,
}

// SAFETY: Charges belong to no thread.
unsafe impl Send for Charge {}
// SAFETY: Nothing is done through a shared reference.
unsafe impl Sync for Charge {}

impl Charge {
    /// Whether evicting what is charged helps against `limit` (`None`: the region is full) and is
    /// not forbidden by a protection (`dmem.min`, and `dmem.low` unless `ignore_low`). Does not
    /// sleep.
    pub fn may_evict(&self, limit: Option<&Pool>, ignore_low: bool) -> bool {
        let limit = limit.map_or(ptr::null_mut(), |pool| pool.0);
        let mut hit_low = false;
        // SAFETY: By the type invariant the pools are valid; null is the root.
        unsafe { bindings::dmem_cgroup_may_evict(limit, self.pool, ignore_low, &mut hit_low) }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the charge is ours; null is ignored.
        unsafe { bindings::dmem_cgroup_discharge(self.pool, self.bytes) };
    }
}

#[cfg(all(CONFIG_CGROUP_DMEM, CONFIG_MEMCG, CONFIG_RUST_MM_KUNIT_TEST))]
#[kunit_tests(rust_cgroup_dmem)]
mod tests {
    use super::*;
    use crate::mm::testing::own_mm;

    struct Nobody;

    impl Reclaim for Nobody {
        fn reclaim(&self, _pool: &Pool, _bytes: u64) -> Result {
            Err(ENOSPC)
        }
    }

    fn region(size: u64) -> Result<Region<Nobody>> {
        Region::new(c"kunit/vram0", size, Arc::new(Nobody, GFP_KERNEL)?)
    }

    /// A little more than half of what a group without a limit can have.
    const HALF: u64 = 1 << 50;

    #[test]
    fn nothing_has_no_name() {
        assert_eq!(region(0).err(), Some(EINVAL));
    }

    #[test]
    fn charges_add_up() -> Result {
        // How large a region is says nothing about what can be charged.
        let region = region(4096)?;
        let mm = own_mm()?;
        let Ok(charged) = region.try_charge(&mm, HALF) else {
            return Err(EAGAIN);
        };
        let Err(ChargeError::Limit(limit)) = region.try_charge(&mm, HALF) else {
            return Err(EOVERFLOW);
        };
        assert!(charged.may_evict(None, false));
        assert!(charged.may_evict(Some(&limit), false));
        assert!(region.try_charge(&mm, 0).is_ok());
        drop(charged);
        assert!(region.try_charge(&mm, HALF).is_ok());
        Ok(())
    }

    #[test]
    fn who_has_left_pays_nothing() -> Result {
        let region = region(4096)?;
        let mm = own_mm()?;
        // SAFETY: Nobody but this test uses the memory, which gets its owner back below.
        let owner = unsafe { &raw mut (*mm.as_raw()).__bindgen_anon_1.owner };
        // SAFETY: As above.
        let own = unsafe { owner.replace(ptr::null_mut()) };
        let result = region.try_charge(&mm, 1);
        // SAFETY: As above.
        unsafe { owner.write(own) };
        assert!(matches!(result, Err(ChargeError::Other(ESRCH))));
        assert!(region.try_charge(&mm, 1).is_ok());
        Ok(())
    }

    #[test]
    fn charges_outlive_the_region() -> Result {
        let gone = region(4096)?;
        let charged = gone.try_charge(&*own_mm()?, 1);
        drop(gone);
        assert!(charged.is_ok_and(|charged| charged.may_evict(None, false)));
        Ok(())
    }
}
