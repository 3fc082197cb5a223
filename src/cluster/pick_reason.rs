use std::fmt;

/// The reason why an endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PickReason {
    /// The session of the request is bound to the endpoint.
    Bound,
    /// The client's last write went to the endpoint, so that the client reads what it wrote:
    /// [`KylinRules::read_your_writes`](crate::proxy::KylinRules::read_your_writes).
    Written,
    /// A hash of the user yields the endpoint, or a hash of the session while its store is
    /// unavailable.
    Hash,
    /// The policy chose the endpoint.
    Policy,
    /// The policy chose the endpoint by the keys of the query:
    /// [`QueryAffinity`](crate::balance::QueryAffinity).
    Fingerprint,
    /// Health keeps requests from every endpoint, so the one that failed least recently serves:
    /// [panic mode](super::ClusterBuilder::panic_mode).
    Panic,
}

impl PickReason {
    /// Returns the name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            PickReason::Bound => "bound",
            PickReason::Written => "written",
            PickReason::Hash => "hash",
            PickReason::Policy => "policy",
            PickReason::Fingerprint => "fingerprint",
            PickReason::Panic => "panic",
        }
    }
}

impl fmt::Display for PickReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
