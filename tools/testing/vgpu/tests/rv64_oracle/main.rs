// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The interpreter against an independent one: generated programs run under
//! qemu-riscv64 and here, and everything they computed must be the same.
//!
//! Each program logs the result of every instruction and the exception flags,
//! then all registers, and writes that memory to standard output.

mod elf;
mod flat;
mod generate;
mod pool;

use flat::Flat;
use rsvm_vgpu::compute::rv64::Exit;
use rsvm_vgpu::compute::rv64::Hart;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// What a seed exercises.
#[derive(Clone, Copy, Debug)]
pub enum Mix {
    /// Integer, memory, control flow, CSRs.
    Integer,
    /// Atomics and LR/SC.
    Atomic,
    /// Floating point with every rounding mode.
    Float,
}

fn qemu(path: &PathBuf) -> Vec<u8> {
    let out = Command::new("qemu-riscv64")
        .arg(path)
        .output()
        .expect("qemu-riscv64 is needed as the reference and did not start");
    assert!(
        out.status.success(),
        "{path:?} under qemu: {:?}",
        out.status
    );
    out.stdout
}

/// Runs until the program writes its output; returns that.
fn ours(program: &elf::Program) -> (Vec<u8>, u64) {
    let mut bus = Flat::new(program);
    let mut hart = Hart::new(elf::CODE);
    // Odd budgets, so that runs end anywhere.
    while matches!(hart.run(&mut bus, 997), Exit::Budget) {}
    let exit = hart.run(&mut bus, 1);
    assert_eq!(exit, Exit::Ecall, "stopped at {:#x}", hart.pc);
    assert_eq!(hart.x(17), 64, "the program ends with write(2)");
    (
        bus.bytes(hart.x(11), hart.x(12) as usize).to_vec(),
        hart.instret(),
    )
}

fn compare(mix: Mix, seeds: std::ops::Range<u64>) {
    let mut retired = 0;
    for seed in seeds {
        let program = generate::program(mix, seed);
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{mix:?}-{seed}.elf"));
        std::fs::write(&path, program.elf()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let theirs = qemu(&path);
        let (ours, instructions) = ours(&program);
        retired += instructions;
        assert_eq!(theirs.len(), ours.len(), "{mix:?} seed {seed}");
        if let Some(at) = (0..ours.len()).find(|&i| ours[i] != theirs[i]) {
            let word = at & !7;
            let value = |b: &[u8]| u64::from_le_bytes(b[word..word + 8].try_into().unwrap());
            panic!(
                "{mix:?} seed {seed}: output byte {at:#x} differs: {:#x}, qemu has {:#x}; {}\n{path:?}",
                value(&ours),
                value(&theirs),
                program.describe(at),
            );
        }
        std::fs::remove_file(&path).unwrap();
    }
    println!("{mix:?}: {retired} instructions agree");
    assert!(
        retired > 100_000,
        "only {retired} instructions were compared"
    );
}

#[test]
fn integer_programs_agree() {
    compare(Mix::Integer, 0..24);
}

#[test]
fn atomic_programs_agree() {
    compare(Mix::Atomic, 1000..1012);
}

#[test]
fn float_programs_agree() {
    compare(Mix::Float, 2000..2060);
}
