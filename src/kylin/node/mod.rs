//! The facts that a node reports about itself and its cluster: its roles, the other nodes, its
//! metastore, its jobs.

pub(crate) mod identity;
#[cfg(feature = "cache")]
pub(crate) mod jobs;
pub(crate) mod metadata_url;
pub(crate) mod role;
pub(crate) mod servers;
