// SPDX-License-Identifier: GPL-2.0

//! Which buffers are bound where, as the DRM GPUVM keeps it.

use super::{
    backing::BackingRef,
    Bo,
    Object, //
};
use crate::{
    driver::RsvmDriver,
    svm::bound::{
        self,
        Bound, //
    }, //
};
use kernel::{
    drm::{
        self,
        gpuvm::{
            DriverGpuVm,
            GpuVa,
            GpuVaAlloc,
            GpuVm,
            GpuVmBo,
            OpMap,
            OpMapRequest,
            OpMapped,
            OpRemap,
            OpRemapped,
            OpUnmap,
            OpUnmapped,
            UniqueRefGpuVm, //
        },
    },
    mm::{
        addr::{
            PageRange,
            VirtAddr, //
        },
        Mm, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// The bindings of one space.
pub(crate) struct Bindings {
    vm: UniqueRefGpuVm<Tree>,
    /// The process's memory.
    mm: ARef<Mm>,
}

/// What the GPUVM calls.
pub(crate) struct Tree {
    /// The GPUVM's own object is taken apart with it.
    _device: ARef<drm::Device<RsvmDriver>>,
}

/// Most mappings that a change makes: a new one, and what is left of others on either side.
const SPARE: usize = 3;

/// What a change of the bindings needs, allocated beforehand.
pub(crate) struct Change {
    spare: [Option<GpuVaAlloc<Tree>>; SPARE],
    write: bool,
}

impl Change {
    /// For a binding that the device may write to, or may not.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(write: bool) -> Result<Self> {
        let mut spare = [const { None }; SPARE];
        for place in &mut spare {
            *place = Some(GpuVaAlloc::new(GFP_KERNEL)?);
        }
        Ok(Self { spare, write })
    }

    /// For the end of all bindings.
    fn empty() -> Self {
        Self {
            spare: [const { None }; SPARE],
            write: false,
        }
    }

    fn take(&mut self) -> Result<GpuVaAlloc<Tree>> {
        self.spare.iter_mut().find_map(Option::take).ok_or(ENOMEM)
    }

    fn give_back(&mut self, unused: Option<GpuVaAlloc<Tree>>) {
        if let Some(place) = self.spare.iter_mut().find(|place| place.is_none()) {
            *place = unused;
        }
    }
}

impl DriverGpuVm for Tree {
    type Driver = RsvmDriver;
    type Object = Object;
    /// Whether the device may write.
    type VaData = bool;
    type VmBoData = ();
    type SmContext<'ctx> = Change;

    fn sm_step_map<'op, 'ctx>(
        &mut self,
        op: OpMap<'op, Self>,
        change: &mut Change,
    ) -> Result<OpMapped<'op, Self>> {
        Ok(op.insert(change.take()?, change.write))
    }

    fn sm_step_unmap<'op, 'ctx>(
        &mut self,
        op: OpUnmap<'op, Self>,
        _change: &mut Change,
    ) -> Result<OpUnmapped<'op, Self>> {
        Ok(op.remove().0)
    }

    fn sm_step_remap<'op, 'ctx>(
        &mut self,
        op: OpRemap<'op, Self>,
        change: &mut Change,
    ) -> Result<OpRemapped<'op, Self>> {
        let write = *op.va_to_unmap().data();
        let (remapped, rest) = op.remap([change.take()?, change.take()?], write, write);
        change.give_back(rest.unused_va);
        Ok(remapped)
    }
}

/// The part of an address space that can be used without its lock.
pub(crate) type Manager = ARef<GpuVm<Tree>>;

impl Bindings {
    /// With nothing bound, for a device with addresses of `va_bits` and a process with the memory
    /// `mm`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        device: &drm::Device<RsvmDriver>,
        va_bits: u32,
        mm: ARef<Mm>,
    ) -> Result<(Self, Manager)> {
        let tree = Tree {
            _device: device.into(),
        };
        let dummy = Bo::dummy(device)?;
        let vm = GpuVm::new::<Error, _>(c"rsvm", device, &*dummy, 0..1 << va_bits, 0..0, tree)?;
        let manager = (&*vm).into();
        Ok((Self { vm, mm }, manager))
    }

    /// Binds `range` to the buffer of `buffer` from byte `offset` on.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if `change` was used before.
    pub(crate) fn map(
        &mut self,
        range: PageRange,
        buffer: &GpuVmBo<Tree>,
        offset: u64,
        change: &mut Change,
    ) -> Result {
        self.vm.sm_map(OpMapRequest {
            addr: range.start().as_u64(),
            range: range.len() as u64,
            gem_offset: offset,
            vm_bo: buffer,
            context: change,
        })
    }

    /// Unbinds whatever is bound in `range`.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    pub(crate) fn unmap(&mut self, range: PageRange, change: &mut Change) -> Result {
        self.vm
            .sm_unmap(range.start().as_u64(), range.len() as u64, change)
    }

    /// The buffer that is bound as `va`.
    fn buffer(&self, va: &GpuVa<Tree>) -> Option<BackingRef> {
        Some(BackingRef {
            backing: va.obj().backing().ok()?.clone(),
            mm: self.mm.clone(),
        })
    }

    /// Unbinds everything.
    pub(crate) fn clear(&mut self) {
        let all = self.vm.va_range();
        // What lies within is unmapped as a whole, which needs nothing.
        let _ = self
            .vm
            .sm_unmap(all.start, all.end - all.start, &mut Change::empty());
    }
}

fn range_of(va: &GpuVa<Tree>) -> Option<PageRange> {
    let range = va.range();
    let start = VirtAddr::try_from(range.start).ok()?;
    let end = VirtAddr::try_from(range.end).ok()?;
    PageRange::new(start, end).ok()
}

impl bound::Bindings for Bindings {
    type Buffer = BackingRef;

    fn first(&self, range: PageRange) -> Option<Bound<BackingRef>> {
        let va = self
            .vm
            .find_first(range.start().as_u64()..range.end().as_u64())?;
        Some(Bound {
            range: range_of(va)?,
            buffer: self.buffer(va)?,
            offset: va.gem_offset(),
            write: *va.data(),
        })
    }

    fn is_free(&self, range: PageRange) -> bool {
        self.vm
            .find_first(range.start().as_u64()..range.end().as_u64())
            .is_none()
    }

    fn next_of(&self, from: VirtAddr, wanted: &dyn Fn(&BackingRef) -> bool) -> Option<PageRange> {
        let mut start = from.as_u64();
        loop {
            let va = self.vm.find_first(start..self.vm.va_range().end)?;
            start = va.range().end;
            if wanted(&self.buffer(va)?) {
                return range_of(va);
            }
        }
    }
}
