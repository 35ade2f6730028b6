// SPDX-License-Identifier: GPL-2.0

//! Registers in BAR 0.
//!
//! Those of NVIDIA's TU102 and later, and, from `0xf00000` on, the few that only the virtual GPU
//! has. Arrays have an element for each channel, runlist, fault buffer or interrupt leaf.

use kernel::io::register;

/// Size of BAR 0 in bytes.
pub(crate) const BAR0_SIZE: usize = 16 << 20;

/// Channels the device has.
pub(crate) const CHANNELS: usize = 128;
/// Runlists in use: the kernel's and the users'.
pub(crate) const RUNLISTS: usize = 2;

register! {
    /// What the chip is.
    pub(crate) NV_PMC_BOOT_0(u32) @ 0x000000 {
        28:20 chipset;
        7:0 revision;
    }

    /// Pending host interrupts; write 1 to clear.
    pub(crate) NV_PFIFO_INTR(u32) @ 0x002100 {
        31:31 channel => bool;
        29:29 pbdma => bool;
        8:8 sched => bool;
        0:0 bind => bool;
    }

    /// Host interrupts that are let through.
    pub(crate) NV_PFIFO_INTR_EN(u32) @ 0x002140 {
        31:31 channel => bool;
        29:29 pbdma => bool;
        8:8 sched => bool;
        0:0 bind => bool;
    }

    /// Why a channel stopped (virtual GPU only); see [`error`].
    pub(crate) CHANNEL_ERROR(u32)[CHANNELS, stride = 16] @ 0xf01000 {
        31:0 code;
    }

    /// The method that was refused, or the low word of the pc.
    pub(crate) CHANNEL_ERROR_LO(u32)[CHANNELS, stride = 16] @ 0xf01004 {
        31:0 value;
    }

    /// High word of the pc.
    pub(crate) CHANNEL_ERROR_HI(u32)[CHANNELS, stride = 16] @ 0xf01008 {
        31:0 value;
    }

    /// Takes a channel group off its engine.
    pub(crate) NV_PFIFO_PREEMPT(u32) @ 0x002634 {
        24:24 tsg => bool;
        20:20 pending => bool;
        11:0 id;
    }

    /// Address of the runlist to take over.
    pub(crate) NV_PFIFO_RUNLIST_BASE_LO(u32)[RUNLISTS, stride = 16] @ 0x002b00 {
        31:12 addr;
        1:0 target;
    }

    pub(crate) NV_PFIFO_RUNLIST_BASE_HI(u32)[RUNLISTS, stride = 16] @ 0x002b04 {
        31:0 addr;
    }

    /// Takes over a runlist of this many entries.
    pub(crate) NV_PFIFO_RUNLIST_SUBMIT(u32)[RUNLISTS, stride = 16] @ 0x002b08 {
        31:16 offset;
        15:0 length;
    }

    pub(crate) NV_PFIFO_RUNLIST_INFO(u32)[RUNLISTS, stride = 16] @ 0x002b0c {
        15:15 pending => bool;
    }

    /// Size of device memory: `magnitude << (scale + 20)` bytes.
    pub(crate) NV_PFB_LOCAL_MEMORY_RANGE(u32) @ 0x100ce0 {
        9:4 magnitude;
        3:0 scale;
    }

    /// Errors of the copy engine; write 1 to clear.
    pub(crate) NV_LCE_STATUS(u32) @ 0x104410 {
        3:3 invalid_config => bool;
        2:2 launch_error => bool;
    }

    /// Instance block of a channel; written whole, with `bind` set, it starts to count.
    pub(crate) NV_CHANNEL_INST(u32)[CHANNELS, stride = 8] @ 0x800000 {
        31:31 bind => bool;
        29:28 target;
        27:0 page;
    }

    /// State of a channel. The fault bits are write-1-to-clear.
    pub(crate) NV_CHANNEL_STATUS(u32)[CHANNELS, stride = 8] @ 0x800004 {
        23:23 engine_faulted => bool;
        22:22 pbdma_faulted => bool;
        11:11 disable => bool;
        10:10 enable => bool;
        0:0 enabled => bool;
    }

    /// Lets doorbells through.
    pub(crate) NV_RUNLIST_DOORBELL_EN(u32) @ 0xb65000 {
        31:31 enable => bool;
    }

    /// Pending interrupts, 32 vectors each; write 1 to clear.
    pub(crate) NV_INTR_LEAF(u32)[16] @ 0xb81000 {
        31:0 vectors;
    }

    pub(crate) NV_INTR_LEAF_EN_SET(u32)[16] @ 0xb81200 {
        31:0 vectors;
    }

    pub(crate) NV_INTR_LEAF_EN_CLEAR(u32)[16] @ 0xb81400 {
        31:0 vectors;
    }

    /// Subtrees, two leaves each, that may send messages.
    pub(crate) NV_INTR_TOP_EN_SET(u32) @ 0xb81608 {
        31:0 subtrees;
    }

    pub(crate) NV_INTR_TOP_EN_CLEAR(u32) @ 0xb81610 {
        31:0 subtrees;
    }

    /// Fault buffers: element 0 is the non-replayable one, 1 the replayable one.
    pub(crate) NV_FAULT_BUFFER_LO(u32)[2, stride = 0x20] @ 0xb83000 {
        31:12 addr;
        3:3 volatile => bool;
        2:1 aperture;
        0:0 physical => bool;
    }

    pub(crate) NV_FAULT_BUFFER_HI(u32)[2, stride = 0x20] @ 0xb83004 {
        31:0 addr;
    }

    /// Where the driver reads. The upper two bits clear conditions.
    pub(crate) NV_FAULT_BUFFER_GET(u32)[2, stride = 0x20] @ 0xb83008 {
        31:31 overflow => bool;
        30:30 corrupted => bool;
        19:0 entry;
    }

    /// Where the device writes.
    pub(crate) NV_FAULT_BUFFER_PUT(u32)[2, stride = 0x20] @ 0xb8300c {
        31:31 overflow => bool;
        30:30 corrupted => bool;
        19:0 entry;
    }

    pub(crate) NV_FAULT_BUFFER_SIZE(u32)[2, stride = 0x20] @ 0xb83010 {
        31:31 enable => bool;
        30:30 set_default => bool;
        29:29 overflow_intr => bool;
        19:0 entries;
    }

    /// "There is something at GP_PUT".
    pub(crate) NV_USERMODE_DOORBELL(u32) @ 0xbb0090 {
        31:16 runlist;
        15:0 channel;
    }

    /// TLB hits that differed from memory (virtual GPU only).
    pub(crate) STALE_HITS(u32) @ 0xf00010 {
        31:0 count;
    }

    /// Atomics on system memory that lost a CPU's write (virtual GPU only).
    pub(crate) LOST_UPDATES(u32) @ 0xf00014 {
        31:0 count;
    }

    /// Reserved bits set and the like (virtual GPU only).
    pub(crate) GUEST_ERRORS(u32) @ 0xf00018 {
        31:0 count;
    }

    /// All of the device as after a function-level reset (virtual GPU only).
    pub(crate) SOFT_RESET(u32) @ 0xf0001c {
        0:0 reset => bool;
    }
}

