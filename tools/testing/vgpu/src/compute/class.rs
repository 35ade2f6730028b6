// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Methods of class 0xf0c0.

use super::group::GridParams;
use super::lsu::RELEASE_PC;

/// Byte addresses of the methods; `_HI` is the next one.
const WAIT_FOR_IDLE: u32 = 0x110;
const PC: u32 = 0x200;
const ARGUMENT: u32 = 0x208;
const INVOCATIONS: u32 = 0x210;
const GROUP_SIZE: u32 = 0x218;
const LAUNCH: u32 = 0x21c;
const SEMAPHORE: u32 = 0x1b00;
const PAYLOAD: u32 = 0x1b08;
const RELEASE: u32 = 0x1b10;
const RELEASE_INTERRUPT: u32 = 1;

/// What a VEID's methods have set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    pc: u64,
    argument: u64,
    invocations: u64,
    group_size: u32,
    semaphore: u64,
    payload: u64,
}

/// What a method asks for.
pub enum Command {
    /// Only registers changed.
    Nothing,
    WaitForIdle,
    /// Waits for earlier grids, then starts.
    Start(GridParams),
}

fn set(register: &mut u64, high: bool, data: u32) {
    let shift = if high { 32 } else { 0 };
    *register = *register & !(0xffff_ffff << shift) | (u64::from(data) << shift);
}

impl Registers {
    /// Applies one method; `None` if there is no such method or it does not take
    /// this data. `harts` is the size of a group.
    pub fn method(&mut self, method: u32, data: u32, harts: u32) -> Option<Command> {
        let high = method & 4 != 0;
        match method & !4 {
            PC => set(&mut self.pc, high, data),
            ARGUMENT => set(&mut self.argument, high, data),
            INVOCATIONS => set(&mut self.invocations, high, data),
            SEMAPHORE => set(&mut self.semaphore, high, data),
            PAYLOAD => set(&mut self.payload, high, data),
            _ => {
                return match method {
                    WAIT_FOR_IDLE => Some(Command::WaitForIdle),
                    GROUP_SIZE if data <= harts => {
                        self.group_size = data;
                        Some(Command::Nothing)
                    }
                    LAUNCH => Some(Command::Start(self.launch(harts))),
                    RELEASE if data & !RELEASE_INTERRUPT == 0 && self.semaphore % 8 == 0 => {
                        Some(Command::Start(self.release(data)))
                    }
                    _ => None,
                }
            }
        }
        Some(Command::Nothing)
    }

    fn launch(&self, harts: u32) -> GridParams {
        let workgroup = if self.group_size == 0 {
            harts
        } else {
            self.group_size
        };
        GridParams {
            pc: self.pc,
            args: [self.argument, 0],
            invocations: self.invocations,
            workgroup: workgroup.into(),
            interrupt: false,
            indexed: true,
        }
    }

    /// A release is one hart that executes one store, so that it faults, waits
    /// for replay and is cancelled as any other access.
    fn release(&self, data: u32) -> GridParams {
        GridParams {
            pc: RELEASE_PC,
            args: [self.semaphore, self.payload],
            invocations: 1,
            workgroup: 1,
            interrupt: data & RELEASE_INTERRUPT != 0,
            indexed: false,
        }
    }
}
