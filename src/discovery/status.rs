use std::time::Instant;

/// How it stands between a cluster and its source of membership.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveryStatus {
    /// What the source said last.
    pub source: SourceState,
    /// Endpoints of the cluster that come from the source.
    pub endpoints: usize,
    /// Nodes that the source names and the cluster does not have: their endpoint could not be made, or another endpoint has their id
    /// or address.
    pub refused: usize,
    /// How often the source has told a membership that had nodes.
    pub told: u64,
    /// Failures of the source since it last told anything.
    pub failures: u32,
    /// What the last of these failures was, in one line.
    pub error: Option<String>,
    /// When the source last told a membership that had nodes: the age of what the cluster goes by, unless `source` is
    /// [`Current`](SourceState::Current).
    pub told_at: Option<Instant>,
}

/// What a source said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceState {
    /// Nothing yet.
    Waiting,
    /// The membership that the cluster has.
    Current,
    /// That there are no nodes; the cluster keeps those it knew.
    Empty,
    /// That it fails; the cluster keeps those it knew.
    Failing,
}

impl DiscoveryStatus {
    pub(super) const NEW: DiscoveryStatus = DiscoveryStatus {
        source: SourceState::Waiting,
        endpoints: 0,
        refused: 0,
        told: 0,
        failures: 0,
        error: None,
        told_at: None,
    };
}
