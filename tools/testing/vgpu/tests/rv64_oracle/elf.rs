// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A static RISC-V executable of two segments.

/// Address of the code.
pub const CODE: u64 = 0x10000;
/// Address of the data, all of which the program outputs.
pub const DATA: u64 = 0x800_0000;

pub struct Program {
    pub code: Vec<u32>,
    pub data: Vec<u8>,
    /// Offset in `data` of the log, and which instruction (index in `code`)
    /// wrote each record.
    pub log: usize,
    pub logged: Vec<usize>,
}

/// Bytes of one log record.
pub const RECORD: usize = 16;

impl Program {
    pub fn code_bytes(&self) -> Vec<u8> {
        self.code.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// What wrote the output byte `at`.
    pub fn describe(&self, at: usize) -> String {
        match at
            .checked_sub(self.log)
            .and_then(|o| self.logged.get(o / RECORD))
        {
            Some(&i) => {
                format!(
                    "instruction {:#010x} at {:#x}",
                    self.code[i],
                    CODE as usize + i * 4
                )
            }
            None => "not a log record".into(),
        }
    }

    pub fn elf(&self) -> Vec<u8> {
        const HEADERS: u64 = 64 + 2 * 56;
        let code = self.code_bytes();
        let code_at = 0x1000u64;
        let data_at = (code_at + code.len() as u64).next_multiple_of(0x1000);
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        out.resize(16, 0);
        let half = |out: &mut Vec<u8>, v: u16| out.extend(v.to_le_bytes());
        let word = |out: &mut Vec<u8>, v: u32| out.extend(v.to_le_bytes());
        let long = |out: &mut Vec<u8>, v: u64| out.extend(v.to_le_bytes());
        half(&mut out, 2); // ET_EXEC
        half(&mut out, 243); // EM_RISCV
        word(&mut out, 1);
        long(&mut out, CODE);
        long(&mut out, 64); // program headers
        long(&mut out, 0);
        word(&mut out, 4); // double-float ABI
        for v in [64, 56, 2, 64, 0, 0] {
            half(&mut out, v);
        }
        let segments = [
            (7u32, code_at, CODE, code.len() as u64),
            (6, data_at, DATA, self.data.len() as u64),
        ];
        for (flags, offset, va, size) in segments {
            word(&mut out, 1); // PT_LOAD
            word(&mut out, flags);
            for v in [offset, va, va, size, size, 0x1000] {
                long(&mut out, v);
            }
        }
        assert_eq!(out.len() as u64, HEADERS);
        out.resize(code_at as usize, 0);
        out.extend(code);
        out.resize(data_at as usize, 0);
        out.extend(&self.data);
        out
    }
}
