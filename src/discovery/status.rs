use std::time::Instant;

/// The state of a watched source and of the endpoints that come from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveryStatus {
    /// The last result of the source.
    pub source: SourceState,
    /// The number of endpoints in the cluster that come from the source.
    pub endpoints: usize,
    /// The number of listed nodes that the cluster does not have, because their endpoint could not
    /// be made, or another endpoint has their id or address.
    pub rejected: usize,
    /// The number of updates of the source that listed nodes.
    pub updates: u64,
    /// The number of failures since the last successful result.
    pub failures: u32,
    /// The last of these failures, with its causes, in one line.
    pub error: Option<String>,
    /// The time at which the source last listed nodes. Unless `source` is
    /// [`Current`](SourceState::Current), this is the age of the membership.
    pub last_update: Option<Instant>,
}

/// The last result of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceState {
    /// The source has not responded yet.
    #[default]
    Waiting,
    /// The source listed the nodes that the cluster has.
    Current,
    /// The source listed no nodes, so the cluster keeps its previous ones.
    Empty,
    /// The source failed, so the cluster keeps its previous nodes.
    Failing,
}

impl SourceState {
    /// Returns the name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            SourceState::Waiting => "waiting",
            SourceState::Current => "current",
            SourceState::Empty => "empty",
            SourceState::Failing => "failing",
        }
    }
}
