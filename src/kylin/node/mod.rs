//! What a node reports about itself and its cluster: its roles, the other nodes, its metastore.

pub(crate) mod identity;
pub(crate) mod metadata_url;
pub(crate) mod role;
pub(crate) mod servers;
