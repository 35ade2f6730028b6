// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Loads a GPU program: a static position-independent RV64 ELF file, into
//! ordinary memory of this process.

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use object::elf::{
    FileHeader64, ProgramHeader64, Rela64, DT_JMPREL, DT_NULL, DT_REL, DT_RELA, DT_RELASZ,
    EF_RISCV_FLOAT_ABI, EF_RISCV_FLOAT_ABI_DOUBLE, EF_RISCV_RVC, EM_RISCV, ET_DYN, PF_W,
    PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS, R_RISCV_RELATIVE, SHT_DYNSYM, SHT_SYMTAB, STT_FUNC,
};
use object::read::elf::{FileHeader, ProgramHeader, Rela, Sym};
use object::{Endianness, Pod};
use std::collections::HashMap;

type Header = FileHeader64<Endianness>;
type Segment = ProgramHeader64<Endianness>;

/// Segments begin on pages of the CPU.
const PAGE: u64 = 4096;
/// Larger images are refused: no program of this kind comes near.
const MAX_IMAGE: u64 = 1 << 30;

/// Packed relative relocations.
const DT_RELR: u32 = 36;

/// A program in memory, ready to run. Nothing writes it after
/// [`Image::load`] but the program itself.
#[derive(Debug)]
pub struct Image {
    memory: Mapping,
    functions: HashMap<String, u64>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::Elf(what.into())
}

fn malformed(err: object::read::Error) -> Error {
    bad(format!("malformed ELF file: {err}"))
}

impl Image {
    /// Loads `file`, the contents of an ELF file.
    ///
    /// # Errors
    ///
    /// [`Error::Elf`] says why the device cannot run it; [`Error::System`] when
    /// there is no memory.
    pub fn load(file: &[u8]) -> Result<Self> {
        let program = Program::parse(file)?;
        // CAST: at most MAX_IMAGE.
        let memory = Mapping::new(program.span as usize)?;
        let functions = program.functions(memory.base().as_ptr() as u64)?;
        let mut image = Image { memory, functions };
        for segment in &program.loads {
            image.copy(&program, segment)?;
        }
        image.relocate(&program)?;
        for segment in &program.loads {
            if segment.p_flags(program.endian) & PF_W == 0 {
                image.protect(&program, segment)?;
            }
        }
        Ok(image)
    }

    /// Address of a function.
    pub fn function(&self, name: &str) -> Option<u64> {
        self.functions.get(name).copied()
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: The whole mapping is writable until `protect`, and nothing else
        // reaches it before `load` returns.
        unsafe { std::slice::from_raw_parts_mut(self.memory.base().as_ptr(), self.memory.len()) }
    }

    fn copy(&mut self, program: &Program<'_>, segment: &Segment) -> Result<()> {
        let data = segment
            .data(program.endian, program.file)
            .map_err(|()| bad("a segment lies outside the file"))?;
        // `parse` checked that the segment lies in the image.
        let at = (segment.p_vaddr(program.endian) - program.first) as usize;
        self.bytes()
            .get_mut(at..at + data.len())
            .ok_or_else(|| bad("a segment is larger in the file than in memory"))?
            .copy_from_slice(data);
        Ok(())
    }