/// Codes in [`CHANNEL_ERROR`].
pub(crate) mod error {
    /// A method or class that does not exist.
    pub(crate) const BAD_METHOD: u32 = 1;
    /// A method the channel is not privileged for.
    pub(crate) const PRIVILEGE: u32 = 2;
    /// A GP entry that makes no sense.
    pub(crate) const BAD_GP_ENTRY: u32 = 3;
    /// An exception of the compute engine.
    pub(crate) const EXCEPTION: u32 = 4;
    /// A fault of it was cancelled.
    pub(crate) const CANCELLED: u32 = 5;
}

/// Interrupt vectors.
pub(crate) mod vector {
    /// The compute engine released a semaphore that asked for an interrupt.
    pub(crate) const COMPUTE: u32 = 0;
    /// A launch of the copy engine that asked for an interrupt is done.
    pub(crate) const COPY: u32 = 1;
    /// Replayable fault buffer: no longer empty.
    pub(crate) const REPLAYABLE: u32 = 64;
    /// Replayable fault buffer: overflow.
    pub(crate) const REPLAYABLE_ERROR: u32 = 131;
    /// Non-replayable fault buffer: no longer empty.
    pub(crate) const NON_REPLAYABLE: u32 = 132;
    /// Non-replayable fault buffer: overflow.
    pub(crate) const NON_REPLAYABLE_ERROR: u32 = 133;
    /// Something in `NV_PFIFO_INTR`.
    pub(crate) const PFIFO: u32 = 136;
    /// The copy engine refused a launch.
    pub(crate) const COPY_ERROR: u32 = 193;

    /// The leaf register that has `vector`, and its bit there.
    pub(crate) const fn leaf(vector: u32) -> (usize, u32) {
        ((vector / 32) as usize, 1 << (vector % 32))
    }
}
