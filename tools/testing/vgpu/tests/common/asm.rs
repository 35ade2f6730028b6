// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Assembles kernels with the compiler that users have.

use object::Object;
use object::ObjectSection;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

/// The machine code of `text`, which needs no relocation.
pub fn assemble(text: &str) -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = |ext| {
        let name = format!("kernel-{}-{n}.{ext}", std::process::id());
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
    };
    let (source, binary) = (path("s"), path("o"));
    std::fs::write(&source, text).unwrap();
    let status = Command::new("clang")
        .args([
            "--target=riscv64-unknown-elf",
            "-march=rv64imafd",
            "-mno-relax",
            "-c",
            "-o",
        ])
        .args([&binary, &source])
        .status()
        .expect("clang is needed to assemble kernels and did not start");
    assert!(status.success(), "clang refused:\n{text}");
    let data = std::fs::read(&binary).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let text = file.section_by_name(".text").unwrap();
    assert_eq!(text.relocations().count(), 0, "kernels here are not linked");
    let code = text.data().unwrap().to_vec();
    for file in [source, binary] {
        std::fs::remove_file(file).unwrap();
    }
    code
}
