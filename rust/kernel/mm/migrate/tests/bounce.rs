// SPDX-License-Identifier: GPL-2.0

//! A device whose DMA is bounced, with `swiotlb=force` on the command line.

use super::*;
use crate::page::PAGE_SHIFT;

#[kunit_tests(rust_mm_migrate_bounce)]
mod cases {
    use super::*;

    /// The device may still write to a page that it is to copy: the page itself is lent to it, or none.
    /// A copy of the page would miss those writes.
    #[test]
    fn no_copy_is_lent_before_the_flush() -> Result {
        let device = DmaDevice::new()?;
        let mut bench = Bench::small(1, true)?;
        let range = bench.range;
        let pagemap = bench.pagemap();
        let mut session = bench.f.session()?;
        let node = session.node(range.start())?;
        let mut pfns = PfnBuf::new(1)?;
        let seen = look(&session, &node, range, &mut pfns)?;
        let page = seen.commit().map_err(|_| EAGAIN)?.page(0).ok_or(ENOENT)?;
        let frame = (page.pfn.as_usize() << PAGE_SHIFT) as u64;

        let collected = session.migrate(range, false, &mut bench.buf)?;
        let mapped = collected
            .ok_or(EBUSY)?
            .fill(|_, order| pagemap.folio(0, order).ok())
            .map(device.bound());
        let (mapped, lent) = mapped.copy(|_, mapped| mapped.copies().next()?.1);
        drop(mapped);
        assert!(lent.is_none_or(|addr| addr == frame));
        Ok(())
    }
}
