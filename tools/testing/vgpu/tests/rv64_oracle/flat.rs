// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The two segments as memory, without translation.

use crate::elf::Program;
use crate::elf::CODE;
use crate::elf::DATA;
use rsvm_vgpu::compute::rv64::decode::AmoOp;
use rsvm_vgpu::compute::rv64::decode::CodePage;
use rsvm_vgpu::compute::rv64::decode::PAGE_BYTES;
use rsvm_vgpu::compute::rv64::decode::PAGE_INSNS;
use rsvm_vgpu::compute::rv64::Bus;
use std::collections::HashMap;
use std::sync::Arc;

pub struct Flat {
    code: Vec<u8>,
    data: Vec<u8>,
    pages: HashMap<u64, Arc<CodePage>>,
    reserved: Option<u64>,
}

impl Flat {
    pub fn new(program: &Program) -> Self {
        let mut code = program.code_bytes();
        code.resize(code.len().next_multiple_of(PAGE_BYTES), 0);
        Flat {
            code,
            data: program.data.clone(),
            pages: HashMap::new(),
            reserved: None,
        }
    }

    pub fn bytes(&self, va: u64, len: usize) -> &[u8] {
        let at = (va - DATA) as usize;
        &self.data[at..at + len]
    }

    fn at(&mut self, va: u64, size: usize) -> Result<&mut [u8], u64> {
        let (base, segment) = match va {
            DATA.. => (DATA, &mut self.data),
            _ => (CODE, &mut self.code),
        };
        let at = va.checked_sub(base).ok_or(va)? as usize;
        segment.get_mut(at..at + size).ok_or(va)
    }
}

impl Bus for Flat {
    /// The address that is not memory.
    type Stop = u64;

    fn fetch(&mut self, va: u64) -> Result<Arc<CodePage>, u64> {
        let page = va & !(PAGE_BYTES as u64 - 1);
        if let Some(page) = self.pages.get(&page) {
            return Ok(page.clone());
        }
        let bytes = self.at(page, PAGE_BYTES)?;
        let mut words = [0; PAGE_INSNS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().unwrap());
        }
        let decoded = Arc::new(CodePage::new(&words));
        self.pages.insert(page, decoded.clone());
        Ok(decoded)
    }

    fn load(&mut self, va: u64, size: usize) -> Result<u64, u64> {
        let mut value = [0; 8];
        value[..size].copy_from_slice(self.at(va, size)?);
        Ok(u64::from_le_bytes(value))
    }

    fn store(&mut self, va: u64, size: usize, value: u64) -> Result<(), u64> {
        self.at(va, size)?
            .copy_from_slice(&value.to_le_bytes()[..size]);
        Ok(())
    }

    fn amo(&mut self, va: u64, size: usize, op: AmoOp, arg: u64) -> Result<u64, u64> {
        let old = self.load(va, size)?;
        let extended = if size == 4 { old as i32 as u64 } else { old };
        self.store(va, size, op.apply(extended, arg))?;
        Ok(old)
    }

    fn load_reserved(&mut self, va: u64, size: usize) -> Result<u64, u64> {
        self.reserved = Some(va);
        self.load(va, size)
    }

    fn store_conditional(&mut self, va: u64, size: usize, value: u64) -> Result<bool, u64> {
        if self.reserved.take() != Some(va) {
            return Ok(false);
        }
        self.store(va, size, value).map(|()| true)
    }

    fn fence(&mut self) {}

    fn fence_i(&mut self) {
        self.pages.clear();
    }

    fn time(&mut self) -> u64 {
        0
    }
}
