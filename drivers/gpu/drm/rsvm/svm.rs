// SPDX-License-Identifier: GPL-2.0

//! The mirrored address space of a process. Nothing in here knows which GPU it is for.

pub(crate) mod bound;
pub(crate) mod counters;
pub(crate) mod device;
pub(crate) mod handover;
pub(crate) mod inject;
pub(crate) mod mirror;
pub(crate) mod policy;
pub(crate) mod request;
pub(crate) mod residency;
pub(crate) mod space;
