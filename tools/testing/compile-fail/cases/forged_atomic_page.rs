// error: E0451
// SPDX-License-Identifier: GPL-2.0

//! A page is said to be exclusive that nobody made so.

use kernel::mm::{
    addr::Pfn,
    hmm::AtomicPage, //
};

/// The case.
pub fn case(pfn: Pfn) -> AtomicPage<'static> {
    AtomicPage {
        pfn,
        _commit: core::marker::PhantomData,
    }
}
