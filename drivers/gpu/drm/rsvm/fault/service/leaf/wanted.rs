// SPDX-License-Identifier: GPL-2.0

//! Which pages of a leaf are wanted: for each, the most intrusive access that waits for it.

use crate::svm::device::{
    Access,
    Prot,
    LEAF_SIZE, //
};
use core::ops::Range;
use kernel::{
    mm::addr::VirtAddr,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Which page of its leaf holds the byte at `addr`.
pub(in crate::fault::service) fn page_in_leaf(addr: VirtAddr) -> usize {
    addr.as_usize() % LEAF_SIZE / PAGE_SIZE
}

/// The first wanted page from `from` on, with those behind it that want the same.
pub(super) fn next_run(wanted: &[Option<Access>], from: usize) -> Option<(Range<usize>, Access)> {
    let start = from + wanted[from..].iter().position(Option::is_some)?;
    let access = wanted[start]?;
    let len = wanted[start..]
        .iter()
        .take_while(|&&wanted| wanted == Some(access))
        .count();
    Some((start..start + len, access))
}

/// Pages that are wanted no more.
#[derive(Default)]
pub(in crate::fault::service) struct Settled {
    pub(in crate::fault::service) count: usize,
    /// Covers them all.
    pub(in crate::fault::service) pages: Option<Range<usize>>,
}

/// Strikes out what is wanted and mapped with enough rights.
pub(in crate::fault::service) fn settle(
    wanted: &mut [Option<Access>],
    rights: impl Fn(usize) -> Option<Prot>,
) -> Settled {
    let mut settled = Settled::default();
    for (page, wanted) in wanted.iter_mut().enumerate() {
        let allows = |prot: Prot| match wanted {
            None => false,
            Some(Access::Read) => true,
            Some(Access::Write) => prot.write,
            Some(Access::Atomic) => prot.atomic,
        };
        if rights(page).is_some_and(allows) {
            *wanted = None;
            settled.count += 1;
            let start = settled.pages.map_or(page, |pages| pages.start);
            settled.pages = Some(start..page + 1);
        }
    }
    settled
}

#[cfg(CONFIG_DRM_RSVM_KUNIT_TEST)]
#[kunit_tests(rsvm_fault_leaf)]
mod tests {
    use super::*;

    const R: Option<Access> = Some(Access::Read);
    const W: Option<Access> = Some(Access::Write);

    #[test]
    fn runs_end_where_the_access_changes() {
        let wanted = [None, R, R, W, None, W];
        assert_eq!(next_run(&wanted, 0), Some((1..3, Access::Read)));
        assert_eq!(next_run(&wanted, 3), Some((3..4, Access::Write)));
        assert_eq!(next_run(&wanted, 4), Some((5..6, Access::Write)));
        assert_eq!(next_run(&wanted, 6), None);
    }

    #[test]
    fn only_enough_rights_settle() {
        let live = |write| {
            Some(Prot {
                write,
                atomic: false,
            })
        };
        let rights = [live(false), live(false), live(true), None, live(true)];
        let mut wanted = [R, W, W, R, Some(Access::Atomic)];
        let settled = settle(&mut wanted, |page| rights[page]);
        assert_eq!(settled.count, 2);
        assert_eq!(settled.pages, Some(0..3));
        assert_eq!(wanted, [None, W, None, R, Some(Access::Atomic)]);
    }
}
