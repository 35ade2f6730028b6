// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which words are instructions: the decoder against LLVM's disassembler.

use rsvm_vgpu::compute::rv64::decode::decode;
use rsvm_vgpu::compute::rv64::decode::Op;
use rsvm_vgpu::rng::Rng;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;

const WORDS: usize = 200_000;

/// Whether LLVM takes each word for an instruction.
fn llvm(words: &[u32]) -> Vec<bool> {
    let mut child = Command::new("llvm-mc")
        .args(["--disassemble", "--triple=riscv64"])
        .arg("-mattr=+m,+a,+f,+d,+zicsr,+zifencei")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("llvm-mc is needed as the reference and did not start");
    let mut stdin = child.stdin.take().unwrap();
    let lines = words.iter().map(|w| {
        let [a, b, c, d] = w.to_le_bytes();
        // Brackets keep one bad word from shifting the next.
        format!("[{a:#x} {b:#x} {c:#x} {d:#x}]")
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let mut legal = vec![true; words.len()];
    for line in String::from_utf8(out.stderr).unwrap().lines() {
        if line.ends_with("invalid instruction encoding") {
            let number = line.split(':').nth(1).unwrap();
            legal[number.parse::<usize>().unwrap() - 1] = false;
        }
    }
    legal
}

/// Words on which the two differ on purpose.
fn known(word: u32) -> bool {
    let (opcode, funct3) = (word & 0x7f, (word >> 12) & 7);
    // Fields of fences that mean nothing are to be ignored.
    let fence = opcode == 0x0f && funct3 < 2;
    // Privileged instructions; harts have no privilege.
    let privileged = opcode == 0x73 && funct3 == 0 && word != 0x73 && word != 0x10_0073;
    fence || privileged
}

#[test]
fn legal_words_are_those_llvm_knows() {
    let mut rng = Rng::new(1);
    let opcodes = [
        0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33, 0x37, 0x3b, 0x43, 0x47, 0x4b,
        0x4f, 0x53, 0x63, 0x67, 0x6f, 0x73,
    ];
    let words: Vec<u32> = (0..WORDS)
        .map(|i| {
            let word = rng.next() as u32;
            match i % 8 {
                // Anything at all that is 32 bits long.
                0 => word | 3,
                n => {
                    let opcode = opcodes[rng.below(opcodes.len() as u64) as usize];
                    let word = word & !0x7f | opcode;
                    // Fields that select an operation are often zero, or small.
                    match n {
                        1..=3 => word & 0x01ff_ffff | ((rng.below(4) as u32) << 25),
                        4 => word & !(31 << 20),
                        5 => word & !(31 << 20) | ((rng.below(4) as u32) << 20),
                        _ => word,
                    }
                }
            }
        })
        .collect();
    let theirs = llvm(&words);
    let mut counts = [0; 2];
    for (&word, legal) in words.iter().zip(theirs).filter(|(w, _)| !known(**w)) {
        let ours = decode(word).op != Op::Illegal;
        assert_eq!(ours, legal, "{word:#010x}");
        counts[usize::from(legal)] += 1;
    }
    assert!(counts.iter().all(|&n| n > WORDS / 10), "{counts:?}");
}
