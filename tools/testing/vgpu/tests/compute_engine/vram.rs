// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Code and data in device memory, behind leaves of every size.

use crate::common::asm::assemble;
use crate::common::tables::Page;
use crate::rig::Rig;
use crate::CODE;
use crate::DATA;
use rsvm_vgpu::config::Config;
use rsvm_vgpu::config::MmuVersion;

/// Every hart adds its index to a word of its own, all add 1 to a common one,
/// and swap it under LR/SC back and forth.
const KERNEL: &str = "
        slli t0, a1, 3
        add  t0, t0, a0
        ld   t1, 0(t0)
        add  t1, t1, a1
        sd   t1, 0(t0)
        li   t2, 0x9000
        add  t2, t2, a0
        li   t3, 1
        amoadd.d zero, t3, (t2)
    1:  lr.d t4, (t2)
        add  t4, t4, t3
        sc.d t5, t4, (t2)
        bnez t5, 1b
        ret
";

#[test]
fn kernels_live_in_device_memory() {
    for mmu in [MmuVersion::V2, MmuVersion::V3] {
        for shift in [12, 16, 21] {
            let mut rig = Rig::new(Config {
                mmu,
                compute_threads: 2,
                ..Config::default()
            });
            let mirror = rig.mirror(3);
            let size = 1u64 << shift;
            let code = rig.vram(size >> 12, size);
            let pages = 0xa000_u64.div_ceil(size);
            let data = rig.vram((pages * size) >> 12, size);
            let text = assemble(KERNEL);
            rig.core.mem.enter().write(code, &text).unwrap();
            for i in 0..1024 {
                rig.write_at(data.offset(i * 8), i << 32);
            }
            let (code_va, data_va) = (CODE & !(size - 1), DATA & !(size - 1));
            let mut page = Page::new(code, shift);
            page.read_only = true;
            rig.map_page(&mirror, code_va, &page);
            for i in 0..pages {
                let page = Page::new(data.offset(i * size), shift);
                rig.map_page(&mirror, data_va + i * size, &page);
            }
            rig.launch(&mirror, code_va, data_va, 1024, 0);
            rig.wait_idle(&mirror);
            for i in 0..1024 {
                assert_eq!(rig.read_at(data.offset(i * 8)), (i << 32) + i);
            }
            assert_eq!(rig.read_at(data.offset(0x9000)), 2048);
            assert!(rig.faults().is_empty());
            assert_eq!(rig.core.atomics.lost_updates(), 0);
            assert_eq!(rig.core.errors.count(), 0);
        }
    }
}

/// Permission bits mean the same in device memory.
#[test]
fn atomics_in_device_memory_need_permission() {
    let mut rig = Rig::new(Config::default());
    let mirror = rig.mirror(0);
    rig.load(&mirror, CODE, &assemble("amoadd.d t0, a2, (a0)\nret"));
    let vid = rig.vram(16, 1 << 16);
    let mut page = Page::new(vid, 16);
    page.no_atomic = true;
    rig.map_page(&mirror, DATA, &page);
    rig.launch(&mirror, CODE, DATA, 1, 1);
    let faults = rig.settled_faults(1);
    assert_eq!((faults[0].ty, faults[0].access), (0xf, 2));
    assert_eq!(rig.read_at(vid), 0);
    page.no_atomic = false;
    rig.map_page(&mirror, DATA, &page);
    rig.replay();
    rig.wait_idle(&mirror);
    assert_eq!(rig.read_at(vid), 1);
}
