// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Pushbuffer methods of the compute engine, class 0xf0c0: see
//! `Documentation/gpu/rsvm/virtual-gpu.rst`.

/// Subchannel that the library binds the compute engine to.
const SUBCHANNEL: u32 = 1;

const SET_OBJECT: u32 = 0x0000;
/// PC, argument, invocations, group size; LAUNCH is the eighth in this run.
const GRID: u32 = 0x0200;
const SEMAPHORE: u32 = 0x1b00;

/// Opcode of a method header: the method address grows with each dword.
const INCREMENTING: u32 = 1;

/// One launch of a kernel over a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Address of the first instruction.
    pub pc: u64,
    /// What each invocation gets in a0.
    pub arg: u64,
    /// How many invocations; each gets its index in a1 and this in a2.
    pub invocations: u64,
    /// Invocations that share a group of hardware; 0 is the largest possible.
    pub group_size: u32,
}

/// A sequence of methods under construction.
#[derive(Clone, Debug, Default)]
pub struct Push {
    dwords: Vec<u32>,
}

impl Push {
    /// Begins a sequence for a compute engine of this class.
    pub fn new(class: u32) -> Self {
        let mut push = Push::default();
        push.methods(SET_OBJECT, &[class]);
        push
    }

    /// Appends the launch of a grid. It starts when earlier ones are through.
    pub fn launch(&mut self, grid: Grid) -> &mut Self {
        let [pc, arg, n] = [grid.pc, grid.arg, grid.invocations].map(halves);
        self.methods(
            GRID,
            &[pc[0], pc[1], arg[0], arg[1], n[0], n[1], grid.group_size, 1],
        )
    }

    /// Appends the write of `value` to `addr`, 8-byte aligned, after all
    /// earlier grids.
    pub fn release(&mut self, addr: u64, value: u64) -> &mut Self {
        let [addr, value] = [addr, value].map(halves);
        self.methods(SEMAPHORE, &[addr[0], addr[1], value[0], value[1], 0])
    }

    /// The sequence so far.
    pub fn dwords(&self) -> &[u32] {
        &self.dwords
    }

    fn methods(&mut self, first: u32, data: &[u32]) -> &mut Self {
        // CAST: the callers pass a handful of dwords.
        let count = data.len() as u32;
        self.dwords
            .push((INCREMENTING << 29) | (count << 16) | (SUBCHANNEL << 13) | (first / 4));
        self.dwords.extend_from_slice(data);
        self
    }
}

/// Low and high dword.
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_object_comes_first() {
        assert_eq!(Push::new(0xf0c0).dwords(), [0x2001_2000, 0xf0c0]);
    }

    #[test]
    fn launch_is_one_run_of_methods_ending_in_launch() {
        let mut push = Push::default();
        push.launch(Grid {
            pc: 0x7fff_0000_1000,
            arg: 0x1_2345_6780,
            invocations: 1 << 33,
            group_size: 64,
        });
        assert_eq!(
            push.dwords(),
            [
                0x2008_2080,
                0x0000_1000,
                0x7fff,
                0x2345_6780,
                1,
                0,
                2,
                64,
                1
            ]
        );
    }

    #[test]
    fn release_names_address_then_payload() {
        let mut push = Push::default();
        push.release(0x7fff_0000_0008, 0xaaaa_bbbb_cccc_dddd);
        assert_eq!(push.dwords()[1..], [8, 0x7fff, 0xcccc_dddd, 0xaaaa_bbbb, 0]);
        assert_eq!(push.dwords()[0] & 0xfff, 0x1b00 / 4);
    }
}
