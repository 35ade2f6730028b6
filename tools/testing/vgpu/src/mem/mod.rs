// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Physical memory as the device sees it: its own VRAM, and the guest's memory
//! by DMA.
//!
//! Nothing here ever makes a reference to such memory: the guest's CPUs write
//! it at any time. All access is by atomic loads and stores ([`HostPtr`]).

mod atomic;
mod guest;
mod host_ptr;
mod vram;

pub use atomic::AtomicUnit;
pub use guest::GuestMap;
pub use guest::MapError;
pub use host_ptr::HostPtr;
pub use vram::Vram;

use arc_swap::ArcSwap;
use guest::Region;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Where a physical address points. Peer memory does not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Aperture {
    /// Device memory.
    Vid,
    /// System memory, snooped.
    SysCoherent,
    /// System memory, not snooped: the same here.
    SysNonCoherent,
}

impl Aperture {
    /// The 2-bit target of instance blocks, runlists, fault buffers and PDBs
    /// (0 vid, 2 and 3 system). 1 is invalid there.
    pub fn from_target(target: u32) -> Option<Self> {
        match target & 3 {
            0 => Some(Self::Vid),
            2 => Some(Self::SysCoherent),
            3 => Some(Self::SysNonCoherent),
            _ => None,
        }
    }

    pub fn target(self) -> u32 {
        match self {
            Self::Vid => 0,
            Self::SysCoherent => 2,
            Self::SysNonCoherent => 3,
        }
    }

    pub fn is_sys(self) -> bool {
        self != Self::Vid
    }
}

/// A physical address: byte offset in VRAM, or DMA address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhysAddr {
    pub aperture: Aperture,
    pub addr: u64,
}

impl PhysAddr {
    pub fn new(aperture: Aperture, addr: u64) -> Self {
        Self { aperture, addr }
    }

    /// The same for both ways to reach system memory.
    pub fn canonical(self) -> Self {
        match self.aperture {
            Aperture::SysNonCoherent => Self::new(Aperture::SysCoherent, self.addr),
            _ => self,
        }
    }

    pub fn offset(self, by: u64) -> Self {
        Self::new(self.aperture, self.addr.wrapping_add(by))
    }
}

impl std::fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.aperture {
            Aperture::Vid => "vid",
            Aperture::SysCoherent => "sys",
            Aperture::SysNonCoherent => "sysnc",
        };
        write!(f, "{name}:{:#x}", self.addr)
    }
}

/// Device memory and the map of the guest's.
pub struct Memory {
    vram: Arc<Vram>,
    /// What an access sees now: empty while bus mastering is off.
    map: ArcSwap<GuestMap>,
    /// What was mapped, whatever bus mastering is.
    regions: Mutex<Vec<Arc<Region>>>,
    bus_master: AtomicBool,
    /// Counts changes of `map`. A cached host pointer is only as good as the
    /// generation it was made in.
    generation: AtomicU64,
}

/// Keeps the memory map of one moment in place: what it resolves stays mapped
/// until it is dropped. `dma_unmap` waits for it, so hold it shortly, and not
/// while waiting for anything.
pub struct MemGuard<'a> {
    map: arc_swap::Guard<Arc<GuestMap>>,
    vram: &'a Vram,
}

/// A physical address that no memory answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory at {0}")]
pub struct NoMemory(pub PhysAddr);

impl Memory {
    /// # Errors
    ///
    /// The host's, if it cannot make the memory file.
    pub fn new(vram_bytes: u64) -> std::io::Result<Self> {
        Ok(Self {
            vram: Arc::new(Vram::new(vram_bytes)?),
            map: ArcSwap::from_pointee(GuestMap::default()),
            regions: Mutex::new(Vec::new()),
            bus_master: AtomicBool::new(false),
            generation: AtomicU64::new(1),
        })
    }

    pub fn vram(&self) -> &Arc<Vram> {
        &self.vram
    }

