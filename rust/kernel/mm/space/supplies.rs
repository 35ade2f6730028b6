// SPDX-License-Identifier: GPL-2.0

//! Memory for mapping, allocated before the page-table lock is taken.

use super::{
    dma::DmaMap,
    leaf::{
        Leaf,
        Window, //
    },
    Mirror,
    Slot,
    Space,
    Tables,
    VirtAddr,
    LEAF_PAGES,
    LEAF_SIZE, //
};
use crate::{
    prelude::*,
    rbtree::{
        RBTreeNode,
        RBTreeNodeReservation, //
    }, //
};

type Reserve<T> = <<T as Mirror>::Tables as Tables>::Reserve;

/// A leaf that is not in use yet, with the memory to become so.
struct Spare<T: Mirror> {
    leaf: KBox<Leaf<T>>,
    place: RBTreeNodeReservation<usize, KBox<Leaf<T>>>,
}

/// Memory that mapping in one leaf can need. One is reused for many leaves, one after the other; it is
/// dropped without the page-table lock.
pub struct Supplies<T: Mirror> {
    spare: Option<Spare<T>>,
    /// The tables' own; the driver fills it up.
    pub reserve: Reserve<T>,
    /// Tables that became superfluous under the lock.
    pub(super) surplus: [Option<Reserve<T>>; 2],
    pub(super) window: KBox<Window>,
}

impl<T: Mirror> Supplies<T> {
    /// Makes empty supplies.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new() -> Result<Self> {
        Ok(Self {
            spare: None,
            reserve: Reserve::<T>::default(),
            surplus: [None, None],
            window: KBox::init(pin_init::init_array_from_fn(|_| Slot::FREE), GFP_KERNEL)?,
        })
    }

    /// Makes the spare one the leaf `index` of `space`, if it was prepared for that.
    pub(super) fn take_leaf(
        &mut self,
        space: &Space<T>,
        index: usize,
    ) -> Option<RBTreeNode<usize, KBox<Leaf<T>>>> {
        let is_own = |spare: &mut Spare<T>| spare.leaf.dma().is_for(&space.dev);
        let Spare { mut leaf, place } = self.spare.take_if(is_own)?;
        // OVERFLOW: A leaf is made for addresses of a process only.
        leaf.place(VirtAddr::new(index * LEAF_SIZE));
        Some(place.into_node(index, leaf))
    }
}

impl<T: Mirror> Space<T> {
    /// Sets a leaf aside, if there is none with the number `index` yet, and frees what the last
    /// commit left over. May sleep; no lock may be held that a [`Mirror`] takes.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EOPNOTSUPP`] if the device cannot share memory with a process; [`ENODEV`] once
    /// it is unbound.
    pub fn prepare(&self, supplies: &mut Supplies<T>, index: usize) -> Result {
        supplies.surplus = [None, None];
        supplies
            .spare
            .take_if(|spare| !spare.leaf.dma().is_for(&self.dev));
        if supplies.spare.is_none() && !self.lock().has_leaf(index) {
            let dma = DmaMap::new(&self.dev, LEAF_PAGES)?;
            supplies.spare = Some(Spare {
                leaf: KBox::init(Leaf::new(dma), GFP_KERNEL)?,
                place: RBTreeNodeReservation::new(GFP_KERNEL)?,
            });
        }
        Ok(())
    }
}
