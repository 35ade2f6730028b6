// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Loads programs that the real compiler made.

use rsvm::{Error, Image};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice::from_raw_parts;

const FLAGS: [&str; 9] = [
    "--target=riscv64-unknown-elf",
    "-march=rv64imafd",
    "-mabi=lp64d",
    "-O2",
    "-fPIE",
    "-ffreestanding",
    "-nostdlib",
    "-fuse-ld=lld",
    "-Wl,-pie,--no-dynamic-linker,-e,0",
];

/// A table of pointers (relocations), data, zeroed data larger than the file,
/// and functions.
const PROGRAM: &str = "
    static int data[3] = {1, 2, 3};
    char zeroed[70000];
    int *const table[2] __attribute__((visibility(\"default\"))) = {&data[0], &data[2]};
    int **get_table(void) { return (int **)table; }
    void kernel(int *out) { *out = data[1] + zeroed[5]; table[1][0] = 9; }
";

fn compile(name: &str, source: &str, flags: &[&str]) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (c, elf): (PathBuf, PathBuf) = (dir.join(format!("{name}.c")), dir.join(name));
    std::fs::write(&c, source).unwrap();
    let status = Command::new("clang")
        .args(flags)
        .arg("-o")
        .args([&elf, &c])
        .status()
        .expect("clang");
    assert!(status.success());
    std::fs::read(elf).unwrap()
}

fn program(name: &str) -> Vec<u8> {
    compile(name, PROGRAM, &FLAGS)
}

/// The 32-bit instruction at `addr`.
fn instruction(addr: u64) -> u32 {
    // SAFETY: Callers pass addresses of functions in a living image.
    let bytes = unsafe { from_raw_parts(addr as *const u8, 4) };
    u32::from_le_bytes(bytes.try_into().unwrap())
}

/// The address an `auipc`/`addi` or `auipc`/`ld` pair at `pc` makes.
fn pc_relative(pc: u64) -> u64 {
    let (hi, lo) = (instruction(pc), instruction(pc + 4));
    assert_eq!(hi & 0x7f, 0x17, "auipc");
    let hi = (hi & 0xffff_f000) as i32 as i64;
    let lo = (lo as i32 >> 20) as i64;
    pc.wrapping_add_signed(hi + lo)
}

fn refused(file: &[u8], why: &str) {
    match Image::load(file) {
        Err(Error::Elf(text)) => assert!(text.contains(why), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn functions_and_relocated_pointers() {
    let image = Image::load(&program("relocated")).unwrap();
    assert!(image.function("kernel").is_some());
    assert!(image.function("missing").is_none());
    assert!(image.function("data").is_none(), "data is no function");
    let table = pc_relative(image.function("get_table").unwrap());
    // SAFETY: The program's table, and what its relocated pointers point to,
    // lie in the image.
    let values = unsafe {
        let table = from_raw_parts(table as *const *const i32, 2);
        [*table[0], *table[1]]
    };
    assert_eq!(values, [1, 3]);
}

#[test]
fn two_images_share_nothing() {
    let file = program("twice");
    let (a, b) = (Image::load(&file).unwrap(), Image::load(&file).unwrap());
    assert_ne!(a.function("kernel"), b.function("kernel"));
}

#[test]
fn what_the_device_cannot_run_is_refused_with_a_reason() {
    let with = |from: &str, to: &'static str| FLAGS.map(|f| if f == from { to } else { f });
    let compressed = with("-march=rv64imafd", "-march=rv64imafdc");
    refused(&compile("compressed", PROGRAM, &compressed), "compressed");
    let soft: Vec<_> = with("-mabi=lp64d", "-mabi=lp64").to_vec();
    refused(&compile("soft", PROGRAM, &soft), "lp64d");
    let fixed = with("-Wl,-pie,--no-dynamic-linker,-e,0", "-Wl,-e,0");
    refused(&compile("fixed", PROGRAM, &fixed), "position independent");
    refused(&std::fs::read("/proc/self/exe").unwrap(), "RISC-V");
    refused(b"not an ELF file", "malformed");
    refused(&[], "malformed");
}

#[test]
fn damaged_files_never_crash() {
    let file = program("damaged");
    for len in (0..file.len()).step_by(7) {
        let _ = Image::load(&file[..len]);
    }
    // Headers, program headers and the dynamic section are at the start.
    for at in 0..file.len().min(1024) {
        for flip in [0x01, 0x80, 0xff] {
            let mut file = file.clone();
            file[at] ^= flip;
            let _ = Image::load(&file);
        }
    }
}
