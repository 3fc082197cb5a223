use super::EndpointId;
use crate::hash;

/// Where a session would have its request go. A cluster follows it where the endpoint can serve, before it asks its policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Hint {
    /// Anywhere: the policy chooses.
    #[default]
    None,
    /// To the endpoint that the session is bound to.
    Endpoint(EndpointId),
    /// To the endpoint whose id has this hash ([`EndpointId::hash64`]).
    Digest(u64),
    /// To the endpoint whose route has this hash ([`Hint::route`]).
    Route(u64),
    /// Where the rendezvous hash of this key has it: the same endpoint at every front end, without being bound to it.
    Key([u8; 16]),
}

impl Hint {
    /// The hint that names a route.
    pub(crate) fn route(route: &[u8]) -> Self {
        Hint::Route(hash::key64(route))
    }

    /// Does it bind the request to one endpoint, which a draining one would serve too?
    pub(crate) fn is_binding(&self) -> bool {
        matches!(self, Hint::Endpoint(_) | Hint::Digest(_) | Hint::Route(_))
    }

    /// Does it name this endpoint? A route or a key cannot tell.
    pub(crate) fn names(&self, endpoint: &EndpointId) -> bool {
        match self {
            Hint::Endpoint(id) => id == endpoint,
            Hint::Digest(digest) => *digest == endpoint.hash64(),
            Hint::None | Hint::Route(_) | Hint::Key(_) => false,
        }
    }
}
