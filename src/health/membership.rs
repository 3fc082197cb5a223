use std::sync::atomic::{AtomicU64, Ordering};

use super::Mismatch;

/// Identifies a running checker, so that its reports can be told from those of others and
/// withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckerId(u64);

impl CheckerId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        CheckerId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether an endpoint is known to be a node of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Membership {
    /// Nothing contradicts it.
    #[default]
    Assumed,
    /// A verifier must check the node first.
    Unverified,
    /// The node has another metastore.
    Foreign(Mismatch),
}