    fn relocate(&mut self, program: &Program<'_>) -> Result<()> {
        let (endian, first) = (program.endian, program.first);
        // What an address of 0 in the file becomes.
        let bias = (self.memory.base().as_ptr() as u64).wrapping_sub(first);
        for rela in program.relocations()? {
            let kind = rela.r_type(endian, false);
            if kind != R_RISCV_RELATIVE {
                return Err(bad(format!(
                    "relocation type {kind} (only R_RISCV_RELATIVE is possible; compile with -fPIE, link statically with -pie)"
                )));
            }
            let at = rela.r_offset(endian).wrapping_sub(first) as usize;
            let value = bias.wrapping_add(rela.r_addend(endian) as u64);
            at.checked_add(8)
                .and_then(|end| self.bytes().get_mut(at..end))
                .ok_or_else(|| bad("a relocation lies outside the program"))?
                .copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    /// Write-protects the pages that hold nothing but this segment.
    fn protect(&self, program: &Program<'_>, segment: &Segment) -> Result<()> {
        let start = segment.p_vaddr(program.endian) - program.first;
        let end = start + segment.p_memsz(program.endian);
        let shared = |page: u64| {
            program.loads.iter().any(|s| {
                let at = s.p_vaddr(program.endian) - program.first;
                s.p_flags(program.endian) & PF_W != 0
                    && at < page + PAGE
                    && page < at + s.p_memsz(program.endian)
            })
        };
        let mut page = start & !(PAGE - 1);
        while page < end {
            if !shared(page) {
                self.memory.write_protect(page as usize, PAGE as usize)?;
            }
            page += PAGE;
        }
        Ok(())
    }
}

/// A file that passed the checks.
///
/// # Invariants
///
/// Every segment of `loads` lies in `first..first + span` in memory, and `span`
/// is at most [`MAX_IMAGE`]. `first` is a multiple of [`PAGE`].
struct Program<'a> {
    file: &'a [u8],
    endian: Endianness,
    header: &'a Header,
    loads: Vec<&'a Segment>,
    dynamic: Option<&'a Segment>,
    first: u64,
    span: u64,
}

impl<'a> Program<'a> {
    fn parse(file: &'a [u8]) -> Result<Self> {
        let header = Header::parse(file).map_err(malformed)?;
        let endian = header.endian().map_err(malformed)?;
        if !header.is_little_endian() || header.e_machine(endian) != EM_RISCV {
            return Err(bad("not a little-endian RISC-V program"));
        }
        if header.e_type(endian) != ET_DYN {
            return Err(bad(
                "not position independent; compile with -fPIE, link with -pie",
            ));
        }
        let flags = header.e_flags(endian);
        if flags & EF_RISCV_RVC != 0 {
            return Err(bad(
                "uses compressed instructions; compile with -march=rv64imafd",
            ));
        }
        if flags & EF_RISCV_FLOAT_ABI != EF_RISCV_FLOAT_ABI_DOUBLE {
            return Err(bad("not the lp64d ABI; compile with -mabi=lp64d"));
        }
        let segments = header.program_headers(endian, file).map_err(malformed)?;
        let of_type = |kind| segments.iter().find(move |s| s.p_type(endian) == kind);
        if of_type(PT_INTERP).is_some() {
            return Err(bad("needs a dynamic linker; link with --no-dynamic-linker"));
        }
        if of_type(PT_TLS).is_some() {
            return Err(bad("uses thread-local storage, which the device lacks"));
        }
        let loads: Vec<_> = segments
            .iter()
            .filter(|s| s.p_type(endian) == PT_LOAD && s.p_memsz(endian) != 0)
            .collect();
        let first = loads.iter().map(|s| s.p_vaddr(endian)).min();
        let first = first.ok_or_else(|| bad("has nothing to load"))? & !(PAGE - 1);
        let mut span = 0;
        for segment in &loads {
            let end = (segment.p_vaddr(endian) - first)
                .checked_add(segment.p_memsz(endian))
                .filter(|end| *end <= MAX_IMAGE)
                .ok_or_else(|| bad("is larger than 1 GiB in memory"))?;
            if segment.p_filesz(endian) > segment.p_memsz(endian) {
                return Err(bad("a segment is larger in the file than in memory"));
            }
            span = end.max(span);
        }
        Ok(Program {
            file,
            endian,
            header,
            dynamic: of_type(PT_DYNAMIC),
            loads,
            first,
            span: span.next_multiple_of(PAGE),
        })
    }

    /// The bytes that the file holds for an address range.
    fn at(&self, addr: u64, len: u64) -> Result<&'a [u8]> {
        self.loads
            .iter()
            .find_map(|s| {
                s.data_range(self.endian, self.file, addr, len)
                    .ok()
                    .flatten()
            })
            .ok_or_else(|| bad("the relocation table lies outside the program"))
    }

    /// The relocation table, found as a dynamic linker finds it, so that a
    /// stripped file works.
    fn relocations(&self) -> Result<&'a [Rela64<Endianness>]> {
        let Some(dynamic) = self.dynamic else {
            return Ok(&[]);
        };
        let entries = dynamic
            .dynamic(self.endian, self.file)
            .map_err(malformed)?
            .unwrap_or_default();
        let (mut addr, mut size) = (None, 0);
        for entry in entries {
            let value = entry.d_val.get(self.endian);
            match u32::try_from(entry.d_tag.get(self.endian)).unwrap_or(u32::MAX) {
                DT_NULL => break,
                DT_RELA => addr = Some(value),
                DT_RELASZ => size = value,
                DT_REL | DT_RELR | DT_JMPREL => {
                    return Err(bad(
                        "has relocations of a kind other than RELA; link statically with -z nopack-relative-relocs",
                    ));
                }
                _ => {}
            }
        }
        match addr {
            Some(addr) if size != 0 => pod_slice(self.at(addr, size)?),
            _ => Ok(&[]),
        }
    }

    /// Functions by name, at their addresses in an image at `base`.
    fn functions(&self, base: u64) -> Result<HashMap<String, u64>> {
        let sections = self
            .header
            .sections(self.endian, self.file)
            .map_err(malformed)?;
        let mut functions = HashMap::new();
        // A program may be stripped of SYMTAB and still export symbols.
        for table in [SHT_DYNSYM, SHT_SYMTAB] {
            let symbols = sections
                .symbols(self.endian, self.file, table)
                .map_err(malformed)?;
            for symbol in symbols.iter() {
                if symbol.is_undefined(self.endian) || symbol.st_type() != STT_FUNC {
                    continue;
                }
                let name = symbols
                    .symbol_name(self.endian, symbol)
                    .map_err(malformed)?;
                let offset = symbol.st_value(self.endian).wrapping_sub(self.first);
                if offset >= self.span {
                    return Err(bad("a function lies outside the program"));
                }
                functions.insert(String::from_utf8_lossy(name).into_owned(), base + offset);
            }
        }
        Ok(functions)
    }
}

fn pod_slice<T: Pod>(bytes: &[u8]) -> Result<&[T]> {
    let count = bytes.len() / size_of::<T>();
    object::pod::slice_from_bytes(bytes, count)
        .map(|(slice, _)| slice)
        .map_err(|()| bad("the relocation table is misaligned"))
}
