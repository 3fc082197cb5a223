use crate::cluster::PickReason;
use crate::endpoint::EndpointId;

/// The endpoint that served a request, and the reason why it was picked.
///
/// It is in the extensions of a response if
/// [`ProxyBuilder::served_by`](crate::proxy::ProxyBuilder::served_by) is on or the proxy has an
/// observer. A response of the proxy itself has none. Nor does a response that was merged from the
/// responses of all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedBy {
    /// The endpoint of the last attempt.
    pub endpoint: EndpointId,
    /// The number of attempts, including the last one.
    pub attempts: u32,
    /// The reason why the endpoint was picked.
    pub reason: PickReason,
    /// Whether the response is a copy of the response to an identical query, for which the endpoint
    /// was picked (see [`ProxyBuilder::single_flight`](crate::proxy::ProxyBuilder::single_flight)).
    pub shared: bool,
}

impl ServedBy {
    pub(crate) fn new(endpoint: EndpointId, attempts: u32, reason: PickReason) -> Self {
        ServedBy { endpoint, attempts, reason, shared: false }
    }

    /// Returns the value for a copy of the response.
    pub(crate) fn shared(self) -> Self {
        ServedBy { shared: true, ..self }
    }
}
