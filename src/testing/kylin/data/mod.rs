//! The data of a node and of its cluster.

pub(crate) mod metastore;
pub(crate) mod running;
pub(crate) mod sessions;
pub(crate) mod stats;
