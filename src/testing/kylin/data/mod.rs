//! The data of a node and of its cluster.

mod bounded;
pub(crate) mod metastore;
pub(crate) mod mode;
pub(crate) mod running;
pub(crate) mod sessions;
pub(crate) mod stats;