    /// The map of now, kept in place by the guard.
    pub fn enter(&self) -> MemGuard<'_> {
        MemGuard {
            map: self.map.load(),
            vram: &self.vram,
        }
    }

    /// The map of now, for a holder that gives it up when [`Memory::generation`]
    /// moves on.
    pub(crate) fn current(&self) -> Arc<GuestMap> {
        self.map.load_full()
    }

    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Has all holders of host pointers make them anew.
    pub(crate) fn new_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Region>>> {
        crate::lock(&self.regions)
    }

    /// Puts the regions in place and returns the old map. Its memory is still
    /// in use until [`Memory::wait_unused`] says so.
    fn publish(&self, regions: &[Arc<Region>]) -> Arc<GuestMap> {
        let visible = self.bus_master.load(Ordering::SeqCst);
        let map = GuestMap::new(if visible { regions } else { &[] });
        let old = self.map.swap(Arc::new(map));
        self.new_generation();
        old
    }

    /// Maps `len` bytes of `fd` from `offset` at DMA address `iova`. Without an
    /// fd the range stays unreachable, which an access reports. The map
    /// returned must be handed to [`Memory::wait_unused`].
    ///
    /// # Errors
    ///
    /// Overlap with a mapping that exists, or what mmap says.
    pub fn map(
        &self,
        fd: Option<OwnedFd>,
        offset: u64,
        iova: u64,
        len: u64,
        writable: bool,
    ) -> Result<Arc<GuestMap>, MapError> {
        let region = Region::new(fd, offset, iova, len, writable)?;
        let mut regions = self.lock();
        if regions.iter().any(|r| r.overlaps(iova, len)) {
            return Err(MapError::Overlap { iova, len });
        }
        regions.push(Arc::new(region));
        regions.sort_by_key(|r| r.iova());
        Ok(self.publish(&regions))
    }

    /// Takes every region inside the range away. The map returned must be
    /// handed to [`Memory::wait_unused`].
    ///
    /// # Errors
    ///
    /// A region lies only partly in the range; nothing was changed.
    #[must_use = "the memory is in use until wait_unused returns"]
    pub fn unmap(&self, iova: u64, len: u64) -> Result<Arc<GuestMap>, MapError> {
        let mut regions = self.lock();
        if regions
            .iter()
            .any(|r| r.overlaps(iova, len) && !r.inside(iova, len))
        {
            return Err(MapError::Partial { iova, len });
        }
        regions.retain(|r| !r.overlaps(iova, len));
        Ok(self.publish(&regions))
    }

    /// Takes all of the guest's memory away. See [`Memory::unmap`].
    #[must_use = "the memory is in use until wait_unused returns"]
    pub fn unmap_all(&self) -> Arc<GuestMap> {
        let mut regions = self.lock();
        regions.clear();
        self.publish(&regions)
    }

    /// Makes the guest's memory visible or not. See [`Memory::unmap`].
    #[must_use = "the memory is in use until wait_unused returns"]
    pub fn set_bus_master(&self, on: bool) -> Arc<GuestMap> {
        let regions = self.lock();
        self.bus_master.store(on, Ordering::SeqCst);
        self.publish(&regions)
    }

    pub fn bus_master(&self) -> bool {
        self.bus_master.load(Ordering::SeqCst)
    }

    /// Waits until no access is inside `old`. `nudge` is called between looks
    /// and should make idle holders give their copy up.
    pub fn wait_unused(old: Arc<GuestMap>, mut nudge: impl FnMut()) {
        while Arc::strong_count(&old) > 1 {
            nudge();
            if Arc::strong_count(&old) > 1 {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

impl MemGuard<'_> {
    /// Where `len` bytes at `at` are. They lie in one mapping.
    #[inline]
    pub fn resolve(&self, at: PhysAddr, len: u64) -> Result<HostPtr<'_>, NoMemory> {
        match at.aperture {
            Aperture::Vid => self.vram.resolve(at.addr, len),
            _ => self.map.resolve(at.addr, len),
        }
        .ok_or(NoMemory(at))
    }

    pub fn read_u32(&self, at: PhysAddr) -> Result<u32, NoMemory> {
        self.resolve(at, 4).map(|p| p.load(4) as u32)
    }

    pub fn read_u64(&self, at: PhysAddr) -> Result<u64, NoMemory> {
        self.resolve(at, 8).map(|p| p.load(8))
    }

    pub fn write_u32(&self, at: PhysAddr, value: u32) -> Result<(), NoMemory> {
        self.resolve(at, 4).map(|p| p.store(4, value.into()))
    }

    pub fn write_u64(&self, at: PhysAddr, value: u64) -> Result<(), NoMemory> {
        self.resolve(at, 8).map(|p| p.store(8, value))
    }

    /// Reads bytes, which may span mappings, by aligned accesses.
    pub fn read(&self, at: PhysAddr, out: &mut [u8]) -> Result<(), NoMemory> {
        let mut done = 0;
        while done < out.len() {
            let from = at.offset(done as u64);
            let n = (0x1000 - (from.addr & 0xfff) as usize).min(out.len() - done);
            self.resolve(from, n as u64)?
                .read_bytes(&mut out[done..done + n]);
            done += n;
        }
        Ok(())
    }

    /// Writes bytes, which may span mappings, by aligned accesses.
    pub fn write(&self, at: PhysAddr, data: &[u8]) -> Result<(), NoMemory> {
        let mut done = 0;
        while done < data.len() {
            let to = at.offset(done as u64);
            let n = (0x1000 - (to.addr & 0xfff) as usize).min(data.len() - done);
            self.resolve(to, n as u64)?
                .write_bytes(&data[done..done + n]);
            done += n;
        }
        Ok(())
    }
}
