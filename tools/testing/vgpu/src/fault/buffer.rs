// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One fault buffer: a ring of packets in memory and its five registers.

use super::packet::PACKET_BYTES;
use crate::mem::{Aperture, PhysAddr};

const LO_PHYSICAL: u32 = 1 << 0;
const SIZE_ENTRIES: u32 = 0xf_ffff;
const SIZE_OVERFLOW_INTR: u32 = 1 << 29;
const SIZE_SET_DEFAULT: u32 = 1 << 30;
const SIZE_ENABLE: u32 = 1 << 31;
const POINTER: u32 = 0xf_ffff;
const CORRUPTED: u32 = 1 << 30;
const OVERFLOW: u32 = 1 << 31;

#[derive(Default)]
pub struct Buffer {
    pub lo: u32,
    pub hi: u32,
    get: u32,
    put: u32,
    size: u32,
    /// [`CORRUPTED`] and [`OVERFLOW`].
    flags: u32,
}

/// What to do about a register write.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Effects {
    /// Pulse the buffer's vector.
    pub notify: bool,
    /// Pulse its error vector.
    pub error: bool,
    pub guest_error: Option<&'static str>,
}

/// What became of a packet that wants a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// At this address; `first`: the buffer was empty.
    At {
        at: PhysAddr,
        first: bool,
    },
    /// No room; `newly`: and that is new, with `intr` wanted.
    Full {
        newly: bool,
        intr: bool,
    },
    Disabled,
}

impl Buffer {
    fn entries(&self) -> u32 {
        self.size & SIZE_ENTRIES
    }

    pub fn is_enabled(&self) -> bool {
        self.size & SIZE_ENABLE != 0
    }

    pub fn is_empty(&self) -> bool {
        self.get == self.put
    }

    pub fn overflowed(&self) -> bool {
        self.flags & OVERFLOW != 0
    }

    pub fn corrupted(&self) -> bool {
        self.flags & CORRUPTED != 0
    }

    pub fn get(&self) -> u32 {
        self.get | self.flags
    }

    pub fn put(&self) -> u32 {
        self.put | self.flags
    }

    pub fn size(&self) -> u32 {
        self.size
    }

    /// `default` is what SET_DEFAULT puts into the entries.
    pub fn write_size(&mut self, value: u32, default: u32) -> Effects {
        let was_enabled = self.is_enabled();
        self.size = value & (SIZE_ENTRIES | SIZE_OVERFLOW_INTR | SIZE_ENABLE);
        if value & SIZE_SET_DEFAULT != 0 {
            self.size = self.size & !SIZE_ENTRIES | default;
        }
        let mut effects = Effects::default();
        if self.is_enabled() && !was_enabled {
            effects.guest_error = self.refuse_enable();
            if effects.guest_error.is_some() {
                self.size &= !SIZE_ENABLE;
            }
        }
        effects
    }

    fn refuse_enable(&self) -> Option<&'static str> {
        if self.lo & LO_PHYSICAL == 0 {
            Some("fault buffer enabled with a BAR2 address (LO bit 0 clear)")
        } else if Aperture::from_target(self.lo >> 1).is_none() {
            Some("fault buffer enabled with aperture 1 (LO bits 2:1)")
        } else if self.entries() < 2 {
            Some("fault buffer enabled with fewer than 2 entries (SIZE bits 19:0)")
        } else if self.get >= self.entries() || self.put >= self.entries() {
            Some("fault buffer enabled with a pointer beyond its size")
        } else {
            None
        }
    }

    pub fn write_get(&mut self, value: u32) -> Effects {
        let mut effects = Effects::default();
        let clear = value & (CORRUPTED | OVERFLOW);
        if clear != 0 {
            if value & POINTER != self.get {
                effects.guest_error = Some("GET moved in the write that clears its flags");
                return effects;
            }
            self.flags &= !clear;
        } else {
            self.get = value & POINTER;
            if self.get >= self.entries() {
                self.flags |= CORRUPTED;
                effects.error = true;
                effects.guest_error = Some("GET beyond the fault buffer's size");
                return effects;
            }
        }
        effects.notify = self.is_enabled() && !self.is_empty();
        effects
    }

    fn base(&self) -> PhysAddr {
        let aperture = Aperture::from_target(self.lo >> 1).unwrap_or(Aperture::Vid);
        PhysAddr::new(
            aperture,
            u64::from(self.hi) << 32 | u64::from(self.lo & !0xfff),
        )
    }

    /// Takes the next place. `limit` bounds the entries in use beside SIZE.
    pub fn place(&mut self, limit: Option<u32>) -> Place {
        if !self.is_enabled() {
            return Place::Disabled;
        }
        let entries = self.entries();
        let used = (self.put + entries - self.get) % entries;
        let capacity = limit.map_or(entries, |l| l.clamp(2, entries)) - 1;
        if self.flags != 0 || used >= capacity {
            let newly = self.flags == 0;
            self.flags |= if newly { OVERFLOW } else { 0 };
            return Place::Full {
                newly,
                intr: self.size & SIZE_OVERFLOW_INTR != 0,
            };
        }
        let at = self.base().offset(u64::from(self.put) * PACKET_BYTES);
        let first = self.is_empty();
        self.put = (self.put + 1) % entries;
        Place::At { at, first }
    }

    /// A pointer that no longer fits after SIZE changed is reported once used.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(entries: u32) -> Buffer {
        let mut buffer = Buffer {
            lo: 0x1000 | LO_PHYSICAL | 2 << 1,
            ..Buffer::default()
        };
        let effects = buffer.write_size(entries | SIZE_ENABLE | SIZE_OVERFLOW_INTR, 0);
        assert_eq!(effects, Effects::default());
        buffer
    }

    #[test]
    fn holds_one_less_than_its_size_and_recovers_in_two_steps() {
        let mut b = buffer(4);
        for i in 0..3 {
            let at = PhysAddr::new(Aperture::SysCoherent, 0x1000 + i * 32);
            assert_eq!(b.place(None), Place::At { at, first: i == 0 });
        }
        let full = |newly| Place::Full { newly, intr: true };
        assert_eq!(b.place(None), full(true));
        assert_eq!(b.put(), 3 | OVERFLOW);
        assert!(!b.write_get(3).notify);
        assert_eq!(b.place(None), full(false), "overflow sticks until cleared");
        assert_eq!(b.write_get(3 | OVERFLOW | CORRUPTED), Effects::default());
        assert!(matches!(b.place(None), Place::At { first: true, .. }));
    }

    #[test]
    fn clearing_flags_does_not_move_get() {
        let mut b = buffer(4);
        while matches!(b.place(None), Place::At { .. }) {}
        assert!(b.write_get(2 | OVERFLOW).guest_error.is_some());
        assert_eq!(b.get(), OVERFLOW);
    }

    #[test]
    fn get_beyond_the_size_is_corrupt() {
        let mut b = buffer(4);
        assert!(b.write_get(4).error);
        assert!(b.corrupted());
    }

    #[test]
    fn physical_addresses_only() {
        let mut b = buffer(4);
        b.write_size(0, 0);
        b.lo &= !LO_PHYSICAL;
        assert!(b.write_size(4 | SIZE_ENABLE, 0).guest_error.is_some());
        assert!(!b.is_enabled());
        assert_eq!(b.place(None), Place::Disabled);
    }

    #[test]
    fn default_size_is_read_back() {
        let mut b = Buffer::default();
        b.write_size(SIZE_SET_DEFAULT, 4096);
        assert_eq!(b.size(), 4096);
    }
}
