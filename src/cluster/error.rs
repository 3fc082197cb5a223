use crate::endpoint::{EndpointId, InvalidId};
use crate::setting::InvalidSetting;

/// The error when no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickError {
    /// The cluster has no endpoints.
    #[error("the cluster has no endpoints")]
    Empty,
    /// No endpoint is eligible. Each one is in maintenance or draining, unhealthy, ejected or at
    /// its limit, lacks the role that the request needs, or was attempted before.
    #[error("no endpoint is eligible")]
    NoneEligible,
}

/// The error when a cluster was not built or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Two endpoints have the same id.
    #[error("there is already an endpoint {0}")]
    Duplicate(EndpointId),
    /// No endpoint has this id.
    #[error("there is no endpoint {0}")]
    Unknown(EndpointId),
    /// A text is not a valid id.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// A setting of the [`Outlier`](crate::health::Outlier) rule is invalid.
    #[error("outlier: {0}")]
    Outlier(#[source] InvalidSetting),
}
