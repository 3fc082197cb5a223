use super::EndpointId;
use crate::hash;

/// The endpoint that a session requests. A cluster follows the hint if that endpoint is eligible;
/// otherwise its policy chooses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum EndpointHint {
    /// Any endpoint: the policy chooses.
    #[default]
    Any,
    /// The endpoint that the session is bound to.
    Id(EndpointId),
    /// The endpoint whose id has this hash ([`EndpointId::hash64`]).
    IdHash(u64),
    /// The endpoint whose route has this hash ([`EndpointHint::route_hash`]).
    RouteHash(u64),
    /// The endpoint that rendezvous hashing of this key yields. Every front end finds the same
    /// endpoint; the session is not bound.
    Key([u8; 16]),
}

impl EndpointHint {
    /// Returns the hint that asks for the endpoint with this route.
    pub(crate) fn route(route: &[u8]) -> Self {
        EndpointHint::RouteHash(Self::route_hash(route))
    }

    /// Returns the hash that represents a route.
    pub(crate) fn route_hash(route: &[u8]) -> u64 {
        hash::key64(route)
    }

    /// Returns whether the session is bound to one endpoint, which serves it even while draining.
    pub(crate) fn is_binding(&self) -> bool {
        match self {
            EndpointHint::Id(_) | EndpointHint::IdHash(_) | EndpointHint::RouteHash(_) => true,
            EndpointHint::Any | EndpointHint::Key(_) => false,
        }
    }

    /// Returns whether the hint is known to name `endpoint`; false for a route or a key.
    pub(crate) fn names(&self, endpoint: &EndpointId) -> bool {
        match self {
            EndpointHint::Id(id) => id == endpoint,
            EndpointHint::IdHash(hash) => *hash == endpoint.hash64(),
            EndpointHint::Any | EndpointHint::RouteHash(_) | EndpointHint::Key(_) => false,
        }
    }
}
